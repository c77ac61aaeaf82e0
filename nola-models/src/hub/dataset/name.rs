//! Names of data sets, as users type them.

use std::fmt;

use super::super::files::is_inside;
use super::super::name::RepositoryName;
use super::DatasetError;

/// What stands before a name that can be nothing else.
const PREFIX: &str = "hf://";
/// What stands before the owner of a data set there.
const DATASETS: &str = "datasets/";
/// The branch on which the hub keeps data sets as Parquet, and its short name.
const PARQUET: (&str, &str) = ("~parquet", "refs/convert/parquet");
/// Branches whose names have slashes: these and one word more.
const SLASHED: [&str; 2] = ["refs/convert/", "refs/pr/"];

/// A data set of the hub, or a part of it: `hf://datasets/OWNER/NAME@REVISION/INSIDE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetName {
    pub(in super::super) repository: RepositoryName,
    /// A configuration, a split, a folder, a file or a pattern of files; empty: the whole.
    pub(super) inside: String,
}

impl DatasetName {
    /// Whether a text is meant for the hub and nothing else.
    pub fn is_url(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// Reads `hf://datasets/OWNER/NAME`, or `OWNER/NAME`, with `@REVISION` and `/INSIDE` behind it.
    ///
    /// # Errors
    /// If it is neither.
    pub fn parse(text: &str) -> Result<Self, DatasetError> {
        let refused = || DatasetError::NoName { text: text.to_string() };
        let name = match text.strip_prefix(PREFIX) {
            Some(address) => address.strip_prefix(DATASETS).ok_or_else(refused)?,
            None => text,
        };
        let (owner, rest) = name.split_once('/').ok_or_else(refused)?;
        let (name, revision, inside) = parts(rest);
        let repository = RepositoryName::dataset(owner, name, &revision).ok_or_else(refused)?;
        let inside = inside.trim_end_matches('/').to_string();
        if !inside.is_empty() && !is_inside(&inside) {
            return Err(refused());
        }
        Ok(Self { repository, inside })
    }

    /// Owner and name.
    pub fn repository(&self) -> &str {
        &self.repository.id
    }

    /// The branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.repository.revision
    }

    /// The same of a commit.
    pub(super) fn at(&self, commit: &str) -> Self {
        let repository = RepositoryName { revision: commit.to_string(), ..self.repository.clone() };
        Self { repository, ..self.clone() }
    }

    /// How a part of the repository would be typed.
    pub(super) fn with(&self, inside: &str) -> String {
        Self { inside: inside.to_string(), ..self.clone() }.to_string()
    }
}

/// Name, revision and what is meant inside.
fn parts(rest: &str) -> (&str, String, &str) {
    let (first, behind) = rest.split_once('/').unwrap_or((rest, ""));
    let Some((name, start)) = first.split_once('@') else {
        return (first, "main".to_string(), behind);
    };
    let (short, long) = PARQUET;
    if start == short {
        return (name, long.to_string(), behind);
    }
    let revision = &rest[name.len() + 1..];
    if let Some(slashed) = SLASHED.iter().find(|slashed| revision.starts_with(**slashed)) {
        let end = revision[slashed.len()..].find('/').map_or(revision.len(), |end| slashed.len() + end);
        return (name, revision[..end].to_string(), revision[end..].trim_start_matches('/'));
    }
    (name, start.replace("%2F", "/"), behind)
}

impl fmt::Display for DatasetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { repository: RepositoryName { id, revision, .. }, inside } = self;
        write!(f, "{PREFIX}{DATASETS}{id}")?;
        if revision != "main" {
            match SLASHED.iter().any(|slashed| revision.starts_with(slashed)) {
                true => write!(f, "@{revision}")?,
                false => write!(f, "@{}", revision.replace('/', "%2F"))?,
            }
        }
        if inside.is_empty() { Ok(()) } else { write!(f, "/{inside}") }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> [String; 3] {
        let name = DatasetName::parse(text).expect(text);
        [name.repository.id, name.repository.revision, name.inside]
    }

    #[test]
    fn a_name_has_a_revision_and_something_inside() {
        for (text, expected) in [
            ("ada/small", ["ada/small", "main", ""]),
            ("hf://datasets/ada/small", ["ada/small", "main", ""]),
            ("ada/small@v1.0", ["ada/small", "v1.0", ""]),
            ("ada/small/en/train-*.parquet", ["ada/small", "main", "en/train-*.parquet"]),
            ("hf://datasets/ada/small@v1/en/", ["ada/small", "v1", "en"]),
            ("ada/small@refs/convert/parquet/en/test", ["ada/small", "refs/convert/parquet", "en/test"]),
            ("ada/small@~parquet/en", ["ada/small", "refs/convert/parquet", "en"]),
            ("ada/small@refs/pr/1", ["ada/small", "refs/pr/1", ""]),
            ("ada/small@my%2Fbranch/en", ["ada/small", "my/branch", "en"]),
        ] {
            assert_eq!(parsed(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_name_says_how_one_is_written() {
        for text in [
            "",
            "small",
            "hf://ada/small",
            "hf://models/ada/small",
            "../x",
            "a/b/../c",
            "a/b@",
            "./a/b",
            "a b/c",
        ] {
            let message = DatasetName::parse(text).expect_err(text).to_string();
            assert!(message.contains("hf://datasets/OWNER/NAME"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn a_name_reads_back_as_it_is_shown(text in "(hf://datasets/)?[a-z]{1,3}/[a-z]{1,3}(@[a-z~/%2F]{1,12})?(/[a-z*/.-]{1,9})?") {
            if let Ok(name) = DatasetName::parse(&text) {
                prop_assert_eq!(DatasetName::parse(&name.to_string()).unwrap(), name);
            }
        }
    }
}
