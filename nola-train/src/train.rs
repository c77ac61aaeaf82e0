//! The training loop. It names no model and no adapter.

use std::time::{Duration, Instant};

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{DType, Tensor, TensorData};
use nola_core::{Adapted, TrainedState};

use crate::Error;
use crate::model_with_loss::{ModelWithLoss, distilled_loss, recomputed_loss};
use crate::optimizer::{Optimizer, clipped, gradient_norm};
use crate::recipe::TrainRecipe;
use crate::stop::Interrupt;

/// Shortest time between two readings of losses from the device, which make the loop wait for it.
const BETWEEN_READS: Duration = Duration::from_millis(200);
/// Bits of a pass's number that count the passes of its step.
const PASS_BITS: u32 = 32;

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
    /// Targets of the step: images, or tokens with a loss.
    pub targets: usize,
}

/// What the loop tells and asks while it runs.
pub trait Observer<M: ModelWithLoss> {
    /// A step is done; told late, for several steps at once, but before the next evaluation.
    fn stepped(&mut self, report: StepReport);

    /// Scores the model; larger is better.
    ///
    /// # Errors
    /// If the validation data cannot be read, or the model answers with what is not finite.
    fn evaluate(&mut self, step: usize, model: &M) -> Result<f64, Error>;

    /// Scores the model quickly, always on the same few samples; larger is better.
    ///
    /// # Errors
    /// As [`Observer::evaluate`].
    fn score_quickly(&mut self, model: &M) -> Result<f64, Error> {
        self.evaluate(0, model)
    }

    /// The adapter did something between two steps that `done` steps precede.
    fn changed_between_steps(&mut self, _done: usize, _model: &Adapted<M>) {}

    /// The model that was evaluated last is the best one so far.
    fn found_best(&mut self, _model: &Adapted<M>) {}

    /// The run ends and nothing could be evaluated; what is not finite is never handed on.
    fn left_unscored(&mut self, _model: &Adapted<M>) {}

    /// What asks the run to end after the step it is in.
    fn stopped(&self) -> Option<Interrupt> {
        None
    }
}

/// A trained model, and its best state.
pub struct Trained<M: ModelWithLoss> {
    /// As the last step left it; holds NaN or infinity if the run diverged.
    pub last: Adapted<M>,
    /// Trained values of the evaluation with the best score.
    pub best: TrainedState,
    /// Optimizer steps after which that was.
    pub best_step: usize,
    /// Optimizer steps made whose loss and gradient were numbers.
    pub steps: usize,
    /// The interrupt that ended the run.
    pub interrupted: Option<Interrupt>,
    /// What ended the run before its time.
    pub failure: Option<Error>,
}

