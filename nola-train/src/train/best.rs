//! The best evaluation of a run.

use std::sync::Arc;

use burn::tensor::TensorData;
use nola_core::{Adapted, TrainedState};

use crate::Error;
use crate::model_with_loss::ModelWithLoss;

/// The best evaluation so far, and how many came since.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Best {
    /// It; none before the first one.
    pub found: Option<BestEvaluation>,
    /// Evaluations since.
    pub since: usize,
}

/// An evaluation with what it was made of.
#[derive(Debug, Clone, PartialEq)]
pub struct BestEvaluation {
    /// What is left of the base, if it fades: less is better, whatever the score.
    pub base_left: f64,
    /// The score; more is better.
    pub score: f64,
    /// Optimizer steps after which it was made.
    pub step: usize,
    /// The trained values.
    pub trained: Arc<TrainedState>,
}

/// How an evaluation compares with those before it.
pub(super) enum Standing {
    Best,
    NotBetter,
}

/// Whether every trained value is finite.
pub(super) fn is_finite(state: &TrainedState) -> bool {
    state.values().all(|data: &TensorData| data.iter::<f32>().all(f32::is_finite))
}

impl Best {
    /// Keeps the state of `model` if its score is the best one.
    ///
    /// # Errors
    /// If the score, or a number to be kept, is not finite: the last update can overflow though its gradient did not.
    pub(super) fn offer<M: ModelWithLoss>(
        &mut self,
        score: f64,
        step: usize,
        model: &Adapted<M>,
    ) -> Result<Standing, Error> {
        let diverged = || Error::diverged(step, f32::NAN);
        if !score.is_finite() {
            return Err(diverged());
        }
        let base_left = model.base_gain().map_or(0.0, |gain| gain.weight);
        let is_beaten = |best: &BestEvaluation| (-base_left, score) <= (-best.base_left, best.score);
        if self.found.as_ref().is_some_and(is_beaten) {
            self.since += 1;
            return Ok(Standing::NotBetter);
        }
        let trained = model.state();
        if !is_finite(&trained) {
            return Err(diverged());
        }
        let found = BestEvaluation { base_left, score, step, trained: Arc::new(trained) };
        *self = Self { found: Some(found), since: 0 };
        Ok(Standing::Best)
    }

    pub(super) fn is_stale(&self, early_stop: usize) -> bool {
        early_stop > 0 && self.since >= early_stop
    }
}
