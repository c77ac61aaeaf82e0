//! What can be wrong with text data.

use std::path::PathBuf;

use super::{BadRow, BadRows, FileKind, Place, TextFormat};
use crate::portion::DrawnUnit;

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

    /// UTF-16 or UTF-32 text.
    #[error("{}: is UTF-16 or UTF-32; save it as UTF-8", file.display())]
    Utf16 {
        /// The file.
        file: PathBuf,
    },

    /// A document that is not JSON.
    #[error("{}:{line}: not JSON: {problem}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong there, and the cure.
        problem: String,
    },

    /// A JSON document without rows.
    #[error("{}: holds no list of rows; write a list of objects, an object with a list `data`, or one object a line (.jsonl)", file.display())]
    NoList {
        /// The file.
        file: PathBuf,
    },

    /// A line of running text that cannot be used.
    #[error(transparent)]
    BadLine(#[from] BadRow),

    /// A CSV file with a quotation mark that swallows all lines behind it.
    #[error(
        "{place}: a quotation mark opens a field here and never closes; close it, or double it if it belongs to the text"
    )]
    OpenQuote {
        /// The line of the mark.
        place: Place,
    },

    /// A CSV file with a quotation mark that swallows the lines up to another one.
    #[error(
        "{place}: a quotation mark opens a field here, and text follows the one that closes it in line {closed}; close it \
         before the next comma or line end, or double every mark that belongs to the text"
    )]
    StrayQuote {
        /// The line of the mark.
        place: Place,
        /// The line of the mark that closes it.
        closed: usize,
    },

    /// A Parquet file that cannot be read.
    #[error("{}: not Parquet this program can read; get it again if it was cut short, or save it as JSON lines", file.display())]
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

    /// A Parquet file whose rows hold far more than the file.
    #[error("{}: the first {row} rows hold more than a thousand times the bytes of the file, the same texts again and again; save it as JSON lines if they are meant to", file.display())]
    ParquetRepeats {
        /// The file.
        file: PathBuf,
        /// The row at which it was seen, counted from 1.
        row: usize,
    },

    /// Rows that cannot be used.
    #[error("{}", list(.0))]
    BadRows(BadRows),

    /// Data of which nothing can be learned.
    #[error("{}: nothing to learn from: {reasons}", path.display())]
    NothingLeft {
        /// File or folder.
        path: PathBuf,
        /// Why its rows gave no sample, with what to do about it.
        reasons: String,
    },

    /// Too little text to hold some of it out.
    #[error(
        "{}: holds only one of the {unit} that data.validation_split parts, so nothing can be held out; name validation data \
         with data.validation, or add more",
        path.display()
    )]
    TooFewToHoldOut {
        /// File or folder.
        path: PathBuf,
        /// What is counted.
        unit: DrawnUnit,
    },

    /// Rows that are not a prompt and what follows it.
    #[error(
        "{}: rows of `{format}` have no prompts to complete; name another format with --format, such as `e2e` or `alpaca`",
        path.display()
    )]
    NoPrompts {
        /// File or folder.
        path: PathBuf,
        /// The format.
        format: TextFormat,
    },

    /// The format `template` without its template.
    #[error(
        "rows of `template` are written by data.text.template and data.text.completion, which are not known; name a run or an \
         adapter that was trained with them, or another format"
    )]
    NoTemplate,

    /// The model completes prompts, and the format is one of images.
    #[error(
        "`{format}` is a format of images, but text is wanted; name one of text, such as `e2e` or `alpaca`"
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
         take the token out of the tokenizer's files, resize the model, or use the tokenizer that belongs to it"
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

fn list(bad: &BadRows) -> String {
    let mut lines = vec![format!("{} rows cannot be used:", bad.total())];
    lines.extend(bad.lines().iter().map(|line| format!("  {line}")));
    lines.push("correct them, or leave them out with data.text.on_bad_row = \"skip\"".to_owned());
    lines.join("\n")
}
