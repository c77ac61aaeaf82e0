//! Products with weights that may be held narrower than what flows past them.
//!
//! Processors compute in f32 at least, so on the CPU activations flow in f32 whatever the weights are held in. A frozen
//! weight in half precision is then read as it lies: no copy of it in f32 ever exists, and processors with products of bf16
//! ([`cpu`]) use them. GPUs have such products for all they hold, and there everything flows in the type of the weights.

#[cfg(feature = "cpu")]
mod cpu;

#[cfg(feature = "cube")]
use burn::backend::TensorMetadata;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, DispatchDevice, backend_extension};
#[cfg(feature = "cube")]
use burn::tensor::Shape;
use burn::tensor::module::linear;
use burn::tensor::{DType, Device, Tensor};

/// The number type in which activations flow on `device` past weights that are held in `held`.
pub fn flow_dtype(device: &Device, held: DType) -> DType {
    match device.clone().inner().as_dispatch() {
        #[cfg(feature = "cpu")]
        DispatchDevice::Flex(_) => DType::F32,
        #[allow(unreachable_patterns, reason = "which others there are depends on burn's features")]
        _ => held,
    }
}

/// `x` in the type in which activations flow where it is.
pub fn flowing<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let dtype = flow_dtype(&x.device(), x.dtype());
    x.cast(dtype)
}

/// `x·weight + bias` in the type of `x`.
///
/// # Shapes
/// - `x`: `[rows, d_in]`
/// - `weight`: `[d_in, d_out]`
/// - `bias`: `[d_out]`
/// - output: `[rows, d_out]`
pub fn product(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let (dtype, bias_is_trained) = (x.dtype(), bias.as_ref().is_some_and(Tensor::is_require_grad));
    if weight.dtype() == dtype || weight.is_require_grad() || bias_is_trained {
        return linear(x, weight.cast(dtype), bias.map(|bias| bias.cast(dtype)));
    }
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(match bias {
        None => Dispatch::narrow_product(x, weight),
        Some(bias) => Dispatch::narrow_product_with_bias(x, weight, bias.cast(dtype).into_dispatch()),
    })
}

/// The product with a frozen weight of another type than `x` has; the bias is frozen too.
#[backend_extension(Flex: cfg(feature = "cpu"), Cube: cfg(feature = "cube"), Autodiff)]
pub(crate) trait NarrowProduct: Backend {
    fn narrow_product(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

    fn narrow_product_with_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

#[cfg(feature = "cube")]
impl NarrowProduct for burn::backend::Cube {
    fn narrow_product(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        plain::<Self>(x, weight)
    }

    fn narrow_product_with_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        plain_with_bias::<Self>(x, weight, bias)
    }
}

/// The product after the weight was converted.
#[cfg(feature = "cube")]
fn plain<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
    let weight = B::float_cast(weight, x.dtype().into());
    B::float_matmul(x, weight)
}

#[cfg(feature = "cube")]
fn plain_with_bias<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
) -> FloatTensor<B> {
    let width = bias.shape().num_elements();
    B::float_add(plain::<B>(x, weight), B::float_reshape(bias, Shape::new([1, width])))
}

#[derive(Debug)]
struct ProductBackward;

impl<B: NarrowProduct> Backward<B, 1> for ProductBackward {
    /// The weight.
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        if let [Some(parent)] = ops.parents {
            let of_x = B::narrow_product(gradient, B::float_transpose(ops.state));
            gradients.register::<B>(parent.id, of_x);
        }
    }
}

impl<B: NarrowProduct, C: CheckpointStrategy> NarrowProduct for Autodiff<B, C> {
    fn narrow_product(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((x, node), weight) = (x.into_parts(), weight.into_primitive());
        match ProductBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(ready) => ready.finish(weight.clone(), B::narrow_product(x, weight)),
            OpsKind::UnTracked(ready) => ready.finish(B::narrow_product(x, weight)),
        }
    }

    fn narrow_product_with_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let ((x, node), weight, bias) = (x.into_parts(), weight.into_primitive(), bias.into_primitive());
        match ProductBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(ready) => {
                ready.finish(weight.clone(), B::narrow_product_with_bias(x, weight, bias))
            }
            OpsKind::UnTracked(ready) => ready.finish(B::narrow_product_with_bias(x, weight, bias)),
        }
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests;
