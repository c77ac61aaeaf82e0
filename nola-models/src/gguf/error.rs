//! Why a GGUF file cannot be read.

use std::path::PathBuf;

/// Why a GGUF file could not be read as a model.
///
/// A message names the file and the field or tensor, and says what to change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file cannot be read.
    #[error("{}: cannot be read", file.display())]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },

    /// There is no such file.
    #[error("{}: no such file", file.display())]
    Absent {
        /// The file.
        file: PathBuf,
    },

    /// The file is another one than its name says.
    #[error("{}: no GGUF file: it begins with {found}, expected \"GGUF\"; fetch it again", file.display())]
    Other {
        /// The file.
        file: PathBuf,
        /// Its first bytes.
        found: String,
    },

    /// The file is of a version that is not read.
    #[error("{}: GGUF of version {found}; versions 2 and 3 are read: convert it again with llama.cpp of today", file.display())]
    Version {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: u32,
    },

    /// The file is for machines with another order of bytes.
    #[error(
        "{}: a GGUF file for big-endian machines; fetch the little-endian one, or turn it with `gguf-convert-endian FILE little`",
        file.display()
    )]
    BigEndian {
        /// The file.
        file: PathBuf,
    },

    /// The file is one of several.
    #[error("{}: one of {parts} parts of a model; join them with `llama-gguf-split --merge FIRST-PART WHOLE` and name the whole", file.display())]
    Split {
        /// The file.
        file: PathBuf,
        /// Number of parts.
        parts: u64,
    },

    /// What the file says of itself cannot be.
    #[error("{}: {place}: {problem}; the file is cut short or damaged, fetch it again", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The entry or tensor that is wrong.
        place: String,
        /// What is wrong with it.
        problem: String,
    },

    /// A key of the metadata is absent or holds a value that cannot be.
    #[error("{}: `{key}` is {found}; expected {expected}", file.display())]
    Field {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// What stands there; `absent` if nothing does.
        found: String,
        /// What may stand there.
        expected: String,
    },

    /// Tensors are stored in types that are not read.
    #[error("{}: {}; types that are read: {known}", file.display(), shortened(tensors))]
    Types {
        /// The file.
        file: PathBuf,
        /// Each such tensor with its type.
        tensors: Vec<String>,
        /// The types that are read.
        known: String,
    },

    /// A folder holds several GGUF files and no model besides.
    #[error("{}: holds several GGUF files; name one of them: {}", folder.display(), files.join(", "))]
    Several {
        /// The folder.
        folder: PathBuf,
        /// Names of the files.
        files: Vec<String>,
    },
}

/// Names that a message lists before it counts.
const LISTED: usize = 5;

fn shortened(tensors: &[String]) -> String {
    let listed = tensors.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match tensors.len().saturating_sub(LISTED) {
        0 => listed,
        more => format!("{listed} and {more} more"),
    }
}
