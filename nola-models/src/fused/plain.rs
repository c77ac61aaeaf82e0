//! What the fused operations compute, in burn's elementary ones.

use std::f64::consts::{FRAC_2_SQRT_PI, PI, SQRT_2};

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, FloatDType, IndexingUpdateOp, Shape, Slice};

use super::{FusedActivation, Inputs, Norm, Rotation};

/// Score matrices that are in memory at a time, in bytes.
const CHUNK_BYTES: usize = 256 << 20;
/// Cubic coefficient of the tanh formula of GELU.
const CUBIC: f64 = 0.044715;

pub(super) fn activation<B: Backend>(x: FloatTensor<B>, activation: FusedActivation) -> FloatTensor<B> {
    let dtype: FloatDType = x.dtype().into();
    let x = wide::<B>(x);
    let result = match activation {
        FusedActivation::Gelu => B::gelu(x),
        FusedActivation::GeluTanh => B::float_mul(x.clone(), B::sigmoid(doubled_inner::<B>(x))),
        FusedActivation::Silu => B::float_mul(x.clone(), B::sigmoid(x)),
    };
    narrowed::<B>(result, dtype)
}

pub(super) fn activation_backward<B: Backend>(
    x: FloatTensor<B>,
    gradient: FloatTensor<B>,
    activation: FusedActivation,
) -> FloatTensor<B> {
    let dtype: FloatDType = x.dtype().into();
    let (x, gradient) = (wide::<B>(x), wide::<B>(gradient));
    let slope = match activation {
        FusedActivation::Gelu => {
            // Φ + x·φ
            let error = B::float_erf(scaled::<B>(x.clone(), 1.0 / SQRT_2));
            let below = plus::<B>(scaled::<B>(error, 0.5), 0.5);
            let bell = B::float_exp(scaled::<B>(B::float_mul(x.clone(), x.clone()), -0.5));
            B::float_add(below, scaled::<B>(B::float_mul(x, bell), 0.5 * FRAC_2_SQRT_PI / SQRT_2))
        }
        FusedActivation::GeluTanh => {
            let inner = 2.0 * (2.0 / PI).sqrt();
            let square = B::float_mul(x.clone(), x.clone());
            let inner_slope = plus::<B>(scaled::<B>(square, 3.0 * CUBIC * inner), inner);
            sigmoid_slope::<B>(x.clone(), B::sigmoid(doubled_inner::<B>(x)), Some(inner_slope))
        }
        FusedActivation::Silu => sigmoid_slope::<B>(x.clone(), B::sigmoid(x), None),
    };
    narrowed::<B>(B::float_mul(gradient, slope), dtype)
}

/// σ + x·σ·(1 − σ)·inner', the slope of x·σ(inner(x)).
fn sigmoid_slope<B: Backend>(
    x: FloatTensor<B>,
    sigmoid: FloatTensor<B>,
    inner_slope: Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    let rest = plus::<B>(B::float_neg(sigmoid.clone()), 1.0);
    let mut change = B::float_mul(B::float_mul(x, rest), sigmoid.clone());
    if let Some(inner_slope) = inner_slope {
        change = B::float_mul(change, inner_slope);
    }
    B::float_add(sigmoid, change)
}

/// Twice the argument of the tanh in GELU's formula: (1 + tanh(u))/2 is σ(2u).
fn doubled_inner<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let square = B::float_mul(x.clone(), x.clone());
    let factor = plus::<B>(scaled::<B>(square, CUBIC), 1.0);
    scaled::<B>(B::float_mul(x, factor), 2.0 * (2.0 / PI).sqrt())
}

pub(super) fn gated<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    B::float_mul(activation::<B>(gate, FusedActivation::Silu), up)
}

pub(super) fn gated_backward<B: Backend>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    gradient: FloatTensor<B>,
) -> [FloatTensor<B>; 2] {
    let of_up = B::float_mul(activation::<B>(gate.clone(), FusedActivation::Silu), gradient.clone());
    [activation_backward::<B>(gate, B::float_mul(gradient, up), FusedActivation::Silu), of_up]
}

