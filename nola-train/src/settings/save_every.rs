//! How often a run is saved: a number of steps, or a time.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::period::Period;

/// Units of a time, with their seconds.
const UNITS: [(&str, u64); 3] = [("h", 3600), ("m", 60), ("s", 1)];
/// More seconds than any run takes.
const MOST_SECONDS: u64 = 366 * 24 * 3600;

/// Distance between two checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenDistance", into = "WrittenDistance")]
pub enum SaveEvery {
    /// So many optimizer steps; 0 is never.
    Steps(Period),
    /// So much time.
    Time(Duration),
}

/// A distance as a recipe writes it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum WrittenDistance {
    Steps(usize),
    Time(#[schemars(extend("x-type" = "a time such as \"10m\""))] String),
}

impl SaveEvery {
    /// Never.
    pub const NEVER: Self = Self::Steps(Period::NEVER);

    /// Whether a checkpoint is due after `step` optimizer steps, `since` the last one or the first step.
    pub fn is_due(self, step: usize, since: Duration) -> bool {
        match self {
            Self::Steps(steps) => steps.is_due(step),
            Self::Time(time) => since >= time,
        }
    }
}

impl Default for SaveEvery {
    fn default() -> Self {
        Self::Time(Duration::from_secs(600))
    }
}

impl fmt::Display for SaveEvery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(Period(steps)) => write!(f, "{steps}"),
            Self::Time(time) => {
                let whole = UNITS.into_iter().find(|(_, seconds)| time.as_secs().is_multiple_of(*seconds));
                let (unit, seconds) = whole.unwrap_or(("s", 1));
                write!(f, "{}{unit}", time.as_secs() / seconds)
            }
        }
    }
}

impl TryFrom<WrittenDistance> for SaveEvery {
    type Error = String;

    fn try_from(written: WrittenDistance) -> Result<Self, String> {
        let text = match written {
            WrittenDistance::Steps(steps) => return Ok(Self::Steps(Period(steps))),
            WrittenDistance::Time(text) => text,
        };
        let time = || {
            let (unit, seconds) = UNITS.into_iter().find(|(unit, _)| text.ends_with(unit))?;
            let count: u64 = text.strip_suffix(unit)?.trim().parse().ok()?;
            count.checked_mul(seconds).filter(|seconds| (1..=MOST_SECONDS).contains(seconds))
        };
        let seconds = time().ok_or_else(|| {
            format!("`{text}` is not a distance; use a time such as \"10m\", \"90s\" or \"2h\", or a number of steps")
        })?;
        Ok(Self::Time(Duration::from_secs(seconds)))
    }
}

impl From<SaveEvery> for WrittenDistance {
    fn from(distance: SaveEvery) -> Self {
        match distance {
            SaveEvery::Steps(Period(steps)) => Self::Steps(steps),
            SaveEvery::Time(_) => Self::Time(distance.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<SaveEvery, String> {
        SaveEvery::try_from(WrittenDistance::Time(text.to_owned()))
    }

    #[test]
    fn a_time_is_written_as_it_is_read() {
        for text in ["10m", "90s", "2h", "1s"] {
            assert_eq!(read(text).expect("a time").to_string(), text);
        }
        assert_eq!(read("120s").expect("a time").to_string(), "2m");
    }

    #[test]
    fn what_is_no_time_says_what_to_write() {
        for text in ["", "10", "0m", "-1m", "m", "1.5h", "10x", "99999999999999999h"] {
            assert!(read(text).expect_err("no time").contains("such as \"10m\""), "{text}");
        }
    }

    #[test]
    fn steps_are_due_at_their_multiples_and_a_time_once_it_has_passed() {
        let steps = SaveEvery::Steps(Period(5));
        assert!(steps.is_due(10, Duration::ZERO) && !steps.is_due(11, Duration::MAX));
        let time = SaveEvery::Time(Duration::from_secs(60));
        assert!(time.is_due(1, Duration::from_secs(60)) && !time.is_due(1, Duration::from_secs(59)));
        assert!(!SaveEvery::NEVER.is_due(10, Duration::MAX));
    }
}
