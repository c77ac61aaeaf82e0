//! Text files as bytes: unpacked, without a byte order mark, with line ends that are all `\n`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::io_error;
use crate::text::TextError;

/// Opens a text file: unpacks `.gz`, skips a byte order mark, refuses UTF-16 and UTF-32.
pub(super) fn open(file: &Path) -> Result<Box<dyn BufRead>, TextError> {
    let io = io_error(file);
    let opened = File::open(file).map_err(&io)?;
    let is_packed = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
    let mut reader: Box<dyn BufRead> = if is_packed {
        Box::new(BufReader::new(MultiGzDecoder::new(opened)))
    } else {
        Box::new(BufReader::new(opened))
    };
    let mut start = Vec::new();
    reader.by_ref().take(4).read_to_end(&mut start).map_err(&io)?;
    if is_wide(&start) {
        return Err(TextError::Utf16 { file: file.into() });
    }
    if start.starts_with("\u{feff}".as_bytes()) {
        start.drain(..3);
    }
    Ok(Box::new(LineEnds::new(Cursor::new(start).chain(reader))))
}

/// Whether text begins as UTF-16 or UTF-32 does: with a mark of one, or with letters of which every other byte is 0.
fn is_wide(start: &[u8]) -> bool {
    let has_mark = start.starts_with(&[0xff, 0xfe]) || start.starts_with(&[0xfe, 0xff]);
    let zeros: Vec<bool> = start.iter().map(|&byte| byte == 0).collect();
    let is_wide = matches!(
        zeros[..],
        [true, true, ..]
            | [true, false, true, false]
            | [false, true, false, true]
            | [false, true, true, true]
    );
    has_mark || is_wide
}

/// A reader in which `\r\n` and a lone `\r` are `\n`, as in Python's text files.
pub(super) struct LineEnds<R> {
    reader: R,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were taken.
    taken: usize,
    /// Whether the last byte was `\r`, so that a `\n` belongs to it.
    after_return: bool,
}

impl<R: BufRead> LineEnds<R> {
    /// Reads from `reader`.
    pub fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new(), taken: 0, after_return: false }
    }

    fn refill(&mut self) -> io::Result<()> {
        self.buffer.clear();
        self.taken = 0;
        while self.buffer.is_empty() {
            let bytes = self.reader.fill_buf()?;
            let length = bytes.len();
            if length == 0 {
                return Ok(());
            }
            for &byte in bytes {
                match byte {
                    b'\r' => self.buffer.push(b'\n'),
                    b'\n' if self.after_return => {}
                    other => self.buffer.push(other),
                }
                self.after_return = byte == b'\r';
            }
            self.reader.consume(length);
        }
        Ok(())
    }
}

impl<R: BufRead> Read for LineEnds<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for LineEnds<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken == self.buffer.len() {
            self.refill()?;
        }
        Ok(&self.buffer[self.taken..])
    }

    fn consume(&mut self, amount: usize) {
        self.taken += amount;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_of(text: &str, piece: usize) -> String {
        let mut read = String::new();
        let pieces = BufReader::with_capacity(piece, Cursor::new(text.to_owned()));
        LineEnds::new(pieces).read_to_string(&mut read).unwrap();
        read
    }

    #[test]
    fn the_line_ends_of_all_systems_are_one() {
        for piece in [1, 2, 3, 100] {
            assert_eq!(all_of("a\r\nb\rc\nd\r\r\n\n\re\r", piece), "a\nb\nc\nd\n\n\n\ne\n");
            assert_eq!(all_of("", piece), "");
            assert_eq!(all_of("no end", piece), "no end");
        }
    }

    #[test]
    fn wide_text_is_known_with_and_without_a_mark() {
        for wide in [
            b"\xff\xfea\0".as_slice(),
            b"\xfe\xff\0a",
            b"{\0\"\0",
            b"\0{\0\"",
            b"\0\0\xfe\xff",
            b"\xff\xfe\0\0",
            b"a\0\0\0",
            b"\0\0\0a",
        ] {
            assert!(is_wide(wide), "{wide:?}");
        }
        for narrow in [b"".as_slice(), b"a", b"text", b"\xef\xbb\xbfa", "é".as_bytes(), b"a\0bc"] {
            assert!(!is_wide(narrow), "{narrow:?}");
        }
    }
}
