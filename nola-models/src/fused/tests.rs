//! The fused operations and their gradients against the same in burn's elementary ones; the CPU against the plain version.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::activation::{gelu, gelu_approximate, log_softmax, silu, softmax};
use burn::tensor::{DType, Device, Int, Tensor, TensorData, module};
use proptest::prelude::*;

use super::*;

/// Numbers of about the size of activations, none of them twice.
fn values(count: usize, seed: f32) -> Vec<f32> {
    (0..count).map(|n| 3.0 * (n as f32 * 0.731 + seed).sin()).collect()
}

fn tensor<const D: usize>(shape: [usize; D], seed: f32) -> Tensor<D> {
    let data = TensorData::new(values(shape.iter().product(), seed), shape);
    Tensor::from_data(data, &Device::flex().autodiff()).require_grad()
}

fn primitive<const D: usize>(shape: [usize; D], seed: f32) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values(shape.iter().product(), seed), shape))
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("f32")
}

/// Asserts that numbers differ by at most 1e-5 of the largest one.
///
/// Scores go up to 7 here, where an `f32` is off by 2e-7 after each of a few roundings: the weight that is their exponential
/// is off by some 1e-6 of itself, and its gradients, differences of such, by some times that.
fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1.0_f32, |largest, x| largest.max(x.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        // NaN is close to nothing.
        let is_close = (found - expected).abs() <= 1e-5 * largest;
        assert!(is_close, "{index}: {found} is not {expected}, of at most {largest}");
    }
}

fn assert_same(found: FlexTensor, expected: FlexTensor) {
    assert_eq!(found.layout().shape(), expected.layout().shape());
    let values = |tensor: FlexTensor| tensor.into_data().try_into_vec::<f32>().expect("f32");
    assert_close(&values(found), &values(expected));
}

/// Result and gradients of `of`, whose result is weighed so that no gradient is like another.
fn differentiated<const N: usize, const D: usize>(
    inputs: [Tensor<D>; N],
    of: impl Fn([Tensor<D>; N]) -> Tensor<D>,
) -> Vec<Vec<f32>> {
    let result = of(inputs.clone());
    let weights = tensor(result.dims(), 0.4).detach();
    let gradients = (result.clone() * weights).sum().backward();
    let of_inputs = inputs.map(|input| numbers(input.grad(&gradients).expect("it is tracked")));
    std::iter::once(numbers(result)).chain(of_inputs).collect()
}

fn assert_alike(found: &[Vec<f32>], expected: &[Vec<f32>]) {
    found.iter().zip(expected).for_each(|(found, expected)| assert_close(found, expected));
}

#[test]
fn curves_are_those_of_burn() {
    let x = || [tensor([3, 50], 0.1)];
    assert_alike(
        &differentiated(x(), |[x]| activation(x, FusedActivation::GeluTanh)),
        &differentiated(x(), |[x]| gelu_approximate(x)),
    );
    assert_alike(
        &differentiated(x(), |[x]| activation(x, FusedActivation::Silu)),
        &differentiated(x(), |[x]| silu(x)),
    );
    // burn differentiates the exact GELU by the tanh formula, so only the values can be compared.
    assert_close(&numbers(activation(x()[0].clone(), FusedActivation::Gelu)), &numbers(gelu(x()[0].clone())));
}

#[test]
fn the_slope_of_gelu_is_that_of_torch() {
    let x = Tensor::<1>::from_data([-2.0, -0.5, 0.0, 0.3, 1.7], &Device::flex().autodiff()).require_grad();
    let gradients = activation(x.clone(), FusedActivation::Gelu).sum().backward();
    // torch.nn.functional.gelu, backward of the sum.
    let expected = [-0.085_231_87, 0.132_504_91, 0.5, 0.732_327_76, 1.115_318];
    assert_close(&numbers(x.grad(&gradients).expect("it is tracked")), &expected);
}

#[test]
fn a_gate_is_that_of_burn() {
    let inputs = || [tensor([3, 50], 0.1), tensor([3, 50], 1.7)];
    assert_alike(
        &differentiated(inputs(), |[gate, up]| gated(gate, up)),
        &differentiated(inputs(), |[gate, up]| silu(gate) * up),
    );
}

#[test]
fn turning_is_that_of_burn() {
    for sequences in [1, 2] {
        let table = |seed| tensor([sequences, 1, 7, 3], seed).detach();
        let (cos, sin) = (table(0.3), table(0.9));
        let burns = |x: Tensor<4>| {
            let (left, right) = (x.clone().narrow(3, 0, 3), x.narrow(3, 3, 3));
            let new_left = left.clone() * cos.clone() - right.clone() * sin.clone();
            Tensor::cat(vec![new_left, right * cos.clone() + left * sin.clone()], 3)
        };
        let x = || [tensor([2, 5, 7, 6], 0.2)];
        assert_alike(
            &differentiated(x(), |[x]| rotated(x, cos.clone(), sin.clone())),
            &differentiated(x(), |[x]| burns(x)),
        );
    }
}

