//! Narrow weights on every processor: blocks of them become f32 in the cache, and go into the product of f32.

use std::ops::Range;

use gemm::Parallelism;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::operands::{Block, Operands, Part, Weight, Widen};
use super::wide;
#[cfg(target_arch = "x86_64")]
use crate::instructions::{Instructions, Vectors};
use crate::matrix::Accumulate;

/// Inputs of a block.
const DEPTH: usize = 512;
/// Outputs of a block: together 256 KiB of f32, which stay in the L2 cache.
const WIDTH: usize = 128;

pub(super) fn multiply(operands: &Operands, weight: &impl Widen) {
    operands.parts().into_par_iter().for_each_init(
        || vec![0.0; DEPTH * WIDTH],
        |scratch, part| {
            operands.begin(&part);
            for first in part.columns.clone().step_by(WIDTH) {
                let columns = first..part.columns.end.min(first + WIDTH);
                let part = Part { rows: part.rows.clone(), columns };
                for first in (0..weight.inputs()).step_by(DEPTH) {
                    let inputs = first..weight.inputs().min(first + DEPTH);
                    let block = weight.widen(&inputs, &part.columns, scratch);
                    wide::multiply_part(operands, &part, &inputs, block, Accumulate::Add, Parallelism::None);
                }
            }
        },
    );
}

/// Numbers of half precision, many at a time.
pub(super) trait Half: Copy + Sync {
    fn widen(numbers: &[Self], wide: &mut [f32]);
}

impl Half for f16 {
    fn widen(numbers: &[Self], wide: &mut [f32]) {
        numbers.convert_to_f32_slice(wide);
    }
}

impl Half for bf16 {
    /// A bf16 is the upper half of an f32.
    #[inline]
    fn widen(numbers: &[Self], wide: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        match Instructions::allowed().vectors() {
            Vectors::Plain => {}
            // SAFETY: instructions are allowed only where the processor has them.
            Vectors::Avx2 => return unsafe { widen_avx2(numbers, wide) },
            // SAFETY: as above.
            Vectors::Avx512 => return unsafe { widen_avx512(numbers, wide) },
        }
        widen_plain(numbers, wide);
    }
}

#[inline(always)]
fn widen_plain(numbers: &[bf16], wide: &mut [f32]) {
    for (wide, number) in wide.iter_mut().zip(numbers) {
        *wide = f32::from_bits(u32::from(number.to_bits()) << 16);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn widen_avx2(numbers: &[bf16], wide: &mut [f32]) {
    widen_plain(numbers, wide);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn widen_avx512(numbers: &[bf16], wide: &mut [f32]) {
    widen_plain(numbers, wide);
}

impl<N: Half> Widen for Weight<'_, N> {
    fn inputs(&self) -> usize {
        self.d_in
    }

    fn lies_by_input(&self) -> bool {
        self.is_straight()
    }

    fn widen<'a>(
        &'a self,
        inputs: &Range<usize>,
        columns: &Range<usize>,
        scratch: &'a mut [f32],
    ) -> Block<'a> {
        if self.is_straight() {
            for (input, row) in inputs.clone().zip(scratch.chunks_exact_mut(columns.len())) {
                N::widen(self.of_input(input, columns), row);
            }
            return Block { numbers: scratch, strides: [columns.len(), 1] };
        }
        for (output, column) in columns.clone().zip(scratch.chunks_exact_mut(inputs.len())) {
            N::widen(self.of_output(output, inputs), column);
        }
        Block { numbers: scratch, strides: [1, inputs.len()] }
    }
}
