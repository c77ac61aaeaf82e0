//! One fit: a task and a method become a trained model, its scores and its history.

mod course;
mod observer;

use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use nola_core::adapter::BaseGain;
use nola_core::folder::{self, CoefficientBits};
use nola_core::{Adapted, AdapterConfig, TrainableParameters};

pub use course::{Course, Resumed};
use observer::{Clock, Fitting, ProgressObserver};

use crate::attach::{attach, refuse_tied};
use crate::baseline::Baseline;
use crate::completion::Completion;
use crate::diagnostics;
use crate::history::History;
use crate::model_with_loss::ModelWithLoss;
use crate::progress::{Progress, Scores, Style};
use crate::ranks::Ranks;
use crate::recipe::Recipe;
use crate::session::{Base, Notice};
use crate::settings::TrainSettings;
use crate::stop::Interrupt;
use crate::task::{LargestPass, Model, Task};
use crate::terminal::err_line;
use crate::train::{Start, StepPasses, StepReport, StepSamples, TrainingState, pass_loss, train_across};
use crate::{Error, memory, notices};

/// A trained model with its scores.
pub struct Fitted<T: Task> {
    /// The model with the best trained values, as it comes back from its folder.
    pub best: Adapted<Model<T>>,
    /// The same as it was trained: numbers are rounded only once, when they are stored.
    pub unrounded: Adapted<Model<T>>,
    /// The model as the last step left it.
    pub last: Adapted<Model<T>>,
    /// What the last step left of the base, if that fades; models of one run share what they have of it.
    pub base_gain_of_last: Option<BaseGain>,
    /// What the best found.
    pub evaluation: T::Evaluation,
    /// Whether its coefficients are stored in fewer bits than they were trained in.
    pub is_rounded: bool,
    /// Loss, rate and scores over the steps.
    pub history: History,
    /// How many numbers were trained.
    pub trained: TrainableParameters,
    /// Optimizer steps after which the best was found.
    pub best_step: usize,
    /// Optimizer steps made.
    pub steps: usize,
    /// Seconds of training, evaluations included.
    pub seconds: f64,
    /// Processes that shared it.
    pub ranks: usize,
    /// The interrupt that ended the run.
    pub interrupted: Option<Interrupt>,
    /// What makes the run doubtful, though it came to its end.
    pub warnings: Vec<String>,
    /// What ended the run before its time, after something worth keeping was learned.
    pub failure: Option<Error>,
}

/// Where a run computes, how it shows, and what ends it.
pub struct Terms<'a> {
    /// Where it computes.
    pub device: &'a Device,
    /// How it shows on stderr.
    pub style: Style,
    /// The processes that share it, and what ends it before its time.
    pub ranks: &'a Ranks,
    /// What it is called where it shows; empty: its method.
    pub label: &'a str,
}

/// Where a run keeps what it learned while it goes on, so that whatever ends it costs little.
pub trait Keeper<T: Task> {
    /// Sees to it, before the first step, that a model like this one can be kept.
    ///
    /// # Errors
    /// If it cannot.
    fn prepare(&self, model: &Adapted<Model<T>>) -> Result<(), Error>;

    /// Keeps the best model so far in place of the one before.
    ///
    /// # Errors
    /// If it cannot be written; the one before is then as it was.
    fn keep_best(&self, model: &Adapted<Model<T>>, evaluation: &T::Evaluation) -> Result<(), Error>;

    /// Keeps the last model of a run that could not evaluate any.
    ///
    /// # Errors
    /// If it cannot be written.
    fn keep_unscored(&self, model: &Adapted<Model<T>>) -> Result<(), Error>;

    /// Keeps where the run stands, so that it can go on from there.
    ///
    /// # Errors
    /// If it cannot be written; what was kept before is then as it was.
    fn keep_checkpoint(&self, state: TrainingState, course: &Course) -> Result<(), Error>;

    /// Notes what happened.
    ///
    /// # Errors
    /// If it cannot be written; it is not tried again.
    fn note(&self, note: &Note) -> Result<(), Error>;
}

/// Keeps nothing: for ranks other than the first, which has everything.
#[derive(Debug, Clone, Copy)]
pub struct KeepsNothing;

impl<T: Task> Keeper<T> for KeepsNothing {
    fn prepare(&self, _model: &Adapted<Model<T>>) -> Result<(), Error> {
        Ok(())
    }

    fn keep_best(&self, _model: &Adapted<Model<T>>, _evaluation: &T::Evaluation) -> Result<(), Error> {
        Ok(())
    }

    fn keep_unscored(&self, _model: &Adapted<Model<T>>) -> Result<(), Error> {
        Ok(())
    }

    fn keep_checkpoint(&self, _state: TrainingState, _course: &Course) -> Result<(), Error> {
        Ok(())
    }

    fn note(&self, _note: &Note) -> Result<(), Error> {
        Ok(())
    }
}