#[test]
fn norms_are_those_of_burn() {
    let (gamma, beta) = (tensor([50], 2.0).detach(), tensor([50], 3.0).detach());
    let of_layer = |x: Tensor<2>| module::layer_norm(x, gamma.clone(), Some(beta.clone()), 1e-5);
    assert_alike(
        &differentiated([tensor([3, 50], 0.1)], |[x]| layer_norm(x, gamma.clone(), beta.clone(), 1e-5)),
        &differentiated([tensor([3, 50], 0.1)], |[x]| of_layer(x)),
    );
    let of_root = |x: Tensor<2>| {
        let square = x.clone().powi_scalar(2).mean_dim(1) + 1e-5;
        x / square.sqrt() * gamma.clone().unsqueeze()
    };
    assert_alike(
        &differentiated([tensor([3, 50], 0.1)], |[x]| rms_norm(x, gamma.clone(), 1e-5)),
        &differentiated([tensor([3, 50], 0.1)], |[x]| of_root(x)),
    );
}

#[test]
fn cross_entropy_is_that_of_burn() {
    let labels = Tensor::<1, Int>::from_data([0, 36, 5], &Device::flex().autodiff());
    for smoothing in [0.0, 0.1] {
        let burns = |logits: Tensor<2>| {
            let log = log_softmax(logits, 1);
            let of_labels = log.clone().gather(1, labels.clone().unsqueeze_dim(1));
            (of_labels * (1.0 - smoothing) + log.mean_dim(1) * smoothing).neg()
        };
        assert_alike(
            &differentiated([tensor([3, 37], 0.1)], |[logits]| {
                cross_entropy(logits, labels.clone(), smoothing).unsqueeze_dim(1)
            }),
            &differentiated([tensor([3, 37], 0.1)], |[logits]| burns(logits)),
        );
    }
}

#[test]
fn attention_is_that_of_burn() {
    let device = Device::flex().autodiff();
    let keys = Tensor::<1, Int>::arange(0..70, &device).reshape([1, 1, 1, 70]);
    let later = keys.clone().greater(keys.reshape([1, 1, 70, 1])).float() * -1e37;
    let inputs = || [0.1, 0.7, 1.9].map(|seed| tensor([2, 3, 70, 8], seed));
    for mask in [None, Some(later)] {
        let burns = |[query, key, value]: [Tensor<4>; 3]| {
            let scores = query.matmul(key.swap_dims(2, 3)) * 0.05;
            let scores = mask.clone().map_or(scores.clone(), |mask| scores + mask);
            softmax(scores, 3).matmul(value)
        };
        let fused = |[query, key, value]: [Tensor<4>; 3]| attention(query, key, value, mask.clone(), 0.05);
        assert_alike(&differentiated(inputs(), fused), &differentiated(inputs(), burns));
    }
}

/// 0 where a query may look, else far below; one for all sequences or one for each.
fn masks(rows: usize, tokens: usize, keys: usize) -> impl Strategy<Value = FlexTensor> {
    let hidden = proptest::collection::vec(any::<bool>(), rows * tokens * keys);
    hidden.prop_map(move |hidden| {
        let values = hidden.into_iter().enumerate().map(|(index, hidden)| {
            // One key is always seen: what a query that sees none puts out means nothing.
            if hidden && index % keys != (index / keys) % keys { -1e37 } else { 0.0 }
        });
        FlexTensor::from_data(TensorData::new(values.collect::<Vec<f32>>(), [rows, 1, tokens, keys]))
    })
}

