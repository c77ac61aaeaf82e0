//! Narrow weights on every processor: blocks of them become f32 in the cache, and go into the product of f32.

use std::ops::Range;

use gemm::Parallelism;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::operands::{Operands, Part, Weight, Widen};
use super::wide;

/// Inputs of a block.
const DEPTH: usize = 512;
/// Outputs of a block: together 256 KiB of f32, which stay in the L2 cache.
const WIDTH: usize = 128;

pub(super) fn multiply(operands: &Operands, weight: &impl Widen) {
    operands.parts().into_par_iter().for_each_init(
        || vec![0.0; DEPTH * WIDTH],
        |block, part| {
            operands.begin(&part);
            for first in part.columns.clone().step_by(WIDTH) {
                let columns = first..part.columns.end.min(first + WIDTH);
                let part = Part { rows: part.rows.clone(), columns };
                for first in (0..weight.inputs()).step_by(DEPTH) {
                    let inputs = first..weight.inputs().min(first + DEPTH);
                    let strides = weight.widen(&inputs, &part.columns, block);
                    wide::add(operands, &part, &inputs, block, strides, Parallelism::None);
                }
            }
        },
    );
}

impl<N: Sync> Widen for Weight<'_, N>
where
    [N]: HalfFloatSliceExt,
{
    fn inputs(&self) -> usize {
        self.d_in
    }

    fn widen(&self, inputs: &Range<usize>, columns: &Range<usize>, block: &mut [f32]) -> [usize; 2] {
        if self.is_straight() {
            for (input, row) in inputs.clone().zip(block.chunks_exact_mut(columns.len())) {
                self.of_input(input, columns).convert_to_f32_slice(row);
            }
            return [columns.len(), 1];
        }
        for (output, column) in columns.clone().zip(block.chunks_exact_mut(inputs.len())) {
            self.of_output(output, inputs).convert_to_f32_slice(column);
        }
        [1, inputs.len()]
    }
}
