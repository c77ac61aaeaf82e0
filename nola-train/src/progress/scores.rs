//! How well a model does on the validation data.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::exact;
use crate::interval::wilson;

/// What a model answers: the class of an image, or the next token of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// One class for each image.
    Image,
    /// One token for each place of a text.
    Token,
}

impl Target {
    /// Many of them, for people.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Image => "images",
            Self::Token => "tokens",
        }
    }
}

/// How well a model does on the validation data.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// What was answered.
    pub target: Target,
    /// Mean cross entropy, in nats per image or token.
    #[serde(with = "exact")]
    pub loss: f32,
    /// Share of the answers that are right, from 0 to 1.
    #[serde(with = "exact")]
    pub accuracy: f64,
    /// How many answers there were.
    pub answers: usize,
}

impl Scores {
    /// What the best evaluation has most of: right answers of a classifier, probability of a text.
    pub fn rank(&self) -> f64 {
        match self.target {
            Target::Image => self.accuracy,
            Target::Token => -f64::from(self.loss),
        }
    }

    /// Whether they mean anything: where the model answers with NaN, some accuracy may still be counted.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.accuracy.is_finite()
    }

    /// Where the accuracy lies with a probability of 95 %; absent for the tokens of a text, which depend on each other.
    pub fn interval(&self) -> Option<[f64; 2]> {
        match self.target {
            Target::Image => Some(wilson(self.accuracy, self.answers)),
            Target::Token => None,
        }
    }

    /// e to the loss: among so many equally likely tokens the model is undecided.
    pub fn perplexity(&self) -> f64 {
        f64::from(self.loss).exp()
    }

    /// One sentence, for the card of an adapter.
    pub fn summary(&self) -> String {
        match self.target {
            Target::Image => format!("Validation accuracy {:.2} %.", 100.0 * self.accuracy),
            Target::Token => format!("Best evaluation: {self}."),
        }
    }

    /// The score that a line of progress has room for.
    pub(super) fn short(&self) -> String {
        match self.target {
            Target::Image => format!("accuracy {:.1} %", 100.0 * self.accuracy),
            Target::Token => format!("validation loss {:.4}", self.loss),
        }
    }
}

impl fmt::Display for Scores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "validation loss {:.4}, ", self.loss)?;
        match self.target {
            Target::Image => write!(f, "accuracy {:.1} %", 100.0 * self.accuracy),
            Target::Token => {
                let (perplexity, right) = (self.perplexity(), 100.0 * self.accuracy);
                write!(f, "perplexity {perplexity:.2}, token accuracy {right:.1} %")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_judged_by_its_loss() {
        let scores = Scores { target: Target::Token, loss: 0.5, accuracy: 0.7, answers: 9 };
        assert_eq!(scores.to_string(), "validation loss 0.5000, perplexity 1.65, token accuracy 70.0 %");
        assert!(scores.rank() > Scores { loss: 0.6, accuracy: 0.9, ..scores }.rank());
        assert_eq!(scores.interval(), None);
    }
}
