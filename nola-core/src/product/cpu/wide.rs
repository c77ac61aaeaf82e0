//! Weights in f32: the product that burn's CPU backend uses too.

#![allow(unsafe_code, reason = "the matrix product of a crate, which takes pointers")]

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

use super::operands::{Operands, Part, Weight};

/// Products of two numbers that one thread does as fast as many would.
const MOST_ALONE: usize = 1 << 22;

pub(super) fn multiply(operands: &Operands, weight: &Weight<f32>) {
    operands.parts().into_par_iter().for_each(|part| operands.begin(&part));
    let ([rows, d_out], d_in) = (operands.sums.sizes(), weight.d_in);
    if rows * d_in * d_out == 0 {
        return;
    }
    let is_small = rows * d_in * d_out <= MOST_ALONE;
    let parallelism = if is_small { Parallelism::None } else { Parallelism::Rayon(0) };
    let (numbers, strides) = weight.layout();
    add(operands, &Part { rows: 0..rows, columns: 0..d_out }, &(0..d_in), numbers, strides, parallelism);
}

/// Adds the products of some inputs to a part that was begun and that nobody else uses meanwhile.
///
/// `numbers` are those of the inputs and of the columns of the part, with these strides of inputs and outputs.
///
/// # Panics
/// If anything is empty or not there.
pub(super) fn add(
    operands: &Operands,
    part: &Part,
    inputs: &Range<usize>,
    numbers: &[f32],
    strides: [usize; 2],
    parallelism: Parallelism,
) {
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
            true,
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
