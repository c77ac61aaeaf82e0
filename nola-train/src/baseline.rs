//! What a trained model has to be better than.

use serde::{Deserialize, Serialize};

use crate::exact;
use crate::progress::Scores;

/// What a trained model has to be better than.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// Saying the most frequent class of the validation data whatever the image.
    MostFrequentClass {
        /// Share of the validation images that are of it, 0 to 1.
        #[serde(with = "exact")]
        accuracy: f64,
    },
    /// The model before the first step.
    BeforeTraining(Scores),
}

/// A baseline as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaselineScores {
    what: String,
    accuracy: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    perplexity: Option<f64>,
}

impl Baseline {
    /// The most frequent of these classes.
    pub fn most_frequent(labels: impl Iterator<Item = usize>) -> Self {
        let (mut counts, mut all) = (Vec::new(), 0usize);
        for label in labels {
            counts.resize(counts.len().max(label + 1), 0usize);
            counts[label] += 1;
            all += 1;
        }
        let most = counts.into_iter().max().unwrap_or(0);
        Self::MostFrequentClass { accuracy: most as f64 / all.max(1) as f64 }
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Self::MostFrequentClass { .. } => "most frequent class",
            Self::BeforeTraining(_) => "before training",
        }
    }

    /// Share of right answers, 0 to 1.
    pub fn accuracy(&self) -> f64 {
        match self {
            Self::MostFrequentClass { accuracy } => *accuracy,
            Self::BeforeTraining(scores) => scores.accuracy,
        }
    }

    /// The scores, where a model gave them.
    pub fn scores(&self) -> Option<&Scores> {
        match self {
            Self::MostFrequentClass { .. } => None,
            Self::BeforeTraining(scores) => Some(scores),
        }
    }

    /// As JSON.
    pub fn to_json(self) -> BaselineScores {
        let scores = self.scores();
        BaselineScores {
            what: self.name().to_owned(),
            accuracy: self.accuracy(),
            loss: scores.map(|scores| scores.loss),
            perplexity: scores.map(Scores::perplexity),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_class_is_counted() {
        for (labels, accuracy) in [(vec![0, 1, 1, 2], 0.5), (vec![3, 3], 1.0), (vec![], 0.0)] {
            let found = Baseline::most_frequent(labels.into_iter());
            assert_eq!(found, Baseline::MostFrequentClass { accuracy });
        }
    }
}
