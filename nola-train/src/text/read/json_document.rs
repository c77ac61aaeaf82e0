//! A JSON document taken apart into the texts of its rows, without reading any of them.
//!
//! Where a row ends is told by its brackets and quotation marks alone, so a row that is not JSON for another reason leaves
//! the others whole.

use std::io::{self, BufRead};

use serde_json::Value;

use super::{MAX_ROW_BYTES, foreign};

/// Names of the list of rows in a document that is an object; `entries` is WebNLG's.
pub(super) const LISTS: [&str; 2] = ["data", "entries"];

/// Brackets in brackets, at most; no parser reads as many.
const DEEPEST: usize = 1000;

/// Why a document cannot be taken apart further.
pub(super) enum Broken {
    /// It cannot be read.
    Io(io::Error),
    /// It is not JSON.
    Json {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// It is JSON without a list of rows.
    NoList,
}

impl From<io::Error> for Broken {
    fn from(source: io::Error) -> Self {
        Self::Io(source)
    }
}

/// A position in a document, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// The line.
    pub line: usize,
    /// The byte in the line.
    pub column: usize,
}

/// The text of a value, of bounded length.
pub(super) struct Text {
    /// Where it starts.
    pub start: Position,
    /// Its first bytes, all of them if they are [`MAX_ROW_BYTES`] at most.
    pub kept: Vec<u8>,
    /// Its length in bytes.
    pub bytes: usize,
}

/// What the reader of a document stands in front of.
pub(super) struct Document<R> {
    reader: R,
    position: Position,
    place: Place,
}

/// How far into a document the reader is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before its first bracket.
    Start,
    /// In a list of rows that is the document.
    List,
    /// In a list of rows in an object.
    ListInObject,
    /// Behind its last bracket.
    End,
}

impl<R: BufRead> Document<R> {
    /// A document from its first byte on.
    pub fn new(reader: R) -> Self {
        Self { reader, position: Position { line: 1, column: 1 }, place: Place::Start }
    }

    /// The text of the next row.
    pub fn next_row(&mut self) -> Result<Option<Text>, Broken> {
        let mut is_first = false;
        if self.place == Place::Start {
            self.place = self.enter()?;
            is_first = true;
        }
        while self.place != Place::End {
            if self.next_element(is_first)? {
                return self.value().map(Some);
            }
            is_first = self.place == Place::ListInObject && self.next_list(false)?;
            if !is_first {
                self.place = Place::End;
            }
        }
        match self.peek_word()? {
            None => Ok(None),
            Some(_) => Err(self.wrong("more text behind the end of the document")),
        }
    }

    /// Goes into the list of rows of the document.
    fn enter(&mut self) -> Result<Place, Broken> {
        match self.peek_word()? {
            Some(b'[') => {
                self.take();
                Ok(Place::List)
            }
            Some(b'{') => {
                self.take();
                if self.next_list(true)? { Ok(Place::ListInObject) } else { Err(Broken::NoList) }
            }
            Some(_) => Err(self.wrong("expected a list of rows, or an object with one")),
            None => Err(self.wrong("the file is empty")),
        }
    }

    /// Goes to the next element of a list, or behind the list if it has no more.
    fn next_element(&mut self, is_first: bool) -> Result<bool, Broken> {
        let mut next = self.peek_word()?;
        if next == Some(b']') {
            self.take();
            return Ok(false);
        }
        if next == Some(b',') && !is_first {
            self.take();
            next = self.peek_word()?;
        } else if next.is_some() && !is_first {
            return Err(self.wrong("expected `,` or `]` behind a row"));
        }
        match next {
            None => Err(self.wrong("the file ends within the list of rows; was it cut short?")),
            Some(b']') => Err(self.wrong("a comma behind the last row")),
            Some(_) => Ok(true),
        }
    }

    /// Goes to the next list of rows among the fields of the object that is the document, or behind the object.
    fn next_list(&mut self, is_first: bool) -> Result<bool, Broken> {
        let mut is_first = is_first;
        loop {
            match (self.peek_word()?, is_first) {
                (Some(b'}'), _) => {
                    self.take();
                    return Ok(false);
                }
                (Some(b','), false) => self.take(),
                (Some(b'"'), true) => {}
                _ => return Err(self.wrong("expected `,`, `}` or a name in quotation marks")),
            }
            self.peek_word()?;
            let name = self.field()?;
            if self.peek_word()? != Some(b':') {
                return Err(self.wrong("expected `:` behind a name"));
            }
            self.take();
            if self.peek_word()? == Some(b'[') && LISTS.iter().any(|list| name == **list) {
                self.take();
                return Ok(true);
            }
            self.field()?;
            is_first = false;
        }
    }

