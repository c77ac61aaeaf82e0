//! Products with frozen weights, which may be held narrower than what flows past them.
//!
//! Processors compute in f32 at least, so on the CPU activations flow in f32 whatever the storage dtype of the weights. A weight in
//! half precision is then read as it lies: no copy of it in f32 ever exists, and processors that multiply bf16 do. GPUs
//! multiply whatever they hold, and there everything flows in the type of the weights.

#[cfg(feature = "cpu")]
mod cpu;

#[cfg(feature = "cpu")]
pub use cpu::bf16_instructions;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, DispatchDevice, TensorMetadata, backend_extension};
use burn::tensor::module::linear;
use burn::tensor::{DType, Device, Shape, Tensor, assert_shape};

/// The compute dtype of activations on `device` beside weights whose storage dtype is `held`.
pub fn compute_dtype(device: &Device, held: DType) -> DType {
    if is_cpu(device) { DType::F32 } else { held }
}

/// Whether the kernels in `cpu` run there.
pub(crate) fn is_cpu(device: &Device) -> bool {
    match device.clone().inner().as_dispatch() {
        #[cfg(feature = "cpu")]
        DispatchDevice::Flex(_) => true,
        #[allow(unreachable_patterns, reason = "which others there are depends on burn's features")]
        _ => false,
    }
}

/// Runs `work`, which computes on `device`. On the CPU it does so on one of the threads that share its products: each of many
/// small ones would otherwise wait until such a thread wakes up.
///
/// `work` must not wait for other threads, which may wait for the same ones.
pub fn on_compute_thread<T: Send>(device: &Device, work: impl FnOnce() -> T + Send) -> T {
    if is_cpu(device) { rayon::scope(|_| work()) } else { work() }
}

/// `x` in the type in which activations flow where it is.
pub fn in_compute_dtype<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let dtype = compute_dtype(&x.device(), x.dtype());
    x.cast(dtype)
}

/// `x·weight + bias` in the type of `x`; all three get their gradients, if they are tracked.
///
/// # Shapes
/// - `x`: `[rows, d_in]`
/// - `weight`: `[d_in, d_out]`
/// - `bias`: `[d_out]`
/// - output: `[rows, d_out]`
pub fn product(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let ([_, d_in], [_, d_out]) = (x.dims(), weight.dims());
    assert_shape!(weight, [d_in, d_out]);
    if let Some(bias) = &bias {
        assert_shape!(bias, [d_out]);
    }
    let dtype = x.dtype();
    if dtype != DType::F32 || !is_cpu(&x.device()) {
        return linear(x, weight.cast(dtype), bias.map(|bias| bias.cast(dtype)));
    }
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(match bias {
        None => Dispatch::frozen_product(x, weight),
        Some(bias) => Dispatch::frozen_product_with_bias(x, weight, bias.cast(dtype).into_dispatch()),
    })
}

/// The product of f32 with a frozen weight and a frozen bias, where this project has a better one than burn.
#[backend_extension(Flex: cfg(feature = "cpu"), Autodiff)]
pub(crate) trait FrozenProduct: Backend {
    fn frozen_product(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

    fn frozen_product_with_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// The product as burn computes it.
fn plain<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
    let weight = B::float_cast(weight, x.dtype().into());
    B::float_matmul(x, weight)
}

/// Rows of `y` plus `bias`.
fn plus<B: Backend>(y: FloatTensor<B>, bias: FloatTensor<B>) -> FloatTensor<B> {
    let row = Shape::new([1, bias.shape().num_elements()]);
    B::float_add(y, B::float_reshape(bias, row))
}

#[derive(Debug)]
struct ProductBackward;

impl<B: FrozenProduct> Backward<B, 1> for ProductBackward {
    /// The weight.
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        if let [Some(parent)] = ops.parents {
            let of_x = B::frozen_product(gradient, B::float_transpose(ops.state));
            gradients.register::<B>(parent.id, of_x);
        }
    }
}

/// A weight or bias that is trained, or made from one that is, takes burn's own way and gets its gradient.
impl<B: FrozenProduct, C: CheckpointStrategy> FrozenProduct for Autodiff<B, C> {
    fn frozen_product(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        if weight.is_tracked() {
            return plain::<Self>(x, weight);
        }
        let ((x, node), weight) = (x.into_parts(), weight.into_primitive());
        match ProductBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(ready) => ready.finish(weight.clone(), B::frozen_product(x, weight)),
            OpsKind::UnTracked(ready) => ready.finish(B::frozen_product(x, weight)),
        }
    }

    fn frozen_product_with_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if weight.is_tracked() || bias.is_tracked() {
            return plus::<Self>(Self::frozen_product(x, weight), bias);
        }
        let ((x, node), weight, bias) = (x.into_parts(), weight.into_primitive(), bias.into_primitive());
        match ProductBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(ready) => {
                ready.finish(weight.clone(), B::frozen_product_with_bias(x, weight, bias))
            }
            OpsKind::UnTracked(ready) => ready.finish(B::frozen_product_with_bias(x, weight, bias)),
        }
    }
}

/// `y + bias`, if there is one.
pub(crate) fn with_bias(y: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    match bias {
        None => y,
        Some(bias) => {
            let bias = bias.unsqueeze_dim(0).cast(y.dtype());
            y + bias
        }
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests;
