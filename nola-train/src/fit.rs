//! One fit: a task and a method become a trained model, its scores and its history.

use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use nola_core::folder::{self, CoefficientBits};
use nola_core::targets::Pattern;
use nola_core::{Adapted, AdapterConfig, Targets, TrainableParameters};

use crate::base::Base;
use crate::baseline::Baseline;
use crate::diagnostics;
use crate::divergence::Divergence;
use crate::model_with_loss::ModelWithLoss;
use crate::progress::{self, Progress, Style};
use crate::recipe::{AdapterRecipe, ChosenWeights, MethodRecipe, Recipe, TargetsRecipe, TrainRecipe};
use crate::report::{History, HistoryPoint};
use crate::stop::{Interrupt, Stop};
use crate::task::{LargestPass, Model, Task};
use crate::terminal::err_line;
use crate::train::{Observer, StepReport, pass_loss, train};
use crate::{Error, memory, overfitting};

/// Name of the head's module in every model of this project.
pub(crate) const HEAD: &str = "head";

/// A trained model with its scores.
pub struct Fitted<T: Task> {
    /// The model with the best trained values, as it comes back from its folder.
    pub best: Adapted<Model<T>>,
    /// The same as it was trained: numbers are rounded only once, when they are stored.
    pub unrounded: Adapted<Model<T>>,
    /// The model as the last step left it.
    pub last: Adapted<Model<T>>,
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
    /// What ends it before its time.
    pub stop: &'a Stop,
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
    let started = Instant::now();
    // Hashed before anything is learned on it, and damage is told now.
    task.base().identity();
    task.base().check_intact()?;
    let on_device = terms.device.clone().autodiff();
    let model = attach(task.model().train(), &recipe.method, task.trained_beside(), &on_device)?;
    let trained = model.trainable_parameters();
    if trained.adapter + trained.other == 0 {
        return Err(Error::NothingTrained { method: recipe.method.kind().to_owned() });
    }
    let mut warnings = diagnostics::before_training(task, recipe, &model)?;
    warnings.iter().for_each(|warning| err_line(&format!("warning: {warning}")));
    keeper.prepare(&Module::valid(&model))?;
    let largest = task.largest_pass(recipe);
    if largest.step > 0 {
        let passes = task.steps(recipe, largest.step..largest.step + 1, &on_device).next();
        let passes = passes.transpose()?.unwrap_or_default();
        rehearse(&model, &passes, &recipe.train, &largest, terms.device);
    }
    let name = recipe.method.kind().to_owned();
    let label = if terms.label.is_empty() { &name } else { terms.label };
    let mut progress = Progress::start(label, 0..recipe.train.steps, T::TARGET, terms.style);
    let baseline = baseline(task, recipe, &model, terms.device, &mut progress)?;
    let history = History { name, points: Vec::new(), kept_step: 0, baseline };
    let mut watcher = ProgressObserver::new(task, &largest, terms, keeper, progress, history);
    let steps = task.steps(recipe, 0..recipe.train.steps, &on_device);
    let done = train(model, &recipe.train, steps, &mut watcher)?;
    let evaluation = watcher.best.take().expect("a best state comes from an evaluation");
    // Names and shapes are the model's own, so only numbers that are not finite can be refused.
    let diverged = Error::Diverged { step: done.best_step, loss: T::scores(&evaluation).loss };
    let best = Module::valid(&done.last.clone().with_state(done.best).map_err(|_| diverged)?);
    let stored = stored(task, recipe, terms.device, &best, evaluation);
    watcher.finish(done.best_step, &stored.evaluation, recipe);
    if done.failure.is_none() {
        let note = diagnostics::early_end(done.steps, done.best_step, done.interrupted, recipe);
        note.iter().for_each(|note| err_line(note));
        warnings.extend(note);
    }
    warnings.extend(watcher.divergence.warnings);
    Ok(Fitted {
        best: stored.model,
        unrounded: best,
        last: Module::valid(&done.last),
        evaluation: stored.evaluation,
        is_rounded: stored.bits != CoefficientBits::B32,
        history: watcher.history,
        trained,
        best_step: done.best_step,
        steps: done.steps,
        seconds: started.elapsed().as_secs_f64(),
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
    device: &Device,
    progress: &mut Progress,
) -> Result<Baseline, Error> {
    progress.evaluating();
    task.base().check_unchanged()?;
    let baseline = task.baseline(recipe, &Module::valid(model).model, device)?;
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
    device: &Device,
    trained: &Adapted<Model<T>>,
    evaluation: T::Evaluation,
) -> Stored<T> {
    let (model, bits, failure) = rounded(trained, recipe);
    if bits == CoefficientBits::B32 {
        return Stored { model, evaluation, bits, failure };
    }
    match task.evaluate(&model.model, device) {
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

/// Makes the largest pass, the first one of its step, once before the first step, so that a run for which memory is short
/// ends at once; needless where that pass is one of the first step itself.
fn rehearse<M: ModelWithLoss>(
    model: &Adapted<M>,
    passes: &[M::Batch],
    recipe: &TrainRecipe,
    largest: &LargestPass,
    device: &Device,
) {
    let Some(pass) = passes.first() else { return };
    // Reading the loss waits until a device that works behind has done the pass.
    let loss = pass_loss(model, pass, recipe);
    let gradients = loss.backward();
    loss.into_scalar::<f32>();
    drop(gradients);
    err_line(&memory_line(largest, device));
}

/// What memory the largest pass took, and what is left.
fn memory_line(largest: &LargestPass, device: &Device) -> String {
    format!("memory: {}", memory::after_largest_pass(&largest.size, device))
}

/// Attaches the method's adapters to `model` and trains the modules `beside` too.
pub(crate) fn attach<M: Module>(
    model: M,
    method: &MethodRecipe,
    beside: &[&str],
    device: &Device,
) -> Result<Adapted<M>, Error> {
    Ok(match method {
        MethodRecipe::Adapter(AdapterRecipe { config, weights }) => {
            Adapted::attach(model, config, &targets(weights), beside, device)?
        }
        MethodRecipe::Linear => Adapted::probe(model, beside, device)?,
        MethodRecipe::Full => Adapted::full(model),
    })
}

/// The choice of sites of a method that has one.
pub(crate) fn chosen_targets(method: &MethodRecipe) -> Option<Targets> {
    method.adapter().map(|adapter| targets(&adapter.weights))
}

fn targets(weights: &ChosenWeights) -> Targets {
    let modules = match &weights.targets {
        TargetsRecipe::Names(names) => Pattern::Names(names.clone()),
        TargetsRecipe::Pattern(pattern) => Pattern::Regex(pattern.clone()),
    };
    // The head is trained itself, so `all-linear` leaves it out, as PEFT does.
    let exclude = weights.exclude.iter().cloned().chain([HEAD.to_owned()]).collect();
    Targets { modules, exclude: Pattern::Names(exclude), layers: weights.layers.clone() }
}

/// Shows the loop, keeps its history and its best model, and scores the model.
struct ProgressObserver<'a, T: Task, K> {
    task: &'a T,
    terms: &'a Terms<'a>,
    keeper: &'a K,
    largest: &'a LargestPass,
    progress: Progress,
    history: History,
    targets: usize,
    best: Option<T::Evaluation>,
    divergence: Divergence,
}

impl<'a, T: Task, K: Keeper<T>> ProgressObserver<'a, T, K> {
    fn new(
        task: &'a T,
        largest: &'a LargestPass,
        terms: &'a Terms<'a>,
        keeper: &'a K,
        progress: Progress,
        history: History,
    ) -> Self {
        let divergence = Divergence::among(task.choices());
        Self { task, terms, keeper, largest, progress, history, targets: 0, best: None, divergence }
    }

    /// Says what is kept, and whether it is better than what the last steps left.
    fn finish(&mut self, kept_step: usize, evaluation: &T::Evaluation, recipe: &Recipe) {
        self.history.kept_step = kept_step;
        let kept = if recipe.method == MethodRecipe::Full { "model" } else { "adapter" };
        self.progress.kept(kept, kept_step, &T::scores(evaluation));
        if let Some(warning) = overfitting::warning(&self.history, kept) {
            self.progress.note(&format!("warning: {warning}"));
            self.divergence.warnings.push(warning);
        }
    }

    /// Says what could not be kept; the run is worth more than a folder that may be written later.
    fn note_failure(&mut self, kept: Result<(), Error>, then: &str) {
        if let Err(error) = kept {
            self.progress.note(&format!("warning: {}; {then}", error.with_sources()));
        }
    }
}

impl<T: Task, K: Keeper<T>> Observer<Model<T>> for ProgressObserver<'_, T, K> {
    fn stepped(&mut self, report: StepReport) {
        let StepReport { step, loss, learning_rate, targets, .. } = report;
        self.targets += targets;
        if step == 1 && self.largest.step == 0 {
            self.progress.note(&memory_line(self.largest, self.terms.device));
        }
        self.divergence.stepped(loss);
        self.progress.step(&progress::StepReport { step, targets: self.targets, loss, learning_rate });
        self.history.points.push(HistoryPoint { step, train_loss: loss, learning_rate, validation: None });
    }

    fn evaluate(&mut self, step: usize, model: &Model<T>) -> Result<f64, Error> {
        self.task.base().check_unchanged()?;
        self.progress.evaluating();
        let evaluation = self.task.evaluate(model, self.terms.device)?;
        self.task.base().check_unchanged()?;
        let scores = T::scores(&evaluation);
        self.progress.evaluated(step, &scores);
        if !scores.is_finite() {
            return Err(Error::Diverged { step, loss: scores.loss });
        }
        if let Some(warning) = self.divergence.evaluated(step, scores.loss) {
            self.progress.note(&format!("warning: {warning}"));
        }
        if let Some(point) = self.history.points.last_mut() {
            point.validation = Some(scores);
        }
        if self.best.as_ref().is_none_or(|best| scores.rank() > T::scores(best).rank()) {
            self.best = Some(evaluation);
        }
        Ok(scores.rank())
    }

    fn found_best(&mut self, model: &Adapted<Model<T>>) {
        let best = self.best.as_ref().expect("it was evaluated just now");
        let kept = self.keeper.keep_best(&Module::valid(model), best);
        self.note_failure(kept, "training goes on, and it is tried again with the next best evaluation");
    }

    fn left_unscored(&mut self, model: &Adapted<Model<T>>) {
        let kept = self.keeper.keep_unscored(&Module::valid(model));
        self.note_failure(kept, "what the last step left is lost");
    }

    fn stopped(&self) -> Option<Interrupt> {
        self.terms.stop.asked()
    }
}
