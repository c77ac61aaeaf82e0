use burn::tensor::{Device, TensorData, Tolerance};
use proptest::prelude::*;

use super::*;

fn numbers(shape: [usize; 2], seed: usize) -> Tensor<2> {
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(|n| ((n * 37 + seed) as f32 * 0.7).sin()).collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex().autodiff()).require_grad()
}

/// The result of `update` and the gradients of its four inputs.
fn all(
    [rows, d_in, rank, d_out]: [usize; 4],
    update: impl Fn([Tensor<2>; 4]) -> Tensor<2>,
) -> Vec<TensorData> {
    let inputs =
        [[rows, d_out], [rows, d_in], [d_in, rank], [rank, d_out]].map(|shape| numbers(shape, shape[1]));
    let result = update(inputs.clone());
    let gradients = (result.clone() * numbers([rows, d_out], 3).detach()).sum().backward();
    let of_inputs = inputs.iter().map(|input| input.grad(&gradients).expect("it is tracked").into_data());
    std::iter::once(result.into_data()).chain(of_inputs).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn an_update_and_its_gradients_are_those_of_the_formula(
        rows in prop_oneof![1..5_usize, 120..300_usize],
        [d_in, rank, d_out] in [1..40_usize, 1..9, 1..40],
    ) {
        let sizes = [rows, d_in, rank, d_out];
        let found = all(sizes, |[y, x, a, b]| updated(y, x, a, b, 0.5));
        let expected = all(sizes, |[y, x, a, b]| y + x.matmul(a).mul_scalar(0.5).matmul(b));
        for (found, expected) in found.iter().zip(&expected) {
            found.assert_approx_eq::<f32>(expected, Tolerance::rel_abs(1e-4, 1e-4));
        }
    }
}

#[test]
fn what_is_updated_stays_as_it_was() {
    let [y, x, a, b] = [[3, 4], [3, 5], [5, 2], [2, 4]].map(|shape| numbers(shape, 1).inner());
    let before = y.clone().into_data();
    let _ = updated(y.clone(), x, a, b, 1.0);
    assert_eq!(y.into_data(), before);
}
