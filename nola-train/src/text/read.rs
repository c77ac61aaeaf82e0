//! From files to rows: what kind a file is, and one reader for each kind.
//!
//! Rows are handed on one by one, so that no file need fit in memory; a row longer than [`MAX_ROW_BYTES`] is never
//! held whole.

mod csv_file;
mod foreign;
mod json_document;
mod json_file;
mod lines;
mod parquet_bounds;
mod parquet_file;
mod parquet_packed;
mod parquet_pages;
mod parquet_values;
mod source;
mod table;
mod tsv_file;

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{FileKind, Place, RowProblem, TextError};
use foreign::Foreign;
pub(super) use lines::blocks;
use source::open;

/// A row may have this many bytes.
pub const MAX_ROW_BYTES: usize = 16 << 20;

/// What a field or a value costs besides its text, in bytes.
const VALUE_BYTES: usize = 32;

/// A row may have this many fields, or values in its lists.
const MAX_ROW_VALUES: usize = MAX_ROW_BYTES / VALUE_BYTES;

/// What stands in a row for a column that is not read: something, so that its name is told to be of no use.
const UNREAD: &str = "(not read)";

/// How a format reads plain text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlainText {
    /// As running text, in large blocks.
    Running,
    /// One row a line.
    Lines,
    /// Not at all.
    Refused,
}

/// The columns of a file that are read; the others are [`UNREAD`], where leaving them out saves work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum UsedColumns {
    /// All.
    All,
    /// Those of these names.
    Named(Vec<String>),
}

impl UsedColumns {
    /// Those of these names.
    pub fn named<T: Into<String>>(names: impl IntoIterator<Item = T>) -> Self {
        Self::Named(names.into_iter().map(Into::into).collect())
    }

    /// Whether a column is read.
    pub fn contain(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|known| known == name),
        }
    }
}

/// A row as it stands in its file.
#[derive(Debug)]
pub(super) struct Row {
    /// Where it stands.
    pub place: Place,
    /// What it holds, or why that cannot be said.
    pub content: Result<Content, RowProblem>,
}

/// What a row holds.
#[derive(Debug, PartialEq)]
pub(super) enum Content {
    /// A line, or the first block of running text.
    Text(String),
    /// Running text that goes on from the row before.
    More(String),
    /// Named fields.
    Record(Map<String, Value>),
}

/// Takes rows, until it has enough.
pub(super) type Sink<'a> = dyn FnMut(Row) -> ControlFlow<()> + 'a;

/// The file itself, or the data files of a folder in the order of their names.
///
/// # Errors
/// If there is none, or none of a known kind.
pub(super) fn files_of(path: &Path) -> Result<Vec<Arc<Path>>, TextError> {
    let io = io_error(path);
    if !std::fs::metadata(path).map_err(&io)?.is_dir() {
        return Ok(vec![path.into()]);
    }
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(path).map_err(&io)? {
        let file = entry.map_err(&io)?.path();
        if file.is_file() && FileKind::of(&file).is_some() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(TextError::EmptyFolder { folder: path.into() });
    }
    files.sort();
    Ok(files.into_iter().map(Arc::from).collect())
}

/// Hands the rows of a file to `sink`.
///
/// # Errors
/// If the file cannot be read, is of another kind than its name says, or of one that the format is not written in. What is wrong
/// with one row alone is handed on with the row.
pub(super) fn read(
    file: &Arc<Path>,
    plain_text: PlainText,
    columns: &UsedColumns,
    sink: &mut Sink,
) -> Result<ControlFlow<()>, TextError> {
    let kind = FileKind::of(file).ok_or_else(|| TextError::UnknownKind { file: file.to_path_buf() })?;
    match (kind, plain_text) {
        (FileKind::Text, PlainText::Running) => lines::read_running(file, open(file)?, sink),
        (FileKind::Text, PlainText::Lines) => {
            lines::read_rows(file, open(file)?, &|line, _| Ok(Content::Text(line.to_owned())), sink)
        }
        (FileKind::Text, PlainText::Refused) => Err(TextError::WrongKind { file: file.to_path_buf(), kind }),
        (FileKind::JsonLines, _) => json_file::read_lines(file, open(file)?, sink),
        (FileKind::Json, _) => json_file::read(file, open(file)?, sink),
        (FileKind::Csv, _) => csv_file::read(file, open(file)?, sink),
        (FileKind::Tsv, _) => tsv_file::read(file, open(file)?, sink),
        (FileKind::Parquet, _) => parquet_file::read(file, columns, sink),
    }
}

fn io_error(file: &Path) -> impl Fn(io::Error) -> TextError + '_ {
    move |source| TextError::Io { file: file.into(), source }
}

/// What a value is, for messages.
pub(super) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(fields) => foreign::kind_of(fields).map_or("an object", Foreign::description),
    }
}

/// What a value holds that no text can be made of, for messages.
pub(super) fn foreign_in(value: &Value) -> Option<&'static str> {
    foreign::within(value).map(Foreign::description)
}

