//! Why a tokenizer cannot be read or used.

use std::path::PathBuf;

use crate::gguf::GgufError;

/// What a library says.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a tokenizer could not be read, or text could not be turned into ids or back.
///
/// A message names the file and says what to change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error("{}: cannot be read", file.display())]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },

    /// The GGUF file that stands for the folder cannot be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),

    /// The folder holds no tokenizer.
    #[error(
        "{}: no tokenizer; a model folder holds tokenizer.json, or vocab.json with merges.txt, or tokenizer.model",
        folder.display()
    )]
    Absent {
        /// The folder.
        folder: PathBuf,
    },

    /// One of two files that belong together is absent.
    #[error("{}: no such file, but {present} needs it; fetch it from the same source", file.display())]
    MissingFile {
        /// The absent file.
        file: PathBuf,
        /// Name of the file that needs it.
        present: &'static str,
    },

    /// The file is larger than any honest file of its kind.
    #[error("{}: longer than {limit} bytes, the most that is read; this is no file of a tokenizer", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// The largest size that is read, in bytes.
        limit: u64,
    },

    /// The file holds nothing of what its name promises.
    #[error("{}: {what}", file.display())]
    Hollow {
        /// The file.
        file: PathBuf,
        /// What it is instead.
        what: nola_core::Hollow,
    },

    /// The file is no UTF-8 text.
    #[error("{}: not UTF-8 text; fetch it again", file.display())]
    NotUtf8 {
        /// The file.
        file: PathBuf,
        /// Where the text ends to be UTF-8.
        source: std::str::Utf8Error,
    },

    /// The file is no JSON, or a value in it has the wrong type.
    #[error("{}: not the JSON that was expected, at `{field}`; restore the file from its source", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Path of the field; `.` for the whole file.
        field: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },

    /// The vocabulary is of a kind that is not known.
    #[error("{}: `model.type` is {found}; expected \"BPE\", \"Unigram\", \"WordLevel\" or \"WordPiece\"", file.display())]
    UnknownModel {
        /// The file.
        file: PathBuf,
        /// What stands there, as JSON.
        found: String,
    },

    /// The tokenizer would split a text another way each time.
    #[error(
        "{}: `model.dropout` is {dropout}, so that ids are drawn by chance; set it to null",
        file.display()
    )]
    Dropout {
        /// The file.
        file: PathBuf,
        /// Probability of leaving a merge out.
        dropout: f32,
    },

    /// A table of replaced characters is not what it says.
    #[error(
        "{}: `normalizer.precompiled_charsmap` is damaged: {problem}; restore the file from its source",
        file.display()
    )]
    Charsmap {
        /// `tokenizer.json`.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },

    /// The parts of a tokenizer do not fit each other.
    #[error("{}: no usable tokenizer; restore the file from its source", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What the tokenizers library says.
        source: Source,
    },

    /// The tokenizers library failed on a damaged file.
    #[error("{}: the tokenizer is damaged, its library broke off with `{message}`; restore the file from its source", file.display())]
    Broke {
        /// The file the tokenizer was read from.
        file: PathBuf,
        /// Last words of the library.
        message: String,
    },

    /// A line of `merges.txt` is no merge of two known tokens.
    #[error("{}:{line}: `{found}` is no merge, {}; restore the file from its source", file.display(), match absent {
        Some(token) => format!("`{token}` is not in vocab.json"),
        None => "which is two tokens with one space between them".to_string(),
    })]
    Merge {
        /// `merges.txt`.
        file: PathBuf,
        /// Number of the line, from one.
        line: usize,
        /// The line.
        found: String,
        /// The part or the result that the vocabulary lacks; `None` if the line is not two tokens.
        absent: Option<String>,
    },

    /// Two tokens share an id.
    #[error("{}: `{first}` and `{second}` both have the id {id}; restore the file from its source", file.display())]
    SharedId {
        /// The vocabulary.
        file: PathBuf,
        /// The id.
        id: u32,
        /// One of the tokens.
        first: String,
        /// Another one.
        second: String,
    },

    /// The vocabulary lacks a single byte, so some texts could not be written with it.
    #[error(
        "{}: no token for the byte written `{character}`; a byte-level vocabulary has all 256, so restore the file from its source",
        file.display()
    )]
    MissingByte {
        /// The vocabulary.
        file: PathBuf,
        /// The character that stands for the byte.
        character: char,
    },

    /// A token is listed with another id than it has.
    #[error(
        "{}: token `{token}` is listed with the id {listed}, but it has {actual}; the files of this tokenizer are of different models",
        file.display()
    )]
    TokenId {
        /// The file with the list.
        file: PathBuf,
        /// The token.
        token: String,
        /// Its id in the list.
        listed: u32,
        /// Its id in the tokenizer.
        actual: u32,
    },

    /// A token should be put around each text, but is not named.
    #[error("{}: `{flag}` is true, but `{token}` is not named; name it or set `{flag}` to false", file.display())]
    Unnamed {
        /// `tokenizer_config.json`.
        file: PathBuf,
        /// The setting.
        flag: &'static str,
        /// The field that should name the token.
        token: &'static str,
    },

    /// The file is no SentencePiece model.
    #[error("{}: no SentencePiece model; it is cut short or corrupt, so fetch it again", file.display())]
    SentencePiece {
        /// `tokenizer.model`.
        file: PathBuf,
        /// What the protobuf reader says.
        source: prost::DecodeError,
    },

    /// The SentencePiece model is of a kind that is not read.
    #[error(
        "{}: SentencePiece model with {field} {found}, but only {expected} is read; use the tokenizer.json of this model",
        file.display()
    )]
    SentencePieceKind {
        /// `tokenizer.model`.
        file: PathBuf,
        /// The field.
        field: &'static str,
        /// What stands there.
        found: String,
        /// What may stand there.
        expected: &'static str,
    },

    /// A text cannot be turned into ids.
    #[error("{}: a text of {bytes} bytes cannot be turned into ids with this tokenizer", file.display())]
    Encode {
        /// The file the tokenizer was read from.
        file: PathBuf,
        /// Length of the text, in bytes.
        bytes: usize,
        /// What the tokenizers library says.
        source: Source,
    },

    /// Ids cannot be turned into text.
    #[error("{}: {ids} ids cannot be turned into text with this tokenizer", file.display())]
    Decode {
        /// The file the tokenizer was read from.
        file: PathBuf,
        /// Number of ids.
        ids: usize,
        /// What the tokenizers library says.
        source: Source,
    },

    /// The tokenizer has no token of this id.
    #[error("{}: no token has the id {id} (the highest is {}); the tokenizer and the model do not belong together",
        file.display(), vocab_size.saturating_sub(1))]
    UnknownId {
        /// The file the tokenizer was read from.
        file: PathBuf,
        /// The id.
        id: u32,
        /// Highest id of the tokenizer plus one.
        vocab_size: usize,
    },
}
