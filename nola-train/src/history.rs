//! Loss, learning rate and scores of a run over its steps.

use crate::baseline::Baseline;
use crate::progress::Scores;

/// The course of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// What it is called in the legend.
    pub name: String,
    /// Its points, by step.
    pub points: Vec<HistoryPoint>,
    /// The step of the evaluation that is kept.
    pub kept_step: usize,
    /// What the trained model has to be better than.
    pub baseline: Baseline,
}

/// The state of a run after an optimizer step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HistoryPoint {
    /// Optimizer steps taken.
    pub step: usize,
    /// Training loss of the step, in nats; NaN if the step was skipped.
    pub train_loss: f32,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Scores on the validation images, where they were evaluated.
    pub validation: Option<Scores>,
}

impl HistoryPoint {
    /// Whether its step was skipped.
    pub fn is_skipped(&self) -> bool {
        self.train_loss.is_nan()
    }
}
