//! Files that are there whole or not at all.

use std::io::Write;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::Error;

/// SHA-256 in hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes `folder`, which must not exist or be empty.
///
/// # Errors
/// If it holds something, or cannot be made.
pub fn new_folder(folder: &Path) -> Result<(), Error> {
    let io = |action| move |source| Error::Io { file: folder.to_owned(), action, source };
    std::fs::create_dir_all(folder).map_err(io("create"))?;
    let mut entries = std::fs::read_dir(folder).map_err(io("create"))?;
    match entries.next() {
        Some(_) => Err(Error::Exists { folder: folder.to_owned() }),
        None => Ok(()),
    }
}

/// Writes a file under another name, flushes it to the disk and renames it.
///
/// # Errors
/// If the folder cannot be written; an earlier file of that name is then as it was.
pub fn write_atomically(file: &Path, bytes: &[u8]) -> Result<(), Error> {
    let io = |source| Error::Io { file: file.to_owned(), action: "write", source };
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    let mut temporary = builder.tempfile_in(folder).map_err(io)?;
    temporary.write_all(bytes).map_err(io)?;
    temporary.as_file().sync_all().map_err(io)?;
    temporary.persist(file).map_err(|error| io(error.error))?;
    Ok(())
}
