//! JSON: one object a line, or one document with a list of them.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufRead, Cursor, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{MAX_ROW_BYTES, Row, Sink, io_error, lines, record};
use crate::text::{Place, RowProblem, Spot, TextError};

/// Names of the list of rows in a document that is an object; `entries` is WebNLG's.
const LISTS: [&str; 2] = ["data", "entries"];

/// One object a line.
pub(super) fn read_lines(
    file: &Arc<Path>,
    reader: impl BufRead,
    sink: &mut Sink,
) -> Result<ControlFlow<()>, TextError> {
    let parse = |line: &str| record(serde_json::from_str(line).map_err(RowProblem::Json)?);
    lines::read_rows(file, reader, &parse, sink)
}

/// A document; a file that starts with a whole object that has no list of rows is read as one object a line.
pub(super) fn read(
    file: &Arc<Path>,
    mut reader: Box<dyn BufRead>,
    sink: &mut Sink,
) -> Result<ControlFlow<()>, TextError> {
    let mut start = Vec::new();
    reader.by_ref().take(MAX_ROW_BYTES as u64).read_until(b'\n', &mut start).map_err(io_error(file))?;
    let object: Result<Map<String, Value>, _> = serde_json::from_slice(&start);
    let is_row =
        object.is_ok_and(|fields| !LISTS.iter().any(|list| fields.get(*list).is_some_and(Value::is_array)));
    let whole = Cursor::new(start).chain(reader);
    if is_row { read_lines(file, whole, sink) } else { read_document(file, whole, sink) }
}

fn read_document(file: &Arc<Path>, reader: impl Read, sink: &mut Sink) -> Result<ControlFlow<()>, TextError> {
    let progress = Progress::default();
    let mut parser = serde_json::Deserializer::from_reader(Watched { reader, progress: &progress });
    let mut document = Document { file, progress: &progress, sink, rows: None, is_done: false };
    let result = parser.deserialize_any(&mut document).and_then(|()| parser.end());
    let Document { rows, is_done, .. } = document;
    match result {
        Ok(()) if rows.is_none() => Err(TextError::NoList { file: file.to_path_buf() }),
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(_) if is_done => Ok(ControlFlow::Break(())),
        Err(_) if progress.is_over() => Err(TextError::EndlessRow {
            file: file.to_path_buf(),
            row: rows.unwrap_or(0) + 1,
            limit: MAX_ROW_BYTES,
        }),
        Err(source) if source.is_io() => Err(io_error(file)(source.into())),
        Err(source) => Err(TextError::Json { file: file.to_path_buf(), source }),
    }
}

/// How far a document has been read.
struct Progress {
    /// The line, counted from 1.
    line: Cell<usize>,
    /// Bytes since the last row ended.
    bytes: Cell<usize>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { line: Cell::new(1), bytes: Cell::new(0) }
    }
}

impl Progress {
    fn is_over(&self) -> bool {
        self.bytes.get() > MAX_ROW_BYTES
    }
}

/// A reader that counts, and fails once a row is too long. The parser asks it for single bytes, so counts are exact.
struct Watched<'a, R> {
    reader: R,
    progress: &'a Progress,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        let lines = buffer[..read].iter().filter(|&&byte| byte == b'\n').count();
        self.progress.line.update(|line| line + lines);
        self.progress.bytes.update(|bytes| bytes + read);
        if self.progress.is_over() { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(read) }
    }
}

/// Hands on the rows of a document as they come.
struct Document<'a, 'b> {
    file: &'a Arc<Path>,
    progress: &'a Progress,
    sink: &'a mut Sink<'b>,
    /// Rows so far, once a list of them has begun.
    rows: Option<usize>,
    /// Whether the sink has enough; the parser is then left with an error.
    is_done: bool,
}

