//! Files that are mapped into memory, and whether they still are what they were.

#![allow(unsafe_code, reason = "a file is mapped into memory")]

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use bytes::Bytes;
use memmap2::Mmap;

use crate::Error;

/// A file whose bytes are used where they lie.
#[derive(Debug)]
pub(super) struct MappedFile {
    path: PathBuf,
    opened: File,
    state: State,
    map: Mmap,
}

/// What changes when somebody writes to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl State {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { bytes: metadata.len(), modified: metadata.modified().ok() })
    }
}

impl MappedFile {
    /// Maps a file, which must hold something.
    pub fn new(path: &Path, opened: File) -> io::Result<Arc<Self>> {
        let state = State::of(&opened)?;
        // SAFETY: read-only; `Checkpoint::open` forbids changing the file meanwhile, as every reader of mapped weights does.
        // `MappedFiles` finds out where somebody did so.
        let map = unsafe { Mmap::map(&opened) }?;
        Ok(Arc::new(Self { path: path.to_path_buf(), opened, state, map }))
    }

    /// All its bytes, which keep it mapped.
    pub fn bytes(self: &Arc<Self>) -> Bytes {
        Bytes::from_owner(Shared(Arc::clone(self)))
    }
}

struct Shared(Arc<MappedFile>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0.map
    }
}

/// The files that a model may still compute with where they lie.
#[derive(Debug, Clone, Default)]
pub struct MappedFiles(pub(super) Vec<Weak<MappedFile>>);

impl MappedFiles {
    /// Checks that each file which is still in use is as it was when it was opened. Another file that took its place under its
    /// name changes nothing.
    ///
    /// # Errors
    /// If somebody wrote to one of them, so that the model is no longer what it was.
    pub fn check_unchanged(&self) -> Result<(), Error> {
        for file in self.0.iter().filter_map(Weak::upgrade) {
            let io = |source| Error::Io { file: file.path.clone(), source };
            if State::of(&file.opened).map_err(io)? != file.state {
                return Err(Error::Changed { file: file.path.clone() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    /// A file that is mapped, and then meets with something; whether that is found.
    fn is_found(meets: impl FnOnce(&Path)) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        fs::write(&path, [7; 100]).unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(60);
        File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        let file = MappedFile::new(&path, File::open(&path).unwrap()).unwrap();
        let files = MappedFiles(vec![Arc::downgrade(&file)]);
        files.check_unchanged().unwrap();
        meets(&path);
        let checked = files.check_unchanged();
        let bytes = file.bytes();
        drop(file);
        if let Err(error) = &checked {
            assert!(error.to_string().contains("model.safetensors"), "{error}");
            assert!(files.check_unchanged().is_err(), "its bytes are still there");
        }
        drop(bytes);
        files.check_unchanged().expect("nobody uses it any more");
        checked.is_err()
    }

    // Windows lets nobody write to a file that is mapped.
    #[cfg(unix)]
    #[test]
    fn a_file_that_was_written_to_is_found() {
        assert!(is_found(|path| fs::write(path, "").unwrap()), "cut to nothing");
        assert!(is_found(|path| fs::write(path, [7; 50]).unwrap()), "shorter");
        assert!(is_found(|path| fs::write(path, [8; 100]).unwrap()), "other bytes");
        assert!(is_found(|path| fs::write(path, [7; 200]).unwrap()), "longer");
    }

    #[cfg(unix)]
    #[test]
    fn another_file_in_its_place_changes_nothing() {
        assert!(!is_found(|path| fs::remove_file(path).unwrap()));
        assert!(!is_found(|path| {
            fs::write(path.with_extension("new"), "another").unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        }));
    }
}
