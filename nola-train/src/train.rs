//! The training loop. It names no model and no adapter.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::optim::{GradientsAccumulator, GradientsParams};
use nola_core::{Adapted, TrainedState};

use crate::Error;
use crate::learner::Learner;
use crate::optimizer::{Optimizer, gradient_norm, scaled};
use crate::recipe::TrainRecipe;

/// Whether a loop is running, which then answers to [`INTERRUPTED`].
pub static TRAINING: AtomicBool = AtomicBool::new(false);

/// Set by the first interrupt: the loop then stops after the step it is in.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What one optimizer step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Optimizer step, counted from 1.
    pub step: usize,
    /// Mean loss in nats per target.
    pub loss: f32,
    /// 2-norm of all gradients, before it was limited.
    pub gradient_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Targets of the step: pictures, or tokens with a loss.
    pub targets: usize,
    /// Seconds until gradients of factors were gradients of coefficients, waiting for them included.
    pub project_seconds: f64,
    /// Seconds until coefficients were factors again.
    pub expand_seconds: f64,
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
    /// What ended the run before its time.
    pub failure: Option<Error>,
}

/// Trains `model` on one list of passes per optimizer step.
///
/// # Errors
/// If a batch cannot be made, or a loss or gradient is not finite, before anything was evaluated; later, the error
/// stands in [`Trained::failure`], beside what was learned until then.
pub fn train<M: Learner>(
    mut model: Adapted<M>,
    recipe: &TrainRecipe,
    steps: impl Iterator<Item = Result<Vec<M::Batch>, Error>>,
    observer: &mut impl Observer<M>,
) -> Result<Trained<M>, Error> {
    let _running = Running::start();
    let mut optimizer = Optimizer::new(recipe, &model);
    let mut best = Best::default();
    let (mut done, mut failure) = (0, None);
    for (step, passes) in steps.enumerate() {
        let finite = passes.and_then(|passes| finite_gradients(&model, &passes, recipe, step));
        let (gradients, mut report) = match finite {
            Ok(finite) => finite,
            Err(error) => {
                failure = Some(error);
                break;
            }
        };
        model = updated(model, gradients, &mut optimizer, recipe, &mut report);
        done = step + 1;
        observer.stepped(report);
        let interrupted = INTERRUPTED.load(Ordering::Relaxed);
        if recipe.evaluate_every.is_due(done) || done == recipe.steps || interrupted {
            match observer.evaluate(done, &burn::module::Module::valid(&model).model) {
                Ok(score) => best.offer(score, done, &model),
                Err(error) => failure = Some(error),
            }
            if best.is_stale(recipe.early_stop) || interrupted || failure.is_some() {
                break;
            }
        }
    }
    let Some(state) = best.state else { return Err(failure.unwrap_or(Error::Interrupted)) };
    let interrupted = INTERRUPTED.load(Ordering::Relaxed);
    Ok(Trained { last: model, best: state, best_step: best.step, steps: done, interrupted, failure })
}

/// Gradients of the coefficients for optimizer step `step`, counted from 0, and what is known of it so far.
///
/// # Errors
/// If the loss or a gradient is not finite.
pub(crate) fn finite_gradients<M: Learner>(
    model: &Adapted<M>,
    passes: &[M::Batch],
    recipe: &TrainRecipe,
    step: usize,
) -> Result<(GradientsParams, StepReport), Error> {
    let (gradients, loss) = accumulated(model, passes, recipe.label_smoothing);
    let started = Instant::now();
    let gradients = model.project(gradients);
    let project_seconds = started.elapsed().as_secs_f64();
    let gradient_norm = gradient_norm(model, &gradients);
    if !loss.is_finite() || !gradient_norm.is_finite() {
        return Err(Error::Diverged { step: step + 1, loss });
    }
    let targets = passes.iter().map(M::targets).sum();
    let report = StepReport {
        step: step + 1,
        loss,
        gradient_norm,
        learning_rate: 0.0,
        targets,
        project_seconds,
        expand_seconds: 0.0,
    };
    Ok((gradients, report))
}

/// The model after the optimizer step that `report` began to tell of; what it lacks is filled in.
pub(crate) fn updated<M: Learner>(
    model: Adapted<M>,
    gradients: GradientsParams,
    optimizer: &mut Optimizer,
    recipe: &TrainRecipe,
    report: &mut StepReport,
) -> Adapted<M> {
    let gradients = match recipe.clip_norm {
        Some(limit) if report.gradient_norm > limit => {
            scaled(&model, gradients, limit / report.gradient_norm)
        }
        Some(_) | None => gradients,
    };
    let step = report.step - 1;
    report.learning_rate = optimizer.rate(step);
    let model = optimizer.step(step, model, gradients);
    let started = Instant::now();
    let model = model.expand();
    report.expand_seconds = started.elapsed().as_secs_f64();
    model
}

/// Sets [`TRAINING`] for as long as it lives.
struct Running;

impl Running {
    fn start() -> Self {
        TRAINING.store(true, Ordering::Relaxed);
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        TRAINING.store(false, Ordering::Relaxed);
    }
}

/// Gradients and loss of one optimizer step: passes weigh as many targets as they have.
fn accumulated<M: Learner>(
    model: &Adapted<M>,
    passes: &[M::Batch],
    label_smoothing: f64,
) -> (GradientsParams, f32) {
    let targets: usize = passes.iter().map(M::targets).sum();
    let mut gradients = GradientsAccumulator::new();
    let mut loss = 0.0;
    for pass in passes {
        let weight = M::targets(pass) as f64 / targets as f64;
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
