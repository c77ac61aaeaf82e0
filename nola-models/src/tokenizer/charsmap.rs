//! SentencePiece's tables of replaced characters, checked before the tokenizers library trusts their lengths.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::TokenizerError;

/// As much of a normalizer as may hold a table.
#[derive(Deserialize)]
pub(super) struct Normalizer {
    precompiled_charsmap: Option<String>,
    #[serde(default)]
    normalizers: Vec<Normalizer>,
}

impl Normalizer {
    /// Whether every table is as long as it says.
    pub(super) fn check(&self, file: &Path) -> Result<(), TokenizerError> {
        if let Some(problem) = self.precompiled_charsmap.as_deref().and_then(problem) {
            return Err(TokenizerError::Charsmap { file: file.to_path_buf(), problem });
        }
        self.normalizers.iter().try_for_each(|inner| inner.check(file))
    }
}

/// What is wrong with a table: four bytes with the length of the trie, the trie in units of four bytes, and text.
fn problem(base64: &str) -> Option<String> {
    let Ok(bytes) = STANDARD.decode(base64) else { return Some("it is no base64".to_string()) };
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return Some(format!("it has {} bytes, fewer than the 4 of its length", bytes.len()));
    };
    let length = u32::from_le_bytes(*length) as usize;
    match rest.get(..length) {
        None => Some(format!("it says that {length} bytes follow, but there are {}", rest.len())),
        Some(_) if length == 0 || !length.is_multiple_of(4) => {
            Some(format!("its trie has {length} bytes, which are no whole units of 4"))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<(), String> {
        let normalizer: Normalizer = serde_json::from_str(json).unwrap();
        normalizer.check(Path::new("tokenizer.json")).map_err(|error| error.to_string())
    }

    fn table(bytes: &[u8]) -> String {
        format!(r#"{{"type": "Precompiled", "precompiled_charsmap": "{}"}}"#, STANDARD.encode(bytes))
    }

    #[test]
    fn a_table_that_is_shorter_than_it_says_is_refused_at_any_depth() {
        for length in [5u32, 1 << 20, u32::MAX, u32::MAX - 3] {
            let one = table(&[&length.to_le_bytes()[..], &[0; 4]].concat());
            let deep = format!(r#"{{"type": "Sequence", "normalizers": [{{"normalizers": [{one}]}}]}}"#);
            for json in [one.clone(), format!(r#"{{"normalizers": [{{"type": "NFC"}}, {one}]}}"#), deep] {
                let message = check(&json).unwrap_err();
                assert!(message.contains("precompiled_charsmap") && message.contains("follow"), "{message}");
            }
        }
    }

    #[test]
    fn a_table_that_is_no_table_is_refused() {
        for bytes in [&[][..], &[1, 0, 0], &[0, 0, 0, 0], &[3, 0, 0, 0, 1, 2, 3]] {
            assert!(check(&table(bytes)).is_err(), "{bytes:?}");
        }
        assert!(check(r#"{"precompiled_charsmap": "%"}"#).unwrap_err().contains("base64"));
    }

    #[test]
    fn a_whole_table_and_other_normalizers_are_fine() {
        assert_eq!(check(&table(&[4, 0, 0, 0, 1, 2, 3, 4, b'a', 0])), Ok(()));
        assert_eq!(check(r#"{"type": "NFC"}"#), Ok(()));
        assert_eq!(check(r#"{"type": "Precompiled", "precompiled_charsmap": null}"#), Ok(()));
    }
}