/// The value of a JSON text that a field holds.
pub(super) fn json_in(text: &str) -> Option<Value> {
    foreign::parse(text).ok()
}

/// Bytes as text.
fn text(bytes: &[u8]) -> Result<&str, RowProblem> {
    let text = std::str::from_utf8(bytes).map_err(|error| RowProblem::NotUtf8(error.valid_up_to()))?;
    match text.find('\0') {
        Some(at) => Err(RowProblem::ZeroByte(at)),
        None => Ok(text),
    }
}

/// The fields of a JSON value, which must be an object.
fn record(value: Value) -> Result<Content, RowProblem> {
    match value {
        Value::Object(fields) => Ok(Content::Record(fields)),
        other => Err(RowProblem::NotAnObject { found: type_of(&other) }),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    /// Rows as text: place without its folder, and content or problem.
    pub fn rows_of(name: &str, bytes: &[u8], plain_text: PlainText) -> Result<Vec<String>, TextError> {
        let folder = tempfile::tempdir().unwrap();
        let file: Arc<Path> = folder.path().join(name).into();
        std::fs::write(&file, bytes).unwrap();
        let mut rows = Vec::new();
        let _ = read(&file, plain_text, &UsedColumns::All, &mut |row| {
            let place = row.place.to_string();
            let place = place.rsplit('/').next().unwrap().to_owned();
            rows.push(match row.content {
                Ok(Content::Text(text) | Content::More(text)) => format!("{place} {text}"),
                Ok(Content::Record(fields)) => format!("{place} {}", Value::Object(fields)),
                Err(problem) => format!("{place} ! {problem}"),
            });
            ControlFlow::Continue(())
        })?;
        Ok(rows)
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_row() {
        for (name, bytes) in [("a.jsonl", "\u{feff}{\"text\":\"é\"}"), ("a.csv", "\u{feff}text\né\n")] {
            let rows = rows_of(name, bytes.as_bytes(), PlainText::Running).unwrap();
            assert!(rows.len() == 1 && rows[0].ends_with("{\"text\":\"é\"}"), "{rows:?}");
        }
        assert_eq!(rows_of("a.txt", "\u{feff}é".as_bytes(), PlainText::Running).unwrap(), ["a.txt:1 é"]);
    }

    #[test]
    fn utf_16_is_named() {
        for bytes in [b"\xff\xfet\0".as_slice(), b"t\0e\0", b"\0\0\xfe\xff"] {
            for name in ["a.csv", "a.tsv", "a.json", "a.jsonl", "a.txt"] {
                let message = rows_of(name, bytes, PlainText::Running).unwrap_err().to_string();
                assert!(message.ends_with(": is UTF-16 or UTF-32; save it as UTF-8"), "{message}");
            }
        }
    }

    #[test]
    fn a_packed_file_is_unpacked() {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(b"{\"text\":\"a\"}\n").unwrap();
        let rows = rows_of("a.jsonl.gz", &packed.finish().unwrap(), PlainText::Running).unwrap();
        assert_eq!(rows, ["a.jsonl.gz:1 {\"text\":\"a\"}"]);
    }

    #[test]
    fn a_packed_file_cut_short_is_an_error() {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(b"{\"text\":\"a\"}\n").unwrap();
        let packed = packed.finish().unwrap();
        let result = rows_of("a.jsonl.gz", &packed[..packed.len() - 9], PlainText::Running);
        assert!(matches!(result, Err(TextError::Io { .. })), "{result:?}");
    }

    #[test]
    fn a_name_without_a_known_ending_is_refused() {
        for name in ["a.docx", "a.parquet.gz", "a", "a.jsonl.zip", ".gz"] {
            let message = rows_of(name, b"", PlainText::Running).unwrap_err().to_string();
            assert!(message.contains("unknown kind of file"), "{message}");
        }
    }

    #[test]
    fn a_format_that_is_not_written_as_plain_text_says_so() {
        let message = rows_of("a.txt", b"", PlainText::Refused).unwrap_err().to_string();
        assert!(message.contains("not read from a plain text file"), "{message}");
    }

    #[test]
    fn a_folder_is_its_data_files_by_name() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.jsonl", "a.csv", "README.md"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let files = files_of(folder.path()).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.csv", "b.jsonl"]);
    }

    #[test]
    fn a_path_that_does_not_exist_is_not_called_an_unknown_kind() {
        let result = files_of(Path::new("no/such/folder"));
        assert!(matches!(result, Err(TextError::Io { .. })), "{result:?}");
    }

    #[test]
    fn a_folder_without_data_says_so() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(files_of(folder.path()), Err(TextError::EmptyFolder { .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
            text in "[\\[{]?[\\[\\]{}\",:a1\\\\ \r\n\t|]{0,60}",
        ) {
            for name in ["a.txt", "a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz"] {
                let _ = rows_of(name, &bytes, PlainText::Lines);
                let _ = rows_of(name, text.as_bytes(), PlainText::Running);
            }
        }
    }
}
