//! What an optimizer step was made of, in words.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Samples that a message names; the others are counted.
const NAMED: usize = 8;

/// The samples of an optimizer step: files with their rows, or images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepSamples(pub Vec<String>);

impl StepSamples {
    /// Whether nothing is known of them.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for StepSamples {
    /// Something that follows the number of the step; empty if nothing is known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return Ok(());
        }
        let (named, more) = (&self.0[..self.0.len().min(NAMED)], self.0.len().saturating_sub(NAMED));
        write!(f, " (samples: {}", named.join(", "))?;
        if more > 0 {
            write!(f, " and {more} more")?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_samples_are_named_and_the_others_counted() {
        let of = |count: usize| StepSamples((1..=count).map(|row| format!("a:{row}")).collect()).to_string();
        assert_eq!(of(0), "");
        assert_eq!(of(2), " (samples: a:1, a:2)");
        assert_eq!(of(10), " (samples: a:1, a:2, a:3, a:4, a:5, a:6, a:7, a:8 and 2 more)");
    }
}
