//! What a run remembers of its course, beside the state of its training.

use burn::tensor::TensorData;
use nola_core::TrainedState;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::baseline::Baseline;
use crate::history::{History, HistoryPoint};
use crate::progress::Scores;
use crate::train::TrainingState;

/// Names of the numbers of every step.
const LOSS: &str = "loss";
const RATE: &str = "learning_rate";

/// The course of a run so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Course {
    /// Loss, rate and scores over the steps.
    pub history: History,
    /// Seconds of training, evaluations included.
    pub seconds: f64,
}

/// A run that goes on where it stood.
#[derive(Debug, Clone)]
pub struct Resumed {
    /// Where its training stands.
    pub state: TrainingState,
    /// What it has seen.
    pub course: Course,
}

#[derive(Serialize, Deserialize)]
struct StoredCourse {
    name: String,
    seconds: f64,
    baseline: Baseline,
    evaluations: Vec<StoredEvaluation>,
}

#[derive(Serialize, Deserialize)]
struct StoredEvaluation {
    step: usize,
    #[serde(flatten)]
    scores: Scores,
}

impl Course {
    /// As JSON, and numbers of every step.
    pub fn to_stored(&self) -> (Value, TrainedState) {
        let points = &self.history.points;
        let evaluation =
            |point: &HistoryPoint| Some(StoredEvaluation { step: point.step, scores: point.validation? });
        let stored = StoredCourse {
            name: self.history.name.clone(),
            seconds: self.seconds,
            baseline: self.history.baseline,
            evaluations: points.iter().filter_map(evaluation).collect(),
        };
        let losses: Vec<f32> = points.iter().map(|point| point.train_loss).collect();
        let rates: Vec<f64> = points.iter().map(|point| point.learning_rate).collect();
        let numbers = [
            (LOSS.to_owned(), TensorData::new(losses, [points.len()])),
            (RATE.to_owned(), TensorData::new(rates, [points.len()])),
        ];
        (serde_json::to_value(stored).expect("numbers and text"), numbers.into())
    }

    /// What [`Course::to_stored`] made.
    ///
    /// # Errors
    /// If it is something else.
    pub fn from_stored(json: &Value, numbers: &TrainedState) -> Result<Self, String> {
        let stored = StoredCourse::deserialize(json).map_err(|error| error.to_string())?;
        let absent = |name: &str| format!("the numbers `{name}` of the steps cannot be read");
        let losses =
            numbers.get(LOSS).and_then(|data| data.as_slice::<f32>().ok()).ok_or_else(|| absent(LOSS))?;
        let rates =
            numbers.get(RATE).and_then(|data| data.as_slice::<f64>().ok()).ok_or_else(|| absent(RATE))?;
        let point = |(index, (&train_loss, &learning_rate)): (usize, (&f32, &f64))| HistoryPoint {
            step: index + 1,
            train_loss,
            learning_rate,
            validation: None,
        };
        let mut points: Vec<HistoryPoint> = losses.iter().zip(rates).enumerate().map(point).collect();
        for StoredEvaluation { step, scores } in stored.evaluations {
            let point = step.checked_sub(1).and_then(|index| points.get_mut(index));
            point.ok_or_else(|| format!("there is no step {step}"))?.validation = Some(scores);
        }
        let history = History { name: stored.name, points, kept_step: 0, baseline: stored.baseline };
        Ok(Self { history, seconds: stored.seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Target;

    #[test]
    fn a_course_comes_back_to_the_bit() {
        let scores = Scores { target: Target::Token, loss: 1.0 / 3.0, accuracy: 0.1 + 0.2, answers: 7 };
        let point = |step, validation| HistoryPoint {
            step,
            train_loss: 1.0 / step as f32,
            learning_rate: 1e-3 / step as f64,
            validation,
        };
        let points = vec![point(1, None), point(2, Some(scores)), point(3, None)];
        for baseline in
            [Baseline::BeforeTraining(scores), Baseline::MostFrequentClass { accuracy: 1.0 / 3.0 }]
        {
            let history = History { name: "nola".to_owned(), points: points.clone(), kept_step: 0, baseline };
            let course = Course { history, seconds: 1.5 };
            let (json, numbers) = course.to_stored();
            let json = serde_json::from_slice(&serde_json::to_vec(&json).expect("JSON")).expect("JSON");
            assert_eq!(Course::from_stored(&json, &numbers), Ok(course));
        }
    }
}
