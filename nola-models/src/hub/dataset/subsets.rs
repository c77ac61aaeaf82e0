//! Configurations and splits, as a card declares them or names of files and folders say them.
//!
//! The rules are those of the `datasets` library (`data_files.py` in 4.4), with two differences: folders that have splits each
//! are configurations, not one mixture; and of several kinds of files in a split one is taken.

use std::collections::BTreeSet;

use glob::{MatchOptions, Pattern};

use super::card::Config;
use super::{DatasetError, DatasetName, Readable};

/// Split names with the words that stand for them in names of files and folders.
const WORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];
/// Files that describe a data set.
const DESCRIPTIONS: [&str; 6] = [
    "README.md",
    "config.json",
    "dataset_info.json",
    "dataset_infos.json",
    "dummy_data.zip",
    "dataset_dict.json",
];
/// The folder that `push_to_hub` writes to.
const DATA: &str = "data";
/// A star goes to the end of a name, two of them through folders.
const MATCH: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// A configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subset {
    /// Its name; empty if there is no other.
    pub name: String,
    /// Whether it is meant where none is named.
    pub is_default: bool,
    /// Its splits with their files.
    pub splits: Vec<(String, Vec<String>)>,
}

/// A split that nothing names: all files are for training.
pub const UNNAMED: &str = "train";

/// The configurations of a repository.
///
/// # Errors
/// If a pattern of the card means nothing.
pub fn subsets(
    name: &DatasetName,
    files: &BTreeSet<String>,
    card: &[Config],
    readable: Readable,
) -> Result<Vec<Subset>, DatasetError> {
    if !card.is_empty() {
        return card.iter().map(|config| declared(name, files, config, readable)).collect();
    }
    let at_top = |file: &&String| !file.contains('/') || file.starts_with("data/");
    let top: BTreeSet<String> = files.iter().filter(at_top).cloned().collect();
    if named_splits(&top, "", readable).is_empty() {
        let folders: BTreeSet<&str> =
            files.iter().filter_map(|file| file.split_once('/')).map(|(folder, _)| folder).collect();
        let folders = folders.into_iter().filter(|folder| *folder != DATA && !names_a_split(folder));
        let subset = |folder: &str| {
            let splits = named_splits(files, folder, readable);
            (!splits.is_empty()).then(|| Subset { name: folder.to_string(), is_default: false, splits })
        };
        let subsets: Vec<Subset> = folders.filter_map(subset).collect();
        if !subsets.is_empty() {
            return Ok(subsets);
        }
    }
    Ok(vec![Subset { name: String::new(), is_default: true, splits: splits(files, "", readable) }])
}

fn declared(
    name: &DatasetName,
    files: &BTreeSet<String>,
    config: &Config,
    readable: Readable,
) -> Result<Subset, DatasetError> {
    let of_patterns = |patterns: &Vec<String>| -> Result<Vec<String>, DatasetError> {
        let mut found: Vec<String> = Vec::new();
        for pattern in patterns {
            let inside = join(&config.folder, pattern.trim_start_matches("./"));
            let new = matching(name, files, &inside)?;
            found.extend(new.into_iter().filter(|file| !found.contains(file)).collect::<Vec<_>>());
        }
        Ok(best(found, readable))
    };
    let splits = match config.splits.is_empty() {
        true => splits(files, &config.folder, readable),
        false => {
            let split =
                |(split, patterns): &(String, Vec<String>)| Ok((split.clone(), of_patterns(patterns)?));
            config.splits.iter().map(split).collect::<Result<Vec<_>, DatasetError>>()?
        }
    };
    let splits = splits.into_iter().filter(|(_, files)| !files.is_empty()).collect();
    Ok(Subset { name: config.name.clone(), is_default: config.is_default, splits })
}

/// The splits in a folder; files without any word of a split are for training.
pub fn splits(files: &BTreeSet<String>, folder: &str, readable: Readable) -> Vec<(String, Vec<String>)> {
    let named = named_splits(files, folder, readable);
    if !named.is_empty() {
        return named;
    }
    let all = best(visible(files, folder).map(|(file, _)| file.clone()).collect(), readable);
    if all.is_empty() { Vec::new() } else { vec![(UNNAMED.to_string(), all)] }
}

