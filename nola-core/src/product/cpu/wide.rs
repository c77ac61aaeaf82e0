//! Weights in f32: the product that burn's CPU backend uses too.

#![allow(unsafe_code, reason = "the matrix product of a crate, which takes pointers")]

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

use super::operands::{Block, Operands, Part, Weight, Widen};
use crate::matrix::Accumulate;

/// Products of two numbers that one thread does as fast as many would.
const MOST_ALONE: usize = 1 << 22;

pub(super) fn multiply(operands: &Operands, weight: &Weight<f32>) {
    let ([rows, d_out], d_in) = (operands.sums.sizes(), weight.d_in);
    let accumulate = match operands.bias {
        Some(_) => Accumulate::Add,
        None => Accumulate::Overwrite,
    };
    // Without inputs nothing would be overwritten.
    if accumulate == Accumulate::Add || d_in == 0 {
        operands.parts().into_par_iter().for_each(|part| operands.begin(&part));
    }
    if rows * d_in * d_out == 0 {
        return;
    }
    let is_small = rows * d_in * d_out <= MOST_ALONE;
    let parallelism = if is_small { Parallelism::None } else { Parallelism::Rayon(0) };
    let (inputs, columns) = (0..d_in, 0..d_out);
    let block = weight.widen(&inputs, &columns, &mut []);
    let part = Part { rows: 0..rows, columns: 0..d_out };
    multiply_part(operands, &part, &inputs, block, accumulate, parallelism);
}

impl Widen for Weight<'_, f32> {
    fn inputs(&self) -> usize {
        self.d_in
    }

    fn lies_by_input(&self) -> bool {
        self.is_straight()
    }

    fn widen<'a>(&'a self, inputs: &Range<usize>, columns: &Range<usize>, _: &'a mut [f32]) -> Block<'a> {
        let (numbers, strides) = self.layout();
        Block { numbers: &numbers[inputs.start * strides[0] + columns.start * strides[1]..], strides }
    }
}

/// The products of some inputs, for a part that nobody else uses meanwhile and that was begun if it is added to.
///
/// `block` is the part of the weight for the inputs and for the columns of the part.
///
/// # Panics
/// If anything is empty or not there.
pub(super) fn multiply_part(
    operands: &Operands,
    part: &Part,
    inputs: &Range<usize>,
    block: Block,
    accumulate: Accumulate,
    parallelism: Parallelism,
) {
    let Block { numbers, strides } = block;
    let ([_, d_out], d_in) = (operands.sums.sizes(), operands.d_in());
    let x = &operands.x[part.rows.start * d_in + inputs.start..(part.rows.end - 1) * d_in + inputs.end];
    let last = (inputs.len() - 1) * strides[0] + (part.columns.len() - 1) * strides[1];
    assert!(last < numbers.len(), "a number for each input and output");
    let [of_inputs, of_outputs] = strides.map(|stride| stride as isize);
    // SAFETY: `x` and `numbers` reach from the first to the last number that is read of them, and the part is within the
    // result, and nobody else's.
    unsafe {
        gemm::gemm(
            part.rows.len(),
            part.columns.len(),
            inputs.len(),
            operands.sums.at(part),
            1,
            d_out as isize,
            accumulate == Accumulate::Add,
            x.as_ptr(),
            1,
            d_in as isize,
            numbers.as_ptr(),
            of_outputs,
            of_inputs,
            1.0_f32,
            1.0_f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}
