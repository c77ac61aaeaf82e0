//! What `--adapter [NAME=]FOLDER` means.

use std::path::{Path, PathBuf};

use nola_core::Error as AdapterError;
use nola_core::bundle;

use crate::Error;

/// An adapter folder, with the name that was typed before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterArgument {
    /// What its answers are listed under; none if only a folder was typed.
    pub name: Option<String>,
    /// The folder.
    pub folder: PathBuf,
}

impl AdapterArgument {
    /// A folder that exists as it was typed is the folder, whatever is in its name, and so is a path into a bundle; else the
    /// first `=` with a name before it and a folder behind it parts the two.
    ///
    /// # Errors
    /// If there is no such folder.
    pub fn parse(typed: &Path) -> Result<Self, Error> {
        let is_folder = |path: &Path| path.is_dir() || bundle::member_at(path).is_some();
        if is_folder(typed) {
            return Ok(Self { name: None, folder: typed.to_owned() });
        }
        let text = typed.to_string_lossy();
        let cuts = text.match_indices('=').map(|(place, _)| (&text[..place], Path::new(&text[place + 1..])));
        let mut named = cuts.filter(|(name, folder)| !name.is_empty() && is_folder(folder));
        let (name, folder) = named.next().ok_or_else(|| missing(typed, &text))?;
        Ok(Self { name: Some(name.to_owned()), folder: folder.to_owned() })
    }
}

fn missing(typed: &Path, text: &str) -> Error {
    let problem = if text.contains('=') {
        "there is no folder of this name, nor one behind a `=` in it; give --adapter FOLDER or --adapter NAME=FOLDER"
    } else {
        "there is no such adapter folder; check the path"
    };
    AdapterError::Invalid { file: typed.to_owned(), problems: vec![problem.to_owned()] }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `typed` means, with `*` for the folder that all of `folders` are made in.
    fn parsed(folders: &[&str], typed: &str) -> Result<(Option<String>, String), String> {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let root = scratch.path().to_str().expect("a name in UTF-8");
        for folder in folders {
            std::fs::create_dir_all(scratch.path().join(folder)).expect("a folder");
        }
        let parsed = AdapterArgument::parse(Path::new(&typed.replace('*', root)));
        let folder = |found: &AdapterArgument| found.folder.display().to_string().replace(root, "*");
        parsed.map(|found| (found.name.clone(), folder(&found))).map_err(|error| {
            assert_eq!(error.exit_code(), 6);
            error.to_string()
        })
    }

    fn unnamed(folder: &str) -> Result<(Option<String>, String), String> {
        Ok((None, folder.to_owned()))
    }

    fn named(name: &str, folder: &str) -> Result<(Option<String>, String), String> {
        Ok((Some(name.to_owned()), folder.to_owned()))
    }

    #[test]
    fn a_folder_that_exists_as_typed_is_meant_whatever_its_name() {
        for folder in ["plain", "lr=2e-4/adapter", "k=8,r=2/a=b", "=", "a=", "=b"] {
            assert_eq!(parsed(&[folder], &format!("*/{folder}")), unnamed(&format!("*/{folder}")));
        }
    }

    #[test]
    fn a_name_ends_at_the_first_sign_with_a_folder_behind_it() {
        assert_eq!(parsed(&["plain"], "a=*/plain"), named("a", "*/plain"));
        assert_eq!(parsed(&["lr=2e-4/adapter"], "a=*/lr=2e-4/adapter"), named("a", "*/lr=2e-4/adapter"));
        assert_eq!(parsed(&["plain"], "k=8,r=2=*/plain"), named("k=8,r=2", "*/plain"));
        assert_eq!(parsed(&["x=y", "y"], "n=*/x=y"), named("n", "*/x=y"));
    }

    #[test]
    fn what_is_no_folder_is_refused_with_the_cure() {
        for typed in ["*/none", "=*/plain", "a=*/none", "lr=*/none=1"] {
            let error = parsed(&["plain"], typed).expect_err("there is none");
            let cure = if typed.contains('=') { "--adapter NAME=FOLDER" } else { "check the path" };
            assert!(error.contains(cure), "{typed}: {error}");
        }
    }
}