/// The splits that the names in a folder say: shards in `data`, else folders, else files.
fn named_splits(files: &BTreeSet<String>, folder: &str, readable: Readable) -> Vec<(String, Vec<String>)> {
    let visible: Vec<(&String, &str)> = visible(files, folder).collect();
    let of = |split: &str, is_of: &dyn Fn(&str) -> bool| {
        let found = visible.iter().filter(|(_, inside)| is_of(inside)).map(|(file, _)| (*file).clone());
        (split.to_string(), best(found.collect(), readable))
    };
    let shards: BTreeSet<&str> = visible.iter().filter_map(|(_, inside)| split_of_shard(inside)).collect();
    let sharded = shards.iter().map(|&split| of(split, &|inside| split_of_shard(inside) == Some(split)));
    let by = |is_of: fn(&str, &[&str]) -> bool| -> Vec<(String, Vec<String>)> {
        WORDS.iter().map(|(split, words)| of(split, &|inside| is_of(inside, words))).collect()
    };
    let in_folders = |inside: &str, words: &[&str]| {
        let (folders, _) = inside.rsplit_once('/').unwrap_or_default();
        folders.split('/').any(|folder| has_word(folder, words))
    };
    let in_files = |inside: &str, words: &[&str]| {
        // What follows the last dot is no word of its own.
        let name = inside.rsplit('/').next().unwrap_or(inside);
        has_word(name.rsplit_once('.').map_or("", |(stem, _)| stem), words)
    };
    let mut ways = [sharded.collect(), by(in_folders), by(in_files)].into_iter();
    let non_empty = |mut way: Vec<(String, Vec<String>)>| {
        way.retain(|(_, files)| !files.is_empty());
        (!way.is_empty()).then_some(way)
    };
    ways.find_map(non_empty).unwrap_or_default()
}

/// The files in a folder that are neither hidden nor only describe it, with their names in it.
fn visible<'a>(files: &'a BTreeSet<String>, folder: &'a str) -> impl Iterator<Item = (&'a String, &'a str)> {
    let inside = move |file: &'a String| match folder {
        "" => Some((file, file.as_str())),
        folder => Some((file, file.strip_prefix(folder)?.strip_prefix('/')?)),
    };
    files.iter().filter_map(inside).filter(|(_, inside)| {
        let name = inside.rsplit('/').next().unwrap_or(inside);
        let is_hidden = inside.split('/').any(|part| part.starts_with('.') || part.starts_with("__"));
        !is_hidden && !DESCRIPTIONS.contains(&name)
    })
}

/// The split of `data/SPLIT-00000-of-00001….ENDING`.
fn split_of_shard(inside: &str) -> Option<&str> {
    let name = inside.strip_prefix("data/")?;
    let at = name.find("-of-")?;
    let (split, number) = name[..at].rsplit_once('-')?;
    let count = name.get(at + 4..at + 9)?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(number) && digits(count) && !split.is_empty() && !name.contains('/')).then_some(split)
}

/// Whether a name has one of the words, between other letters than those of words.
fn has_word(name: &str, words: &[&str]) -> bool {
    let name = name.to_ascii_lowercase();
    let parts = name.split(|letter: char| "-._ ".contains(letter) || letter.is_ascii_digit());
    parts.into_iter().any(|part| words.contains(&part))
}

fn names_a_split(folder: &str) -> bool {
    WORDS.iter().any(|(_, words)| has_word(folder, words))
}

/// The files of the kind that is read first, among those that are read at all.
pub fn best(files: Vec<String>, readable: Readable) -> Vec<String> {
    let first = files.iter().filter_map(|file| readable(file)).min();
    files.into_iter().filter(|file| first.is_some() && readable(file) == first).collect()
}

/// The files that a pattern means.
///
/// # Errors
/// If it is no pattern.
pub fn matching(
    name: &DatasetName,
    files: &BTreeSet<String>,
    pattern: &str,
) -> Result<Vec<String>, DatasetError> {
    if files.contains(pattern) {
        return Ok(vec![pattern.to_string()]);
    }
    let compiled = Pattern::new(pattern).map_err(|error| DatasetError::Pattern {
        name: name.repository().to_string(),
        pattern: pattern.to_string(),
        problem: error.to_string(),
    })?;
    let is_meant = |file: &&String| {
        let name = file.rsplit('/').next().unwrap_or(file);
        compiled.matches_with(file, MATCH) && !DESCRIPTIONS.contains(&name)
    };
    Ok(files.iter().filter(is_meant).cloned().collect())
}

fn join(folder: &str, inside: &str) -> String {
    if folder.is_empty() { inside.to_string() } else { format!("{folder}/{inside}") }
}
