//! What happens while a run trains: it is shown, noted, scored and kept.

use std::time::Instant;

use burn::module::Module;
use nola_core::Adapted;

use super::{Course, Keeper, Terms, memory_line};
use crate::Error;
use crate::divergence::Divergence;
use crate::history::{History, HistoryPoint};
use crate::model_with_loss::ModelWithLoss;
use crate::overfitting;
use crate::progress::{self, Progress};
use crate::recipe::{MethodRecipe, Recipe};
use crate::session::Base;
use crate::settings::SaveEvery;
use crate::stop::Interrupt;
use crate::task::{Batch, LargestPass, Model, Task};
use crate::train::{Observer, StepReport, TrainingState};

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

/// Shows the loop, keeps its history and its best model, and scores the model.
pub(super) struct ProgressObserver<'a, T: Task, K> {
    task: &'a T,
    terms: &'a Terms<'a>,
    keeper: &'a K,
    largest: &'a LargestPass,
    progress: Progress,
    pub(super) history: History,
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
    /// When the last checkpoint was kept, or the run began.
    saved: Instant,
}

impl<'a, T: Task, K: Keeper<T>> ProgressObserver<'a, T, K> {
    pub(super) fn new(
        task: &'a T,
        largest: &'a LargestPass,
        terms: &'a Terms<'a>,
        keeper: &'a K,
        progress: Progress,
        history: History,
        clock: Clock,
    ) -> Self {
        let divergence = Some(Divergence::of(task.choices(), &history));
        Self {
            task,
            terms,
            keeper,
            largest,
            progress,
            history,
            targets: 0,
            best: None,
            newest: None,
            few: None,
            divergence,
            clock,
            save_every: SaveEvery::NEVER,
            saved: Instant::now(),
        }
    }

    /// Says what is kept, and whether it is better than what the last steps left.
    pub(super) fn finish(&mut self, kept_step: usize, evaluation: &T::Evaluation, recipe: &Recipe) {
        self.history.kept_step = kept_step;
        let kept = if recipe.method == MethodRecipe::Full { "model" } else { "adapter" };
        self.progress.kept(kept, kept_step, &T::scores(evaluation));
        let Some(divergence) = &mut self.divergence else { return };
        if let Some(warning) = overfitting::warning(&self.history, kept) {
            self.progress.note(&format!("warning: {warning}"));
            divergence.warnings.push(warning);
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
        let logged = self.keeper.log_step(&report, self.clock.seconds());
        self.note_failure(logged, "training goes on without a log");
        self.targets += targets;
        if step == 1 && self.largest.step == 0 {
            self.progress.note(&memory_line(self.largest, self.terms.device));
        }
        self.divergence.iter_mut().for_each(|divergence| divergence.stepped(loss));
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
        let divergence = self.divergence.as_mut();
        if let Some(warning) = divergence.and_then(|divergence| divergence.evaluated(step, scores.loss)) {
            self.progress.note(&format!("warning: {warning}"));
        }
        if let Some(point) = self.history.points.last_mut() {
            point.validation = Some(scores);
        }
        let logged = self.keeper.log_scores(&scores);
        self.note_failure(logged, "training goes on without a log");
        self.newest = Some(evaluation);
        Ok(scores.rank())
    }

    fn score_quickly(&mut self, model: &Model<T>) -> Result<f64, Error> {
        if self.few.is_none() {
            self.few = Some(self.task.few_samples(self.terms.device)?);
        }
        let few = self.few.as_ref().expect("it was just made");
        let loss = model.loss(few, 0.0).into_scalar::<f32>();
        if !loss.is_finite() {
            return Err(Error::Diverged { step: self.history.points.len(), loss });
        }
        Ok(-f64::from(loss))
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
        self.save_every.is_due(done, self.saved.elapsed())
    }

    fn save(&mut self, state: TrainingState) {
        let course = Course { history: self.history.clone(), seconds: self.clock.seconds() };
        let kept = self.keeper.keep_checkpoint(state, &course);
        self.note_failure(kept, "training goes on, and it is tried again at the next checkpoint");
        self.saved = Instant::now();
    }

    fn stopped(&self) -> Option<Interrupt> {
        self.terms.stop.asked()
    }
}
