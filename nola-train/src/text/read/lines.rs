//! Plain text, line by line or as blocks of running text.

use std::io::{self, BufRead, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::{Content, MAX_ROW_BYTES, Row, Sink, io_error};
use crate::text::{BadRow, Place, RowLocation, RowProblem, TextError};

/// A block of running text ends at the first good place after this many bytes.
const BLOCK_BYTES: usize = 4 << 20;

/// Lines of bounded length.
pub(super) struct Lines<R> {
    reader: R,
    bytes: Vec<u8>,
    /// Number of the last line, counted from 1.
    pub line: usize,
    /// Whether the last line had an end.
    ended: bool,
}

impl<R: BufRead> Lines<R> {
    /// Reads from `reader`, in which all line ends are `\n`.
    pub fn new(reader: R) -> Self {
        Self { reader, bytes: Vec::new(), line: 0, ended: false }
    }

    /// The next line without its end; the rest of one that is too long is skipped.
    pub fn next(&mut self) -> io::Result<Option<Result<&str, RowProblem>>> {
        self.bytes.clear();
        let limit = MAX_ROW_BYTES as u64 + 1;
        let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.bytes)?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        self.ended = self.bytes.ends_with(b"\n");
        if read > MAX_ROW_BYTES && !self.ended {
            let found = read + self.reader.skip_until(b'\n')?;
            return Ok(Some(Err(RowProblem::TooLong { found, limit: MAX_ROW_BYTES })));
        }
        Ok(Some(super::text(self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes))))
    }
}

