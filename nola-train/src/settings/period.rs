//! A distance between steps.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A number of optimizer steps after which something is due again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Period(pub usize);

impl Period {
    /// Never due.
    pub const NEVER: Self = Self(0);

    /// Whether it is due after `step` optimizer steps.
    pub fn is_due(self, step: usize) -> bool {
        self.0 > 0 && step > 0 && step.is_multiple_of(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_due_at_its_multiples_and_never_at_the_start() {
        let due: Vec<usize> = (0..=9).filter(|&step| Period(3).is_due(step)).collect();
        assert_eq!(due, [3, 6, 9]);
        assert!(!Period::NEVER.is_due(0) && !Period::NEVER.is_due(5));
    }
}
