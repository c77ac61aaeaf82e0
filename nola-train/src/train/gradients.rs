//! One optimizer step: passes become gradients, and those an update.

use std::time::Instant;

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{DType, Tensor};
use nola_core::Adapted;

use super::optimizer::{Optimizer, clipped, gradient_norm};
use crate::model_with_loss::{ModelWithLoss, distilled_loss, recomputed_loss};
use crate::settings::TrainSettings;

/// Bits of a pass's number that count shards and passes of its step.
const STEP_BITS: u32 = 32;
/// Bits of them that count the passes of a shard.
const SHARD_BITS: u32 = 20;

/// What is known of an optimizer step before its device was waited for.
#[derive(Clone)]
pub(crate) struct Measured {
    /// Counted from 0.
    pub(super) step: usize,
    pub(super) targets: usize,
    /// `[1]`.
    pub(crate) loss: Tensor<1>,
    /// `[1]`, before the gradient was limited.
    pub(super) gradient_norm: Tensor<1>,
    /// Steps in a row up to this one that were skipped; 0 if this one was not.
    pub(super) skipped: usize,
    /// Seconds until gradients of factors were gradients of coefficients; a device may work on behind.
    pub(crate) project_seconds: f64,
    /// Seconds until coefficients were factors again, likewise.
    pub(crate) expand_seconds: f64,
}

impl Measured {
    /// Whether loss and gradient are finite; waits for the device.
    pub(super) fn is_finite(&self) -> bool {
        let numbers = Tensor::cat(vec![self.loss.clone(), self.gradient_norm.clone()], 0);
        numbers.into_data().iter::<f32>().all(f32::is_finite)
    }
}

/// What the passes of a shard give, still on the device.
pub(crate) struct ShardGradients {
    /// Mean over its targets, of the coefficients.
    pub(super) gradients: GradientsParams,
    /// Mean over its targets, `[1]`.
    pub(super) loss: Tensor<1>,
    pub(super) targets: usize,
    pub(super) project_seconds: f64,
}

impl ShardGradients {
    /// As the gradients of a whole step, counted from 0, that is one shard.
    pub(super) fn of_step<M: ModelWithLoss>(
        self,
        model: &Adapted<M>,
        step: usize,
    ) -> (GradientsParams, Measured) {
        let Self { gradients, loss, targets, project_seconds } = self;
        let gradient_norm = gradient_norm(model, &gradients).unwrap_or_else(|| loss.zeros_like());
        (
            gradients,
            Measured { step, targets, loss, gradient_norm, skipped: 0, project_seconds, expand_seconds: 0.0 },
        )
    }
}

/// Gradients of the coefficients for optimizer step `step`, counted from 0, which is one shard.
pub(crate) fn measured_gradients<M: ModelWithLoss>(
    model: &Adapted<M>,
    passes: &[M::Batch],
    recipe: &TrainSettings,
    step: usize,
) -> (GradientsParams, Measured) {
    shard_gradients(model, [step, 0], passes, recipe).of_step(model, step)
}

/// Gradients of the coefficients for a shard of an optimizer step, both counted from 0.
pub(crate) fn shard_gradients<M: ModelWithLoss>(
    model: &Adapted<M>,
    [step, shard]: [usize; 2],
    passes: &[M::Batch],
    recipe: &TrainSettings,
) -> ShardGradients {
    let first_pass = (step as u64) << STEP_BITS | (shard as u64) << SHARD_BITS;
    let (gradients, loss) = accumulated(model, passes, recipe, first_pass);
    let started = Instant::now();
    let gradients = model.project(gradients);
    let project_seconds = started.elapsed().as_secs_f64();
    ShardGradients { gradients, loss, targets: passes.iter().map(M::targets).sum(), project_seconds }
}

/// The model after the optimizer step with these gradients.
pub(crate) fn updated<M: ModelWithLoss>(
    model: Adapted<M>,
    gradients: GradientsParams,
    measured: &mut Measured,
    recipe: &TrainSettings,
    optimizer: &mut Optimizer,
) -> Adapted<M> {
    let gradients = match recipe.clip_norm {
        Some(limit) => clipped(&model, gradients, &measured.gradient_norm, limit),
        None => gradients,
    };
    let model = optimizer.step(measured.step, model, gradients);
    let started = Instant::now();
    let model = model.expand();
    measured.expand_seconds = started.elapsed().as_secs_f64();
    model
}

/// Mean gradients and mean loss of some passes, still on the device: passes weigh as many targets as they have.
///
/// # Shapes
/// - loss: `[1]`
fn accumulated<M: ModelWithLoss>(
    model: &Adapted<M>,
    passes: &[M::Batch],
    recipe: &TrainSettings,
    first_pass: u64,
) -> (GradientsParams, Tensor<1>) {
    let targets: usize = passes.iter().map(M::targets).sum();
    let mut gradients = GradientsAccumulator::new();
    let mut losses = Vec::with_capacity(passes.len());
    for (number, pass) in (first_pass..).zip(passes) {
        let weight = M::targets(pass) as f64 / targets as f64;
        let part = model.in_training_pass(number, || pass_loss(model, pass, recipe)).mul_scalar(weight);
        losses.push(part.clone().inner().cast(DType::F32));
        let of_pass = GradientsParams::from_grads(part.backward(), model);
        gradients.accumulate(model, of_pass);
    }
    (gradients.grads(), Tensor::cat(losses, 0).sum())
}

/// The loss of a pass in the way that the recipe wants it differentiated.
pub(crate) fn pass_loss<M: ModelWithLoss>(
    model: &Adapted<M>,
    pass: &M::Batch,
    recipe: &TrainSettings,
) -> Tensor<1> {
    let (model, share, smoothing) = (&model.model, model.task_share(), recipe.label_smoothing);
    match share {
        Some(share) if share < 1.0 => distilled_loss(model, pass, smoothing, share),
        Some(_) | None if recipe.gradient_checkpointing => recomputed_loss(model, pass, smoothing),
        Some(_) | None => model.loss(pass, smoothing),
    }
}
