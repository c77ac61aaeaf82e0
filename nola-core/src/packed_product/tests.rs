use burn::tensor::{Device, TensorData, Tolerance};

use super::*;
use crate::product::product;
use crate::weight::{PackedView, PackedWeight, Quantization};

fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|n| ((n * 37 + seed) % 101) as f32 / 64.0 - 0.75).collect()
}

fn matrix(shape: [usize; 2], seed: usize, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(numbers(shape[0] * shape[1], seed), shape), device)
}

/// The words of a weight, and its numbers.
fn weight(quantization: Quantization, sizes: [usize; 2], device: &Device) -> (Tensor<1, Int>, Tensor<2>) {
    let packed = PackedWeight::quantize(quantization, &numbers(sizes[0] * sizes[1], 7), sizes);
    let words = packed.into_words();
    let dense = TensorData::new(PackedView::of(&words).transposed(), sizes);
    let count = words.len();
    let words = Tensor::from_data(TensorData::new(words, [count]), (device, DType::U32));
    (words, Tensor::from_data(dense, device))
}

/// The result, and the gradient of `x` where that of the result is some numbers.
fn both(x: &Tensor<2>, y: Tensor<2>) -> [TensorData; 2] {
    let upstream = matrix(y.dims(), 3, &y.device());
    let gradients = (y.clone() * upstream).sum().backward();
    [y.into_data(), x.grad(&gradients).expect("x is tracked").into_data()]
}

/// What an order of summation may change.
fn summed() -> Tolerance<f32> {
    Tolerance::rel_abs(1e-5, 1e-4)
}

fn check(sizes: [usize; 2], rows: usize, compute: DType, tolerance: Tolerance<f32>) {
    let device = Device::flex().autodiff();
    for quantization in Quantization::ALL {
        let (words, dense) = weight(quantization, sizes, &device);
        let x = matrix([rows, sizes[0]], 5, &device).require_grad();
        let found = both(&x, packed_product(x.clone(), words, sizes, compute));
        let expected = both(&x, product(x.clone(), dense, None));
        for (found, expected) in found.iter().zip(&expected) {
            found.assert_approx_eq::<f32>(expected, tolerance);
        }
    }
}

#[test]
fn a_packed_weight_gives_the_product_and_the_gradient_of_its_numbers() {
    for (sizes, rows) in [([128, 70], 9), ([13, 21], 5), ([1030, 40], 33), ([64, 1], 6)] {
        check(sizes, rows, DType::F32, summed());
    }
}

#[test]
fn few_rows_are_those_of_many() {
    for rows in 1..=4 {
        check([1100, 37], rows, DType::F32, summed());
    }
}

#[test]
fn in_bf16_products_are_near() {
    check([256, 96], 40, DType::BF16, Tolerance::rel_abs(1e-2, 5e-2));
}

#[test]
fn no_gradient_is_kept_where_none_is_asked_for() {
    let device = Device::flex();
    let (words, _) = weight(Quantization::Nf4, [64, 8], &device);
    let y = packed_product(matrix([2, 64], 1, &device), words, [64, 8], DType::F32);
    assert_eq!(y.dims(), [2, 8]);
}
