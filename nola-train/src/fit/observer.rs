//! What happens while a run trains: it is shown, noted, scored and kept.

use std::time::{Duration, Instant};

use burn::module::Module;
use nola_core::Adapted;

use super::{Course, Keeper, Note, Terms, memory_line};
use crate::Error;
use crate::divergence::Divergence;
use crate::error::non_finite;
use crate::history::HistoryPoint;
use crate::model_with_loss::ModelWithLoss;
use crate::overfitting;
use crate::progress::{self, Progress};
use crate::ranks::Topic;
use crate::recipe::{MethodRecipe, Recipe};
use crate::session::Base;
use crate::settings::SaveEvery;
use crate::stop::Interrupt;
use crate::task::{Batch, LargestPass, Model, Task};
use crate::train::{Observer, StepReport, StepSamples, TrainingState};

/// Seconds of a run, those before it was resumed included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    pub(super) started: Instant,
    pub(super) before: f64,
}

impl Clock {
    pub(super) fn seconds(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }
}

/// What is fitted to what, and how.
pub(super) struct Fitting<'a, T> {
    pub(super) task: &'a T,
    pub(super) recipe: &'a Recipe,
    pub(super) terms: &'a Terms<'a>,
    pub(super) largest: &'a LargestPass,
}

/// Points of a history for which there is room from the start, 48 MiB.
const MOST_RESERVED: usize = 1 << 20;

/// Shows the loop, keeps its history and its best model, and scores the model.
pub(super) struct ProgressObserver<'a, T: Task, K> {
    run: Fitting<'a, T>,
    keeper: &'a K,
    progress: Progress,
    pub(super) course: Course,
    targets: usize,
    pub(super) best: Option<T::Evaluation>,
    /// Of the last evaluation.
    newest: Option<T::Evaluation>,
    /// What the model is scored on quickly, once it was asked for.
    few: Option<Batch<T>>,
    /// Nothing if the training loss is not the task's alone: it says nothing of the validation loss.
    pub(super) divergence: Option<Divergence>,
    clock: Clock,
    pub(super) save_every: SaveEvery,
    /// When the last checkpoint was kept, or training began, by the clock of the ranks.
    saved: Duration,
    /// What other ranks warned of.
    of_other_ranks: Vec<String>,
}

impl<'a, T: Task, K: Keeper<T>> ProgressObserver<'a, T, K> {
    pub(super) fn new(
        run: Fitting<'a, T>,
        keeper: &'a K,
        progress: Progress,
        mut course: Course,
        clock: Clock,
    ) -> Self {
        let points = &mut course.history.points;
        // Copies of a growing list would leave holes in memory; what is never reached takes none.
        points.reserve_exact(run.recipe.train.steps.saturating_sub(points.len()).min(MOST_RESERVED));
        let divergence = Some(Divergence::of(run.task.choices(), &course.history));
        let saved = run.terms.ranks.elapsed();
        Self {
            run,
            keeper,
            progress,
            course,
            targets: 0,
            best: None,
            newest: None,
            few: None,
            divergence,
            clock,
            save_every: SaveEvery::NEVER,
            saved,
            of_other_ranks: Vec::new(),
        }
    }

    /// Says what is kept, and whether it is better than what the last steps left.
    pub(super) fn finish(&mut self, kept_step: usize, evaluation: &T::Evaluation, recipe: &Recipe) {
        self.course.history.kept_step = kept_step;
        let kept = if recipe.method == MethodRecipe::Full { "model" } else { "adapter" };
        self.progress.kept(kept, kept_step, &T::scores(evaluation));
        let Some(divergence) = &mut self.divergence else { return };
        if let Some(warning) = overfitting::warning(&self.course.history, kept) {
            self.progress.note(&format!("warning: {warning}"));
            divergence.warnings.push(warning);
        }
    }

    /// Says in the result how many steps were skipped.
    pub(super) fn skipped_steps(&self) -> Option<String> {
        let points = &self.course.history.points;
        let skipped: Vec<usize> =
            points.iter().filter(|point| point.is_skipped()).map(|point| point.step).collect();
        let (first, count, of) = (skipped.first()?, skipped.len(), points.len());
        Some(format!(
            "{count} of {of} steps were skipped, the first of them step {first}, as loss or gradient were not finite; \
             metrics.jsonl names their samples"
        ))
    }

    /// What other ranks warned of, each with its name.
    pub(super) fn of_other_ranks(&mut self) -> Vec<String> {
        self.hear_other_ranks();
        std::mem::take(&mut self.of_other_ranks)
    }

    /// Shows what other ranks warned of meanwhile.
    fn hear_other_ranks(&mut self) {
        for warning in self.run.terms.ranks.warnings() {
            self.progress.note(&warning);
            self.of_other_ranks.push(warning);
        }
    }

    /// Completes the prompts of the recipe on the first rank, shows what the model writes and notes it.
    ///
    /// # Errors
    /// If the model answers with what is not finite.
    pub(super) fn write_samples(&mut self, step: usize, model: &Model<T>) -> Result<(), Error> {
        if !self.run.terms.ranks.is_first() {
            return Ok(());
        }
        let samples = self.run.task.completed(model, &self.run.recipe.samples, self.run.terms.device)?;
        if samples.is_empty() {
            return Ok(());
        }
        self.progress.samples(step, &samples);
        self.log(&Note::Samples { step, samples: &samples });
        Ok(())
    }

