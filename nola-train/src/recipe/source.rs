//! From text and overrides to a [`Recipe`], remembering where each key was written.

use std::path::{Path, PathBuf};

use nola_core::plain_words;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::check::check;
use super::error::{Finding, Findings, Place, Problem, RecipeError};
use super::node::TAG;
use super::{Recipe, keys};

/// Keys of which a recipe gives one: each pair says the same in two ways.
const RIVALS: [[&str; 2]; 2] =
    [["train.steps", "train.epochs"], ["data.validation", "data.validation_split"]];

/// What the user wrote: the recipe's text, and overrides in the order given.
pub(super) struct Source<'a> {
    text: &'a str,
    file: PathBuf,
    lines: Spanned<DeTable<'a>>,
    overrides: Vec<Override>,
}

struct Override {
    text: String,
    key: String,
    value: Value,
}

impl<'a> Source<'a> {
    /// Parses the text and the overrides; says nothing yet about keys and values.
    pub(super) fn new(text: &'a str, file: &Path, overrides: &[String]) -> Result<Self, RecipeError> {
        let lines = DeTable::parse(text).map_err(|error| syntax(text, file, &error))?;
        let overrides = overrides.iter().map(|text| Override::parse(text)).collect::<Result<_, _>>()?;
        Ok(Self { text, file: file.into(), lines, overrides })
    }

    /// The recipe, with the overrides applied.
    pub(super) fn recipe(&self) -> Result<Recipe, RecipeError> {
        let mut table: Table =
            toml::from_str(self.text).map_err(|error| syntax(self.text, &self.file, &error))?;
        for change in &self.overrides {
            forget_rival(&mut table, &change.key);
        }
        for change in &self.overrides {
            change.apply(&mut table)?;
        }
        self.check_rivals(&table)?;
        let read: Result<Recipe, _> = serde_path_to_error::deserialize(table.clone());
        let mut recipe = read.map_err(|error| self.unreadable(&table, &error))?;
        if value_at(&table, "train.learning_rate").is_none() {
            recipe.train.learning_rate = recipe.method.default_learning_rate();
        }
        Ok(recipe)
    }

    /// Everything that keeps a table from being a recipe; else what serde said.
    fn unreadable(&self, table: &Table, error: &serde_path_to_error::Error<toml::de::Error>) -> RecipeError {
        let mut findings = Findings::default();
        check(table, &mut findings);
        if findings.is_empty() {
            let problem = plain_words(error.inner().message().trim());
            findings.add(error.path().to_string(), Problem::Unreadable(problem));
        }
        self.located(RecipeError::Invalid(findings.into_vec()))
    }

    /// Refuses two keys that say the same in two ways: one of them would have no effect.
    fn check_rivals(&self, table: &Table) -> Result<(), RecipeError> {
        let is_given = |key: &str| value_at(table, key).is_some();
        let both = RIVALS.iter().filter(|keys| keys.iter().all(|key| is_given(key)));
        let findings: Vec<Finding> = (both)
            .map(|&[because, key]| {
                let problem = Problem::NoEffect { because };
                Finding { place: None, key: key.to_owned(), problem }
            })
            .collect();
        if findings.is_empty() { Ok(()) } else { Err(self.located(RecipeError::Invalid(findings))) }
    }

    /// Adds to each finding where its key was written, in the order of the file.
    pub(super) fn located(&self, error: RecipeError) -> RecipeError {
        match error {
            RecipeError::Invalid(mut findings) => {
                for finding in &mut findings {
                    finding.place = Some(self.place(&finding.key));
                }
                // What is not written anywhere comes last.
                findings.sort_by_key(|finding| match &finding.place {
                    Some(Place::File { line: Some(line), .. }) => (0, *line),
                    Some(Place::Override(_)) => (1, 0),
                    Some(Place::File { line: None, .. }) | None => (2, 0),
                });
                RecipeError::Invalid(findings)
            }
            other => other,
        }
    }