pub(super) fn rotated<B: Backend>(
    x: FloatTensor<B>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
    rotation: Rotation,
) -> FloatTensor<B> {
    let shape = x.shape();
    let half = shape[3] / 2;
    let part = |range: std::ops::Range<usize>| {
        let whole = |size: usize| Slice::from(0..size);
        let slices = [whole(shape[0]), whole(shape[1]), whole(shape[2]), Slice::from(range)];
        B::float_slice(x.clone(), &slices)
    };
    let (left, right) = (part(0..half), part(half..2 * half));
    let sin = match rotation {
        Rotation::Forward => sin,
        Rotation::Inverse => B::float_neg(sin),
    };
    let new_left =
        B::float_sub(B::float_mul(left.clone(), cos.clone()), B::float_mul(right.clone(), sin.clone()));
    let new_right = B::float_add(B::float_mul(right, cos), B::float_mul(left, sin));
    B::float_cat(vec![new_left, new_right], 3)
}

pub(super) fn norm<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: Option<FloatTensor<B>>,
    norm: Norm,
    epsilon: f64,
) -> FloatTensor<B> {
    let dtype: FloatDType = x.dtype().into();
    let (gamma, beta) = (wide::<B>(gamma), beta.map(wide::<B>));
    let result = match norm {
        Norm::Layer => B::layer_norm(wide::<B>(x), gamma, beta, epsilon),
        Norm::RootMeanSquare => {
            let (normed, _) = normed::<B>(wide::<B>(x), norm, epsilon);
            let last = normed.shape().num_dims() - 1;
            let result = B::float_mul(normed, as_row::<B>(gamma, last + 1));
            match beta {
                Some(beta) => B::float_add(result, as_row::<B>(beta, last + 1)),
                None => result,
            }
        }
    };
    B::float_cast(result, dtype)
}

pub(super) fn norm_backward<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    gradient: FloatTensor<B>,
    norm: Norm,
    epsilon: f64,
) -> FloatTensor<B> {
    let dtype: FloatDType = x.dtype().into();
    let (normed, inverse) = normed::<B>(wide::<B>(x), norm, epsilon);
    let dims = normed.shape().num_dims();
    let gradient = B::float_mul(wide::<B>(gradient), as_row::<B>(wide::<B>(gamma), dims));
    // The part along the row itself cannot change it; nor can, for the layer norm, a shift.
    let along = B::float_mean_dim(B::float_mul(gradient.clone(), normed.clone()), dims - 1);
    let mut free = B::float_sub(gradient.clone(), B::float_mul(normed, along));
    if norm == Norm::Layer {
        free = B::float_sub(free, B::float_mean_dim(gradient, dims - 1));
    }
    B::float_cast(B::float_mul(free, inverse), dtype)
}

/// Rows normalised, and the factor of each.
fn normed<B: Backend>(x: FloatTensor<B>, norm: Norm, epsilon: f64) -> (FloatTensor<B>, FloatTensor<B>) {
    let last = x.shape().num_dims() - 1;
    let centred = match norm {
        Norm::Layer => B::float_sub(x.clone(), B::float_mean_dim(x, last)),
        Norm::RootMeanSquare => x,
    };
    let square = B::float_mean_dim(B::float_mul(centred.clone(), centred.clone()), last);
    let inverse = B::float_recip(B::float_sqrt(plus::<B>(square, epsilon)));
    (B::float_mul(centred, inverse.clone()), inverse)
}

pub(super) fn cross_entropy<B: Backend>(
    logits: FloatTensor<B>,
    labels: IntTensor<B>,
    smoothing: f64,
) -> FloatTensor<B> {
    let rows = logits.shape()[0];
    let largest = B::float_max_dim(logits.clone(), 1);
    let shifted = B::float_sub(logits, largest);
    let all = B::float_log(B::float_sum_dim(B::float_exp(shifted.clone()), 1));
    let of_label = B::float_gather(1, shifted.clone(), B::int_reshape(labels, Shape::new([rows, 1])));
    let mut expected = of_label;
    if smoothing != 0.0 {
        let of_all = scaled::<B>(B::float_mean_dim(shifted, 1), smoothing);
        expected = B::float_add(scaled::<B>(expected, 1.0 - smoothing), of_all);
    }
    B::float_reshape(B::float_sub(all, expected), Shape::new([rows]))
}