impl<'de> Visitor<'de> for &mut Document<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of objects, or an object with such a list named `data`")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.rows.get_or_insert(0);
        while let Some((line, value)) = list.next_element_seed(Element(self.progress))? {
            let row = self.rows.map_or(1, |rows| rows + 1);
            self.rows = Some(row);
            self.progress.bytes.set(0);
            let place = Place { file: Arc::clone(self.file), spot: Spot::RowAtLine { row, line } };
            if (self.sink)(Row { place, content: record(value) }).is_break() {
                self.is_done = true;
                return Err(A::Error::custom("enough rows"));
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while let Some(name) = fields.next_key::<String>()? {
            if LISTS.contains(&name.as_str()) {
                fields.next_value_seed(List(self))?;
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// The list of rows of a document that is an object.
struct List<'a, 'b, 'c>(&'a mut Document<'b, 'c>);

impl<'de> DeserializeSeed<'de> for List<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<(), D::Error> {
        parser.deserialize_seq(self.0)
    }
}

/// A row and the line in which it starts.
struct Element<'a>(&'a Progress);

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = (usize, Value);

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<Self::Value, D::Error> {
        Ok((self.0.line.get(), Value::deserialize(parser)?))
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::super::tests::rows_of;
    use super::*;
    use crate::text::read::PlainText;

    fn rows(name: &str, text: &str) -> Result<Vec<String>, TextError> {
        rows_of(name, text.as_bytes(), PlainText::Running)
    }

    fn message(name: &str, text: &str) -> String {
        let error = rows(name, text).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        format!("{error}: {source}")
    }

    #[test]
    fn a_list_gives_its_rows_with_their_lines() {
        let text = "[\n {\"a\": 1},\n {\"a\": 2}, {\"a\":\n 3}\n]\n";
        let expected =
            ["a.json:2 (row 1) {\"a\":1}", "a.json:3 (row 2) {\"a\":2}", "a.json:3 (row 3) {\"a\":3}"];
        assert_eq!(rows("a.json", text).unwrap(), expected);
    }

    #[test]
    fn an_object_gives_the_rows_of_its_list() {
        let text = "{\"version\": [1, 2], \"data\": [{\"a\": 1}], \"more\": {}}";
        assert_eq!(rows("a.json", text).unwrap(), ["a.json:1 (row 1) {\"a\":1}"]);
    }

    #[test]
    fn json_lines_are_known_even_if_named_json() {
        let expected = ["a.json:1 {\"a\":1}", "a.json:2 {\"a\":2}"];
        assert_eq!(rows("a.json", "{\"a\": 1}\r\n{\"a\": 2}\r\n").unwrap(), expected);
    }

    #[test]
    fn an_object_without_a_list_says_what_to_write() {
        let message = message("a.json", "{\n\"rows\": [1]\n}");
        assert!(message.contains("an object with a list `data`"), "{message}");
    }

    #[test]
    fn a_document_that_is_not_json_names_line_and_column() {
        let message = message("a.json", "[{\"a\": 1},\n{\"a\": }]");
        assert!(message.contains("line 2 column 7"), "{message}");
    }

    #[test]
    fn a_document_cut_short_is_an_error() {
        assert!(message("a.json", "[{\"a\": 1},").contains("EOF"), "cut short");
        assert!(message("a.json", "").contains("EOF"), "empty");
    }

    #[test]
    fn text_after_a_document_is_an_error() {
        assert!(message("a.json", "[{\"a\": 1}] x").contains("trailing characters"));
    }

    #[test]
    fn rows_that_are_no_objects_are_bad_and_the_others_stay() {
        let expected = [
            "a.json:1 (row 1) ! a number; expected an object with named fields",
            "a.json:1 (row 2) {\"a\":1}",
        ];
        assert_eq!(rows("a.json", "[3, {\"a\": 1}]").unwrap(), expected);
    }

    #[test]
    fn a_line_that_is_not_json_is_a_bad_row_and_the_others_stay() {
        let rows = rows("a.jsonl", "{\"a\": 1}\n{\"a\"\n{\"a\": 2}\n").unwrap();
        assert_eq!(rows.len(), 3);
        assert!(rows[1].starts_with("a.jsonl:2 ! not JSON: EOF"), "{rows:?}");
    }

    #[test]
    fn ten_thousand_brackets_are_a_bad_row_of_json_lines() {
        let rows = rows("a.jsonl", &format!("{{\"a\": {}", "[".repeat(10_000))).unwrap();
        assert!(rows[0].contains("recursion limit exceeded"), "{rows:?}");
    }

    #[test]
    fn ten_thousand_brackets_in_a_document_are_an_error() {
        let text = "[".repeat(10_000) + &"]".repeat(10_000);
        assert!(message("a.json", &text).contains("recursion limit exceeded"));
    }

    #[test]
    fn a_row_that_does_not_end_is_an_error_before_memory_is_full() {
        let file = Arc::from(Path::new("a.json"));
        let endless = Cursor::new("[{\"a\": 1}, {\"a\": \"").chain(io::repeat(b'x'));
        let reader = Box::new(BufReader::new(endless));
        let result = read(&file, reader, &mut |_| ControlFlow::Continue(()));
        assert!(matches!(result, Err(TextError::EndlessRow { row: 2, .. })), "{result:?}");
    }

    #[test]
    fn reading_stops_once_there_is_enough() {
        let file = Arc::from(Path::new("a.json"));
        let reader = Box::new(Cursor::new("[{\"a\": 1}, {\"a\": 2}, nonsense"));
        let mut count = 0;
        let flow = read(&file, reader, &mut |_| {
            count += 1;
            if count == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(flow, Ok(ControlFlow::Break(()))) && count == 2);
    }
}
