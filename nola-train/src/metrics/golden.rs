//! Texts with scores that other implementations gave them, for the tests of this folder.

use std::collections::HashMap;

use serde_json::Value;

use super::words::{mteval_lower, whitespace};
use super::{Corpus, Segment};
use crate::shared::shared;

/// Texts and what others say of them.
pub(super) struct Golden {
    pub name: String,
    pub hypotheses: Vec<String>,
    pub references: Vec<Vec<String>>,
    pub expected: Value,
}

impl Golden {
    pub fn corpus(&self) -> Corpus<'_> {
        Corpus::new(&self.hypotheses, &self.references).expect("the golden texts pair up")
    }

    /// Lower-cased words between white space.
    pub fn split(&self) -> Vec<Segment<String>> {
        self.corpus().segments(|text| whitespace(&text.to_lowercase()))
    }

    /// The tokens over which `e2e-metrics/expected.json` has its caption scores.
    pub fn simple_tokens(&self) -> Vec<Segment<String>> {
        let marks = ["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"];
        self.corpus().segments(|text| {
            let mut tokens = mteval_lower(text);
            tokens.retain(|token| !marks.contains(&token.as_str()));
            tokens
        })
    }

    /// Asserts that `actual` is the number at `pointer` (RFC 6901), to ten digits.
    pub fn assert_has(&self, actual: f64, pointer: &str) {
        let expected = self.expected.pointer(pointer).and_then(Value::as_f64);
        let expected = expected.unwrap_or_else(|| panic!("{} has no number at {pointer}", self.name));
        assert_close(actual, expected, &format!("{} {pointer}", self.name));
    }

    /// As `assert_has`, for a list of numbers.
    pub fn assert_has_all(&self, actual: &[f64], pointer: &str) {
        let listed = self.expected.pointer(pointer).and_then(Value::as_array).map(Vec::len);
        assert_eq!(Some(actual.len()), listed, "{} {pointer}", self.name);
        for (index, actual) in actual.iter().enumerate() {
            self.assert_has(*actual, &format!("{pointer}/{index}"));
        }
    }
}

pub(super) fn assert_close(actual: f64, expected: f64, what: &str) {
    let error = (actual - expected).abs();
    assert!(error <= 1e-10 * expected.abs().max(1.0), "{what}: {actual} instead of {expected}");
}

/// The cases of `fixtures/metrics/text.json`; none where only the workspace was checked out.
pub(super) fn cases() -> Vec<Golden> {
    let Some(text) = text("fixtures/metrics/text.json") else { return Vec::new() };
    let file: Value = serde_json::from_str(&text).unwrap();
    let cases = file["cases"].as_object().unwrap();
    let golden = |(name, case): (&String, &Value)| Golden {
        name: name.clone(),
        hypotheses: serde_json::from_value(case["hyp"].clone()).unwrap(),
        references: serde_json::from_value(case["refs"].clone()).unwrap(),
        expected: case["expected"].clone(),
    };
    cases.iter().map(golden).collect()
}

/// The example of the E2E scorer, and the E2E development set with the first reference of each meaning as hypothesis.
pub(super) fn e2e() -> Vec<Golden> {
    e2e_example().into_iter().chain(e2e_devset()).collect()
}

pub(super) fn e2e_example() -> Option<Golden> {
    let expected = e2e_expected("example")?;
    let hypotheses = text("assets/parity/e2e-metrics/baseline-output.txt")?;
    let references = text("assets/parity/e2e-metrics/devel-conc.txt")?;
    let lines = |text: &str| text.lines().map(str::to_owned).collect();
    let groups = references.split("\n\n").filter(|group| !group.trim().is_empty());
    Some(Golden {
        name: "example".to_owned(),
        hypotheses: lines(&hypotheses),
        references: groups.map(lines).collect(),
        expected,
    })
}

pub(super) fn e2e_devset() -> Option<Golden> {
    let expected = e2e_expected("devset_first_reference_against_the_others")?;
    let table = text("assets/text/e2e/devset.csv")?;
    let mut places = HashMap::new();
    let mut groups: Vec<Vec<String>> = Vec::new();
    for row in csv::Reader::from_reader(table.as_bytes()).deserialize() {
        let (meaning, reference): (String, String) = row.unwrap();
        let place = *places.entry(meaning).or_insert(groups.len());
        if place == groups.len() {
            groups.push(Vec::new());
        }
        groups[place].push(reference);
    }
    groups.retain(|group| group.len() > 1);
    let hypotheses = groups.iter_mut().map(|group| group.remove(0)).collect();
    Some(Golden { name: "devset".to_owned(), hypotheses, references: groups, expected })
}

fn e2e_expected(part: &str) -> Option<Value> {
    let text = text("assets/parity/e2e-metrics/expected.json")?;
    Some(serde_json::from_str::<Value>(&text).unwrap()[part].take())
}

/// The text of a file of `../shared`; none where only the workspace was checked out.
fn text(path: &str) -> Option<String> {
    shared(path).map(|file| std::fs::read_to_string(file).unwrap())
}
