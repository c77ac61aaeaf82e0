//! What changes in a registry, and why something does not.

use std::path::PathBuf;

use super::roots::NoFolder;

/// Why there is no adapter of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// Nobody knows it.
    Unknown,
    /// It is a bundle; this is one of its members.
    Bundle(String),
    /// It is damaged.
    Damaged(String),
}

/// What has to be there for a change to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Whatever it is.
    Anything,
    /// An adapter of this name.
    Something,
    /// No adapter of this name.
    Nothing,
    /// This generation of it.
    Generation(u64),
}

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeError {
    /// There is no adapter of this name.
    Unknown,
    /// There is another generation than expected, or none.
    Conflict {
        /// What there is.
        found: Option<u64>,
    },
    /// The name cannot be an adapter's.
    Name(String),
    /// There is no such folder in the folders of adapters.
    NoFolder(String),
    /// The folder cannot be served.
    Folder(String),
}

impl From<NoFolder> for ChangeError {
    fn from(NoFolder { problem, is_missing }: NoFolder) -> Self {
        if is_missing { Self::NoFolder(problem) } else { Self::Folder(problem) }
    }
}

/// What is otherwise than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is served from now on, as this generation.
    Served(String, u64),
    /// It is not, for this reason.
    Damaged(String, String),
    /// A folder of adapters cannot be read, for this reason; what was served of it still is.
    Unreadable(PathBuf, String),
    /// Its folder is gone, or somebody unloaded it.
    Gone(String),
}
