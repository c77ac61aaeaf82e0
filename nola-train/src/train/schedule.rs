//! The learning rate as a pure function of the step.

use std::f64::consts::PI;

use crate::settings::{ScheduleKind, TrainSettings};

/// Course of a learning rate over a run.
///
/// # Source
/// `get_cosine_schedule_with_warmup` and its siblings of Hugging Face Transformers; the end value is theirs when 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    kind: ScheduleKind,
    /// Optimizer steps of the run.
    steps: usize,
    /// Optimizer steps from 0 to the peak.
    warmup: usize,
    peak: f64,
    end: f64,
}

impl Schedule {
    /// The course of the adapter's (and the base's) learning rate.
    pub fn new(train: &TrainSettings) -> Self {
        Self {
            kind: train.schedule,
            steps: train.steps,
            warmup: train.warmup,
            peak: train.learning_rate,
            end: train.min_learning_rate,
        }
    }

    /// The same course for the head: both rates stay in one proportion.
    pub fn for_head(train: &TrainSettings) -> Self {
        let ratio = train.head_learning_rate() / train.learning_rate;
        let main = Self::new(train);
        Self { peak: main.peak * ratio, end: main.end * ratio, ..main }
    }

    /// The learning rate of the optimizer step with this index, counted from 0.
    pub fn rate(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let left = self.steps.saturating_sub(self.warmup).max(1);
        let progress = ((step - self.warmup) as f64 / left as f64).min(1.0);
        let share = match self.kind {
            ScheduleKind::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
            ScheduleKind::Linear => 1.0 - progress,
            ScheduleKind::Constant => 1.0,
        };
        self.end + (self.peak - self.end) * share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: ScheduleKind, min_learning_rate: f64, steps_seen: &[usize]) -> Vec<f64> {
        let train = TrainSettings {
            schedule,
            steps: 10,
            warmup: 2,
            learning_rate: 1.0,
            min_learning_rate,
            ..TrainSettings::default()
        };
        let schedule = Schedule::new(&train);
        steps_seen.iter().map(|&step| schedule.rate(step)).collect()
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
        }
    }

    #[test]
    fn the_cosine_has_the_values_of_transformers() {
        let expected = [0.0, 0.5, 1.0, 0.9619397662556434, 0.5, 0.038060233744356645, 0.0];
        assert_close(&rates(ScheduleKind::Cosine, 0.0, &[0, 1, 2, 3, 6, 9, 10]), &expected);
    }

    #[test]
    fn the_line_has_the_values_of_transformers() {
        assert_close(&rates(ScheduleKind::Linear, 0.0, &[0, 1, 2, 6, 10]), &[0.0, 0.5, 1.0, 0.5, 0.0]);
    }

    #[test]
    fn the_constant_stays_after_the_warm_up() {
        assert_close(&rates(ScheduleKind::Constant, 0.0, &[0, 1, 2, 9]), &[0.0, 0.5, 1.0, 1.0]);
    }

    #[test]
    fn the_course_ends_at_the_least_rate_and_stays_there() {
        assert_close(&rates(ScheduleKind::Cosine, 0.1, &[6, 10, 50]), &[0.55, 0.1, 0.1]);
    }

    #[test]
    fn the_head_keeps_its_proportion() {
        let train = TrainSettings {
            head_learning_rate: Some(1e-2),
            min_learning_rate: 1e-4,
            ..TrainSettings::default()
        };
        let (main, head) = (Schedule::new(&train), Schedule::for_head(&train));
        for step in [0, 100, 999] {
            assert!((head.rate(step) / main.rate(step) - 10.0).abs() < 1e-9);
        }
    }
}
