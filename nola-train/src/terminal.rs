//! The only way to stdout and stderr.
//!
//! Nothing here panics, as `println!` does. A reader that has gone away, as `head` does, is no error. Whatever else keeps a
//! result from stdout is one, or a file on a full disk would be empty and nobody told. Stderr is told what it takes: a
//! run is worth more than the words about it. Names and words of others come with their control characters written out,
//! since a file must not command the terminal.

mod status;

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;

use serde::Serialize;
pub use status::{Rank, Status, StatusLine, line_end};

use crate::printable::{in_json, printable};

/// A result could not be written to stdout.
#[derive(Debug, thiserror::Error)]
#[error("stdout cannot be written; if it leads to a file, its disk may be full")]
pub struct StdoutError(#[source] io::Error);

/// Writes a line to stdout.
///
/// # Errors
/// If it cannot be written, though there is somebody to read it.
pub fn print_line(text: &str) -> Result<(), StdoutError> {
    written(line_to(&mut io::stdout(), text))
}

/// Writes to stdout what may be a part of a line, and shows it at once; to a file or another program as it is.
///
/// # Errors
/// As [`print_line`].
pub fn print_part(text: &str) -> Result<(), StdoutError> {
    let mut out = io::stdout();
    written(if out.is_terminal() { part_to(&mut out, &printable(text)) } else { part_to(&mut out, text) })
}

/// Writes one JSON object on one line to stdout.
///
/// # Errors
/// As [`print_line`].
pub fn print_json(value: &impl Serialize) -> Result<(), StdoutError> {
    let text = serde_json::to_string(value).expect("results are made of numbers and text");
    print_line(&in_json(&text))
}

/// Which lines for stderr are written; all, where nothing was said.
type Filter = Box<dyn Fn(&str) -> bool + Send + Sync>;
static FILTER: OnceLock<Filter> = OnceLock::new();

/// Asks from now on of every line for stderr whether it is written: another process may show them. The first one to say so
/// is heard.
pub fn filter_lines(is_written: impl Fn(&str) -> bool + Send + Sync + 'static) {
    // Ranks are joined once in a program.
    let _ = FILTER.set(Box::new(is_written));
}

fn is_written(text: &str) -> bool {
    FILTER.get().is_none_or(|filter| filter(text))
}

/// Writes a line to stderr, if it can be written, above the status line.
pub fn err_line(text: &str) {
    if is_written(text) {
        err_end(text);
    }
}

/// The same of a line that is written whatever is filtered: how the program ended.
pub fn err_end(text: &str) {
    // There is nowhere left to say that it could not.
    let _ = status::above(|| line_to(&mut io::stderr(), text));
}

/// Writes a line to stderr that holds colours of this program's own, and of others only what is printable.
pub fn err_painted(text: &str) {
    if is_written(text) {
        let _ = status::above(|| part_to(&mut io::stderr(), &format!("{text}\n")));
    }
}

/// Stderr for whole lines, which are filtered like others.
#[derive(Debug)]
pub struct FilteredStderr;

impl Write for FilteredStderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(bytes) {
            Ok(text) if !is_written(text.trim_end()) => Ok(bytes.len()),
            Ok(_) | Err(_) => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Writes a line to wherever the words of this program go.
///
/// # Errors
/// If it cannot be written.
pub fn line_to(out: &mut dyn Write, text: &str) -> io::Result<()> {
    part_to(out, &format!("{}\n", printable(text)))
}

fn part_to(out: &mut dyn Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// What a write to stdout that ended like this means.
///
/// # Errors
/// If it failed, though there is somebody to read it.
pub fn written(result: io::Result<()>) -> Result<(), StdoutError> {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(StdoutError(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where every write, or only the last one, the flush, fails like this.
    struct Failing {
        kind: ErrorKind,
        when_flushed: bool,
    }

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.when_flushed { Ok(bytes.len()) } else { Err(self.kind.into()) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(self.kind.into())
        }
    }

    fn ends(kind: ErrorKind, when_flushed: bool) -> Result<(), StdoutError> {
        written(line_to(&mut Failing { kind, when_flushed }, "a result"))
    }

    #[test]
    fn a_reader_that_has_gone_away_is_no_error() {
        for when_flushed in [false, true] {
            assert!(ends(ErrorKind::BrokenPipe, when_flushed).is_ok());
        }
    }

    #[test]
    fn a_result_that_is_lost_is_an_error() {
        for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::PermissionDenied] {
            for when_flushed in [false, true] {
                let error = ends(kind, when_flushed).expect_err("it was not written");
                assert!(error.to_string().starts_with("stdout cannot be written"), "{error}");
            }
        }
    }

    #[test]
    fn a_line_ends_where_it_was_meant_to() {
        let mut lines = Vec::new();
        line_to(&mut lines, "first").and_then(|()| line_to(&mut lines, "")).expect("memory");
        assert_eq!(lines, b"first\n\n");
    }

    #[test]
    fn a_line_does_not_command_the_terminal() {
        let mut lines = Vec::new();
        for text in ["\u{1b}]0;title\u{7}cat", "a\rb", "two\nlines\tof text"] {
            line_to(&mut lines, text).expect("memory");
        }
        let expected = "\\u{1b}]0;title\\u{7}cat\na\\u{d}b\ntwo\nlines\tof text\n";
        assert_eq!(String::from_utf8(lines).expect("text"), expected);
    }
}
