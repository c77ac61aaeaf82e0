//! The training loop. It names no model and no adapter.

mod best;
mod checkpoint;
mod exchange;
mod first_gradients;
mod gradients;
mod local_steps;
mod optimizer;
mod pending;
mod schedule;
mod shards;
mod standpoint;
mod state;
mod wire;

use nola_core::{Adapted, TrainedState};

pub use best::{Best, BestEvaluation};
pub use checkpoint::Checkpoint;
pub(crate) use exchange::exchanged;
pub(crate) use gradients::{measured_gradients, pass_loss, shard_gradients, updated};
pub use optimizer::{Moments, Optimizer, ParamMoments, clipped, gradient_norm};
pub use schedule::Schedule;
pub use shards::{Shard, StepPasses};
pub use state::{Between, Start, TrainingState};

pub use crate::error::{ResumeError, StepSamples};

use crate::Error;
use crate::model_with_loss::ModelWithLoss;
use crate::ranks::Ranks;
use crate::settings::{Period, TrainSettings};
use crate::stop::Interrupt;
use pending::PendingSteps;
use standpoint::Standpoint;

/// Distance between two checks that all ranks hold the same trained values, in optimizer steps; it is checked before an
/// evaluation and a checkpoint, too.
const CHECK_EVERY: Period = Period(50);

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

/// What the loop reports to, and asks of, whoever started it.
pub trait Observer<M: ModelWithLoss> {
    /// A step is done; reported late, for several steps at once, but before the next evaluation.
    fn stepped(&mut self, report: StepReport);

    /// A step was skipped, as its loss or gradient is not finite; reported like [`Observer::stepped`], in its place.
    fn skipped(&mut self, _report: StepReport) {}

    /// What an optimizer step, counted from 1, is made of.
    fn samples_of_step(&self, _step: usize) -> StepSamples {
        StepSamples::default()
    }

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

    /// Whether the state after `done` steps is to be kept, so that the run can go on from there.
    fn is_save_due(&mut self, _done: usize) -> bool {
        false
    }

    /// Keeps a state from which the run can go on.
    fn save(&mut self, _state: TrainingState) {}

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
    /// Optimizer steps made whose loss and gradient were numbers, or that were skipped.
    pub steps: usize,
    /// The interrupt that ended the run.
    pub interrupted: Option<Interrupt>,
    /// What ended the run before its time.
    pub failure: Option<Error>,
}

/// Trains `model` on one list of passes per optimizer step, in one process and one shard.
///
/// As [`train_across`].
///
/// # Errors
/// As [`train_across`].
pub fn train<M: ModelWithLoss>(
    model: Adapted<M>,
    recipe: &TrainSettings,
    steps: impl Iterator<Item = Result<Vec<M::Batch>, Error>>,
    observer: &mut impl Observer<M>,
) -> Result<Trained<M>, Error> {
    train_from(Start::Beginning, model, recipe, steps, observer)
}

/// Trains a fresh `model` on one list of passes for each optimizer step from `start` on, in one process and one shard.
///
/// As [`train_across`].
///
/// # Errors
/// As [`train_across`].
pub fn train_from<M: ModelWithLoss>(
    start: Start,
    model: Adapted<M>,
    recipe: &TrainSettings,
    steps: impl Iterator<Item = Result<Vec<M::Batch>, Error>>,
    observer: &mut impl Observer<M>,
) -> Result<Trained<M>, Error> {
    let steps = steps.map(|passes| passes.map(StepPasses::from));
    train_across(&Ranks::default(), start, model, recipe, steps, observer)
}

/// Trains a fresh `model` on this rank's shards of each optimizer step from `start` on; every rank comes to the same model.
///
/// The loop does not wait for its device, but every now and then to report what steps did. A step whose loss or gradient is
/// not finite is found then, at the latest before an evaluation or a state that is kept: so steps may be made in vain, but
/// nothing is kept of them, and the state when all was last known to be finite is saved, if there is memory for a copy of it.
/// Where `recipe` wants such steps to be skipped, or there are other ranks, the loop waits for its device in every step.
///
/// # Errors
/// If a batch cannot be made, or a loss, a gradient or a trained value is not finite, or a rank ended, before anything was
/// evaluated, or if `start` is the state of another model; later, the error stands in [`Trained::failure`], beside what was
/// learned until then.
pub fn train_across<M: ModelWithLoss>(
    ranks: &Ranks,
    start: Start,
    model: Adapted<M>,
    recipe: &TrainSettings,
    steps: impl Iterator<Item = Result<StepPasses<M::Batch>, Error>>,
    observer: &mut impl Observer<M>,
) -> Result<Trained<M>, Error> {
    let (mut standing, between) = Standpoint::at(start, model, recipe)?;
    let (mut pending, mut failure) = (PendingSteps::after(standing.done, standing.skipped, recipe), None);
    let mut finite = standing.copy();
    // A checkpoint that was due while each shard had a model of its own.
    let mut is_save_late = false;
    // What was still to do after the last step of the run before.
    let rest = (between == Between::Due).then_some(Ok(None));
    for passes in rest.into_iter().chain(steps.map(|passes| passes.map(Some))) {
        let (stepped, ended) = standing.step(passes, recipe, ranks, &mut pending);
        standing = stepped;
        if let Err(error) = ended {
            failure = Some(error);
            break;
        }
        if !standing.is_common() {
            // Nothing looks at the models of shards that train alone.
            is_save_late |= observer.is_save_due(standing.done);
            continue;
        }
        let (done, stopped) = (standing.done, observer.stopped());
        let evaluates = recipe.evaluate_every.is_due(done) || done == recipe.steps || stopped.is_some();
        let saves = std::mem::take(&mut is_save_late) | observer.is_save_due(done);
        // All ranks read at the same steps, and so find the same.
        if evaluates || saves || pending.is_due() || ranks.size() > 1 {
            failure = pending.report(&standing.optimizer, recipe, observer).err();
        }
        if failure.is_none() && (evaluates || saves || CHECK_EVERY.is_due(done)) {
            failure = standing.check_same(ranks).err();
        }
        if failure.is_none() {
            // The evaluation of a run that ends early is none of the whole run.
            failure = match stopped {
                Some(_) => standing.save(Between::Due, recipe, observer).err(),
                None => standing.between_steps(recipe, observer).err(),
            };
        }
        if evaluates && failure.is_none() {
            failure = standing.evaluate(observer).err();
        }
        // An interrupt that comes during an evaluation needs no further one.
        let asked = observer.stopped().filter(|_| evaluates);
        let is_stale = evaluates && standing.best.is_stale(recipe.early_stop);
        let saves = saves || asked.is_some();
        if saves && stopped.is_none() && !is_stale && failure.is_none() {
            failure = standing.save(Between::Done, recipe, observer).err();
        }
        if failure.is_some() || asked.is_some() || is_stale {
            break;
        }
        if pending.steps.is_empty() {
            finite = standing.copy();
        }
    }
    // If a batch could not be made, there may be steps before it of which nothing is known yet.
    failure = pending.report(&standing.optimizer, recipe, observer).err().or(failure);
    failure.iter().for_each(|error| ranks.report_failure(&error.with_sources()));
    if let Some(Error::Diverged { .. }) = failure {
        standing.save_finite(finite.as_ref(), recipe, observer);
    }
    standing.ended(pending.reported, failure, recipe, observer)
}
