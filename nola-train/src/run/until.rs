//! Up to where the logs of a run that goes on stay as they are.

use super::log::StepLine;
use crate::train::Between;

/// Up to where the logs of a run that goes on stay as they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Until<'a> {
    /// Optimizer steps made.
    pub step: usize,
    /// Whether the evaluation after the last of them was made.
    pub between: Between,
    /// The line of that step; none before the first one, and where it is lost.
    pub newest: Option<&'a StepLine>,
}