    /// A value beside the rows; null if it is very long, since it is not used.
    fn field(&mut self) -> Result<Value, Broken> {
        let text = self.value()?;
        if text.bytes > text.kept.len() {
            return Ok(Value::Null);
        }
        let parsed = std::str::from_utf8(&text.kept).ok().and_then(|text| foreign::parse(text).ok());
        parsed.ok_or_else(|| Broken::Json {
            line: text.start.line,
            problem: "what begins here is no JSON value".to_owned(),
        })
    }

    /// The text of the value that begins here.
    fn value(&mut self) -> Result<Text, Broken> {
        let mut text = Text { start: self.position, kept: Vec::new(), bytes: 0 };
        let mut open = Vec::new();
        loop {
            match self.peek()? {
                Some(b'"') => self.string(&mut text)?,
                Some(bracket @ (b'[' | b'{')) => {
                    self.open(bracket, &mut open)?;
                    self.keep(bracket, &mut text);
                }
                Some(bracket @ (b']' | b'}')) if !open.is_empty() => {
                    self.close(bracket, &mut open)?;
                    self.keep(bracket, &mut text);
                }
                Some(byte) if !open.is_empty() || !is_end(byte) => {
                    self.keep(byte, &mut text);
                    continue;
                }
                Some(_) => {}
                None => self.check_closed(&open)?,
            }
            match (open.is_empty(), text.bytes) {
                (true, 0) => return Err(self.wrong("expected a value")),
                (true, _) => return Ok(text),
                (false, _) => {}
            }
        }
    }

    fn open(&self, bracket: u8, open: &mut Vec<(u8, usize)>) -> Result<(), Broken> {
        if open.len() == DEEPEST {
            return Err(
                self.wrong(&format!("brackets in more than {DEEPEST} brackets; are some not closed?"))
            );
        }
        open.push((bracket, self.position.line));
        Ok(())
    }

    fn close(&self, bracket: u8, open: &mut Vec<(u8, usize)>) -> Result<(), Broken> {
        match open.pop() {
            // In ASCII a bracket closes the one two before it.
            Some((opened, line)) if opened + 2 != bracket => {
                let (opened, bracket) = (char::from(opened), char::from(bracket));
                Err(self.wrong(&format!("`{bracket}` where the `{opened}` of line {line} should be closed")))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn check_closed(&self, open: &[(u8, usize)]) -> Result<(), Broken> {
        match open.last() {
            Some(&(bracket, line)) => {
                let bracket = char::from(bracket);
                Err(self.wrong(&format!(
                    "the file ends, and the `{bracket}` of line {line} is not closed; was it cut short?"
                )))
            }
            None => Ok(()),
        }
    }

    /// Takes a text in quotation marks, which ends in the line in which it starts.
    fn string(&mut self, text: &mut Text) -> Result<(), Broken> {
        self.keep(b'"', text);
        let mut is_escaped = false;
        loop {
            match self.peek()? {
                Some(b'\n') | None => {
                    return Err(self.wrong(
                        "a text in quotation marks is not closed in this line; close it, and write line breaks as \\n",
                    ));
                }
                Some(byte) => {
                    self.keep(byte, text);
                    if byte == b'"' && !is_escaped {
                        return Ok(());
                    }
                    is_escaped = byte == b'\\' && !is_escaped;
                }
            }
        }
    }

    fn wrong(&self, problem: &str) -> Broken {
        Broken::Json { line: self.position.line, problem: problem.to_owned() }
    }

    /// The next byte that is not white space.
    fn peek_word(&mut self) -> io::Result<Option<u8>> {
        while let Some(byte @ (b' ' | b'\t' | b'\n' | b'\r')) = self.peek()? {
            self.take_byte(byte);
        }
        self.peek()
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.reader.fill_buf()?.first().copied())
    }

    fn keep(&mut self, byte: u8, text: &mut Text) {
        text.bytes += 1;
        if text.bytes <= MAX_ROW_BYTES {
            text.kept.push(byte);
        }
        self.take_byte(byte);
    }

    /// Takes the byte that was seen, which is no line end.
    fn take(&mut self) {
        self.take_byte(b' ');
    }

    fn take_byte(&mut self, byte: u8) {
        self.reader.consume(1);
        match byte {
            b'\n' => self.position = Position { line: self.position.line + 1, column: 1 },
            _ => self.position.column += 1,
        }
    }
}

/// Whether a number or a word ends before this byte.
fn is_end(byte: u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, b',' | b']' | b'}')
}
