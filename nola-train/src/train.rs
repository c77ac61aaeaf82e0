//! The training loop. It names no model and no adapter.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::optim::{GradientsAccumulator, GradientsParams};
use nola_core::{Adapted, TrainedState};

use crate::Error;
use crate::learner::Learner;
use crate::optimizer::{Optimizer, gradient_norm, scaled};
use crate::recipe::TrainRecipe;

/// Set by the first interrupt: the loop then stops after the step it is in.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What one optimizer step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Optimizer step, counted from 1.
    pub step: usize,
    /// Mean loss in nats per sample.
    pub loss: f32,
    /// 2-norm of all gradients, before it was limited.
    pub gradient_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Samples of the step.
    pub samples: usize,
}

/// What the loop tells and asks while it runs.
pub trait Observer<M: Learner> {
    /// A step is done.
    fn stepped(&mut self, report: StepReport);

    /// Scores the model; larger is better.
    ///
    /// # Errors
    /// If the validation data cannot be read.
    fn evaluate(&mut self, step: usize, model: &M) -> Result<f64, Error>;
}

/// A trained model, and its best state.
pub struct Trained<M: Learner> {
    /// As the last step left it.
    pub last: Adapted<M>,
    /// Trained values of the evaluation with the best score.
    pub best: TrainedState,
    /// Optimizer steps after which that was.
    pub best_step: usize,
    /// Optimizer steps made.
    pub steps: usize,
    /// Whether an interrupt ended the run.
    pub interrupted: bool,
}

/// Trains `model` on one list of passes per optimizer step.
///
/// # Errors
/// If a batch cannot be made, or a loss or gradient is not finite.
pub fn train<M: Learner>(
    mut model: Adapted<M>,
    recipe: &TrainRecipe,
    steps: impl Iterator<Item = Result<Vec<M::Batch>, Error>>,
    observer: &mut impl Observer<M>,
) -> Result<Trained<M>, Error> {
    let mut optimizer = Optimizer::new(recipe, &model);
    let mut best = Best::default();
    let mut done = 0;
    for (step, passes) in steps.enumerate() {
        let passes = passes?;
        let (gradients, loss) = accumulated(&model, &passes, recipe.label_smoothing);
        let gradients = model.project(gradients);
        let norm = gradient_norm(&model, &gradients);
        if !loss.is_finite() || !norm.is_finite() {
            return Err(Error::Diverged { step: step + 1, loss });
        }
        let gradients = match recipe.clip_norm {
            Some(limit) if norm > limit => scaled(&model, gradients, limit / norm),
            Some(_) | None => gradients,
        };
        model = optimizer.step(step, model, gradients).expand();
        done = step + 1;
        observer.stepped(StepReport {
            step: done,
            loss,
            gradient_norm: norm,
            learning_rate: optimizer.rate(step),
            samples: passes.iter().map(M::samples).sum(),
        });
        let interrupted = INTERRUPTED.load(Ordering::Relaxed);
        if recipe.evaluate_every.is_due(done) || done == recipe.steps || interrupted {
            let score = observer.evaluate(done, &burn::module::Module::valid(&model).model)?;
            best.offer(score, done, &model);
            if best.is_stale(recipe.early_stop) || interrupted {
                break;
            }
        }
    }
    let interrupted = INTERRUPTED.load(Ordering::Relaxed);
    let best_state = best.state.unwrap_or_else(|| model.state());
    Ok(Trained { last: model, best: best_state, best_step: best.step, steps: done, interrupted })
}

/// Gradients and loss of one optimizer step: passes weigh as many samples as they have.
fn accumulated<M: Learner>(
    model: &Adapted<M>,
    passes: &[M::Batch],
    label_smoothing: f64,
) -> (GradientsParams, f32) {
    let samples: usize = passes.iter().map(M::samples).sum();
    let mut gradients = GradientsAccumulator::new();
    let mut loss = 0.0;
    for pass in passes {
        let weight = M::samples(pass) as f64 / samples as f64;
        let part = model.model.loss(pass, label_smoothing).mul_scalar(weight);
        loss += part.clone().into_scalar::<f32>();
        let of_pass = GradientsParams::from_grads(part.backward(), model);
        gradients.accumulate(model, of_pass);
    }
    (gradients.grads(), loss)
}

/// The best evaluation so far.
#[derive(Default)]
struct Best {
    score: Option<f64>,
    step: usize,
    state: Option<TrainedState>,
    /// Evaluations since.
    since: usize,
}

impl Best {
    fn offer<M: Learner>(&mut self, score: f64, step: usize, model: &Adapted<M>) {
        if self.score.is_none_or(|best| score > best) {
            *self = Self { score: Some(score), step, state: Some(model.state()), since: 0 };
        } else {
            self.since += 1;
        }
    }

    fn is_stale(&self, early_stop: usize) -> bool {
        early_stop > 0 && self.since >= early_stop
    }
}
