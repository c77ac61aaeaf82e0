//! What an adapter adds to the product with its weight, as one operation with its own gradient on the CPU.
//!
//! burn would make products of a few columns of it, which use a fraction of a processor's registers and one of its threads.

#[cfg(feature = "cpu")]
mod cpu;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::module::linear;
use burn::tensor::{DType, Tensor, assert_shape};

use crate::product::is_cpu;

/// `y + scale·(x·a)·b`.
///
/// # Shapes
/// - `y` and output: `[rows, d_out]`
/// - `x`: `[rows, d_in]`
/// - `a`: `[d_in, rank]`
/// - `b`: `[rank, d_out]`
pub(crate) fn updated(y: Tensor<2>, x: Tensor<2>, a: Tensor<2>, b: Tensor<2>, scale: f64) -> Tensor<2> {
    let ([rows, d_out], [_, d_in], [_, rank]) = (y.dims(), x.dims(), a.dims());
    assert_shape!(x, [rows, d_in]);
    assert_shape!(a, [d_in, rank]);
    assert_shape!(b, [rank, d_out]);
    let are_f32 = [&y, &x, &a, &b].iter().all(|tensor| tensor.dtype() == DType::F32);
    if !(are_f32 && is_cpu(&x.device())) {
        let (a, b) = (a.cast(x.dtype()), b.cast(x.dtype()));
        return y + linear(linear(x, a, None).mul_scalar(scale), b, None);
    }
    let [y, x, a, b] = [y, x, a, b].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::low_rank_updated(y, x, a, b, scale))
}

/// The update where this project has a better one than burn, and its gradients.
#[backend_extension(Flex: cfg(feature = "cpu"), Autodiff)]
pub(crate) trait LowRankUpdate: Backend {
    fn low_rank_updated(
        y: FloatTensor<Self>,
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self>;
}

/// The gradients on one backend.
pub(crate) trait LowRankGradients: LowRankUpdate {
    /// Those gradients of `x`, `a` and `b` that are asked for, given that of the result.
    fn low_rank_gradients(
        state: State<Self>,
        gradient: FloatTensor<Self>,
        asked: Asked,
    ) -> [Option<FloatTensor<Self>>; 3];
}

/// Whether the gradient of an input is of use: frozen factors have none, nor has the input of the first layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    x: bool,
    a: bool,
    b: bool,
}

/// What the gradients depend on.
#[derive(Debug, Clone)]
pub(crate) struct State<B: Backend> {
    x: FloatTensor<B>,
    a: FloatTensor<B>,
    b: FloatTensor<B>,
    scale: f64,
}

#[derive(Debug)]
struct UpdateBackward;

impl<B: LowRankGradients> Backward<B, 4> for UpdateBackward {
    type State = State<B>;

    fn backward(self, ops: Ops<Self::State, 4>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let [of_y, of_inputs @ ..] = ops.parents;
        let [x, a, b] = of_inputs.each_ref().map(Option::is_some);
        let found = B::low_rank_gradients(ops.state, gradient.clone(), Asked { x, a, b });
        for (parent, gradient) in of_inputs.into_iter().zip(found) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                gradients.register::<B>(parent.id, gradient);
            }
        }
        if let Some(parent) = of_y {
            gradients.register::<B>(parent.id, gradient);
        }
    }
}

impl<B: LowRankGradients, C: CheckpointStrategy> LowRankUpdate for Autodiff<B, C> {
    fn low_rank_updated(
        y: FloatTensor<Self>,
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let ((y, of_y), (x, of_x)) = (y.into_parts(), x.into_parts());
        let ((a, of_a), (b, of_b)) = (a.into_parts(), b.into_parts());
        match UpdateBackward.prepare::<C>([of_y, of_x, of_a, of_b]).compute_bound().stateful() {
            OpsKind::Tracked(ready) => {
                let state = State { x: x.clone(), a: a.clone(), b: b.clone(), scale };
                ready.finish(state, B::low_rank_updated(y, x, a, b, scale))
            }
            OpsKind::UnTracked(ready) => ready.finish(B::low_rank_updated(y, x, a, b, scale)),
        }
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests;
