//! What a file of rows holds, as its name says.

use std::fmt;
use std::path::Path;

/// What a file holds, as its name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// `.txt`: running text, or one row a line.
    Text,
    /// `.jsonl`, `.ndjson`: one JSON object a line.
    JsonLines,
    /// `.json`: a list of objects, an object with such a list, or one object a line after all.
    Json,
    /// `.csv`: fields between commas, with a header.
    Csv,
    /// `.tsv`: fields between tabs, with a header.
    Tsv,
    /// `.parquet`: columns.
    Parquet,
}

impl FileKind {
    /// The kind that a file's name says; `.gz` at the end of a text file's is skipped.
    pub fn of(file: &Path) -> Option<Self> {
        let name = file.file_name()?.to_str()?.to_ascii_lowercase();
        let (name, is_packed) = name.strip_suffix(".gz").map_or((name.as_str(), false), |name| (name, true));
        match name.rsplit_once('.')?.1 {
            "txt" | "text" => Some(Self::Text),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            "json" => Some(Self::Json),
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            "parquet" if !is_packed => Some(Self::Parquet),
            _ => None,
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "plain text",
            Self::JsonLines => "JSON lines",
            Self::Json => "JSON",
            Self::Csv => "CSV",
            Self::Tsv => "TSV",
            Self::Parquet => "Parquet",
        })
    }
}
