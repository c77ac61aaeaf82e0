//! Numbers and texts of a GGUF header, one after the other; nothing is taken that the file does not have.

use std::path::Path;

use super::GgufError;

/// Reads the beginning of a file, of which as much is at hand as was read so far.
pub(super) struct Reader<'a> {
    pub(super) file: &'a Path,
    bytes: &'a [u8],
    /// Bytes of the whole file.
    total: u64,
    at: usize,
    /// What is being read, for messages.
    pub(super) place: String,
}

/// Why a header cannot be read to its end.
pub(super) enum Stop {
    /// More of the file is needed.
    More,
    /// It is wrong.
    Wrong(GgufError),
}

impl From<GgufError> for Stop {
    fn from(error: GgufError) -> Self {
        Self::Wrong(error)
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a Path, bytes: &'a [u8], total: u64) -> Self {
        Self { file, bytes, total, at: 0, place: "header".to_owned() }
    }

    /// Bytes before the place that is read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// What was read since `start`.
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.at]
    }

    /// Bytes of the file that are not read yet.
    pub(super) fn left(&self) -> u64 {
        self.total - self.at as u64
    }

    pub(super) fn damaged(&self, problem: impl Into<String>) -> GgufError {
        GgufError::Damaged { file: self.file.to_owned(), place: self.place.clone(), problem: problem.into() }
    }

    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8], Stop> {
        if count > self.left() {
            let problem = format!("{count} bytes at byte {} of {}", self.at, self.total);
            return Err(self.damaged(problem).into());
        }
        let rest = &self.bytes[self.at..];
        let Some(taken) = usize::try_from(count).ok().and_then(|count| rest.get(..count)) else {
            return Err(Stop::More);
        };
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let taken = self.take(N as u64)?;
        Ok(taken.try_into().expect("so many were taken"))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Stop> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Stop> {
        self.array().map(u64::from_le_bytes)
    }

    /// A text with its length before it; not yet checked to be UTF-8.
    pub(super) fn text(&mut self) -> Result<&'a [u8], Stop> {
        let length = self.u64()?;
        self.take(length)
    }

    /// The same, as a name: UTF-8.
    pub(super) fn name(&mut self) -> Result<&'a str, Stop> {
        let text = self.text()?;
        std::str::from_utf8(text).map_err(|_| self.damaged("a name that is no text").into())
    }
}
