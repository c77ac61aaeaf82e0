//! What a parser is given: files in a folder in memory.

use std::cell::RefCell;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// What stands between the files of one input.
pub const BETWEEN: &[u8] = b"\n-----\n";
/// Bytes of an error message at most, beside sixteen for each of the input.
const LONGEST_MESSAGE: usize = 1 << 16;

thread_local! {
    static FOLDER: RefCell<Option<TempDir>> = const { RefCell::new(None) };
}

/// The files of an input; those that it does not reach are absent.
pub fn parts<const N: usize>(bytes: &[u8]) -> [Option<&[u8]>; N] {
    let mut rest = Some(bytes);
    std::array::from_fn(|index| {
        let whole = rest?;
        let end = whole.windows(BETWEEN.len()).position(|window| window == BETWEEN);
        match end.filter(|_| index + 1 < N) {
            Some(end) => {
                rest = Some(&whole[end + BETWEEN.len()..]);
                Some(&whole[..end])
            }
            None => rest.take(),
        }
    })
}

/// A new folder in memory where the system has such.
pub fn new_folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let builder = || tempfile::Builder::new().prefix("nola-fuzz-").to_owned();
    let made = if memory.is_dir() { builder().tempdir_in(memory) } else { builder().tempdir() };
    made.expect("a folder for files")
}

/// This thread's folder, which is the same for all inputs.
pub fn folder() -> PathBuf {
    FOLDER.with_borrow_mut(|folder| folder.get_or_insert_with(new_folder).path().to_owned())
}

/// Calls `read` with a folder of these files; an absent one is not there.
pub fn in_folder<T>(files: &[(&str, Option<&[u8]>)], read: impl FnOnce(&Path) -> T) -> T {
    let folder = folder();
    for (name, bytes) in files {
        if let Some(bytes) = bytes {
            fs::write(folder.join(name), bytes).expect("a file in memory");
        }
    }
    let outcome = read(&folder);
    for (name, _) in files.iter().filter(|(_, bytes)| bytes.is_some()) {
        fs::remove_file(folder.join(name)).expect("a file that was written");
    }
    outcome
}

/// A refusal must say something, and not too much.
pub fn check_refusal(error: &dyn Error, input: &[u8]) {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        message.push_str(&error.to_string());
        source = error.source();
    }
    assert!(!message.trim().is_empty(), "a refusal without a word");
    let most = LONGEST_MESSAGE + 16 * input.len();
    assert!(message.len() <= most, "{} bytes of message about {} bytes", message.len(), input.len());
}

/// What was read, if it was not refused.
pub fn accepted<T, E: Error>(outcome: Result<T, E>, input: &[u8]) -> Option<T> {
    outcome.map_err(|error| check_refusal(&error, input)).ok()
}
