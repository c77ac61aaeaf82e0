//! Which files on this machine a name in a recipe or behind `--data` stands for.
//!
//! A name is a file or folder, or a data set of the Hugging Face hub: `hf://datasets/OWNER/NAME`, or `OWNER/NAME` where no
//! such file or folder exists, with `@REVISION`, `/CONFIGURATION` and `/SPLIT` behind it.

use std::path::{Path, PathBuf};

use nola_models::hub::{
    DatasetFile, DatasetFiles, DatasetName, DatasetSplit, HubConfig, HubError, sha256_of,
};
use serde::{Deserialize, Serialize};

use crate::data::DataError;
use crate::portion::{DataSource, Split};
use crate::progress::Downloads;
use crate::text::{FileKind, TextError};
use crate::{Error, assets};

/// Sources with the files that they are on this machine.
#[derive(Debug, Clone)]
pub struct Found {
    /// The sources, in the order of the recipe.
    pub sources: Vec<DataSource>,
    /// Those that came from the hub.
    hub: Vec<DatasetFiles>,
}

/// What was read of a data set of the hub: enough to read the same again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubData {
    /// The key of the recipe that named it.
    pub key: String,
    /// Its name with the commit, as a recipe may have it.
    pub name: String,
    /// The commit.
    pub commit: String,
    /// The files, in the order in which they were read.
    pub files: Vec<HubFile>,
}

/// A file of a data set of the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubFile {
    /// Its name in the repository.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its hash, in hexadecimal.
    pub sha256: String,
}

/// The sources with the files that their names stand for; those of the hub are fetched if they are not in its cache.
///
/// # Errors
/// If there is no such file or folder, or the hub does not give a data set.
pub fn find(mut sources: Vec<DataSource>, split: Split) -> Result<Found, Error> {
    let mut hub = Vec::new();
    for source in &mut sources {
        match lookup(&source.name, split)? {
            Place::Local(path) => source.paths = vec![path],
            Place::Hub(files) => {
                source.paths = files.files.iter().map(|file| file.path.clone()).collect();
                hub.push(files);
            }
        }
    }
    Ok(Found { sources, hub })
}

/// What a name stands for.
enum Place {
    /// A file or a folder.
    Local(PathBuf),
    /// Files of a data set of the hub.
    Hub(DatasetFiles),
}

fn lookup(name: &Path, split: Split) -> Result<Place, Error> {
    let path = assets::located(name)?;
    if let Some(dataset) = hub_name(&path)? {
        let split = match split {
            Split::Train => DatasetSplit::Train,
            Split::Validation => DatasetSplit::Validation,
        };
        let config = HubConfig::from_env()?;
        return Ok(Place::Hub(config.dataset(&dataset, split, &preference, &Downloads::default())?));
    }
    std::fs::metadata(&path).map_err(|source| TextError::Io { file: name.to_owned(), source })?;
    Ok(Place::Local(path))
}

/// Requires images to lie on this machine.
///
/// # Errors
/// If they do not.
pub fn check_images(name: &Path) -> Result<(), Error> {
    if DatasetName::is_url(&name.to_string_lossy()) {
        return Err(DataError::OnHub { name: name.to_owned() }.into());
    }
    let found = std::fs::metadata(assets::located(name)?);
    found.map_err(|source| DataError::Io { path: name.to_owned(), source })?;
    Ok(())
}

/// The name with the commit of a data set of the hub, which means the same rows for ever; any other as it is.
///
/// # Errors
/// As [`find`].
pub fn pinned(name: &Path, split: Split) -> Result<PathBuf, Error> {
    match lookup(name, split)? {
        Place::Hub(files) => Ok(files.name.to_string().into()),
        Place::Local(_) => Ok(name.to_owned()),
    }
}

impl Found {
    /// What was read of the hub for `key`; nothing where the files are the user's own.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn origins(&self, key: &str) -> Result<Vec<HubData>, Error> {
        let origin = |hub: &DatasetFiles| {
            let files = hub.files.iter().map(hub_file).collect::<Result<_, Error>>()?;
            let (name, commit) = (hub.name.to_string(), hub.commit().to_owned());
            Ok(HubData { key: key.to_owned(), name, commit, files })
        };
        self.hub.iter().map(origin).collect()
    }
}

fn hub_file(file: &DatasetFile) -> Result<HubFile, Error> {
    let io = |source| HubError::Io { file: file.path.clone(), source };
    let bytes = std::fs::metadata(&file.path).map_err(io)?.len();
    Ok(HubFile { name: file.name.clone(), bytes, sha256: sha256_of(&file.path).map_err(io)? })
}

/// The data set of the hub that a name means. What ends as a file of rows does is a file of this machine, there or not: a
/// mistyped path is not looked for on the hub.
fn hub_name(path: &Path) -> Result<Option<DatasetName>, Error> {
    let text = path.to_string_lossy();
    if DatasetName::is_url(&text) {
        return Ok(Some(DatasetName::parse(&text).map_err(|error| HubError::from(Box::new(error)))?));
    }
    let is_local = path.exists() || FileKind::of(path).is_some();
    Ok(if is_local { None } else { DatasetName::parse(&text).ok() })
}

/// Which of several kinds of files with the same rows is read: columns before lines, lines before documents.
fn preference(file: &str) -> Option<u8> {
    FileKind::of(Path::new(file)).map(|kind| match kind {
        FileKind::Parquet => 0,
        FileKind::JsonLines => 1,
        FileKind::Json => 2,
        FileKind::Csv => 3,
        FileKind::Tsv => 4,
        FileKind::Text => 5,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_of_hub(text: &str) -> bool {
        hub_name(Path::new(text)).expect(text).is_some()
    }

    #[test]
    fn a_name_is_looked_for_on_the_hub_where_it_can_be_no_file() {
        for text in
            ["tatsu-lab/alpaca", "openai/gsm8k/main", "ada/small@v1/en/test", "hf://datasets/a/b/train.jsonl"]
        {
            assert!(is_of_hub(text), "{text}");
        }
        for text in [
            "alpaca",
            "data/train.json",
            "data/e2e/trainset.csv.gz",
            "./data/train",
            "/data/train",
            "src",
            "a\\b",
        ] {
            assert!(!is_of_hub(text), "{text}");
        }
        assert_eq!(pinned(Path::new("hf://models/a/b"), Split::Train).unwrap_err().exit_code(), 4);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = pinned(Path::new("data/no-such.jsonl"), Split::Train).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().starts_with("data/no-such.jsonl: "), "{error}");
    }
}
