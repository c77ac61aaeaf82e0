//! Hashes by which a run that is resumed knows its data again.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// What one part of the data is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataHash {
    /// The key of the recipe that names it.
    pub key: String,
    /// The file or folder, as the recipe names it.
    pub name: String,
    /// Hash of what is learned from it, or scored on it: samples in their order, whatever their files are called.
    pub sha256: String,
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("text grows");
        text
    })
}
