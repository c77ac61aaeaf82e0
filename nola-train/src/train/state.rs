//! Where a run stands, as a value.

use nola_core::TrainedState;
use serde::{Deserialize, Serialize};

use super::Best;
use super::optimizer::Moments;

/// Where training starts.
pub enum Start {
    /// At the first step.
    Beginning,
    /// Where another run stood; the same recipe goes on from there with the same bits, on a device that has them.
    At(Box<TrainingState>),
}

/// Where a run stands between two optimizer steps: with the recipe, all that it needs to go on as if it had never stopped.
///
/// The order of samples, augmentation, dropout, the learning rate and what is left of a base that fades are functions of the
/// step. Ranks that moved are in the names and shapes of the trained values.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingState {
    /// Optimizer steps made.
    pub step: usize,
    /// Whether what comes behind that step was done.
    pub between: Between,
    /// The trained values.
    pub trained: TrainedState,
    /// What the optimizer remembers.
    pub moments: Moments,
    /// The best evaluation so far.
    pub best: Best,
    /// Steps in a row, the last ones, that were skipped.
    pub skipped: usize,
}

/// What comes between two optimizer steps: ranks that move, and an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Between {
    /// It was done.
    Done,
    /// It is still to do.
    Due,
}
