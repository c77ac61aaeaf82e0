//! Folders with tokenizers, for tests.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Tokenizer, TokenizerError};
use crate::shared::shared;

/// A folder of the assets beside the workspace.
pub(super) fn assets(folder: &str) -> Option<PathBuf> {
    shared(&format!("assets/{folder}"))
}

/// A copy of some files of a folder.
pub(super) fn copied(from: &Path, names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        fs::write(folder.path().join(name), fs::read(from.join(name)).unwrap()).unwrap();
    }
    folder
}

/// A folder with these JSON files.
pub(super) fn folder_of(files: &[(&str, &Value)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, json) in files {
        fs::write(folder.path().join(name), json.to_string()).unwrap();
    }
    folder
}

/// The tokenizer of a folder with these JSON files.
pub(super) fn opened(files: &[(&str, &Value)]) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::open(folder_of(files).path())
}

/// A `tokenizer.json` of the tokens `a`, `b`, `ab` and `</s>`.
pub(super) fn small() -> Value {
    json!({
        "version": "1.0",
        "added_tokens": [{"id": 3, "content": "</s>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    })
}
