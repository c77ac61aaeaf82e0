//! Products with weights in few bits: blocks of them become f32 in the cache.

use std::ops::Range;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, TensorData};

use super::operands::{Block, Operands, Sums, Widen};
use super::{few_rows, narrow};
use crate::packed_product::{Direction, PackedProduct, Request};
use crate::weight::PackedView;

impl PackedProduct for Flex {
    fn packed_product(x: FlexTensor, words: FlexTensor, request: Request) -> FlexTensor {
        let (x, words) = (x.to_contiguous(), words.to_contiguous());
        let view = PackedView::of(words.as_slice().expect("it is contiguous"));
        assert_eq!([view.d_in, view.d_out], request.sizes, "sizes of a packed weight");
        let weight = Packed { view, direction: request.direction };
        let (rows, [_, columns]) = (x.layout().shape()[0], request.inner_and_outer());
        let x = x.as_slice().expect("it is contiguous");
        let mut result = Vec::with_capacity(rows * columns);
        let sums = Sums::new(&mut result.spare_capacity_mut()[..rows * columns], columns);
        multiply(&Operands { x, bias: None, sums }, &weight, request.compute);
        // SAFETY: each way writes every part of the result, and the parts cover it.
        unsafe { result.set_len(rows * columns) };
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

    fn lies_by_input(&self) -> bool {
        self.direction == Direction::Backward
    }

    fn widen<'a>(
        &'a self,
        inputs: &Range<usize>,
        columns: &Range<usize>,
        scratch: &'a mut [f32],
    ) -> Block<'a> {
        let read = |output: usize, range: &Range<usize>, numbers: &mut [f32]| {
            let first = output * self.view.d_in;
            self.view.read(first + range.start..first + range.end, numbers);
        };
        match self.direction {
            Direction::Forward => {
                let outputs = columns.clone().zip(scratch.chunks_exact_mut(inputs.len()));
                outputs.for_each(|(output, column)| read(output, inputs, column));
                Block { numbers: scratch, strides: [1, inputs.len()] }
            }
            Direction::Backward => {
                let outputs = inputs.clone().zip(scratch.chunks_exact_mut(columns.len()));
                outputs.for_each(|(output, row)| read(output, columns, row));
                Block { numbers: scratch, strides: [columns.len(), 1] }
            }
        }
    }
}

fn multiply(operands: &Operands, weight: &Packed, compute: DType) {
    if operands.sums.sizes()[0] <= few_rows::FEW_ROWS {
        few_rows::multiply(operands, weight);
    } else {
        multiply_many(operands, weight, compute);
    }
}

#[cfg(target_arch = "x86_64")]
fn multiply_many(operands: &Operands, weight: &Packed, compute: DType) {
    match super::bf16_kernel().filter(|_| compute == DType::BF16) {
        Some(kernel) => kernel.multiply_widened(operands, weight),
        None => narrow::multiply(operands, weight),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn multiply_many(operands: &Operands, weight: &Packed, _compute: DType) {
    narrow::multiply(operands, weight);
}
