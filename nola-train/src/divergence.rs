//! Training that goes wrong though every loss is finite.

use crate::history::History;

/// A loss so many times that of guessing, or that of the first step, and so many nats above it, is no learning.
const TIMES_GUESSING: f32 = 1.5;
const NATS_ABOVE_GUESSING: f32 = 1.0;
/// Nor is one so many times, and so many nats above, the loss of the first step or the best evaluation before.
const TIMES_LOWEST: f32 = 2.0;
const NATS_ABOVE_LOWEST: f32 = 2.0;

/// Finds losses that are far too high.
#[derive(Debug, Clone)]
pub struct Divergence {
    /// Loss of guessing, in nats.
    guessing: f32,
    /// Training loss of the first step.
    first: Option<f32>,
    /// The lowest validation loss so far, or the loss of the first step.
    lowest: f32,
    /// Mean training loss before that evaluation.
    at_lowest: f32,
    /// Sum and number of the training losses since the last evaluation.
    since: (f32, usize),
    /// Their mean, or that before the last evaluation.
    recent: f32,
    /// What was found.
    pub warnings: Vec<String>,
}

impl Divergence {
    /// Of a model that chooses among so many answers.
    pub fn among(choices: usize) -> Self {
        let guessing = (choices.max(2) as f32).ln();
        let highest = f32::INFINITY;
        Self {
            guessing,
            first: None,
            lowest: highest,
            at_lowest: highest,
            since: (0.0, 0),
            recent: highest,
            warnings: Vec::new(),
        }
    }

    /// Of such a model that has already made these steps.
    pub fn of(choices: usize, history: &History) -> Self {
        let mut divergence = Self::among(choices);
        for point in &history.points {
            if !point.is_skipped() {
                divergence.stepped(point.train_loss);
            }
            if let Some(scores) = point.validation {
                divergence.evaluated(point.step, scores.loss);
            }
        }
        divergence
    }

    /// Takes the training loss of a step.
    pub fn stepped(&mut self, loss: f32) {
        if self.first.is_none() {
            self.first = Some(loss);
            (self.lowest, self.at_lowest) = (loss, loss);
        }
        self.since = (self.since.0 + loss, self.since.1 + 1);
        self.recent = self.since.0 / self.since.1 as f32;
    }

    /// Takes a validation loss, and says what is wrong with it; once, or a run that went wrong would say nothing else.
    pub fn evaluated(&mut self, step: usize, loss: f32) -> Option<&str> {
        let (lowest, learns) = (self.lowest, self.recent < self.at_lowest);
        self.since = (0.0, 0);
        if loss < lowest {
            (self.lowest, self.at_lowest) = (loss, self.recent);
        }
        let start = self.guessing.max(self.first.unwrap_or(0.0));
        let above = if loss > (TIMES_GUESSING * start).max(start + NATS_ABOVE_GUESSING) {
            format!("far above that of guessing ({:.4})", self.guessing)
        } else if !learns && loss > (TIMES_LOWEST * lowest).max(lowest + NATS_ABOVE_LOWEST) {
            format!("far above the lowest before ({lowest:.4})")
        } else {
            return None;
        };
        if !self.warnings.is_empty() {
            return None;
        }
        let why = if learns {
            ", though the training loss falls: it overfits; train fewer steps, or on more data"
        } else {
            ": training diverges; lower train.learning_rate or set train.clip_norm = 1.0"
        };
        self.warnings.push(format!("the validation loss after step {step} is {loss:.4}, {above}{why}"));
        self.warnings.last().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warned(choices: usize, first: f32, evaluations: &[f32]) -> Vec<bool> {
        let mut divergence = Divergence::among(choices);
        divergence.stepped(first);
        evaluations.iter().map(|&loss| divergence.evaluated(1, loss).is_some()).collect()
    }

    #[test]
    fn a_loss_far_above_guessing_is_told() {
        for (choices, first, loss) in
            [(3, 1.1, 1.4e6), (3, 1.1, 2.2), (10, 2.3, 4.0), (96, 4.0, 9.0), (50257, 3.0, 40.0)]
        {
            assert_eq!(warned(choices, first, &[loss]), [true], "{loss} among {choices}");
        }
    }

    #[test]
    fn a_loss_far_above_the_start_or_the_best_one_is_told_once() {
        assert_eq!(warned(50257, 3.5, &[10.0]), [true]);
        assert_eq!(warned(50257, 3.5, &[3.0, 2.5, 10.8, 10.9, 11.0]), [false, false, true, false, false]);
        assert_eq!(warned(100, 0.5, &[0.2, 2.5]), [false, true]);
    }

    #[test]
    fn training_that_learns_or_overfits_a_little_is_left_alone() {
        assert_eq!(warned(10, 2.4, &[2.2, 0.4, 0.5, 1.1]), [false; 4]);
        assert_eq!(warned(2, 0.7, &[0.6, 0.9]), [false; 2]);
        assert_eq!(warned(2, 0.7, &[1.6]), [false]);
        // A model that was worse than guessing when it began, and got better.
        assert_eq!(warned(96, 12.0, &[11.0, 8.0, 5.0]), [false; 3]);
    }

    #[test]
    fn a_loss_that_rises_while_the_training_loss_falls_is_no_divergence() {
        let mut divergence = Divergence::among(100);
        for (step, (training, validation)) in
            [(4.0, 3.5), (2.0, 0.8), (0.2, 2.0), (0.01, 3.93)].into_iter().enumerate()
        {
            divergence.stepped(training);
            assert_eq!(divergence.evaluated(step, validation), None, "overfitting is told at the end");
        }
        divergence.stepped(0.001);
        let warning = divergence.evaluated(5, 9.0).expect("far above guessing");
        assert!(warning.contains("it overfits") && !warning.contains("diverges"), "{warning}");
    }
}