/// One row for each line that is not blank; `parse` says what it holds, given its number.
pub(super) fn read_rows(
    file: &Arc<Path>,
    reader: impl BufRead,
    parse: &dyn Fn(&str, usize) -> Result<Content, RowProblem>,
    sink: &mut Sink,
) -> Result<ControlFlow<()>, TextError> {
    let mut lines = Lines::new(reader);
    loop {
        let number = lines.line + 1;
        let content = match lines.next().map_err(io_error(file))? {
            None => return Ok(ControlFlow::Continue(())),
            Some(Ok(line)) if line.trim().is_empty() => continue,
            Some(line) => line.and_then(|line| parse(line, number)),
        };
        let place = Place { file: Arc::clone(file), spot: RowLocation::Line(number) };
        if sink(Row { place, content }).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
}

/// Running text in blocks, each of which starts and ends between two lines.
///
/// Where it can, a block ends between two lines with words on both sides: there, tokenizers give the same tokens as for the
/// whole text.
pub(super) fn read_running(
    file: &Arc<Path>,
    reader: impl BufRead,
    sink: &mut Sink,
) -> Result<ControlFlow<()>, TextError> {
    let mut lines = Lines::new(reader);
    let mut block = String::new();
    let mut first = 1;
    while let Some(line) = lines.next().map_err(io_error(file))? {
        let line = line.map(str::to_owned);
        let place = |line| Place { file: Arc::clone(file), spot: RowLocation::Line(line) };
        let line = line.map_err(|problem| BadRow { place: place(lines.line), problem })?;
        if is_full(&block, &line) {
            let row = running(place(first), std::mem::take(&mut block));
            first = lines.line;
            if sink(row).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        block.push_str(&line);
        block.extend(lines.ended.then_some('\n'));
    }
    if block.is_empty() {
        return Ok(ControlFlow::Continue(()));
    }
    let place = Place { file: Arc::clone(file), spot: RowLocation::Line(first) };
    Ok(sink(running(place, block)))
}

/// The same blocks of a text that is in memory.
pub(in crate::text) fn blocks(text: &str) -> Vec<&str> {
    let (mut blocks, mut start, mut end) = (Vec::new(), 0, 0);
    for line in text.split_inclusive('\n') {
        if is_full(&text[start..end], line) {
            blocks.push(&text[start..end]);
            start = end;
        }
        end += line.len();
    }
    blocks.push(&text[start..]);
    blocks
}

fn running(place: Place, block: String) -> Row {
    let is_first = place.spot == RowLocation::Line(1);
    let content = Ok(if is_first { Content::Text(block) } else { Content::More(block) });
    Row { place, content }
}

/// Whether a block ends before the next line.
fn is_full(block: &str, next: &str) -> bool {
    let words_meet = || {
        let before = block.strip_suffix('\n').unwrap_or(block);
        !before.ends_with(char::is_whitespace) && next.starts_with(|first: char| !first.is_whitespace())
    };
    block.len() + next.len() > MAX_ROW_BYTES || block.len() >= BLOCK_BYTES && words_meet()
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor};

    use super::super::tests::rows_of;
    use super::*;
    use crate::text::read::PlainText;

    fn blocks_of(text: &str) -> Vec<String> {
        let mut blocks = Vec::new();
        let _ = read_running(&Arc::from(Path::new("a.txt")), Cursor::new(text), &mut |row| {
            match row.content {
                Ok(Content::Text(block)) if blocks.is_empty() => blocks.push(block),
                Ok(Content::More(block)) if !blocks.is_empty() => blocks.push(block),
                other => panic!("{other:?}"),
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        blocks
    }

    #[test]
    fn running_text_is_kept_to_the_letter() {
        for text in ["a\n\n b\n", "a", "\n", "a\nb"] {
            assert_eq!(blocks_of(text), [text]);
        }
        assert_eq!(blocks_of(""), [""; 0]);
    }

    #[test]
    fn line_ends_of_other_systems_become_plain_ones() {
        for text in ["a\r\nb\r\n", "a\rb\r", "a\nb\n"] {
            assert_eq!(rows_of("a.txt", text.as_bytes(), PlainText::Running).unwrap(), ["a.txt:1 a\nb\n"]);
        }
    }

    #[test]
    fn a_row_with_a_zero_byte_is_bad_and_the_others_stay() {
        let rows = rows_of("a.txt", b"a||b\nc||d\0\0\ne||f\n", PlainText::Lines).unwrap();
        assert!(rows[1].starts_with("a.txt:2 ! a zero byte at byte 4 of the row"), "{rows:?}");
        assert_eq!(rows[2], "a.txt:3 e||f");
    }

    #[test]
    fn a_lone_return_ends_a_line_and_counts() {
        let rows = rows_of("a.txt", b"a||b\rc||d\r\re\r\nf||g", PlainText::Lines).unwrap();
        assert_eq!(rows, ["a.txt:1 a||b", "a.txt:2 c||d", "a.txt:4 e", "a.txt:5 f||g"]);
    }

    #[test]
    fn blocks_end_between_lines_with_words_and_together_are_the_text() {
        let text = "one two\n\nthree\nfour\n  five\n".repeat(300_000);
        let blocks = blocks_of(&text);
        assert!(blocks.len() >= 2);
        for block in &blocks[..blocks.len() - 1] {
            assert!(block.ends_with("three\n") || block.ends_with("five\n"));
        }
        assert_eq!(blocks.concat(), text);
        assert_eq!(super::blocks(&text), blocks);
        assert_eq!(super::blocks(""), [""]);
    }

    #[test]
    fn rows_are_lines_that_are_not_blank() {
        let rows = rows_of("a.txt", b"a||b\r\n\n  \nc||d", PlainText::Lines).unwrap();
        assert_eq!(rows, ["a.txt:1 a||b", "a.txt:4 c||d"]);
    }

    #[test]
    fn a_row_that_is_not_utf_8_is_named_with_its_line() {
        let rows = rows_of("a.txt", b"a||b\nc||\xff\n", PlainText::Lines).unwrap();
        assert_eq!(rows[1], "a.txt:2 ! not UTF-8 at byte 3 of the row; save the file as UTF-8");
    }

    #[test]
    fn running_text_that_is_not_utf_8_is_an_error_with_its_line() {
        let message = rows_of("a.txt", b"a\n\xff\n", PlainText::Running).unwrap_err().to_string();
        assert!(
            message.ends_with("a.txt:2: not UTF-8 at byte 0 of the row; save the file as UTF-8"),
            "{message}"
        );
    }

    #[test]
    fn a_line_of_a_gigabyte_is_skipped_without_being_held() {
        let giant = std::io::repeat(b'x').take(1 << 30);
        let reader = BufReader::with_capacity(1 << 20, giant.chain(Cursor::new("\nc||d\n")));
        let mut lines = Lines::new(reader);
        let problem = lines.next().unwrap().unwrap().unwrap_err();
        assert!(matches!(problem, RowProblem::TooLong { found, .. } if found == (1 << 30) + 1));
        assert!(lines.bytes.capacity() <= 4 * MAX_ROW_BYTES);
        assert_eq!(lines.next().unwrap().unwrap().unwrap(), "c||d");
    }

    #[test]
    fn running_text_of_one_giant_line_is_an_error() {
        let text = "x".repeat(MAX_ROW_BYTES + 1);
        let message = rows_of("a.txt", text.as_bytes(), PlainText::Running).unwrap_err().to_string();
        assert!(message.contains("a.txt:1: 16777217 bytes; a row may have 16777216"), "{message}");
    }
}
