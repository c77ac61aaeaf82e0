//! The table of the thirty faults and the tests name each other, so that neither can be forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::shared::shared;

const TABLE: &str = include_str!("../../docs/faults.md");
/// Cells of a row of the thirty: number, fault, what becomes of it, exit code, tests.
const CELLS: usize = 5;

/// Source files of a folder of the workspace, at any depth.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// Names of all tests in a folder of the workspace.
fn tests_in(folder: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in sources(folder) {
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut lines = text.lines().map(str::trim_start);
        while let Some(line) = lines.next() {
            if line == "#[test]" {
                let function = lines.find_map(|line| line.strip_prefix("fn ")).expect("a test is a function");
                names.insert(function.split('(').next().expect("a name").to_owned());
            }
        }
    }
    names
}

/// The rows of both tables by what their first cell says, with the tests that their last cell names.
fn rows() -> BTreeMap<&'static str, Vec<&'static str>> {
    let row = |line: &'static str| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let (first, last) = (cells.first()?, cells.last()?);
        let is_fault = first.parse::<usize>().is_ok() && cells.len() == CELLS;
        let tests = last.split('`').skip(1).step_by(2).collect();
        (is_fault || first.starts_with("fault-")).then_some((*first, tests))
    };
    TABLE.lines().filter(|line| line.starts_with('|')).filter_map(row).collect()
}

#[test]
fn every_test_that_the_table_of_faults_names_exists() {
    let known: BTreeSet<String> = ["tests", "nola-core/src", "nola-models/src", "nola-train/src"]
        .into_iter()
        .flat_map(tests_in)
        .collect();
    for (row, tests) in rows() {
        let is_there = |test: &&str| known.contains(*test);
        let unknown: Vec<&str> = tests.iter().copied().filter(|test| !is_there(test)).collect();
        assert!(unknown.is_empty(), "docs/faults.md, {row}: no such tests: {unknown:?}");
        assert!(!tests.is_empty(), "docs/faults.md, {row}: names no test");
    }
}

#[test]
fn every_fault_has_a_test_that_begins_with_its_number() {
    let (rows, tests) = (rows(), tests_in("tests"));
    for number in 1..=30 {
        let prefix = format!("fault_{number:02}_");
        assert!(tests.iter().any(|test| test.starts_with(&prefix)), "no test {prefix}…");
        let named = rows.get(number.to_string().as_str()).unwrap_or_else(|| panic!("no row {number}"));
        let unnamed: Vec<&String> = tests
            .iter()
            .filter(|test| test.starts_with(&prefix) && !named.contains(&test.as_str()))
            .collect();
        assert!(unnamed.is_empty(), "docs/faults.md, row {number} does not name {unnamed:?}");
    }
}

#[test]
fn every_fault_that_was_tried_has_a_row_with_a_test_of_its_own() {
    let Some(folder) = shared("cases") else { return };
    let rows = rows();
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let name = entry.expect("a readable folder").file_name().to_string_lossy().into_owned();
        assert!(
            !name.starts_with("fault-") || rows.contains_key(name.as_str()),
            "docs/faults.md has no row {name}"
        );
    }
}
