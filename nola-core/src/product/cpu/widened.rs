//! For every processor: blocks of the weight become f32 in the cache, and go into the product that burn's CPU backend uses.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::operands::{Operands, Part, Weight};

/// Inputs of a block.
const DEPTH: usize = 512;
/// Outputs of a block: together 256 KiB of f32, which stay in the L2 cache.
const WIDTH: usize = 128;

pub(super) fn multiply<N: Sync>(operands: &Operands, weight: &Weight<N>)
where
    [N]: HalfFloatSliceExt,
{
    operands.parts().into_par_iter().for_each_init(
        || vec![0.0; DEPTH * WIDTH],
        |block, part| {
            operands.add_bias(&part);
            for first in part.columns.clone().step_by(WIDTH) {
                let columns = first..part.columns.end.min(first + WIDTH);
                let part = Part { rows: part.rows.clone(), columns };
                for first in (0..weight.d_in).step_by(DEPTH) {
                    let inputs = first..weight.d_in.min(first + DEPTH);
                    let strides = widen(weight, &inputs, &part.columns, block);
                    add_product(operands, &part, &inputs, block, strides);
                }
            }
        },
    );
}

/// Puts a part of the weight into `block`, and returns the strides of inputs and outputs there.
fn widen<N>(
    weight: &Weight<N>,
    inputs: &Range<usize>,
    columns: &Range<usize>,
    block: &mut [f32],
) -> [usize; 2]
where
    [N]: HalfFloatSliceExt,
{
    if weight.is_straight() {
        for (input, row) in inputs.clone().zip(block.chunks_exact_mut(columns.len())) {
            weight.of_input(input, columns).convert_to_f32_slice(row);
        }
        return [columns.len(), 1];
    }
    for (output, column) in columns.clone().zip(block.chunks_exact_mut(inputs.len())) {
        weight.of_output(output, inputs).convert_to_f32_slice(column);
    }
    [1, inputs.len()]
}

/// Adds the products of some inputs to a part that nobody else uses meanwhile.
fn add_product(operands: &Operands, part: &Part, inputs: &Range<usize>, block: &[f32], strides: [usize; 2]) {
    let ([_, d_out], d_in) = (operands.sums.sizes(), operands.d_in());
    let x = &operands.x[part.rows.start * d_in + inputs.start..(part.rows.end - 1) * d_in + inputs.end];
    assert!(inputs.len() * part.columns.len() <= block.len(), "the block holds the part of the weight");
    let [of_inputs, of_outputs] = strides.map(|stride| stride as isize);
    // SAFETY: `x` reaches from the first to the last number that is read of it, the block has as many numbers as the
    // part of the weight, and the part of the result is written by this task alone.
    unsafe {
        gemm::gemm(
            part.rows.len(),
            part.columns.len(),
            inputs.len(),
            operands.sums.at(part),
            1,
            d_out as isize,
            true,
            x.as_ptr(),
            1,
            d_in as isize,
            block.as_ptr(),
            of_outputs,
            of_inputs,
            1.0_f32,
            1.0_f32,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