pub(super) fn cross_entropy_backward<B: Backend>(
    logits: FloatTensor<B>,
    labels: IntTensor<B>,
    gradient: FloatTensor<B>,
    smoothing: f64,
) -> FloatTensor<B> {
    let [rows, classes] = [logits.shape()[0], logits.shape()[1]];
    let labels = B::int_reshape(labels, Shape::new([rows, 1]));
    let gradient = B::float_reshape(gradient, Shape::new([rows, 1]));
    let mut of_all = B::softmax(logits, 1);
    if smoothing != 0.0 {
        of_all = plus::<B>(of_all, -smoothing / classes as f64);
    }
    let of_all = B::float_mul(of_all, gradient.clone());
    let of_label = scaled::<B>(gradient, smoothing - 1.0);
    B::float_scatter(1, of_all, labels, of_label, IndexingUpdateOp::Add)
}

pub(super) fn attention<B: Backend>(inputs: Inputs<B>, scale: f64) -> FloatTensor<B> {
    let sizes = Sizes::of(&inputs);
    let parts = sizes.chunks().map(|(start, length)| {
        let query = sizes.grouped::<B>(tokens_of::<B>(inputs.query.clone(), start, length), length);
        let weights = sizes.weights::<B>(query, &inputs, scale, start, length);
        let mixed = B::float_matmul(B::float_cast(weights, sizes.dtype), inputs.value.clone());
        sizes.single::<B>(mixed, length)
    });
    joined::<B>(parts.collect())
}

pub(super) fn attention_backward<B: Backend>(
    inputs: Inputs<B>,
    scale: f64,
    gradient: FloatTensor<B>,
) -> [FloatTensor<B>; 3] {
    let sizes = Sizes::of(&inputs);
    let (mut of_query, mut of_key, mut of_value) = (Vec::new(), None, None);
    for (start, length) in sizes.chunks() {
        let query = sizes.grouped::<B>(tokens_of::<B>(inputs.query.clone(), start, length), length);
        let gradient = sizes.grouped::<B>(tokens_of::<B>(gradient.clone(), start, length), length);
        let weights = sizes.weights::<B>(query.clone(), &inputs, scale, start, length);
        let of_weights = B::float_matmul(gradient.clone(), B::float_transpose(inputs.value.clone()));
        let of_weights = wide::<B>(of_weights);
        let along = B::float_sum_dim(B::float_mul(of_weights.clone(), weights.clone()), 3);
        let of_scores = B::float_mul(B::float_sub(of_weights, along), weights.clone());
        let of_scores = B::float_cast(scaled::<B>(of_scores, scale), sizes.dtype);
        let weights = B::float_cast(weights, sizes.dtype);
        of_query.push(sizes.single::<B>(B::float_matmul(of_scores.clone(), inputs.key.clone()), length));
        add::<B>(&mut of_key, B::float_matmul(B::float_transpose(of_scores), query));
        add::<B>(&mut of_value, B::float_matmul(B::float_transpose(weights), gradient));
    }
    let filled = |sum: Option<FloatTensor<B>>| sum.expect("there is at least one token");
    [joined::<B>(of_query), filled(of_key), filled(of_value)]
}

/// Sizes of an attention.
struct Sizes {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    tokens: usize,
    keys: usize,
    d_head: usize,
    dtype: FloatDType,
}

impl Sizes {
    fn of<B: Backend>(inputs: &Inputs<B>) -> Self {
        let (query, key) = (inputs.query.shape(), inputs.key.shape());
        Self {
            batch: query[0],
            heads: query[1],
            kv_heads: key[1],
            tokens: query[2],
            keys: key[2],
            d_head: query[3],
            dtype: inputs.query.dtype().into(),
        }
    }

