//! Products with frozen weights in few bits: no dense copy of more than a tile of them ever exists, forwards or backwards.
//!
//! burn's own quantised tensors become dense under autodiff, so this is an operation with a gradient of its own.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::{DType, Int, Tensor, assert_shape};

/// Which product with a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// `x·W`.
    Forward,
    /// `x·Wᵀ`: the gradient of the forward product's input.
    Backward,
}

/// What a product depends on beside numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    /// `d_in` and `d_out` of the weight.
    pub sizes: [usize; 2],
    /// The dtype that is multiplied in, where the device has it; sums are f32.
    pub compute: DType,
    pub direction: Direction,
}

impl Request {
    /// Inputs and outputs of the product itself.
    pub(crate) fn inner_and_outer(&self) -> [usize; 2] {
        let [d_in, d_out] = self.sizes;
        match self.direction {
            Direction::Forward => [d_in, d_out],
            Direction::Backward => [d_out, d_in],
        }
    }
}

/// `x·W` in the type of `x`, which gets its gradient.
///
/// # Shapes
/// - `x`: `[rows, d_in]`
/// - `words`: those of a packed weight of `sizes` `[d_in, d_out]`
/// - output: `[rows, d_out]`
pub(crate) fn packed_product(
    x: Tensor<2>,
    words: Tensor<1, Int>,
    sizes: [usize; 2],
    compute: DType,
) -> Tensor<2> {
    let rows = x.dims()[0];
    assert_shape!(x, [rows, sizes[0]]);
    let request = Request { sizes, compute, direction: Direction::Forward };
    Tensor::from_dispatch(Dispatch::packed_product(x.into_dispatch(), words.into_dispatch(), request))
}

/// The product on each backend.
#[backend_extension(Flex: cfg(feature = "cpu"), Cube: cfg(feature = "cube"), Autodiff)]
pub(crate) trait PackedProduct: Backend {
    fn packed_product(x: FloatTensor<Self>, words: IntTensor<Self>, request: Request) -> FloatTensor<Self>;
}

#[derive(Debug)]
struct ProductBackward;

impl<B: PackedProduct> Backward<B, 1> for ProductBackward {
    /// The words of the weight.
    type State = (IntTensor<B>, Request);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        if let [Some(parent)] = ops.parents {
            let (words, request) = ops.state;
            let request = Request { direction: Direction::Backward, ..request };
            gradients.register::<B>(parent.id, B::packed_product(gradient, words, request));
        }
    }
}

impl<B: PackedProduct, C: CheckpointStrategy> PackedProduct for Autodiff<B, C> {
    fn packed_product(x: FloatTensor<Self>, words: IntTensor<Self>, request: Request) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        match ProductBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(ready) => {
                ready.finish((words.clone(), request), B::packed_product(x, words, request))
            }
            OpsKind::UnTracked(ready) => ready.finish(B::packed_product(x, words, request)),
        }
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests;
