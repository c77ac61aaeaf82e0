//! Where a run stands, and what it does from there.

use std::sync::Arc;

use burn::module::Module;
use nola_core::Adapted;

use super::best::{Standing, is_finite};
use super::gradients::{measured_gradients, updated};
use super::optimizer::Optimizer;
use super::pending::{PendingSteps, Told};
use super::{Best, Between, Observer, ResumeError, Start, Trained, TrainingState};
use crate::Error;
use crate::model_with_loss::ModelWithLoss;
use crate::settings::{OnNonFinite, TrainSettings};

/// Most trained parameters that are held twice, so that the last finite ones can be kept: a model that is trained in full may
/// not fit twice.
const MOST_HELD_TWICE: usize = 1 << 24;

/// A run between two optimizer steps.
#[derive(Clone)]
pub(super) struct Standpoint<M: ModelWithLoss> {
    pub(super) model: Adapted<M>,
    pub(super) optimizer: Optimizer,
    pub(super) best: Best,
    /// Optimizer steps made, those that were skipped included.
    pub(super) done: usize,
    /// Steps in a row, the last ones, that were skipped.
    pub(super) skipped: usize,
}

impl<M: ModelWithLoss> Standpoint<M> {
    /// Where a run with this fresh model starts, and whether there is something to do before its first step.
    ///
    /// # Errors
    /// If the state is one of another model.
    pub(super) fn at(
        start: Start,
        model: Adapted<M>,
        recipe: &TrainSettings,
    ) -> Result<(Self, Between), Error> {
        let state = match start {
            Start::Beginning => {
                let (optimizer, best) = (Optimizer::new(recipe, &model), Best::default());
                return Ok((Self { model, optimizer, best, done: 0, skipped: 0 }, Between::Done));
            }
            Start::At(state) => *state,
        };
        let TrainingState { step, between, trained, moments, best, skipped } = state;
        let unfit = |problems| ResumeError::State { problems };
        let model = model.with_added_pairs(&trained).with_state(trained).map_err(unfit)?;
        // What is left of a base that fades has more digits than a state.
        model.before_step(step.saturating_sub(1), recipe.steps);
        let optimizer = Optimizer::new(recipe, &model).with_moments(&model, moments).map_err(unfit)?;
        Ok((Self { model, optimizer, best, done: step, skipped }, between))
    }

    /// Makes an optimizer step; what is measured of it may still be on the device. One that is skipped changes neither the
    /// model nor what the optimizer remembers.
    pub(super) fn step(
        mut self,
        passes: &[M::Batch],
        recipe: &TrainSettings,
        unread: &mut PendingSteps,
    ) -> Self {
        self.model.before_step(self.done, recipe.steps);
        let (gradients, mut measured) = measured_gradients(&self.model, passes, recipe, self.done);
        let skips = match recipe.on_non_finite {
            OnNonFinite::Stop => false,
            OnNonFinite::Skip => !measured.is_finite(),
        };
        measured.skipped = if skips { self.skipped + 1 } else { 0 };
        let (done, skipped) = (self.done + 1, measured.skipped);
        let model = match skipped {
            0 => updated(self.model, gradients, &mut measured, recipe, &mut self.optimizer),
            _ => self.model,
        };
        unread.steps.push(measured);
        Self { model, done, skipped, ..self }
    }

    /// A copy to fall back on, if the trained parameters are few enough.
    pub(super) fn copy(&self) -> Option<Self> {
        let trained = self.model.trainable_parameters();
        (trained.adapter + trained.other <= MOST_HELD_TWICE).then(|| self.clone())
    }

    /// Where the run stood before the step that it does not go on from, as this one was skipped.
    fn before_last(&self) -> Self {
        Self { done: self.done - 1, skipped: self.skipped - 1, ..self.clone() }
    }

    /// Keeps the last finite state of a run that diverged: `copy` was made when all was finite.
    pub(super) fn save_finite(
        &self,
        copy: Option<&Self>,
        recipe: &TrainSettings,
        observer: &mut impl Observer<M>,
    ) {
        let before = (self.skipped > 0).then(|| self.before_last());
        let finite = before.as_ref().or(copy).filter(|state| state.done > 0);
        // One that is not finite after all is not kept; the run has ended with an error anyway.
        let _ = finite.map(|state| state.save(Between::Done, recipe, observer));
    }

    /// What the adapter does between two steps.
    pub(super) fn between_steps(
        &mut self,
        recipe: &TrainSettings,
        observer: &mut impl Observer<M>,
    ) -> Result<(), Error> {
        let score = &mut |model: &M| observer.score_quickly(model);
        if let Some(changed) = self.model.between_steps(self.done, recipe.steps, score)? {
            self.model = changed;
            observer.changed_between_steps(self.done, &self.model);
        }
        Ok(())
    }

    pub(super) fn evaluate(&mut self, observer: &mut impl Observer<M>) -> Result<(), Error> {
        let score = observer.evaluate(self.done, &Module::valid(&self.model).model)?;
        match self.best.offer(score, self.done, &self.model)? {
            Standing::Best => observer.found_best(&self.model),
            Standing::NotBetter => {}
        }
        Ok(())
    }

    /// Hands on the state, unless the run is over anyway.
    ///
    /// # Errors
    /// If a trained value is not finite.
    pub(super) fn save(
        &self,
        between: Between,
        recipe: &TrainSettings,
        observer: &mut impl Observer<M>,
    ) -> Result<(), Error> {
        if self.done >= recipe.steps {
            return Ok(());
        }
        let trained = self.model.state();
        if !is_finite(&trained) {
            return Err(Error::diverged(self.done, f32::NAN));
        }
        let (moments, best) = (self.optimizer.moments(), self.best.clone());
        let skipped = self.skipped;
        observer.save(TrainingState { step: self.done, between, trained, moments, best, skipped });
        Ok(())
    }

    /// What the run came to, of whose steps the observer was told.
    pub(super) fn ended(
        self,
        told: Told,
        failure: Option<Error>,
        recipe: &TrainSettings,
        observer: &mut impl Observer<M>,
    ) -> Result<Trained<M>, Error> {
        let Some(best) = self.best.found else {
            let failure = failure.expect("a run without a failure was evaluated at its last step");
            if !failure.spoils_training() && told.updates > 0 && is_finite(&self.model.state()) {
                observer.left_unscored(&self.model);
            }
            return Err(failure);
        };
        let interrupted = observer.stopped().filter(|_| told.steps < recipe.steps);
        let (state, best_step) = (Arc::unwrap_or_clone(best.trained), best.step);
        Ok(Trained { last: self.model, best: state, best_step, steps: told.steps, interrupted, failure })
    }
}
