//! The loss of a pass that keeps only the input of each block, and recomputes the rest for the backward pass.

use burn::module::{ModuleVisitor, Param};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{DType, Tensor};

use super::ModelWithLoss;

/// The loss that [`ModelWithLoss::loss`] gives, with the same gradients, in less memory: every block runs twice, the second time
/// with a graph that is differentiated and forgotten before the next one is made.
///
/// When this returns, all gradients `g` are known. The result is the loss plus zero, where the zero is
/// `Σ p·g − Σ p·g` over all trained `p`, with the second half cut off the graph: so `backward` hands `g` to `p`.
///
/// # Shapes
/// - output: `[1]`
///
/// # Source
/// Chen, Xu, Zhang, Guestrin: *Training Deep Nets with Sublinear Memory Cost* (2016).
pub fn recomputed_loss<M: ModelWithLoss>(model: &M, batch: &M::Batch, label_smoothing: f64) -> Tensor<1> {
    let frozen = model.valid();
    let embeddings = model.embeddings(batch);
    let mut inputs = vec![embeddings.clone().inner()];
    for stage in frozen.stages(batch) {
        inputs.push(stage(inputs[inputs.len() - 1].clone()).inner());
    }
    let top = leaf(inputs.pop().expect("embeddings at least"));
    let loss = model.loss_of(top.clone(), batch, label_smoothing);
    let value = loss.clone().detach();
    let mut sum = GradientsAccumulator::new();
    let mut below = backward(model, &mut sum, loss, &top);
    for stage in model.stages(batch).iter().rev() {
        let Some(gradient) = below.take() else { break };
        let x = leaf(inputs.pop().expect("one input a block"));
        below = backward(model, &mut sum, (stage(x.clone()) * gradient.autodiff()).sum(), &x);
    }
    let mut zero = Zero { gradients: sum.grads(), sum: value };
    model.visit(&mut zero);
    match below {
        Some(gradient) => plus_zero(zero.sum, embeddings, gradient),
        None => zero.sum,
    }
}

fn leaf(x: Tensor<3>) -> Tensor<3> {
    x.autodiff().require_grad()
}

/// Adds the gradients of the parameters to `sum`, and returns that of `x`.
fn backward<M: ModelWithLoss>(
    model: &M,
    sum: &mut GradientsAccumulator<M>,
    loss: Tensor<1>,
    x: &Tensor<3>,
) -> Option<Tensor<3>> {
    let mut gradients = loss.backward();
    let below = x.grad_remove(&mut gradients);
    sum.accumulate(model, GradientsParams::from_grads(gradients, model));
    below
}

/// Hands every parameter its gradient.
struct Zero {
    gradients: GradientsParams,
    sum: Tensor<1>,
}

impl ModuleVisitor for Zero {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.sum = plus_zero(self.sum.clone(), param.base(), gradient);
        }
    }
}

/// `sum`, with a graph that hands `gradient` to `x`.
///
/// # Shapes
/// - `sum`, output: `[1]`
/// - `gradient`: as `x`
pub(super) fn plus_zero<const D: usize>(sum: Tensor<1>, x: Tensor<D>, gradient: Tensor<D>) -> Tensor<1> {
    // Summed in f32: in half precision the sum could overflow, and infinity minus infinity is no zero.
    let carrier = (x.cast(DType::F32) * gradient.autodiff().cast(DType::F32)).sum();
    // The zero is made first: a large carrier would round a small sum away.
    sum + (carrier.clone() - carrier.detach())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn a_large_carrier_does_not_round_the_loss() {
        let device = Device::flex();
        let x = Tensor::<1>::from_floats([3e8], &device).autodiff().require_grad();
        let sum = Tensor::<1>::from_floats([0.123_456_79], &device).autodiff();
        let gradient = Tensor::<1>::from_floats([7.0], &device);
        let loss = plus_zero(sum, x.clone(), gradient);
        assert_eq!(loss.clone().into_scalar::<f32>(), 0.123_456_79);
        let handed = x.grad(&loss.backward()).expect("a gradient");
        assert_eq!(handed.into_scalar::<f32>(), 7.0);
    }
}