/// What a run notes as it goes.
#[derive(Debug, Clone, Copy)]
pub enum Note<'a> {
    /// What a step did.
    Step {
        /// It.
        report: &'a StepReport,
        /// Seconds of training when it was reported.
        seconds: f64,
    },
    /// A step was skipped.
    Skipped {
        /// What it would have done.
        report: &'a StepReport,
        /// What it is made of.
        samples: &'a StepSamples,
        /// Seconds of training when it was reported.
        seconds: f64,
    },
    /// The model was evaluated.
    Scores {
        /// Optimizer steps made, the last of which was noted last.
        step: usize,
        /// What came of it.
        scores: &'a Scores,
    },
    /// The model completed prompts.
    Samples {
        /// Optimizer steps made; 0 is before training.
        step: usize,
        /// Each prompt of the recipe with what the model wrote.
        samples: &'a [Completion],
    },
}

/// Trains the method of `recipe` on a fresh copy of the task's base.
///
/// # Errors
/// If nothing would be trained, training diverges, the data has changed, or nothing could be kept.
pub fn fit<T: Task>(
    task: &T,
    recipe: &Recipe,
    terms: &Terms,
    keeper: &impl Keeper<T>,
) -> Result<Fitted<T>, Error> {
    fit_from(None, task, recipe, terms, keeper)
}

/// Goes on with a run as if it had never stopped: on a device of the same kind it gives the same bits.
///
/// # Errors
/// As [`fit`], or if the state is that of another model.
pub fn resume<T: Task>(
    from: Resumed,
    task: &T,
    recipe: &Recipe,
    terms: &Terms,
    keeper: &impl Keeper<T>,
) -> Result<Fitted<T>, Error> {
    fit_from(Some(from), task, recipe, terms, keeper)
}

fn fit_from<T: Task>(
    from: Option<Resumed>,
    task: &T,
    recipe: &Recipe,
    terms: &Terms,
    keeper: &impl Keeper<T>,
) -> Result<Fitted<T>, Error> {
    let started = Instant::now();
    // Hashed before anything is learned on it, and damage is told now.
    task.base().identity();
    task.base().check_intact()?;
    let on_device = terms.device.clone().autodiff();
    let base = task.model();
    refuse_tied(&base, &recipe.method)?;
    let model = attach(base.train(), &recipe.method, task.trained_beside(), &on_device)?;
    print_if_tied(&model);
    let trained = model.trainable_parameters();
    if trained.adapter + trained.other == 0 {
        return Err(Error::NothingTrained { method: recipe.method.kind().to_owned() });
    }
    model.check_run(recipe.train.steps)?;
    let mut warnings = diagnostics::before_training(task, recipe, &model)?;
    warnings.iter().for_each(|warning| err_line(&format!("warning: {warning}")));
    keeper.prepare(&Module::valid(&model))?;
    let (largest, shards) = (task.largest_pass(recipe), terms.ranks.shards(recipe.train.shards()));
    if largest.step > 0 {
        let passes = task.steps(recipe, largest.step..largest.step + 1, shards.clone(), &on_device).next();
        if let Some(passes) = passes.transpose()? {
            model.in_training_pass(0, || rehearse(&model, &passes, &recipe.train, &largest, terms.device));
        }
    }
    let name = recipe.method.kind().to_owned();
    let label = if terms.label.is_empty() { &name } else { terms.label };
    let done = from.as_ref().map_or(0, |from| from.state.step);
    let mut progress = Progress::start(label, done..recipe.train.steps, T::TARGET, terms.style);
    let (start, course) = match from {
        Some(Resumed { state, course }) => (Start::At(Box::new(state)), course),
        None => {
            let baseline = baseline(task, recipe, &model, terms, &mut progress)?;
            let history = History { name, points: Vec::new(), kept_step: 0, baseline };
            (Start::Beginning, Course { history, seconds: 0.0 })
        }
    };
    let clock = Clock { started, before: course.seconds };
    let fitting = Fitting { task, recipe, terms, largest: &largest };
    let mut observer = ProgressObserver::new(fitting, keeper, progress, course, clock);
    observer.save_every = recipe.train.save_every;
    observer.divergence = observer.divergence.filter(|_| model.task_share().is_none());
    let steps = task.steps(recipe, done..recipe.train.steps, shards, &on_device);
    if done == 0 {
        observer.write_samples(0, &Module::valid(&model).model)?;
    }
    let mut done = train_across(terms.ranks, start, model, &recipe.train, steps, &mut observer)?;
    if !terms.ranks.is_first() {
        // What was learned until then is kept by the first rank.
        done.failure.take().map_or(Ok(()), Err)?;
    }
    let found = observer.best.take();
    // Names and shapes are the model's own, so only numbers that are not finite can be refused.
    let diverged = Error::diverged(done.best_step, f32::NAN);
    // One for all clones: the best model's is not the last one's, if a failure ended the run between two evaluations.
    let base_gain_of_last = done.last.base_gain();
    let best = Module::valid(&done.last.clone().with_state(done.best).map_err(|_| diverged)?);
    let evaluation = match found {
        Some(evaluation) => evaluation,
        // It was found before the run was resumed.
        None => task.evaluate(&best.model, terms.device, terms.ranks)?,
    };
    let stored = stored(task, recipe, terms, &best, evaluation);
    observer.finish(done.best_step, &stored.evaluation, recipe);
    if done.failure.is_none() {
        let note = diagnostics::early_end(done.steps, done.best_step, done.interrupted, recipe);
        note.iter().for_each(|note| err_line(note));
        warnings.extend(note);
    }
    warnings.extend(observer.skipped_steps());
    warnings.extend(observer.of_other_ranks());
    warnings.extend(observer.divergence.map(|divergence| divergence.warnings).unwrap_or_default());
    Ok(Fitted {
        best: stored.model,
        trained: best.trainable_parameters(),
        unrounded: best,
        last: Module::valid(&done.last),
        base_gain_of_last,
        evaluation: stored.evaluation,
        is_rounded: stored.bits != CoefficientBits::B32,
        history: observer.course.history,
        best_step: done.best_step,
        steps: done.steps,
        seconds: clock.seconds(),
        ranks: terms.ranks.size(),
        interrupted: done.interrupted,
        warnings,
        failure: done.failure.or(stored.failure),
    })
}