fn attentions() -> impl Strategy<Value = Inputs<Flex>> {
    (1_usize..3, 1_usize..3, 1_usize..3, 1_usize..90, 0_usize..20, 1_usize..9, any::<bool>(), any::<bool>())
        .prop_flat_map(|(batch, kv_heads, group, tokens, past, d_head, is_masked, is_for_each)| {
            let (keys, rows) = (tokens + past, if is_for_each { batch } else { 1 });
            let mask = masks(rows, tokens, keys);
            mask.prop_map(move |mask| Inputs {
                query: primitive([batch, kv_heads * group, tokens, d_head], 0.1),
                key: primitive([batch, kv_heads, keys, d_head], 1.1),
                value: primitive([batch, kv_heads, keys, d_head], 2.1),
                mask: is_masked.then_some(mask),
            })
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn attention_on_the_cpu_is_the_plain_one(inputs in attentions(), scale in 0.01_f64..0.1) {
        let shape = inputs.query.layout().shape();
        let gradient = primitive([shape[0], shape[1], shape[2], shape[3]], 0.9);
        assert_same(Flex::attend(inputs.clone(), scale), plain::attention::<Flex>(inputs.clone(), scale));
        let found = Flex::attend_backward(inputs.clone(), scale, gradient.clone());
        let expected = plain::attention_backward::<Flex>(inputs, scale, gradient);
        found.into_iter().zip(expected).for_each(|(found, expected)| assert_same(found, expected));
    }

    #[test]
    fn rows_on_the_cpu_are_the_plain_ones(rows in 1_usize..40, width in 1_usize..70, smoothing in 0.0_f64..0.3) {
        let (x, gradient) = (primitive([rows, width], 0.1), primitive([rows, width], 0.9));
        let (gamma, beta) = (primitive([width], 2.0), primitive([width], 3.0));
        // A row of few numbers can have next to no variance, and then its gradient is all rounding.
        for norm in [Norm::Layer, Norm::RootMeanSquare].into_iter().filter(|_| width >= 8) {
            assert_same(
                Flex::norm(x.clone(), gamma.clone(), Some(beta.clone()), norm, 1e-2),
                plain::norm::<Flex>(x.clone(), gamma.clone(), Some(beta.clone()), norm, 1e-2),
            );
            assert_same(
                Flex::norm_backward(x.clone(), gamma.clone(), gradient.clone(), norm, 1e-2),
                plain::norm_backward::<Flex>(x.clone(), gamma.clone(), gradient.clone(), norm, 1e-2),
            );
        }
        let labels: Vec<i64> = (0..rows).map(|row| (row * 7 % width) as i64).collect();
        let labels = FlexTensor::from_data(TensorData::new(labels, [rows]));
        let of_rows = primitive([rows], 0.2);
        assert_same(
            Flex::cross_entropy(x.clone(), labels.clone(), smoothing),
            plain::cross_entropy::<Flex>(x.clone(), labels.clone(), smoothing),
        );
        assert_same(
            Flex::cross_entropy_backward(x.clone(), labels.clone(), of_rows.clone(), smoothing),
            plain::cross_entropy_backward::<Flex>(x, labels, of_rows, smoothing),
        );
    }

    #[test]
    fn turning_on_the_cpu_is_the_plain_one(
        batch in 1_usize..3, heads in 1_usize..4, tokens in 1_usize..60, half in 1_usize..9, same in any::<bool>(),
    ) {
        let x = primitive([batch, tokens, heads, 2 * half], 0.3).permute(&[0, 2, 1, 3]);
        let table = |seed| primitive([if same { 1 } else { batch }, 1, tokens, half], seed);
        for rotation in [Rotation::Forward, Rotation::Inverse] {
            assert_same(
                Flex::rotated(x.clone(), table(0.5), table(0.8), rotation),
                plain::rotated::<Flex>(x.clone(), table(0.5), table(0.8), rotation),
            );
        }
    }

    #[test]
    fn curves_on_the_cpu_are_the_plain_ones(count in 1_usize..20_000, seed in 0.0_f32..9.0) {
        let (x, gradient) = (primitive([count], seed), primitive([count], seed + 1.0));
        let up = primitive([count], seed + 2.0);
        assert_same(Flex::gated(x.clone(), up.clone()), plain::gated::<Flex>(x.clone(), up.clone()));
        let of_both = Flex::gated_backward(x.clone(), up.clone(), gradient.clone());
        let plainly = plain::gated_backward::<Flex>(x.clone(), up, gradient.clone());
        of_both.into_iter().zip(plainly).for_each(|(found, expected)| assert_same(found, expected));
        for kind in [FusedActivation::Gelu, FusedActivation::GeluTanh, FusedActivation::Silu] {
            assert_same(Flex::activation(x.clone(), kind), plain::activation::<Flex>(x.clone(), kind));
            assert_same(
                Flex::activation_backward(x.clone(), gradient.clone(), kind),
                plain::activation_backward::<Flex>(x.clone(), gradient.clone(), kind),
            );
        }
    }
}

#[test]
fn half_precision_takes_the_plain_way() {
    let x = tensor([2, 9], 0.3).detach();
    let half = numbers(activation(x.clone().cast(DType::BF16), FusedActivation::Silu).cast(DType::F32));
    let whole = numbers(activation(x, FusedActivation::Silu));
    assert!(half.iter().zip(&whole).all(|(half, whole)| (half - whole).abs() < 0.03), "{half:?}");
}