/// Trains `model` on one list of passes per optimizer step.
///
/// The loop does not wait for its device, but every now and then to tell what steps did. A step whose loss or gradient is
/// not finite is found then, at the latest before an evaluation: so steps may be made in vain, but nothing is kept of
/// them.
///
/// # Errors
/// If a batch cannot be made, or a loss, a gradient or a trained value is not finite, before anything was evaluated;
/// later, the error stands in [`Trained::failure`], beside what was learned until then.
pub fn train<M: ModelWithLoss>(
    mut model: Adapted<M>,
    recipe: &TrainRecipe,
    steps: impl Iterator<Item = Result<Vec<M::Batch>, Error>>,
    observer: &mut impl Observer<M>,
) -> Result<Trained<M>, Error> {
    let mut optimizer = Optimizer::new(recipe, &model);
    let (mut unread, mut best) = (PendingSteps::default(), Best::default());
    let mut failure = None;
    for (step, passes) in steps.enumerate() {
        let passes = match passes {
            Ok(passes) => passes,
            Err(error) => {
                failure = Some(error);
                break;
            }
        };
        model.before_step(step, recipe.steps);
        let (gradients, mut measured) = measured_gradients(&model, &passes, recipe, step);
        model = updated(model, gradients, &mut measured, recipe, &mut optimizer);
        unread.steps.push(measured);
        let done = step + 1;
        let evaluates =
            recipe.evaluate_every.is_due(done) || done == recipe.steps || observer.stopped().is_some();
        if evaluates || unread.is_due() {
            failure = unread.tell(&optimizer, observer).err();
        }
        if failure.is_none() && observer.stopped().is_none() {
            match model.between_steps(done, recipe.steps, &mut |model| observer.score_quickly(model)) {
                Ok(None) => {}
                Ok(Some(changed)) => {
                    model = changed;
                    observer.changed_between_steps(done, &model);
                }
                Err(error) => failure = Some(error),
            }
        }
        if evaluates && failure.is_none() {
            let score = observer.evaluate(done, &burn::module::Module::valid(&model).model);
            let offered = score.and_then(|score| best.offer(score, done, &model));
            if matches!(offered, Ok(Standing::Best)) {
                observer.found_best(&model);
            }
            failure = offered.err();
        }
        // An interrupt that comes during an evaluation needs no further one.
        let is_over = evaluates && (observer.stopped().is_some() || best.is_stale(recipe.early_stop));
        if failure.is_some() || is_over {
            break;
        }
    }
    // If a batch could not be made, there may be steps before it of which nothing is known yet.
    failure = unread.tell(&optimizer, observer).err().or(failure);
    let Some(state) = best.state else {
        let failure = failure.expect("a run without a failure was evaluated at its last step");
        if !failure.spoils_training() && unread.told > 0 && is_finite(&model.state()) {
            observer.left_unscored(&model);
        }
        return Err(failure);
    };
    let interrupted = observer.stopped().filter(|_| unread.told < recipe.steps);
    Ok(Trained { last: model, best: state, best_step: best.step, steps: unread.told, interrupted, failure })
}

/// What is known of an optimizer step before its device was waited for.
pub(crate) struct Measured {
    /// Counted from 0.
    step: usize,
    targets: usize,
    /// `[1]`.
    pub(crate) loss: Tensor<1>,
    /// `[1]`, before the gradient was limited.
    gradient_norm: Tensor<1>,
    /// Seconds until gradients of factors were gradients of coefficients; a device may work on behind.
    pub(crate) project_seconds: f64,
    /// Seconds until coefficients were factors again, likewise.
    pub(crate) expand_seconds: f64,
}

/// Gradients of the coefficients for optimizer step `step`, counted from 0.
pub(crate) fn measured_gradients<M: ModelWithLoss>(
    model: &Adapted<M>,
    passes: &[M::Batch],
    recipe: &TrainRecipe,
    step: usize,
) -> (GradientsParams, Measured) {
    let (gradients, loss) = accumulated(model, passes, recipe, step);
    let started = Instant::now();
    let gradients = model.project(gradients);
    let project_seconds = started.elapsed().as_secs_f64();
    let gradient_norm = gradient_norm(model, &gradients).unwrap_or_else(|| loss.zeros_like());
    let targets = passes.iter().map(M::targets).sum();
    (gradients, Measured { step, targets, loss, gradient_norm, project_seconds, expand_seconds: 0.0 })
}

