//! What became of the rows of a data set.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What became of the rows of a data set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextReport {
    /// Rows read, bad ones included.
    pub rows: usize,
    /// Rows that cannot be used.
    pub bad: usize,
    /// Samples that remain.
    pub samples: usize,
    /// Samples whose end was cut off.
    pub cut: usize,
    /// Samples dropped because they are too long.
    pub dropped_long: usize,
    /// Samples dropped because nothing in them is learned, for instance because all of it was cut off.
    pub dropped_empty: usize,
    /// Tokens that the model is fed with in one epoch, without padding.
    pub tokens: usize,
    /// Tokens that are learned in one epoch.
    pub targets: usize,
    /// Tokens of the longest sample before it was cut or dropped.
    pub longest: usize,
    /// Fields that say something and that the chat template does not write, with the number of rows that have them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unread: BTreeMap<String, usize>,
}

impl fmt::Display for TextReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, bad, samples, cut, dropped_long, dropped_empty, tokens, targets, longest, unread } =
            self;
        write!(f, "{rows} rows read, {bad} bad; {samples} samples")?;
        for (count, what) in [
            (cut, "cut at the end"),
            (dropped_long, "dropped as too long"),
            (dropped_empty, "dropped with nothing to learn"),
        ] {
            if *count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        write!(f, "; {tokens} tokens, {targets} of them learned; longest sample {longest} tokens")?;
        for (field, rows) in unread {
            write!(f, "; `{field}` of {rows} rows is not written by the chat template")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_or_dropped_is_said_only_if_there_is_any() {
        let report =
            TextReport { rows: 9, samples: 7, tokens: 70, targets: 35, longest: 12, ..TextReport::default() };
        assert_eq!(
            report.to_string(),
            "9 rows read, 0 bad; 7 samples; 70 tokens, 35 of them learned; longest sample 12 tokens"
        );
        let unread = BTreeMap::from([("name".to_owned(), 5)]);
        let report = TextReport { bad: 1, cut: 2, dropped_long: 3, dropped_empty: 4, unread, ..report };
        assert_eq!(
            report.to_string(),
            "9 rows read, 1 bad; 7 samples, 2 cut at the end, 3 dropped as too long, 4 dropped with nothing to learn; \
             70 tokens, 35 of them learned; longest sample 12 tokens; `name` of 5 rows is not written by the chat template"
        );
    }
}