    /// Start and length of the parts of the queries whose scores are in memory together.
    fn chunks(&self) -> impl Iterator<Item = (usize, usize)> {
        let bytes_per_token = size_of::<f32>() * self.batch * self.heads * self.keys;
        let (tokens, length) = (self.tokens, (CHUNK_BYTES / bytes_per_token).max(1));
        (0..tokens).step_by(length).map(move |start| (start, length.min(tokens - start)))
    }

    /// The queries of a group as rows of one matrix, so that no key or value is copied.
    fn grouped<B: Backend>(&self, query: FloatTensor<B>, tokens: usize) -> FloatTensor<B> {
        let rows = self.heads / self.kv_heads * tokens;
        B::float_reshape(query, Shape::new([self.batch, self.kv_heads, rows, self.d_head]))
    }

    /// Each query by itself again.
    fn single<B: Backend>(&self, rows: FloatTensor<B>, tokens: usize) -> FloatTensor<B> {
        B::float_reshape(rows, Shape::new([self.batch, self.heads, tokens, self.d_head]))
    }

    /// Softmax of the scores of some tokens, in f32, the queries grouped.
    fn weights<B: Backend>(
        &self,
        query: FloatTensor<B>,
        inputs: &Inputs<B>,
        scale: f64,
        start: usize,
        tokens: usize,
    ) -> FloatTensor<B> {
        let scores = B::float_matmul(scaled::<B>(query, scale), B::float_transpose(inputs.key.clone()));
        let mut scores = wide::<B>(scores);
        let grouped = scores.shape();
        if let Some(mask) = &inputs.mask {
            scores = B::float_reshape(scores, Shape::new([self.batch, self.heads, tokens, self.keys]));
            scores = B::float_add(scores, tokens_of::<B>(mask.clone(), start, tokens));
        }
        B::float_reshape(B::softmax(scores, 3), grouped)
    }
}

/// Some tokens of `[.., .., tokens, ..]`.
fn tokens_of<B: Backend>(x: FloatTensor<B>, start: usize, length: usize) -> FloatTensor<B> {
    let shape = x.shape();
    if start == 0 && length == shape[2] {
        return x;
    }
    let whole = |size: usize| Slice::from(0..size);
    let slices = [whole(shape[0]), whole(shape[1]), Slice::from(start..start + length), whole(shape[3])];
    B::float_slice(x, &slices)
}

fn joined<B: Backend>(mut parts: Vec<FloatTensor<B>>) -> FloatTensor<B> {
    if parts.len() == 1 { parts.remove(0) } else { B::float_cat(parts, 2) }
}

fn add<B: Backend>(sum: &mut Option<FloatTensor<B>>, part: FloatTensor<B>) {
    *sum = Some(match sum.take() {
        Some(sum) => B::float_add(sum, part),
        None => part,
    });
}

fn as_row<B: Backend>(vector: FloatTensor<B>, dims: usize) -> FloatTensor<B> {
    let mut shape = vec![1; dims];
    shape[dims - 1] = vector.shape()[0];
    B::float_reshape(vector, Shape::from(shape))
}

fn wide<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    if x.dtype() == DType::F32 { x } else { B::float_cast(x, FloatDType::F32) }
}

/// What was computed in f32, as `dtype`.
fn narrowed<B: Backend>(x: FloatTensor<B>, dtype: FloatDType) -> FloatTensor<B> {
    if dtype == FloatDType::F32 { x } else { B::float_cast(x, dtype) }
}

fn scaled<B: Backend>(x: FloatTensor<B>, factor: f64) -> FloatTensor<B> {
    B::float_mul_scalar(x, factor.into())
}

fn plus<B: Backend>(x: FloatTensor<B>, summand: f64) -> FloatTensor<B> {
    B::float_add_scalar(x, summand.into())
}
