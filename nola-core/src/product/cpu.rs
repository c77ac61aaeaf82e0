//! The product on the CPU, in parts that rayon's threads share.

#![allow(unsafe_code, reason = "a result that the product fills is not cleared first")]

#[cfg(target_arch = "x86_64")]
mod bf16_pairs;
mod few_rows;
mod narrow;
mod operands;
mod packed;
mod wide;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, TensorData};
use half::{bf16, f16};

use self::operands::{Operands, Sums, Weight};
use super::FrozenProduct;
#[cfg(target_arch = "x86_64")]
use crate::instructions::Instructions;

impl FrozenProduct for Flex {
    fn frozen_product(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        product(&x.to_contiguous(), weight, None)
    }

    fn frozen_product_with_bias(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        product(&x.to_contiguous(), weight, Some(&bias.to_contiguous()))
    }
}

/// `x·weight + bias`; `x` and `bias` are contiguous.
///
/// The result is allocated here: burn's own way clears its memory and then copies it, on one thread.
fn product(x: &FlexTensor, weight: FlexTensor, bias: Option<&FlexTensor>) -> FlexTensor {
    // A transposed weight is as good as one that lies straight, but nothing else is.
    let weight = if weight.layout().strides().contains(&1) { weight } else { weight.to_contiguous() };
    let (rows, d_out) = (x.layout().shape()[0], weight.layout().shape()[1]);
    let mut result = Vec::with_capacity(rows * d_out);
    let operands = Operands {
        x: x.as_slice().expect("it is contiguous"),
        bias: bias.map(|bias| bias.as_slice().expect("it is contiguous")),
        sums: Sums::new(&mut result.spare_capacity_mut()[..rows * d_out], d_out),
    };
    match weight.dtype() {
        DType::F32 => multiply_f32(&operands, &Weight::new(weight.storage::<f32>(), weight.layout())),
        DType::BF16 => multiply_bf16(&operands, &Weight::new(weight.storage::<bf16>(), weight.layout())),
        DType::F16 => multiply_f16(&operands, &Weight::new(weight.storage::<f16>(), weight.layout())),
        other => panic!("a product of f32 with a weight in {other:?}"),
    }
    // SAFETY: each way writes every part of the result, and the parts cover it.
    unsafe { result.set_len(rows * d_out) };
    FlexTensor::from_data(TensorData::new(result, [rows, d_out]))
}

/// The instructions that multiply with a weight in bf16 here: `amx`, `avx512bf16`, or `f32` where it is widened first.
pub fn bf16_instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if bf16_kernel().is_some() {
        return Instructions::allowed().name();
    }
    "f32"
}

/// The kernel for bf16, where the processor has its instructions and they are allowed.
#[cfg(target_arch = "x86_64")]
fn bf16_kernel() -> Option<bf16_pairs::Kernel> {
    bf16_pairs::Kernel::of(Instructions::allowed())
}

fn multiply_f32(operands: &Operands, weight: &Weight<f32>) {
    if operands.sums.sizes()[0] <= few_rows::FEW_ROWS {
        few_rows::multiply(operands, weight);
    } else {
        wide::multiply(operands, weight);
    }
}

fn multiply_f16(operands: &Operands, weight: &Weight<f16>) {
    if operands.sums.sizes()[0] <= few_rows::FEW_ROWS {
        few_rows::multiply(operands, weight);
    } else {
        narrow::multiply(operands, weight);
    }
}

fn multiply_bf16(operands: &Operands, weight: &Weight<bf16>) {
    if operands.sums.sizes()[0] <= few_rows::FEW_ROWS {
        few_rows::multiply(operands, weight);
    } else {
        multiply_many_bf16(operands, weight);
    }
}

#[cfg(target_arch = "x86_64")]
fn multiply_many_bf16(operands: &Operands, weight: &Weight<bf16>) {
    match bf16_kernel() {
        Some(kernel) => kernel.multiply(operands, weight),
        None => narrow::multiply(operands, weight),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn multiply_many_bf16(operands: &Operands, weight: &Weight<bf16>) {
    narrow::multiply(operands, weight);
}

#[cfg(test)]
mod tests;
