//! The text of a pattern, read sign by sign, and its translation as it grows.

use std::fmt::Write;

/// Where the reading is, and what was written of it.
pub(super) struct Source {
    chars: Vec<char>,
    at: usize,
    /// The translation.
    pub(super) out: String,
}

impl Source {
    pub(super) fn new(pattern: &str) -> Self {
        Self { chars: pattern.chars().collect(), at: 0, out: String::new() }
    }

    /// The next character, which stays the next one.
    pub(super) fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    /// Whether this is the character that was read last.
    pub(super) fn was(&self, char: char) -> bool {
        self.at > 0 && self.chars[self.at - 1] == char
    }

    /// Reads a character.
    pub(super) fn next(&mut self) -> Option<char> {
        let char = self.peek()?;
        self.at += 1;
        Some(char)
    }

    /// Reads the next character if it is this one.
    pub(super) fn eat(&mut self, wanted: char) -> bool {
        let is_it = self.peek() == Some(wanted);
        self.at += usize::from(is_it);
        is_it
    }

    /// Reads at most `most` characters of a kind.
    pub(super) fn take(&mut self, most: usize, is_wanted: impl Fn(char) -> bool) -> String {
        let rest = &self.chars[self.at..];
        let taken: String = rest.iter().copied().take(most).take_while(|char| is_wanted(*char)).collect();
        self.at += taken.chars().count();
        taken
    }

    /// Reads up to `end` and over it; `None` if it does not come.
    pub(super) fn until(&mut self, end: char) -> Option<String> {
        let length = self.chars[self.at..].iter().position(|char| *char == end)?;
        let text = self.chars[self.at..self.at + length].iter().collect();
        self.at += length + 1;
        Some(text)
    }

    /// What `read` gives; where it gives nothing, nothing was read.
    pub(super) fn attempt<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let start = self.at;
        let read = read(self);
        if read.is_none() {
            self.at = start;
        }
        read
    }

    /// Writes a character that stands for itself.
    pub(super) fn literal(&mut self, char: char) {
        if char.is_ascii() && !char.is_ascii_alphanumeric() {
            write!(self.out, "\\x{{{:02x}}}", u32::from(char)).expect("a text takes everything");
        } else {
            self.out.push(char);
        }
    }
}
