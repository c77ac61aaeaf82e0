//! Names of what is not whole, or makes way for something else.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// In the name of what is not whole.
pub(super) const PARTIAL: &str = ".partial-";

/// Whether something of this name is not whole.
pub(super) fn is_partial(name: &str) -> bool {
    name.starts_with('.') && name.contains(PARTIAL)
}

/// Removes a file or a folder that may be gone already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The name of a folder while another takes its place.
pub(super) fn old(folder: &Path) -> PathBuf {
    beside(folder, ".old")
}

/// A hidden name beside `path`.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}{ending}"))
}
