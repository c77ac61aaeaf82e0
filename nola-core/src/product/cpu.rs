//! The product with a weight in half precision on the CPU: in parts, which rayon's threads share.

#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
mod operands;
mod widened;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Shape};
use half::{bf16, f16};

use self::operands::{Operands, Sums, Weight};
use super::NarrowProduct;

impl NarrowProduct for Flex {
    fn narrow_product(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        product(&x.to_contiguous(), weight, None)
    }

    fn narrow_product_with_bias(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        product(&x.to_contiguous(), weight, Some(&bias.to_contiguous()))
    }
}

/// `x·weight + bias`; `x` and `bias` are contiguous.
fn product(x: &FlexTensor, weight: FlexTensor, bias: Option<&FlexTensor>) -> FlexTensor {
    // A transposed weight is as good as one that lies straight, but nothing else is.
    let weight = if weight.layout().strides().contains(&1) { weight } else { weight.to_contiguous() };
    let (rows, d_out) = (x.layout().shape()[0], weight.layout().shape()[1]);
    let mut result = FlexTensor::empty(Shape::new([rows, d_out]), DType::F32);
    let operands = Operands {
        x: x.as_slice().expect("it is contiguous"),
        bias: bias.map(|bias| bias.as_slice().expect("it is contiguous")),
        sums: Sums::new(result.storage_mut(), d_out),
    };
    match weight.dtype() {
        DType::BF16 => multiply_bf16(&operands, &Weight::new(weight.storage::<bf16>(), weight.layout())),
        DType::F16 => widened::multiply(&operands, &Weight::new(weight.storage::<f16>(), weight.layout())),
        other => panic!("a product of f32 with a weight in {other:?}"),
    }
    result
}

#[cfg(target_arch = "x86_64")]
fn multiply_bf16(operands: &Operands, weight: &Weight<bf16>) {
    match avx512_bf16::Kernel::detect() {
        Some(kernel) => kernel.multiply(operands, weight),
        None => widened::multiply(operands, weight),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn multiply_bf16(operands: &Operands, weight: &Weight<bf16>) {
    widened::multiply(operands, weight);
}

#[cfg(test)]
mod tests;
