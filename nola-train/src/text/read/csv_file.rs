//! CSV with a header, by RFC 4180.

use std::io::{self, BufRead};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::{MAX_ROW_BYTES, MAX_ROW_VALUES, Row, Sink, io_error, table};
use crate::text::{Place, RowLocation, RowProblem, TextError};

/// One row for each record; all fields are text.
///
/// # Errors
/// If the file cannot be read, its header cannot be used, or a quotation mark swallows lines.
pub(super) fn read(
    file: &Arc<Path>,
    reader: impl BufRead,
    sink: &mut Sink,
) -> Result<ControlFlow<()>, TextError> {
    let mut records = Records { reader, line: 1, record: Record::default() };
    let mut header = None;
    let place = |line| Place { file: Arc::clone(file), spot: RowLocation::Line(line) };
    while let Some(line) = records.next().map_err(|problem| problem.in_file(file))? {
        let Some(header) = &header else {
            header = Some(table::header(records.record.fields(), place(line))?);
            continue;
        };
        let content = records.record.fields().and_then(|fields| table::content(header, fields));
        if sink(Row { place: place(line), content }).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// What is wrong with the file from some line on.
enum Broken {
    Io(io::Error),
    /// A quotation mark in this line never closes.
    Open(usize),
    /// Behind the mark that closes one of line `opened`, in line `closed`, is more text: one of the two means something else.
    Stray {
        opened: usize,
        closed: usize,
    },
}

impl Broken {
    fn in_file(self, file: &Arc<Path>) -> TextError {
        let place = |line| Place { file: Arc::clone(file), spot: RowLocation::Line(line) };
        match self {
            Self::Io(source) => io_error(file)(source),
            Self::Open(line) => TextError::OpenQuote { place: place(line) },
            Self::Stray { opened, closed } => TextError::StrayQuote { place: place(opened), closed },
        }
    }
}

/// Where in a field the reader is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// At its start.
    Start,
    /// In one without quotation marks around it.
    Plain,
    /// In one with them, the first of which is in line `opened`.
    Quoted { opened: usize },
    /// Behind a mark in such a field: its last, or the first of two.
    Closed { opened: usize },
}

/// The fields of a record, of bounded length.
#[derive(Default)]
struct Record {
    fields: Vec<Vec<u8>>,
    /// Fields that ended, those with them that were not kept because there are too many.
    count: usize,
    /// Bytes, those with them that were not kept because there are too many.
    bytes: usize,
    /// Whether text follows a closing quotation mark.
    is_stray: bool,
}

impl Record {
    fn push(&mut self, byte: u8) {
        self.bytes += 1;
        if self.bytes <= MAX_ROW_BYTES {
            self.fields.last_mut().expect("a record has a field").push(byte);
        }
    }

    fn end_field(&mut self) {
        self.bytes += 1;
        self.count += 1;
        if self.bytes <= MAX_ROW_BYTES && self.count <= MAX_ROW_VALUES {
            self.fields.push(Vec::new());
        }
    }

    fn fields(&self) -> Result<Vec<String>, RowProblem> {
        if self.bytes > MAX_ROW_BYTES {
            return Err(RowProblem::TooLong { found: self.bytes, limit: MAX_ROW_BYTES });
        }
        if self.count > MAX_ROW_VALUES {
            return Err(RowProblem::ManyValues(MAX_ROW_VALUES));
        }
        if self.is_stray {
            return Err(RowProblem::StrayQuote);
        }
        self.fields.iter().map(|field| Ok(super::text(field)?.to_owned())).collect()
    }
}

/// Records one after the other.
struct Records<R> {
    reader: R,
    /// The line, counted from 1.
    line: usize,
    record: Record,
}

impl<R: BufRead> Records<R> {
    /// Reads the next record, and returns the line in which it starts; blank lines are none.
    fn next(&mut self) -> Result<Option<usize>, Broken> {
        self.record = Record { fields: vec![Vec::new()], ..Record::default() };
        let (mut state, mut start) = (State::Start, self.line);
        loop {
            let bytes = self.reader.fill_buf().map_err(Broken::Io)?;
            let Some(&byte) = bytes.first() else {
                return match state {
                    State::Quoted { opened } => Err(Broken::Open(opened)),
                    State::Start if self.record.bytes == 0 => Ok(None),
                    State::Start | State::Plain | State::Closed { .. } => Ok(Some(start)),
                };
            };
            self.reader.consume(1);
            self.line += usize::from(byte == b'\n');
            let is_quoted = matches!(state, State::Quoted { .. });
            match byte {
                b'\n' if state == State::Start && self.record.bytes == 0 => start = self.line,
                b'\n' if !is_quoted => return Ok(Some(start)),
                other => state = self.step(state, other)?,
            }
        }
    }

    /// Takes a byte that does not end the record.
    fn step(&mut self, state: State, byte: u8) -> Result<State, Broken> {
        let record = &mut self.record;
        Ok(match (state, byte) {
            (State::Start, b'"') => {
                // An empty quoted field is a record.
                record.bytes += 1;
                State::Quoted { opened: self.line }
            }
            (State::Quoted { opened }, b'"') => State::Closed { opened },
            (State::Closed { opened }, b'"') => {
                record.push(byte);
                State::Quoted { opened }
            }
            (State::Start | State::Plain | State::Closed { .. }, b',') => {
                record.end_field();
                State::Start
            }
            (State::Closed { opened }, _) if opened < self.line => {
                return Err(Broken::Stray { opened, closed: self.line });
            }
            (State::Closed { .. }, _) => {
                record.is_stray = true;
                State::Plain
            }
            (State::Start | State::Plain, _) => {
                record.push(byte);
                State::Plain
            }
            (State::Quoted { opened }, _) => {
                record.push(byte);
                State::Quoted { opened }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor, Read};

    use proptest::prelude::*;

    use super::super::tests::rows_of;
    use super::*;
    use crate::text::read::PlainText;

    fn rows(text: impl AsRef<[u8]>) -> Vec<String> {
        rows_of("a.csv", text.as_ref(), PlainText::Running).unwrap()
    }

    fn message(text: &str) -> String {
        rows_of("a.csv", text.as_bytes(), PlainText::Running).unwrap_err().to_string()
    }

    #[test]
    fn records_are_named_by_the_line_they_start_in() {
        let expected =
            ["a.csv:2 {\"a\":\"x\\ny\",\"b\":\"1, 2\"}", "a.csv:4 {\"a\":\"z\",\"b\":\"\\\"q\\\"\"}"];
        assert_eq!(rows("a,b\n\"x\ny\",\"1, 2\"\nz,\"\"\"q\"\"\"\n"), expected);
    }

    #[test]
    fn line_ends_of_every_system_are_no_part_of_a_field() {
        for end in ["\n", "\r\n", "\r"] {
            let text = "a,b\n1,2\n\"x\ny\",3\n".replace('\n', end);
            let expected = ["a.csv:2 {\"a\":\"1\",\"b\":\"2\"}", "a.csv:3 {\"a\":\"x\\ny\",\"b\":\"3\"}"];
            assert_eq!(rows(text), expected);
        }
    }

    #[test]
    fn blank_lines_are_no_rows_but_count_as_lines() {
        let expected = ["a.csv:4 {\"a\":\"x\\n\\ny\"}", "a.csv:9 {\"a\":\"z\"}", "a.csv:10 {\"a\":\"\"}"];
        for end in ["\n", "\r\n", "\r"] {
            let text = "\na\n\n\"x\n\ny\"\n\n\nz\n\"\"".replace('\n', end);
            assert_eq!(rows(text), expected);
        }
    }

    #[test]
    fn a_row_with_a_field_too_many_is_bad_and_the_others_stay() {
        let expected = ["a.csv:2 ! 3 fields; the header has 2", "a.csv:3 {\"a\":\"4\",\"b\":\"5\"}"];
        assert_eq!(rows("a,b\n1,2,3\n4,5\n"), expected);
        assert_eq!(rows("a,b\n,,\n"), ["a.csv:2 ! 3 fields; the header has 2"]);
    }

    #[test]
    fn a_row_that_is_not_utf_8_is_bad_and_the_others_stay() {
        let expected =
            ["a.csv:2 ! not UTF-8 at byte 1 of the row; save the file as UTF-8", "a.csv:3 {\"a\":\"4\"}"];
        assert_eq!(rows(b"a\n1\xff\n4\n"), expected);
    }

    #[test]
    fn a_name_twice_in_the_header_is_an_error_but_nameless_columns_are_not() {
        assert!(message("a,b,a\n1,2,3\n").ends_with("a.csv:1: the header names `a` twice"));
        assert_eq!(rows("a,,\n1,2,3\n"), ["a.csv:2 {\"a\":\"1\",\"\":\"3\"}"]);
    }

    #[test]
    fn a_quotation_mark_that_never_closes_is_named_by_its_line() {
        for (text, line) in [
            ("a,b\n\"x,y\nc,d\n", 2),
            ("a,b\n1,2\n3,\"4\n5,6\n", 3),
            ("a,b\n\n\n1,2\n\n3,\"4", 6),
            ("a,b\n\"m\n\nn\",2\n\"3,4\n\n\n", 5),
            ("\u{feff}a,b\n\"1\"\"\",2\n3,\"", 3),
            ("a,b\n# a note,\"of two\nlines\"\n3,\"4", 4),
            ("\"a,b\n1,2\n", 1),
        ] {
            for end in ["\n", "\r\n", "\r"] {
                let found = message(&text.replace('\n', end));
                assert!(found.contains(&format!("a.csv:{line}: a quotation mark opens")), "{found}");
            }
        }
    }

    #[test]
    fn a_quotation_mark_that_another_one_far_behind_closes_is_named_too() {
        let found = message("a,b\n1,2\n\"Come in, she said,b\n\"Go out\",c\n");
        assert!(found.contains("a.csv:3: ") && found.contains("in line 4"), "{found}");
    }

    #[test]
    fn text_behind_a_closing_quotation_mark_of_the_same_line_is_a_bad_row() {
        let found = rows("a,b\n\"Come in,\" she said,2\n3,4\n");
        assert!(found[0].starts_with("a.csv:2 ! text follows the quotation mark"), "{found:?}");
        assert_eq!(found[1..], ["a.csv:3 {\"a\":\"3\",\"b\":\"4\"}"]);
    }

    #[test]
    fn quotation_marks_within_a_plain_field_stand_as_they_are() {
        assert_eq!(
            rows("a,b\n6\" by 4\",x \"y\"\n"),
            ["a.csv:2 {\"a\":\"6\\\" by 4\\\"\",\"b\":\"x \\\"y\\\"\"}"]
        );
    }

    #[test]
    fn a_record_of_a_gigabyte_is_bad_without_being_held_and_the_others_stay() {
        let file = Arc::from(Path::new("a.csv"));
        let giant = Cursor::new("a\n\"").chain(io::repeat(b'x').take(1 << 26)).chain(Cursor::new("\"\n2\n"));
        let mut found = Vec::new();
        let _ = read(&file, BufReader::new(giant), &mut |row| {
            found.push(row.content.is_ok());
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(found, [false, true]);
    }

    #[test]
    fn a_row_of_millions_of_fields_is_bad_without_being_held_and_the_others_stay() {
        let expected = ["a.csv:2 ! more than 524288 values", "a.csv:3 {\"a\":\"2\"}"];
        let found = rows(format!("a\n{}\n2\n", ",".repeat(3 << 20)));
        assert_eq!(found.len(), 2);
        assert!(found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected)), "{found:?}");
        assert!(message(&",".repeat(3 << 20)).contains("a.csv:1: more than 524288 values"));
    }

    proptest! {
        #[test]
        fn what_a_csv_writer_writes_is_read_back(
            rows in proptest::collection::vec(proptest::collection::vec("[a\",\n é]{0,6}", 3), 1..6),
        ) {
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(["a", "b", "c"]).unwrap();
            for row in &rows {
                writer.write_record(row).unwrap();
            }
            let text = writer.into_inner().unwrap();
            let mut found = Vec::new();
            let _ = read(&Arc::from(Path::new("a.csv")), text.as_slice(), &mut |row| {
                let super::super::Content::Record(fields) = row.content.unwrap() else { panic!("no record") };
                found.push(fields.values().map(|value| value.as_str().unwrap().to_owned()).collect::<Vec<_>>());
                ControlFlow::Continue(())
            }).unwrap();
            prop_assert_eq!(found, rows);
        }
    }
}
