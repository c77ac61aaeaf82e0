//! A file in a folder that one program locks while the folder is its own.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// Its name.
pub(crate) const LOCK: &str = ".lock";

/// What came of an attempt to lock a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// This program holds the lock, as long as the file is open.
    Held,
    /// Another program holds it, or removed the file just now.
    Taken,
    /// The disk has no locks, so nobody knows.
    Unknown,
}

/// Opens the lock of a folder, which is made if there is none.
pub(crate) fn open(folder: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(folder.join(LOCK))
}

/// Tries to lock a folder by its opened lock.
pub(crate) fn attempt(lock: &File, folder: &Path) -> Attempt {
    match lock.try_lock() {
        Ok(()) if folder.join(LOCK).exists() => Attempt::Held,
        Ok(()) | Err(TryLockError::WouldBlock) => Attempt::Taken,
        Err(TryLockError::Error(_)) => Attempt::Unknown,
    }
}