/// What the trained model has to be better than, measured before the first step.
fn baseline<T: Task>(
    task: &T,
    recipe: &Recipe,
    model: &Adapted<Model<T>>,
    terms: &Terms,
    progress: &mut Progress,
) -> Result<Baseline, Error> {
    progress.evaluating();
    task.base().check_unchanged()?;
    let baseline = task.baseline(recipe, &Module::valid(model).model, terms.device, terms.ranks)?;
    task.base().check_unchanged()?;
    if let Some(scores) = baseline.scores() {
        progress.evaluated(0, scores);
    }
    Ok(baseline)
}

/// A model as its folder will hold it, with its scores.
struct Stored<T: Task> {
    model: Adapted<Model<T>>,
    evaluation: T::Evaluation,
    bits: CoefficientBits,
    /// Why it is not stored, or not scored, as the recipe wants it.
    failure: Option<Error>,
}

/// The trained model with as few bits a coefficient as the recipe wants, scored so: what is reported is what the folder
/// holds. Where that goes wrong, the model is kept as it was trained.
fn stored<T: Task>(
    task: &T,
    recipe: &Recipe,
    terms: &Terms,
    trained: &Adapted<Model<T>>,
    evaluation: T::Evaluation,
) -> Stored<T> {
    let (model, bits, failure) = rounded(trained, recipe);
    if bits == CoefficientBits::B32 {
        return Stored { model, evaluation, bits, failure };
    }
    match task.evaluate(&model.model, terms.device, terms.ranks) {
        Ok(found) if T::scores(&found).is_finite() => Stored { model, evaluation: found, bits, failure },
        Ok(_) => {
            let failure = Some(Error::TooFewBits { bits: bits.into() });
            Stored { model: trained.clone(), evaluation, bits: CoefficientBits::B32, failure }
        }
        Err(error) => Stored { model, evaluation, bits, failure: Some(error) },
    }
}

/// The model with as few bits a coefficient as the recipe wants; with 32 and an error, if they cannot hold it.
pub fn rounded<M: ModelWithLoss>(
    trained: &Adapted<M>,
    recipe: &Recipe,
) -> (Adapted<M>, CoefficientBits, Option<Error>) {
    let bits = CoefficientBits::try_from(recipe.output.coefficient_bits).unwrap_or_default();
    if bits == CoefficientBits::B32 || !trained.config().is_some_and(AdapterConfig::has_coefficients) {
        return (trained.clone(), CoefficientBits::B32, None);
    }
    match folder::as_stored(trained.clone(), bits) {
        Ok(model) => (model, bits, None),
        Err(_) => {
            let error = Error::TooFewBits { bits: bits.into() };
            (trained.clone(), CoefficientBits::B32, Some(error))
        }
    }
}

/// Makes the largest pass, the first one of a shard of its step, once before the first step, so that a run for which memory is
/// short ends at once; needless where that pass is one of the first step itself.
fn rehearse<M: ModelWithLoss>(
    model: &Adapted<M>,
    passes: &StepPasses<M::Batch>,
    recipe: &TrainSettings,
    largest: &LargestPass,
    device: &Device,
) {
    for pass in passes.0.iter().filter_map(|shard| shard.passes.first()) {
        // Reading the loss waits until a device that works behind has done the pass.
        let loss = pass_loss(model, pass, recipe);
        let gradients = loss.backward();
        loss.into_scalar::<f32>();
        drop(gradients);
    }
    err_line(&memory_line(largest, device));
}

/// What memory the largest pass took, and what is left.
fn memory_line(largest: &LargestPass, device: &Device) -> String {
    format!("memory: {}", memory::after_largest_pass(&largest.size, device))
}

/// Prints a notice if an adapter changes the token embedding of a model where that is the head too: the head stays as it is.
fn print_if_tied<M: ModelWithLoss>(adapted: &Adapted<M>) {
    let tied = adapted.model.tied_module();
    if adapted.sites().iter().any(|site| Some(site.path.as_str()) == tied) {
        notices::print(&[Notice::Untied]);
    }
}
