//! The operations between the matrix products, each one pass over its numbers and with a gradient of its own.
//!
//! burn differentiates them as chains of elementary operations, each of which keeps its result until the backward pass;
//! here the backward pass starts from the inputs again. So no score matrix of an attention is ever stored, and on the CPU
//! the work is vectorised and shared by all threads, which burn's elementary operations are not.
//!
//! [`plain`] says what is computed, on any backend; [`cpu`] is what the CPU does instead, and must equal it.

mod autodiff;
#[cfg(feature = "cpu")]
mod cpu;
mod plain;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Int, Tensor};

/// A function of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FusedActivation {
    /// x·Φ(x), with Φ of the normal distribution.
    Gelu,
    /// Its tanh formula.
    GeluTanh,
    /// x·σ(x).
    Silu,
}

/// How a row is normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Norm {
    /// To mean 0 and variance 1.
    Layer,
    /// To a mean square of 1.
    RootMeanSquare,
}

/// Which way pairs of numbers are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rotation {
    /// By their angles.
    Forward,
    /// By the opposite angles: the gradient of [`Rotation::Forward`].
    Inverse,
}

/// The operations and their gradients on one backend; a backend that has nothing better computes the plain versions.
pub(crate) trait Kernels: Backend {
    /// `activation` of every number.
    fn activation(x: FloatTensor<Self>, activation: FusedActivation) -> FloatTensor<Self> {
        plain::activation::<Self>(x, activation)
    }

    /// Gradient of `x`, given that of the result.
    fn activation_backward(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        activation: FusedActivation,
    ) -> FloatTensor<Self> {
        plain::activation_backward::<Self>(x, gradient, activation)
    }

    /// See [`gated`].
    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        plain::gated::<Self>(gate, up)
    }

    /// Gradients of both inputs, given that of the result.
    fn gated_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2] {
        plain::gated_backward::<Self>(gate, up, gradient)
    }

    /// See [`rotated`].
    fn rotated(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        rotation: Rotation,
    ) -> FloatTensor<Self> {
        plain::rotated::<Self>(x, cos, sin, rotation)
    }

    /// Rows of `x` normalised, times `gamma`, plus `beta`.
    fn norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: Option<FloatTensor<Self>>,
        norm: Norm,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        plain::norm::<Self>(x, gamma, beta, norm, epsilon)
    }

    /// Gradient of `x`, given that of the result.
    fn norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        norm: Norm,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        plain::norm_backward::<Self>(x, gamma, gradient, norm, epsilon)
    }

    /// See [`cross_entropy`].
    fn cross_entropy(
        logits: FloatTensor<Self>,
        labels: IntTensor<Self>,
        smoothing: f64,
    ) -> FloatTensor<Self> {
        plain::cross_entropy::<Self>(logits, labels, smoothing)
    }

    /// Gradient of the logits, given that of the result.
    fn cross_entropy_backward(
        logits: FloatTensor<Self>,
        labels: IntTensor<Self>,
        gradient: FloatTensor<Self>,
        smoothing: f64,
    ) -> FloatTensor<Self> {
        plain::cross_entropy_backward::<Self>(logits, labels, gradient, smoothing)
    }

    /// See [`attention`].
    fn attend(inputs: Inputs<Self>, scale: f64) -> FloatTensor<Self> {
        plain::attention::<Self>(inputs, scale)
    }

    /// Gradients of query, key and value, given that of the result.
    fn attend_backward(
        inputs: Inputs<Self>,
        scale: f64,
        gradient: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        plain::attention_backward::<Self>(inputs, scale, gradient)
    }
}

/// What an attention works on; shapes as those of [`attention`].
#[derive(Debug, Clone)]
pub(crate) struct Inputs<B: Backend> {
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    mask: Option<FloatTensor<B>>,
}

#[cfg(feature = "cube")]
impl Kernels for burn::backend::Cube {}

/// The operations as burn calls them, with or without a graph; its macro takes no absent tensors.
#[backend_extension(Flex: cfg(feature = "cpu"), Cube: cfg(feature = "cube"), Autodiff)]
pub(crate) trait Fused: Backend {
    fn fused_curve(x: FloatTensor<Self>, activation: FusedActivation) -> FloatTensor<Self>;

