//! Products with weights in few bits: blocks of them become f32 in the cache.

use std::ops::Range;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, TensorData};
use rayon::prelude::*;

use super::narrow;
use super::operands::{Operands, Sums, Widen};
use crate::instructions::Instructions;
use crate::packed_product::{Direction, PackedProduct, Request};
use crate::weight::PackedView;

/// Up to this many rows no part of the weight is laid out for a kernel: each of its numbers is used at once.
const FEW_ROWS: usize = 4;
/// Numbers of an output that are in the cache at a time.
const STRETCH: usize = 1024;
/// Outputs that a thread takes at a time, at least.
const OUTPUTS: usize = 16;
/// Sums that a processor makes side by side.
const LANES: usize = 16;

impl PackedProduct for Flex {
    fn packed_product(x: FlexTensor, words: FlexTensor, request: Request) -> FlexTensor {
        let (x, words) = (x.to_contiguous(), words.to_contiguous());
        let view = PackedView::of(words.as_slice().expect("it is contiguous"));
        assert_eq!([view.d_in, view.d_out], request.sizes, "sizes of a packed weight");
        let weight = Packed { view, direction: request.direction };
        let (rows, [_, columns]) = (x.layout().shape()[0], request.inner_and_outer());
        let x = x.as_slice().expect("it is contiguous");
        let result = match request.direction {
            Direction::Forward if rows <= FEW_ROWS => of_few_rows(x, &weight.view, rows),
            Direction::Forward | Direction::Backward => {
                of_many_rows(x, &weight, [rows, columns], request.compute)
            }
        };
        FlexTensor::from_data(TensorData::new(result, [rows, columns]))
    }
}

/// A packed weight, or its transpose.
struct Packed<'a> {
    view: PackedView<'a>,
    direction: Direction,
}

impl Widen for Packed<'_> {
    fn inputs(&self) -> usize {
        match self.direction {
            Direction::Forward => self.view.d_in,
            Direction::Backward => self.view.d_out,
        }
    }

    fn widen(&self, inputs: &Range<usize>, columns: &Range<usize>, block: &mut [f32]) -> [usize; 2] {
        let read = |output: usize, range: &Range<usize>, numbers: &mut [f32]| {
            let first = output * self.view.d_in;
            self.view.read(first + range.start..first + range.end, numbers);
        };
        match self.direction {
            Direction::Forward => {
                let outputs = columns.clone().zip(block.chunks_exact_mut(inputs.len()));
                outputs.for_each(|(output, column)| read(output, inputs, column));
                [1, inputs.len()]
            }
            Direction::Backward => {
                let outputs = inputs.clone().zip(block.chunks_exact_mut(columns.len()));
                outputs.for_each(|(output, row)| read(output, columns, row));
                [columns.len(), 1]
            }
        }
    }
}

fn of_many_rows(x: &[f32], weight: &Packed, [rows, columns]: [usize; 2], compute: DType) -> Vec<f32> {
    let mut result = Vec::with_capacity(rows * columns);
    let sums = Sums::new(&mut result.spare_capacity_mut()[..rows * columns], columns);
    let operands = Operands { x, bias: None, sums };
    multiply(&operands, weight, compute);
    // SAFETY: both ways begin every part of the result, and the parts cover it.
    unsafe { result.set_len(rows * columns) };
    result
}

#[cfg(target_arch = "x86_64")]
fn multiply(operands: &Operands, weight: &Packed, compute: DType) {
    match super::bf16_kernel().filter(|_| compute == DType::BF16) {
        Some(kernel) => kernel.multiply_widened(operands, weight),
        None => narrow::multiply(operands, weight),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn multiply(operands: &Operands, weight: &Packed, _compute: DType) {
    narrow::multiply(operands, weight);
}

/// The product of a few rows, bound by memory: every number of the weight is read once.
fn of_few_rows(x: &[f32], view: &PackedView, rows: usize) -> Vec<f32> {
    let d_in = view.d_in;
    let mut by_output = vec![0.0; rows * view.d_out];
    let dot = fastest_dot();
    let outputs = by_output.par_chunks_mut(rows.max(1)).enumerate().with_min_len(OUTPUTS);
    outputs.for_each_init(
        || [0.0; STRETCH],
        |numbers, (output, sums)| {
            for first in (0..d_in).step_by(STRETCH) {
                let inputs = first..d_in.min(first + STRETCH);
                let numbers = &mut numbers[..inputs.len()];
                view.read(output * d_in + inputs.start..output * d_in + inputs.end, numbers);
                for (sum, x) in sums.iter_mut().zip(x.chunks_exact(d_in)) {
                    *sum += dot(&x[inputs.clone()], numbers);
                }
            }
        },
    );
    let row = |row: usize| by_output.iter().skip(row).step_by(rows).copied();
    if rows == 1 { by_output } else { (0..rows).flat_map(row).collect() }
}

/// The sum of products, in a fixed order.
#[inline(always)]
fn dot(left: &[f32], right: &[f32]) -> f32 {
    let (left_lanes, left_rest) = left.as_chunks::<LANES>();
    let (right_lanes, right_rest) = right.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (left, right) in left_lanes.iter().zip(right_lanes) {
        for lane in 0..LANES {
            sums[lane] += left[lane] * right[lane];
        }
    }
    let rest = left_rest.iter().zip(right_rest).map(|(left, right)| left * right);
    sums.iter().sum::<f32>() + rest.sum::<f32>()
}

/// [`dot`] for the instructions that are allowed.
#[cfg(target_arch = "x86_64")]
fn fastest_dot() -> fn(&[f32], &[f32]) -> f32 {
    #[target_feature(enable = "avx512f")]
    fn avx512(left: &[f32], right: &[f32]) -> f32 {
        dot(left, right)
    }
    #[target_feature(enable = "avx2")]
    fn avx2(left: &[f32], right: &[f32]) -> f32 {
        dot(left, right)
    }
    match Instructions::allowed() {
        // SAFETY: instructions are allowed only where the processor has them; so below.
        Instructions::Avx512 => |left, right| unsafe { avx512(left, right) },
        Instructions::Avx2 => |left, right| unsafe { avx2(left, right) },
        Instructions::Plain => dot,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn fastest_dot() -> fn(&[f32], &[f32]) -> f32 {
    dot
}
