//! What can be wrong with text data.

use std::path::PathBuf;

use super::{BadRow, FileKind, Place, TextFormat};

/// Why text data cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A file or folder cannot be read.
    #[error("{}: cannot be read", file.display())]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// The tokenised data cannot be kept.
    #[error("{}: tokenised data cannot be written here; set data.text.cache to another folder, or to \"\" to keep none", folder.display())]
    Cache {
        /// The cache folder.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// A file whose name does not say what is in it.
    #[error("{}: unknown kind of file; name it .txt, .jsonl, .json, .csv, .tsv or .parquet (the text ones also with .gz)", file.display())]
    UnknownKind {
        /// The file.
        file: PathBuf,
    },

    /// A folder without data.
    #[error("{}: holds no .txt, .jsonl, .json, .csv, .tsv or .parquet file", folder.display())]
    EmptyFolder {
        /// The folder.
        folder: PathBuf,
    },

    /// A kind of file in which a format is not written.
    #[error("{}: rows of this format are not read from a {kind} file; is data.format right?", file.display())]
    WrongKind {
        /// The file.
        file: PathBuf,
        /// What its name says.
        kind: FileKind,
    },

    /// UTF-16 text.
    #[error("{}: is UTF-16; save it as UTF-8", file.display())]
    Utf16 {
        /// The file.
        file: PathBuf,
    },

    /// Not JSON, or nested too deep.
    #[error("{}: not JSON this program can read", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },

    /// A JSON document without rows.
    #[error("{}: holds no list of rows; write a list of objects, an object with a list `data`, or one object a line (.jsonl)", file.display())]
    NoList {
        /// The file.
        file: PathBuf,
    },

    /// Text in which no line or row ends.
    #[error("{}: row {row} is longer than {limit} bytes; is a quote or bracket not closed?", file.display())]
    EndlessRow {
        /// The file.
        file: PathBuf,
        /// The row, counted from 1.
        row: usize,
        /// Bytes a row may have.
        limit: usize,
    },

    /// A line of running text that cannot be used.
    #[error(transparent)]
    BadLine(#[from] BadRow),

    /// A CSV file that cannot be read.
    #[error("{}: not CSV this program can read", file.display())]
    Csv {
        /// The file.
        file: PathBuf,
        /// What is wrong, with its line.
        source: csv::Error,
    },

    /// A Parquet file that cannot be read.
    #[error("{}: not Parquet this program can read", file.display())]
    Parquet {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: parquet::errors::ParquetError,
    },

    /// A Parquet file so damaged that its reader gave up.
    #[error("{}: damaged; get it again", file.display())]
    ParquetDamaged {
        /// The file.
        file: PathBuf,
    },

    /// A Parquet file packed in a way that is not unpacked here.
    #[error("{}: packed with {codec}; write it with snappy, gzip or no compression", file.display())]
    ParquetCodec {
        /// The file.
        file: PathBuf,
        /// The compression.
        codec: parquet::basic::Compression,
    },

    /// Rows that cannot be used.
    #[error("{}", list(.total, .first))]
    BadRows {
        /// How many.
        total: usize,
        /// The first of them.
        first: Vec<BadRow>,
    },

    /// Data of which nothing can be learned.
    #[error("{}: nothing to learn from: {rows} rows read, {bad} bad, {dropped} dropped", path.display())]
    NothingLeft {
        /// File or folder.
        path: PathBuf,
        /// Rows read.
        rows: usize,
        /// Rows that cannot be used.
        bad: usize,
        /// Samples dropped.
        dropped: usize,
    },

    /// Rows that are not a prompt and what follows it.
    #[error(
        "{}: rows of `{format}` have no prompts to write a text after; name another format with --format, such as `e2e` or `alpaca`",
        path.display()
    )]
    NoPrompts {
        /// File or folder.
        path: PathBuf,
        /// The format.
        format: TextFormat,
    },

    /// The model goes on with text, and the format is one of pictures.
    #[error(
        "`{format}` is a format of pictures, but text is wanted; name one of text, such as `e2e` or `alpaca`"
    )]
    NoText {
        /// The format.
        format: String,
    },

    /// A length that the model cannot take.
    #[error("`data.text.max_tokens` is {found}; with this model it can be 1 to {most}")]
    MaxTokens {
        /// What the recipe says, in tokens.
        found: usize,
        /// The most that is possible, in tokens.
        most: usize,
    },

    /// A tokenizer without end token.
    #[error(
        "the tokenizer has no end token, which `{format}` needs; name one as eos_token in tokenizer_config.json"
    )]
    NoEnd {
        /// The format.
        format: TextFormat,
    },

    /// A tokenizer without chat template.
    #[error(
        "the tokenizer has no chat template, which `{format}` needs; add chat_template to tokenizer_config.json"
    )]
    NoChatTemplate {
        /// The format.
        format: TextFormat,
    },

    /// A token that the model does not have.
    #[error(
        "{place}: token {id}, but the model has {embeddings} embeddings (the tokenizer has {vocabulary} tokens); \
         use the tokenizer that belongs to the model"
    )]
    ForeignToken {
        /// The row.
        place: Place,
        /// The token.
        id: u32,
        /// Rows of the model's embedding.
        embeddings: usize,
        /// Tokens of the tokenizer.
        vocabulary: usize,
    },

    /// Too few examples for a few-shot prompt.
    #[error("subject `{subject}` has {found} examples; {wanted} shots need as many")]
    TooFewShots {
        /// The subject.
        subject: String,
        /// Examples there are.
        found: usize,
        /// Examples asked for.
        wanted: usize,
    },
}

fn list(total: &usize, first: &[BadRow]) -> String {
    let mut lines = vec![format!("{total} rows cannot be used:")];
    lines.extend(first.iter().map(|row| format!("  {row}")));
    if *total > first.len() {
        lines.push(format!("  and {} more", total - first.len()));
    }
    lines.push("correct them, or leave them out with data.text.on_bad_row = \"skip\"".to_owned());
    lines.join("\n")
}
