//! CSV and TSV with a header.

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use csv::{ByteRecord, ReaderBuilder};
use serde_json::Value;

use super::{Content, MAX_ROW_BYTES, Row, Sink, io_error};
use crate::text::{BadRow, Place, RowProblem, Spot, TextError};

/// One row for each record; all fields are text.
pub(super) fn read(
    file: &Arc<Path>,
    reader: impl BufRead,
    delimiter: u8,
    sink: &mut Sink,
) -> Result<ControlFlow<()>, TextError> {
    let bytes = Rc::new(Cell::new(0));
    let lines = PlainLines { reader, line: Vec::new(), served: 0, bytes: Rc::clone(&bytes) };
    let mut records = ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(lines);
    let mut row = 0;
    let place = |line| Place { file: Arc::clone(file), spot: Spot::Line(line) };
    let mut record = ByteRecord::new();
    let header = records.byte_headers().map_err(|error| wrong(file, row, error))?;
    let header = texts(header).map_err(|problem| BadRow { place: place(1), problem })?;
    loop {
        row += 1;
        bytes.set(0);
        if !records.read_byte_record(&mut record).map_err(|error| wrong(file, row, error))? {
            return Ok(ControlFlow::Continue(()));
        }
        // The reader stands after the end of the record's last line.
        let inner_ends = record.as_slice().iter().filter(|&&byte| byte == b'\n').count();
        let line = (records.position().line() as usize).saturating_sub(1 + inner_ends);
        if sink(Row { place: place(line), content: content(&header, &record) }).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
}

fn content(header: &[String], record: &ByteRecord) -> Result<Content, RowProblem> {
    let (found, expected) = (record.len(), header.len());
    if found != expected {
        return Err(RowProblem::Ragged { found, expected });
    }
    let fields = header.iter().cloned().zip(texts(record)?.into_iter().map(Value::String));
    Ok(Content::Record(fields.collect()))
}

fn texts(record: &ByteRecord) -> Result<Vec<String>, RowProblem> {
    let text = |field: &[u8]| match std::str::from_utf8(field) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => Err(RowProblem::NotUtf8(error.valid_up_to())),
    };
    record.iter().map(text).collect()
}

fn wrong(file: &Path, row: usize, source: csv::Error) -> TextError {
    let file = file.to_path_buf();
    match source.kind() {
        csv::ErrorKind::Io(cause) if cause.kind() == io::ErrorKind::FileTooLarge => {
            TextError::EndlessRow { file, row, limit: MAX_ROW_BYTES }
        }
        csv::ErrorKind::Io(_) => io_error(&file)(source.into()),
        _ => TextError::Csv { file, source },
    }
}

/// Lines that all end in `\n`, so that they can be counted; fails once it gave a row's worth of bytes and no row came
/// of them.
struct PlainLines<R> {
    reader: R,
    line: Vec<u8>,
    /// Bytes of the line that were read.
    served: usize,
    /// Bytes since the last row.
    bytes: Rc<Cell<usize>>,
}

impl<R: BufRead> PlainLines<R> {
    fn next_line(&mut self) -> io::Result<()> {
        self.line.clear();
        self.served = 0;
        let limit = MAX_ROW_BYTES as u64 + 1;
        let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.line)?;
        self.bytes.update(|bytes| bytes + read);
        if self.bytes.get() > MAX_ROW_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if self.line.ends_with(b"\r\n") {
            self.line.truncate(read - 2);
            self.line.push(b'\n');
        } else if read > 0 && !self.line.ends_with(b"\n") {
            self.line.push(b'\n');
        }
        Ok(())
    }
}

impl<R: BufRead> Read for PlainLines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.served == self.line.len() {
            self.next_line()?;
        }
        let read = (&self.line[self.served..]).read(buffer)?;
        self.served += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::rows_of;
    use super::*;
    use crate::text::read::PlainText;

    fn rows(bytes: &[u8]) -> Vec<String> {
        rows_of("a.csv", bytes, PlainText::Running).unwrap()
    }

    #[test]
    fn records_are_named_by_the_line_they_start_in() {
        let expected =
            ["a.csv:2 {\"a\":\"x\\ny\",\"b\":\"1, 2\"}", "a.csv:4 {\"a\":\"z\",\"b\":\"\\\"q\\\"\"}"];
        assert_eq!(rows(b"a,b\n\"x\ny\",\"1, 2\"\nz,\"\"\"q\"\"\"\n"), expected);
    }

    #[test]
    fn line_ends_of_windows_are_no_part_of_a_field() {
        assert_eq!(rows(b"a,b\r\n1,2\r\n"), ["a.csv:2 {\"a\":\"1\",\"b\":\"2\"}"]);
    }

    #[test]
    fn blank_lines_are_no_rows_but_count_as_lines() {
        let expected = ["a.csv:3 {\"a\":\"x\\n\\ny\"}", "a.csv:8 {\"a\":\"z\"}"];
        for end in ["\n", "\r\n"] {
            let text = "a\n\n\"x\n\ny\"\n\n\nz".replace('\n', end);
            assert_eq!(rows(text.as_bytes()), expected);
        }
    }

    #[test]
    fn a_row_with_a_field_too_many_is_bad_and_the_others_stay() {
        let expected = ["a.csv:2 ! 3 fields; the header has 2", "a.csv:3 {\"a\":\"4\",\"b\":\"5\"}"];
        assert_eq!(rows(b"a,b\n1,2,3\n4,5\n"), expected);
    }

    #[test]
    fn a_row_that_is_not_utf_8_is_bad_and_the_others_stay() {
        let expected = ["a.csv:2 ! not UTF-8 at byte 1 of the row", "a.csv:3 {\"a\":\"4\"}"];
        assert_eq!(rows(b"a\n1\xff\n4\n"), expected);
    }

    #[test]
    fn tabs_separate_the_fields_of_tsv() {
        let rows = rows_of("a.tsv", b"a\tb\n1,1\t2\n", PlainText::Running).unwrap();
        assert_eq!(rows, ["a.tsv:2 {\"a\":\"1,1\",\"b\":\"2\"}"]);
    }

    #[test]
    fn a_quote_that_does_not_end_is_an_error_before_memory_is_full() {
        let file = Arc::from(Path::new("a.csv"));
        let reader = io::BufReader::new(io::Cursor::new("a\n1\n\"").chain(io::repeat(b'x')));
        let result = read(&file, reader, b',', &mut |_| ControlFlow::Continue(()));
        assert!(matches!(result, Err(TextError::EndlessRow { row: 2, .. })), "{result:?}");
    }
}