    /// Where `key` was written; the last override wins, as it does for the value.
    fn place(&self, key: &str) -> Place {
        let within = |change: &&Override| change.key == key || key.starts_with(&format!("{}.", change.key));
        match self.overrides.iter().rev().find(within) {
            Some(change) => Place::Override(change.text.clone()),
            None => Place::File { file: self.file.clone(), line: self.line(key) },
        }
    }

    /// The line of `key`, or of the innermost table around it that exists.
    fn line(&self, key: &str) -> Option<usize> {
        let mut table = self.lines.get_ref();
        let mut line = None;
        for part in key.split(['.', '[']) {
            let Some((name, value)) = table.iter().find(|(name, _)| name.get_ref() == part) else {
                break;
            };
            line = Some(line_at(self.text, name.span().start));
            let DeValue::Table(inner) = value.get_ref() else {
                break;
            };
            table = inner;
        }
        line
    }
}

impl Override {
    fn parse(text: &str) -> Result<Self, RecipeError> {
        let malformed = || RecipeError::Override { text: text.to_owned() };
        let (key, value) = text.split_once('=').ok_or_else(malformed)?;
        let key = key.trim();
        if key.is_empty() || key.split('.').any(str::is_empty) {
            return Err(malformed());
        }
        Ok(Self { text: text.to_owned(), key: key.to_owned(), value: parse_value(value.trim()) })
    }

    fn apply(&self, table: &mut Table) -> Result<(), RecipeError> {
        let malformed = || RecipeError::Override { text: self.text.clone() };
        let mut parts = self.key.split('.');
        let last = parts.next_back().ok_or_else(malformed)?;
        let mut inner = table;
        for part in parts {
            let value = inner.entry(part).or_insert_with(|| Value::Table(Table::new()));
            inner = value.as_table_mut().ok_or_else(malformed)?;
        }
        let before = inner.insert(last.to_owned(), self.value.clone());
        if self.key == "method.kind" && before.as_ref() != Some(&self.value) {
            forget_other_method(inner);
        }
        Ok(())
    }
}

/// The value of a key such as `train.steps`.
fn value_at<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let (section, name) = key.split_once('.')?;
    table.get(section)?.as_table()?.get(name)
}

/// Drops what the file says in the other way, so that `--set train.steps=100` decides where the file has epochs.
fn forget_rival(table: &mut Table, chosen: &str) {
    let rivals = RIVALS.iter().filter(|keys| keys.contains(&chosen)).flatten();
    for (section, name) in rivals.filter(|key| **key != chosen).filter_map(|key| key.split_once('.')) {
        if let Some(section) = table.get_mut(section).and_then(Value::as_table_mut) {
            section.remove(name);
        }
    }
}

/// Drops what the method just chosen does not have, so that `--set method.kind=lora` alone compares two methods.
///
/// The factor `alpha` means another thing to each method and goes back to its default.
fn forget_other_method(method: &mut Table) {
    // An unknown kind is reported later, with the kinds there are.
    let Some(known) = method.get(TAG).and_then(Value::as_str).and_then(keys::of_method) else { return };
    method.retain(|key, _| known.iter().any(|name| name == key) && key != "alpha");
}

/// A TOML value; a shell takes quotes away, so what is not TOML counts as text.
fn parse_value(text: &str) -> Value {
    let parsed = toml::from_str::<Table>(&format!("value = {text}"));
    parsed.ok().and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.to_owned()))
}

fn syntax(text: &str, file: &Path, error: &toml::de::Error) -> RecipeError {
    let line = error.span().map(|span| line_at(text, span.start));
    let place = Place::File { file: file.into(), line };
    RecipeError::Syntax { place, problem: error.message().to_owned() }
}

/// The line of a byte, counted from 1.
fn line_at(text: &str, byte: usize) -> usize {
    text.as_bytes()[..byte.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
}
