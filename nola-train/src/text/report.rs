//! What became of the rows of a data set.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Note, Sample, Unknown};
use crate::portion::Drawn;
use crate::printable::printable;

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
    /// Samples dropped because all that is learned of them would be cut off: what stands before it is too long.
    pub dropped_unlearned: usize,
    /// Samples and documents dropped because there is nothing to learn in them.
    pub dropped_empty: usize,
    /// Tokens that the model is fed with in one epoch, without padding.
    pub tokens: usize,
    /// Tokens that are learned in one epoch.
    pub targets: usize,
    /// Tokens of the longest sample before it was cut or dropped; more, if texts were shortened.
    pub longest: usize,
    /// Texts so long that only their first tokens were made.
    pub shortened: usize,
    /// Samples dropped because each of their answers is marked as not to be learned.
    pub dropped_marked: usize,
    /// What of the rows is not learned from as it stands there: names, each with the number of rows that have it.
    pub notes: BTreeMap<Note, BTreeMap<String, usize>>,
    /// How much of the data this is; absent where it is all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drawn: Option<Drawn>,
    /// Tokens that stand for what the tokenizer does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<Box<Unknown>>,
}

/// Names of one kind that are listed; the others are counted together.
const LISTED_NAMES: usize = 24;
const OTHERS: &str = "others";

impl TextReport {
    /// Counts a row that has `name`.
    pub(super) fn count(&mut self, note: Note, name: &str) {
        let names = self.notes.entry(note).or_default();
        let name = if names.len() < LISTED_NAMES || names.contains_key(name) { name } else { OTHERS };
        *names.entry(name.to_owned()).or_default() += 1;
    }

    /// The same for these samples.
    pub(super) fn counted<'a>(self, samples: impl ExactSizeIterator<Item = &'a Sample> + Clone) -> Self {
        Self {
            samples: samples.len(),
            tokens: samples.clone().map(Sample::positions).sum(),
            targets: samples.clone().map(Sample::targets).sum(),
            unknown: self.unknown.and_then(|unknown| unknown.counted(samples).map(Box::new)),
            ..self
        }
    }

    /// Why the rows gave no sample, with what to do about it; `max_tokens` is the length that samples may have.
    pub(super) fn reasons(&self, max_tokens: usize) -> String {
        let longest = self.longest_sample();
        let of_them = [
            (self.bad, "cannot be used, and data.text.on_bad_row = \"skip\" leaves them out".to_owned()),
            (
                self.dropped_long,
                format!(
                    "dropped as longer than data.text.max_tokens = {max_tokens} (the longest has {longest}); raise it as far as \
                     the model allows, or set data.text.on_long = \"cut\""
                ),
            ),
            (
                self.dropped_unlearned,
                format!(
                    "dropped because their prompt alone fills data.text.max_tokens = {max_tokens} (the longest row has \
                     {longest}), so that all that is learned would be cut off; raise it as far as the model allows, or shorten \
                     the prompts"
                ),
            ),
            (
                self.dropped_empty,
                "dropped because there is nothing to learn in them; are the texts empty?".to_owned(),
            ),
            (
                self.dropped_marked,
                "dropped because all their answers are marked as not to be learned (a `weight` of 0, or `train` that is false); \
                 mark those that are, or set data.text.loss = \"all\""
                    .to_owned(),
            ),
        ];
        let of_them =
            of_them.into_iter().filter(|(count, _)| *count > 0).map(|(count, why)| format!("{count} {why}"));
        let of_them = of_them.collect::<Vec<_>>().join("; ");
        match (self.rows, of_them.as_str()) {
            (0, _) => "there are no rows in it; is it empty, or are all its lines blank?".to_owned(),
            (rows, "") => format!("{rows} rows read, and none holds an example; is data.format right?"),
            (rows, of_them) => format!("{rows} rows read; {of_them}"),
        }
    }

    /// The length of the longest sample, for messages.
    pub(super) fn longest_sample(&self) -> String {
        let more = if self.shortened > 0 { "more than " } else { "" };
        format!("{more}{} tokens", self.longest)
    }
}

impl fmt::Display for TextReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, bad, samples, tokens, targets, .. } = self;
        write!(f, "{rows} rows read, {bad} bad; {samples} samples")?;
        for (count, what) in [
            (self.cut, "cut at the end"),
            (self.dropped_long, "dropped as too long"),
            (self.dropped_unlearned, "dropped with too long a prompt"),
            (self.dropped_empty, "dropped with nothing to learn"),
            (self.dropped_marked, "dropped with no answer that is to be learned"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        write!(f, "; {tokens} tokens, {targets} of them learned; longest sample {}", self.longest_sample())?;
        for (note, names) in &self.notes {
            let listed = names.iter().map(|(name, rows)| format!("`{}` of {rows} rows", printable(name)));
            let listed = listed.collect::<Vec<_>>().join(", ");
            write!(f, "; {listed} {} {}", if names.len() == 1 { "is" } else { "are" }, note.reason())?;
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
        let report = TextReport {
            bad: 1,
            cut: 2,
            dropped_long: 3,
            dropped_unlearned: 5,
            dropped_empty: 4,
            shortened: 1,
            dropped_marked: 6,
            notes: BTreeMap::from([(Note::Unread, BTreeMap::from([("name".to_owned(), 5)]))]),
            ..report
        };
        assert_eq!(
            report.to_string(),
            "9 rows read, 1 bad; 7 samples, 2 cut at the end, 3 dropped as too long, 5 dropped with too long a prompt, \
             4 dropped with nothing to learn, 6 dropped with no answer that is to be learned; 70 tokens, 35 of them learned; longest sample more than 12 tokens; \
             `name` of 5 rows is not read by the chat template"
        );
    }

    #[test]
    fn names_are_counted_and_the_many_are_counted_together() {
        let mut report = TextReport::default();
        (0..100).for_each(|name| report.count(Note::Unused, &name.to_string()));
        report.count(Note::AsSystem, "developer");
        let names = &report.notes[&Note::Unused];
        assert_eq!((names.len(), names[OTHERS]), (LISTED_NAMES + 1, 100 - LISTED_NAMES));
        let text = report.to_string();
        assert!(
            text.contains("`0` of 1 rows, `1` of 1 rows, `10`")
                && text.contains(" are not used; `developer`"),
            "{text}"
        );
        let stored = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<TextReport>(&stored).unwrap(), report);
    }
}
