//! The gradients, for burn's graph: each operation keeps its inputs and nothing else.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};

use super::{Fused, FusedActivation, Inputs, Kernels, Norm, Rotation};

type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

#[derive(Debug)]
struct ActivationBackward;

impl<B: Kernels> Backward<B, 1> for ActivationBackward {
    type State = (FloatTensor<B>, FusedActivation);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let (x, activation) = ops.state;
        if let [Some(parent)] = ops.parents {
            gradients.register::<B>(parent.id, B::activation_backward(x, gradient, activation));
        }
    }
}

#[derive(Debug)]
struct GatedBackward;

impl<B: Kernels> Backward<B, 2> for GatedBackward {
    type State = [FloatTensor<B>; 2];

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let [gate, up] = ops.state;
        for (parent, gradient) in ops.parents.into_iter().zip(B::gated_backward(gate, up, gradient)) {
            if let Some(parent) = parent {
                gradients.register::<B>(parent.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct RotatedBackward;

impl<B: Kernels> Backward<B, 1> for RotatedBackward {
    type State = [FloatTensor<B>; 2];

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let [cos, sin] = ops.state;
        if let [Some(parent)] = ops.parents {
            gradients.register::<B>(parent.id, B::rotated(gradient, cos, sin, Rotation::Inverse));
        }
    }
}

#[derive(Debug)]
struct NormBackward;

impl<B: Kernels> Backward<B, 1> for NormBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, Norm, f64);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let (x, gamma, norm, epsilon) = ops.state;
        if let [Some(parent)] = ops.parents {
            gradients.register::<B>(parent.id, B::norm_backward(x, gamma, gradient, norm, epsilon));
        }
    }
}

#[derive(Debug)]
struct CrossEntropyBackward;

impl<B: Kernels> Backward<B, 1> for CrossEntropyBackward {
    type State = (FloatTensor<B>, IntTensor<B>, f64);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let (logits, labels, smoothing) = ops.state;
        if let [Some(parent)] = ops.parents {
            gradients
                .register::<B>(parent.id, B::cross_entropy_backward(logits, labels, gradient, smoothing));
        }
    }
}

#[derive(Debug)]
struct AttentionBackward;

impl<B: Kernels> Backward<B, 3> for AttentionBackward {
    type State = (Inputs<B>, f64);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let (inputs, scale) = ops.state;
        let of_inputs = B::attend_backward(inputs, scale, gradient);
        for (parent, gradient) in ops.parents.into_iter().zip(of_inputs) {
            if let Some(parent) = parent {
                gradients.register::<B>(parent.id, gradient);
            }
        }
    }
}

impl<B: Kernels, C: CheckpointStrategy> Fused for Autodiff<B, C> {
    fn fused_curve(x: FloatTensor<Self>, activation: FusedActivation) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        match ActivationBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(ready) => ready.finish((x.clone(), activation), B::activation(x, activation)),
            OpsKind::UnTracked(ready) => ready.finish(B::activation(x, activation)),
        }
    }

    fn fused_gated(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
        match GatedBackward.prepare::<C>([gate_node, up_node]).compute_bound().stateful() {
            OpsKind::Tracked(ready) => ready.finish([gate.clone(), up.clone()], B::gated(gate, up)),
            OpsKind::UnTracked(ready) => ready.finish(B::gated(gate, up)),
        }
    }

    fn fused_turned(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
        match RotatedBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(ready) => {
                ready.finish([cos.clone(), sin.clone()], B::rotated(x, cos, sin, Rotation::Forward))
            }
            OpsKind::UnTracked(ready) => ready.finish(B::rotated(x, cos, sin, Rotation::Forward)),
        }
    }

    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        normed::<B, C>(x, gamma, Some(beta), Norm::Layer, epsilon)
    }

    fn fused_rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        normed::<B, C>(x, gamma, None, Norm::RootMeanSquare, epsilon)
    }

    fn fused_cross_entropy(
        logits: FloatTensor<Self>,
        labels: IntTensor<Self>,
        smoothing: f64,
    ) -> FloatTensor<Self> {
        let (logits, node) = logits.into_parts();
        match CrossEntropyBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(ready) => {
                let state = (logits.clone(), labels.clone(), smoothing);
                ready.finish(state, B::cross_entropy(logits, labels, smoothing))
            }
            OpsKind::UnTracked(ready) => ready.finish(B::cross_entropy(logits, labels, smoothing)),
        }
    }

    fn fused_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        attended::<B, C>([query, key, value], None, scale)
    }

    fn fused_masked_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        attended::<B, C>([query, key, value], Some(mask), scale)
    }
}

fn normed<B: Kernels, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    gamma: Tracked<B, C>,
    beta: Option<Tracked<B, C>>,
    norm: Norm,
    epsilon: f64,
) -> Tracked<B, C> {
    let (x, node) = x.into_parts();
    let (gamma, beta) = (gamma.into_primitive(), beta.map(|beta| beta.into_primitive()));
    match NormBackward.prepare::<C>([node]).compute_bound().stateful() {
        OpsKind::Tracked(ready) => {
            let state = (x.clone(), gamma.clone(), norm, epsilon);
            ready.finish(state, B::norm(x, gamma, beta, norm, epsilon))
        }
        OpsKind::UnTracked(ready) => ready.finish(B::norm(x, gamma, beta, norm, epsilon)),
    }
}

fn attended<B: Kernels, C: CheckpointStrategy>(
    tensors: [Tracked<B, C>; 3],
    mask: Option<Tracked<B, C>>,
    scale: f64,
) -> Tracked<B, C> {
    let [(query, query_node), (key, key_node), (value, value_node)] =
        tensors.map(|tensor| tensor.into_parts());
    let mask = mask.map(|mask| mask.into_primitive());
    let inputs = Inputs { query, key, value, mask };
    match AttentionBackward.prepare::<C>([query_node, key_node, value_node]).compute_bound().stateful() {
        OpsKind::Tracked(ready) => ready.finish((inputs.clone(), scale), B::attend(inputs, scale)),
        OpsKind::UnTracked(ready) => ready.finish(B::attend(inputs, scale)),
    }
}
