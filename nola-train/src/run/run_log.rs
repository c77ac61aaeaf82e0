//! What every log of a run does.

use std::fmt::Debug;
use std::io;

use crate::fit::Note;

/// One of the logs of a run.
pub(super) trait RunLog: Debug {
    /// The name of its file or folder.
    fn name(&self) -> &'static str;

    /// Notes something, if it has a place for that.
    fn note(&mut self, note: &Note) -> io::Result<()>;

    /// Sees to it that all of it is on the disk.
    fn sync(&mut self) -> io::Result<()>;
}