    fn fused_gated(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;

    fn fused_turned(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self>;

    fn fused_rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self>;

    fn fused_cross_entropy(
        logits: FloatTensor<Self>,
        labels: IntTensor<Self>,
        smoothing: f64,
    ) -> FloatTensor<Self>;

    fn fused_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self>;

    fn fused_masked_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self>;
}

impl<B: Kernels> Fused for B {
    fn fused_curve(x: FloatTensor<B>, activation: FusedActivation) -> FloatTensor<B> {
        B::activation(x, activation)
    }

    fn fused_gated(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
        B::gated(gate, up)
    }

    fn fused_turned(x: FloatTensor<B>, cos: FloatTensor<B>, sin: FloatTensor<B>) -> FloatTensor<B> {
        B::rotated(x, cos, sin, Rotation::Forward)
    }

    fn fused_layer_norm(
        x: FloatTensor<B>,
        gamma: FloatTensor<B>,
        beta: FloatTensor<B>,
        epsilon: f64,
    ) -> FloatTensor<B> {
        B::norm(x, gamma, Some(beta), Norm::Layer, epsilon)
    }

    fn fused_rms_norm(x: FloatTensor<B>, gamma: FloatTensor<B>, epsilon: f64) -> FloatTensor<B> {
        B::norm(x, gamma, None, Norm::RootMeanSquare, epsilon)
    }

    fn fused_cross_entropy(logits: FloatTensor<B>, labels: IntTensor<B>, smoothing: f64) -> FloatTensor<B> {
        B::cross_entropy(logits, labels, smoothing)
    }

    fn fused_attention(
        query: FloatTensor<B>,
        key: FloatTensor<B>,
        value: FloatTensor<B>,
        scale: f64,
    ) -> FloatTensor<B> {
        B::attend(Inputs { query, key, value, mask: None }, scale)
    }

    fn fused_masked_attention(
        query: FloatTensor<B>,
        key: FloatTensor<B>,
        value: FloatTensor<B>,
        mask: FloatTensor<B>,
        scale: f64,
    ) -> FloatTensor<B> {
        B::attend(Inputs { query, key, value, mask: Some(mask) }, scale)
    }
}

/// `activation` of every number.
pub(crate) fn activation<const D: usize>(x: Tensor<D>, activation: FusedActivation) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::fused_curve(x.into_dispatch(), activation))
}

/// SiLU of `gate`, times `up`.
pub(crate) fn gated<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::fused_gated(gate.into_dispatch(), up.into_dispatch()))
}

/// Pairs of numbers, one in each half of a row, rotated by the angles of `cos` and `sin`; these get no gradient.
///
/// # Shapes
/// - `x` and output: `[batch, heads, tokens, d_head]`
/// - `cos`, `sin`: `[batch or 1, 1, tokens, d_head / 2]`
pub(crate) fn rotated(x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<4> {
    let (x, cos, sin) = (x.into_dispatch(), cos.into_dispatch(), sin.into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_turned(x, cos, sin))
}

/// Rows normalised to mean 0 and variance 1, times `gamma`, plus `beta`; neither of these gets a gradient.
pub(crate) fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let (x, gamma, beta) = (x.into_dispatch(), gamma.into_dispatch(), beta.into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_layer_norm(x, gamma, beta, epsilon))
}

/// Rows normalised to a mean square of 1, times `gamma`, which gets no gradient.
pub(crate) fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, epsilon: f64) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::fused_rms_norm(x.into_dispatch(), gamma.into_dispatch(), epsilon))
}

/// Cross-entropy of each row in nats; `smoothing` is the probability spread evenly over all classes.
///
/// # Shapes
/// - `logits`: `[rows, classes]`, f32
/// - `labels`: `[rows]`
/// - output: `[rows]`
///
/// # Source
/// `torch.nn.functional.cross_entropy` without reduction.
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>, smoothing: f64) -> Tensor<1> {
    let (logits, labels) = (logits.into_dispatch(), labels.into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_cross_entropy(logits, labels, smoothing))
}

/// Values mixed by the softmax of `scale · query · keyᵀ + mask`.
///
/// With fewer heads in `key` and `value` than in `query`, each serves a group of queries that lie side by side.
///
/// # Shapes
/// - `query` and output: `[batch, heads, tokens, d_head]`
/// - `key`, `value`: `[batch, kv_heads, keys, d_head]`
/// - `mask`: `[batch or 1, 1, tokens, keys]`, f32
pub(crate) fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: Option<Tensor<4>>,
    scale: f64,
) -> Tensor<4> {
    let (query, key, value) = (query.into_dispatch(), key.into_dispatch(), value.into_dispatch());
    Tensor::from_dispatch(match mask {
        None => Dispatch::fused_attention(query, key, value, scale),
        Some(mask) => Dispatch::fused_masked_attention(query, key, value, mask.into_dispatch(), scale),
    })
}

#[cfg(all(test, feature = "cpu"))]
mod tests;
