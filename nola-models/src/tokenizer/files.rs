//! The files of one folder, read whole, of bounded size, and hashed as they are read.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use nola_core::Hollow;
use nola_core::foreign_json::MAX_CONFIG_BYTES;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::TokenizerError;
use crate::gguf;
use crate::json::{self, WrongJson};

/// A vocabulary larger than this is refused, in bytes. The largest real ones have 35 MB.
const MAX_VOCABULARY_BYTES: u64 = 64 << 20;
/// Files that hold a vocabulary; all others are small.
const VOCABULARIES: [&str; 4] = ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model"];

/// Reads files of one folder.
pub(crate) struct Files {
    folder: PathBuf,
    hash: Sha256,
}

impl Files {
    /// Opens a folder, or the GGUF file that stands for one.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn open(folder: &Path) -> Result<Self, TokenizerError> {
        let io = |source| TokenizerError::Io { file: folder.to_path_buf(), source };
        if !gguf::is_gguf(folder) {
            std::fs::read_dir(folder).map_err(io)?;
        }
        Ok(Self { folder: folder.to_path_buf(), hash: Sha256::new() })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The content of a file; `None` if there is no such file.
    pub(crate) fn bytes(&mut self, name: &str) -> Result<Option<Vec<u8>>, TokenizerError> {
        let read = read_bounded(&self.path(name))?;
        if let Some(bytes) = &read {
            // The length keeps two lists of files apart that only differ in where a file ends.
            self.hash.update(format!("{name} {}\n", bytes.len()));
            self.hash.update(bytes);
        }
        Ok(read)
    }

    /// The content of a JSON file; `None` if there is no such file.
    pub(crate) fn json<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, TokenizerError> {
        let bytes = self.bytes(name)?;
        bytes.map(|bytes| parse_json(&self.path(name), &bytes)).transpose()
    }

    /// The content of a text file; `None` if there is no such file.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, TokenizerError> {
        let bytes = self.bytes(name)?;
        bytes.map(|bytes| utf8(&self.path(name), bytes)).transpose()
    }

    /// SHA-256 of all files read so far, with their names, in hexadecimal.
    pub(crate) fn sha256(self) -> String {
        self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The content of a file of bounded size; `None` if there is no such file.
pub(crate) fn read_bounded(file: &Path) -> Result<Option<Vec<u8>>, TokenizerError> {
    if let Some(inside) = gguf::inside(file) {
        return Ok(inside?);
    }
    let io = |source| TokenizerError::Io { file: file.to_path_buf(), source };
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut bytes = Vec::new();
    let limit = limit(file);
    opened.take(limit + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit {
        return Err(TokenizerError::TooLarge { file: file.to_path_buf(), limit });
    }
    match Hollow::of(&bytes) {
        // A template may be empty.
        Some(Hollow::Empty) if file.extension().is_some_and(|extension| extension == "jinja") => {}
        Some(what) => return Err(TokenizerError::Hollow { file: file.to_path_buf(), what }),
        None => {}
    }
    Ok(Some(bytes))
}

fn limit(file: &Path) -> u64 {
    let is_vocabulary = VOCABULARIES.iter().any(|name| file.ends_with(name));
    if is_vocabulary { MAX_VOCABULARY_BYTES } else { MAX_CONFIG_BYTES }
}

/// The bytes of a file as text.
pub(crate) fn utf8(file: &Path, bytes: Vec<u8>) -> Result<String, TokenizerError> {
    let not_utf8 = |source| TokenizerError::NotUtf8 { file: file.to_path_buf(), source };
    String::from_utf8(bytes).map_err(|error| not_utf8(error.utf8_error()))
}

/// Parses JSON; an error names the field.
pub(crate) fn parse_json<T: DeserializeOwned>(file: &Path, bytes: &[u8]) -> Result<T, TokenizerError> {
    json::parse(bytes).map_err(|WrongJson { field, source }| TokenizerError::Json {
        file: file.to_path_buf(),
        field,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_one_byte_over_the_limit_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (name, limit) in [
            ("tokenizer.json", MAX_VOCABULARY_BYTES),
            ("tokenizer_config.json", MAX_CONFIG_BYTES),
            ("special_tokens_map.json", MAX_CONFIG_BYTES),
            ("config.json", MAX_CONFIG_BYTES),
        ] {
            let file = folder.path().join(name);
            File::create(&file).unwrap().set_len(limit + 1).unwrap();
            assert!(matches!(read_bounded(&file), Err(TokenizerError::TooLarge { .. })), "{name}");
        }
    }

    #[test]
    fn a_file_without_content_of_its_own_is_named_with_the_cure() {
        let folder = tempfile::tempdir().unwrap();
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3\n";
        for name in ["tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json"]
        {
            let file = folder.path().join(name);
            for (content, cure) in [("", "empty (0 bytes)"), (pointer, "git lfs pull")] {
                std::fs::write(&file, content).unwrap();
                let message = read_bounded(&file).unwrap_err().to_string();
                assert!(message.contains(name) && message.contains(cure), "{message}");
            }
        }
        let template = folder.path().join("chat_template.jinja");
        std::fs::write(&template, "").unwrap();
        assert_eq!(read_bounded(&template).unwrap(), Some(Vec::new()));
    }

    #[test]
    fn the_hash_tells_the_same_bytes_under_another_name_apart() {
        let folder = tempfile::tempdir().unwrap();
        let hash_of = |name: &str| {
            std::fs::write(folder.path().join(name), "{}").unwrap();
            let mut files = Files::open(folder.path()).unwrap();
            files.bytes(name).unwrap().unwrap();
            files.sha256()
        };
        assert_ne!(hash_of("a"), hash_of("b"));
    }

    #[test]
    fn wrong_json_is_named_with_its_field() {
        let wrong =
            parse_json::<std::collections::BTreeMap<String, u32>>(Path::new("x"), b"{\"a\": 1, \"b\": -1}");
        let Err(TokenizerError::Json { field, .. }) = wrong else { panic!("{wrong:?}") };
        assert_eq!(field, "b");
    }
}