    /// The score of the few samples; larger is better.
    fn own_score(&mut self, model: &Model<T>) -> Result<f64, Error> {
        if self.few.is_none() {
            self.few = Some(self.run.task.few_samples(self.run.terms.device)?);
        }
        let few = self.few.as_ref().expect("it was just made");
        let loss = model.loss(few, 0.0).into_scalar::<f32>();
        if !loss.is_finite() {
            return Err(Error::diverged(self.course.history.points.len(), loss));
        }
        Ok(-f64::from(loss))
    }

    fn log(&mut self, note: &Note) {
        let logged = self.keeper.note(note);
        self.note_failure(logged, "training goes on without this log");
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
        self.hear_other_ranks();
        self.log(&Note::Step { report: &report, seconds: self.clock.seconds() });
        self.targets += targets;
        if step == 1 && self.run.largest.step == 0 {
            self.progress.note(&memory_line(self.run.largest, self.run.terms.device));
        }
        self.divergence.iter_mut().for_each(|divergence| divergence.stepped(loss));
        self.progress.step(&progress::StepReport { step, targets: self.targets, loss, learning_rate });
        let point = HistoryPoint { step, train_loss: loss, learning_rate, validation: None };
        self.course.history.points.push(point);
    }

    fn skipped(&mut self, report: StepReport) {
        let StepReport { step, loss, learning_rate, .. } = report;
        let samples = self.samples_of_step(step);
        self.progress.note(&format!("warning: step {step} is skipped: {}", non_finite(loss, step, &samples)));
        self.log(&Note::Skipped { report: &report, samples: &samples, seconds: self.clock.seconds() });
        let point = HistoryPoint { step, train_loss: f32::NAN, learning_rate, validation: None };
        self.course.history.points.push(point);
    }

    fn samples_of_step(&self, step: usize) -> StepSamples {
        self.run.task.samples_of_step(self.run.recipe, step - 1)
    }

    fn evaluate(&mut self, step: usize, model: &Model<T>) -> Result<f64, Error> {
        self.run.task.base().check_unchanged()?;
        self.progress.evaluating();
        let terms = self.run.terms;
        let evaluation = self.run.task.evaluate(model, terms.device, terms.ranks)?;
        self.run.task.base().check_unchanged()?;
        let scores = T::scores(&evaluation);
        self.progress.evaluated(step, &scores);
        if !scores.is_finite() {
            return Err(Error::diverged(step, scores.loss));
        }
        let divergence = self.divergence.as_mut();
        if let Some(warning) = divergence.and_then(|divergence| divergence.evaluated(step, scores.loss)) {
            self.progress.note(&format!("warning: {warning}"));
        }
        if let Some(point) = self.course.history.points.last_mut() {
            point.validation = Some(scores);
        }
        self.log(&Note::Scores { step, scores: &scores });
        self.write_samples(step, model)?;
        self.newest = Some(evaluation);
        Ok(scores.rank())
    }

    fn score_quickly(&mut self, model: &Model<T>) -> Result<f64, Error> {
        let ranks = self.run.terms.ranks;
        // All ranks have to decide the same, so one of them scores.
        let score =
            ranks.broadcast(Topic::Score, || Ok::<_, Error>(self.own_score(model)?.to_le_bytes().into()))?;
        let score = <[u8; 8]>::try_from(score).map_err(|_| ranks.unreadable(0, Topic::Score))?;
        Ok(f64::from_le_bytes(score))
    }

    fn changed_between_steps(&mut self, done: usize, model: &Adapted<Model<T>>) {
        let ranks: Vec<String> =
            model.ranks().iter().map(|(site, rank)| format!("{} {rank}", site.path)).collect();
        self.progress.note(&format!("ranks after step {done}: {}", ranks.join(", ")));
    }

    fn found_best(&mut self, model: &Adapted<Model<T>>) {
        self.best = self.newest.take();
        let best = self.best.as_ref().expect("it was evaluated just now");
        let kept = self.keeper.keep_best(&Module::valid(model), best);
        self.note_failure(kept, "training goes on, and it is tried again with the next best evaluation");
    }

    fn left_unscored(&mut self, model: &Adapted<Model<T>>) {
        let kept = self.keeper.keep_unscored(&Module::valid(model));
        self.note_failure(kept, "what the last step left is lost");
    }

    fn is_save_due(&mut self, done: usize) -> bool {
        self.save_every.is_due(done, self.run.terms.ranks.elapsed().saturating_sub(self.saved))
    }

    fn save(&mut self, state: TrainingState) {
        self.course.seconds = self.clock.seconds();
        let points = &mut self.course.history.points;
        // A run that diverged is kept as it was before its last steps.
        let later = points.split_off(state.step.min(points.len()));
        let kept = self.keeper.keep_checkpoint(state, &self.course);
        self.course.history.points.extend(later);
        self.note_failure(kept, "training goes on, and it is tried again at the next checkpoint");
        self.saved = self.run.terms.ranks.elapsed();
    }

    fn stopped(&self) -> Option<Interrupt> {
        self.run.terms.ranks.stopped()
    }
}
