use burn::tensor::{Tensor, TensorData, Tolerance};

use super::*;

/// Numbers that bf16 holds exactly, so that rounding them changes nothing.
fn numbers<const D: usize>(shape: [usize; D], seed: usize) -> Tensor<D> {
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..count).map(|n| ((n * 37 + seed) % 101) as f32 / 64.0 - 0.75).collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex().autodiff())
}

/// A layer's weight and bias.
fn layer(held: DType) -> (Tensor<2>, Tensor<1>) {
    (numbers([40, 35], 1).cast(held), numbers([35], 2).cast(held))
}

/// `y`, and the gradient of `x` where that of `y` is [`numbers`].
fn both(x: Tensor<2>, y: Tensor<2>) -> [TensorData; 2] {
    let gradients = (y.clone() * numbers([5, 35], 3)).sum().backward();
    [y.into_data(), x.grad(&gradients).expect("x is tracked").into_data()]
}

#[test]
fn a_narrow_weight_gives_the_product_and_the_gradient_of_a_wide_one() {
    for held in [DType::BF16, DType::F16] {
        let x = numbers([5, 40], 4).require_grad();
        let (weight, bias) = layer(held);
        let narrow = both(x.clone(), product(x.clone(), weight, Some(bias)));
        let (weight, bias) = layer(DType::F32);
        let wide = both(x.clone(), linear(x, weight, Some(bias)));
        for (narrow, wide) in narrow.iter().zip(&wide) {
            narrow.assert_approx_eq::<f32>(wide, Tolerance::absolute(1e-5));
        }
    }
}

#[test]
fn a_product_without_bias_is_one_with_zeros() {
    let (weight, bias) = layer(DType::BF16);
    let x = numbers([5, 40], 4);
    let with = product(x.clone(), weight.clone(), Some(bias.zeros_like()));
    assert_eq!(product(x, weight, None).into_data(), with.into_data());
}

#[test]
fn a_narrow_weight_that_is_trained_gets_its_gradient() {
    let (weight, bias) = layer(DType::BF16);
    let weight = weight.detach().require_grad();
    let y = product(numbers([5, 40], 4), weight.clone(), Some(bias));
    assert!(weight.grad(&y.sum().backward()).is_some());
}

#[test]
fn a_weight_that_is_made_from_a_trained_one_passes_its_gradient_on() {
    for held in [DType::F32, DType::BF16] {
        let table = numbers([35, 40], 1).cast(held).detach().require_grad();
        let (x, bias) = (numbers([5, 40], 4), numbers([35], 2));
        for bias in [None, Some(bias)] {
            let y = product(x.clone(), table.clone().transpose(), bias);
            assert!(table.grad(&y.sum().backward()).is_some(), "{held:?}");
        }
    }
}

#[test]
fn a_narrow_bias_that_is_trained_gets_its_gradient() {
    let (weight, bias) = layer(DType::BF16);
    let bias = bias.detach().require_grad();
    let y = product(numbers([5, 40], 4), weight, Some(bias.clone()));
    assert!(bias.grad(&y.sum().backward()).is_some());
}

#[test]
fn activations_flow_in_f32_on_the_cpu() {
    let device = Device::flex();
    assert_eq!(compute_dtype(&device, DType::BF16), DType::F32);
    assert_eq!(compute_dtype(&device.autodiff(), DType::F16), DType::F32);
}

#[test]
#[should_panic(expected = "40")]
fn a_weight_for_other_inputs_is_a_bug() {
    let (weight, _) = layer(DType::BF16);
    let _ = product(numbers([5, 41], 4), weight, None);
}
