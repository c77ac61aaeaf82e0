//! Where a run stands, and what it does from there.

use std::sync::Arc;

use burn::module::Module;
use burn::optim::GradientsParams;
use nola_core::Adapted;
use nola_core::folder::sha256_hex;

use super::best::{Standing, is_finite};
use super::exchange::exchanged;
use super::gradients::{Measured, shard_gradients, updated};
use super::local_steps::LocalSteps;
use super::optimizer::Optimizer;
use super::pending::{PendingSteps, Reported};
use super::shards::StepPasses;
use super::{Best, Between, Observer, ResumeError, Start, Trained, TrainingState};
use crate::Error;
use crate::model_with_loss::ModelWithLoss;
use crate::ranks::{RankError, Ranks, Topic};
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
    /// Shards that have made steps of their own since the last exchange; none where there is one model.
    local: Option<LocalSteps<M>>,
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
                let (done, skipped, local) = (0, 0, None);
                return Ok((Self { model, optimizer, best, done, skipped, local }, Between::Done));
            }
            Start::At(state) => *state,
        };
        let TrainingState { step, between, trained, moments, best, skipped } = state;
        let unfit = |problems| ResumeError::State { problems };
        let model = model.with_added_pairs(&trained).with_state(trained).map_err(unfit)?;
        // What is left of a base that fades has more digits than a state.
        model.before_step(step.saturating_sub(1), recipe.steps);
        let optimizer = Optimizer::new(recipe, &model).with_moments(&model, moments).map_err(unfit)?;
        Ok((Self { model, optimizer, best, done: step, skipped, local: None }, between))
    }

    /// Makes an optimizer step with these passes, if there are some; what is measured of it may still be on the device. One
    /// that is skipped changes neither the model nor what the optimizer remembers.
    ///
    /// # Errors
    /// Beside the model before the step: if its passes could not be made, or a rank ended.
    pub(super) fn step(
        mut self,
        passes: Result<Option<StepPasses<M::Batch>>, Error>,
        recipe: &TrainSettings,
        ranks: &Ranks,
        pending: &mut PendingSteps,
    ) -> (Self, Result<(), Error>) {
        let passes = match passes {
            Ok(Some(passes)) => passes,
            Ok(None) => return (self, Ok(())),
            Err(error) => return (self, Err(error)),
        };
        self.model.before_step(self.done, recipe.steps);
        if recipe.has_local_steps() {
            let stepped = self.step_of_shards(&passes, recipe, ranks, pending);
            return (self, stepped);
        }
        match self.gradients(&passes, recipe, ranks) {
            Ok((gradients, measured)) => (self.updated(gradients, measured, recipe, pending), Ok(())),
            Err(error) => (self, Err(error.into())),
        }
    }

    /// Gradients of a step out of those of all shards: this rank's, and where there are more, those of the others.
    fn gradients(
        &self,
        passes: &StepPasses<M::Batch>,
        recipe: &TrainSettings,
        ranks: &Ranks,
    ) -> Result<(GradientsParams, Measured), RankError> {
        let StepPasses(shards) = passes;
        let mut found: Vec<_> = (shards.iter())
            .map(|shard| shard_gradients(&self.model, [self.done, shard.index], &shard.passes, recipe))
            .collect();
        match found.pop() {
            // Nothing leaves the device.
            Some(only) if found.is_empty() && ranks.size() == 1 => Ok(only.of_step(&self.model, self.done)),
            last => {
                found.extend(last);
                exchanged(&self.model, found, self.done, ranks)
            }
        }
    }

    fn updated(
        mut self,
        gradients: GradientsParams,
        mut measured: Measured,
        recipe: &TrainSettings,
        pending: &mut PendingSteps,
    ) -> Self {
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
        pending.steps.push(measured);
        Self { model, done, skipped, ..self }
    }

    /// A step of each shard with a model of its own; where an exchange is due, they are one again.
    fn step_of_shards(
        &mut self,
        passes: &StepPasses<M::Batch>,
        recipe: &TrainSettings,
        ranks: &Ranks,
        pending: &mut PendingSteps,
    ) -> Result<(), Error> {
        let begun = self.local.take();
        let local = begun.unwrap_or_else(|| LocalSteps::of(&self.model, &self.optimizer, passes.0.len()));
        let local = local.step(passes, recipe, self.done);
        self.done += 1;
        if !recipe.exchanges_after(self.done) {
            self.local = Some(local);
            return Ok(());
        }
        let (joined, measured) = local.joined(Optimizer::new(recipe, &self.model), ranks)?;
        pending.steps.extend(measured);
        let joined = joined.ok_or_else(|| Error::diverged(self.done, f32::NAN))?;
        (self.model, self.optimizer) = (joined.model, joined.optimizer);
        // What is left of a base that fades has more digits than a state.
        self.model.before_step(self.done - 1, recipe.steps);
        Ok(())
    }

    /// Whether there is one model that can be looked at, and not one for each shard.
    pub(super) fn is_common(&self) -> bool {
        self.local.is_none()
    }

    /// Checks that all ranks hold the same trained values.
    ///
    /// # Errors
    /// If they do not, or a rank ended.
    pub(super) fn check_same(&self, ranks: &Ranks) -> Result<(), Error> {
        if ranks.size() == 1 {
            return Ok(());
        }
        let state = self.model.state();
        let bytes: Vec<u8> =
            state.iter().flat_map(|(name, data)| [name.as_bytes(), data.as_bytes()].concat()).collect();
        let hashes = ranks.all_gather(Topic::Hashes, sha256_hex(&bytes).into_bytes())?;
        let differing = (1..ranks.size()).filter(|&rank| hashes[rank] != hashes[0]);
        let differing: Vec<String> = differing.map(|rank| ranks.name(rank)).collect();
        if differing.is_empty() {
            return Ok(());
        }
        Err(RankError::Diverged { step: self.done, ranks: differing }.into())
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

    /// The result of the run; `reported` are the steps that the observer knows.
    pub(super) fn ended(
        self,
        reported: Reported,
        failure: Option<Error>,
        recipe: &TrainSettings,
        observer: &mut impl Observer<M>,
    ) -> Result<Trained<M>, Error> {
        let Some(best) = self.best.found else {
            let failure = failure.expect("a run without a failure was evaluated at its last step");
            if !failure.spoils_training() && reported.updates > 0 && is_finite(&self.model.state()) {
                observer.left_unscored(&self.model);
            }
            return Err(failure);
        };
        let interrupted = observer.stopped().filter(|_| reported.steps < recipe.steps);
        let (state, best_step) = (Arc::unwrap_or_clone(best.trained), best.step);
        Ok(Trained { last: self.model, best: state, best_step, steps: reported.steps, interrupted, failure })
    }
}