/// The model after the optimizer step with these gradients.
pub(crate) fn updated<M: ModelWithLoss>(
    model: Adapted<M>,
    gradients: GradientsParams,
    measured: &mut Measured,
    recipe: &TrainRecipe,
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

/// Steps whose losses are still on the device, and how far the observer knows.
#[derive(Default)]
struct PendingSteps {
    steps: Vec<Measured>,
    last_read: Option<Instant>,
    /// Steps of which the observer was told.
    told: usize,
}

impl PendingSteps {
    fn is_due(&self) -> bool {
        self.last_read.is_none_or(|last| last.elapsed() >= BETWEEN_READS)
    }

    /// Waits for the device, once for all steps, and tells of each up to the first with something non-finite.
    fn tell<M: ModelWithLoss>(
        &mut self,
        optimizer: &Optimizer,
        observer: &mut impl Observer<M>,
    ) -> Result<(), Error> {
        let steps = std::mem::take(&mut self.steps);
        let numbers: Vec<Tensor<1>> =
            steps.iter().flat_map(|step| [step.loss.clone(), step.gradient_norm.clone()]).collect();
        if numbers.is_empty() {
            return Ok(());
        }
        let numbers: Vec<f32> = Tensor::cat(numbers, 0).into_data().iter().collect();
        for (measured, numbers) in steps.iter().zip(numbers.chunks_exact(2)) {
            let (step, loss, gradient_norm) = (measured.step + 1, numbers[0], f64::from(numbers[1]));
            if measured.step == 0 && !loss.is_finite() {
                // Nothing was trained yet: it is the base that overflows.
                return Err(Error::NonFiniteAnswer {
                    value: loss,
                    what: "the data of the first step".to_owned(),
                });
            }
            if !loss.is_finite() || !gradient_norm.is_finite() {
                return Err(Error::Diverged { step, loss });
            }
            let (learning_rate, targets) = (optimizer.rate(measured.step), measured.targets);
            observer.stepped(StepReport { step, loss, gradient_norm, learning_rate, targets });
            self.told = step;
        }
        self.last_read = Some(Instant::now());
        Ok(())
    }
}

/// Gradients and loss of one optimizer step, still on the device: passes weigh as many targets as they have.
///
/// # Shapes
/// - loss: `[1]`
fn accumulated<M: ModelWithLoss>(
    model: &Adapted<M>,
    passes: &[M::Batch],
    recipe: &TrainRecipe,
    step: usize,
) -> (GradientsParams, Tensor<1>) {
    let targets: usize = passes.iter().map(M::targets).sum();
    let mut gradients = GradientsAccumulator::new();
    let mut losses = Vec::with_capacity(passes.len());
    for (index, pass) in passes.iter().enumerate() {
        let weight = M::targets(pass) as f64 / targets as f64;
        let number = (step as u64) << PASS_BITS | index as u64;
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
    recipe: &TrainRecipe,
) -> Tensor<1> {
    let (model, share, smoothing) = (&model.model, model.task_share(), recipe.label_smoothing);
    match share {
        Some(share) if share < 1.0 => distilled_loss(model, pass, smoothing, share),
        Some(_) | None if recipe.gradient_checkpointing => recomputed_loss(model, pass, smoothing),
        Some(_) | None => model.loss(pass, smoothing),
    }
}

/// The best evaluation so far.
#[derive(Default)]
struct Best {
    /// What is left of the base, if it fades: less is better. Then the score.
    score: Option<(f64, f64)>,
    step: usize,
    state: Option<TrainedState>,
    /// Evaluations since.
    since: usize,
}

/// How an evaluation compares with those before it.
enum Standing {
    Best,
    NotBetter,
}

/// Whether every trained value is finite.
fn is_finite(state: &TrainedState) -> bool {
    state.values().all(|data: &TensorData| data.iter::<f32>().all(f32::is_finite))
}

impl Best {
    /// Keeps the state of `model` if its score is the best one.
    ///
    /// # Errors
    /// If the score, or a number to be kept, is not finite: the last update can overflow though its gradient did not.
    fn offer<M: ModelWithLoss>(
        &mut self,
        score: f64,
        step: usize,
        model: &Adapted<M>,
    ) -> Result<Standing, Error> {
        let diverged = || Error::Diverged { step, loss: f32::NAN };
        if !score.is_finite() {
            return Err(diverged());
        }
        let left = model.base_gain().map_or(0.0, |gain| gain.weight);
        if self.score.is_some_and(|best| (-left, score) <= (-best.0, best.1)) {
            self.since += 1;
            return Ok(Standing::NotBetter);
        }
        let state = model.state();
        if !is_finite(&state) {
            return Err(diverged());
        }
        *self = Self { score: Some((left, score)), step, state: Some(state), since: 0 };
        Ok(Standing::Best)
    }

    fn is_stale(&self, early_stop: usize) -> bool {
        early_stop > 0 && self.since >= early_stop
    }
}
