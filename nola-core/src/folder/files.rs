//! Files that are there whole or not at all.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::Error;
use crate::foreign_json::MAX_CONFIG_BYTES;

/// SHA-256 in hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of `file`.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(file).map_err(|source| Error::Io { file: file.to_owned(), action: "read", source })
}

/// The bytes of the settings of an adapter, if they are no more than those of any honest one.
pub(super) fn read_config(file: &Path) -> Result<Vec<u8>, Error> {
    let io = |source| Error::Io { file: file.to_owned(), action: "read", source };
    let mut text = Vec::new();
    File::open(file).and_then(|file| file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text)).map_err(io)?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        let problem = format!("larger than {MAX_CONFIG_BYTES} bytes, which no adapter configuration is");
        return Err(Error::Invalid { file: file.to_owned(), problems: vec![problem] });
    }
    Ok(text)
}

/// The bytes of the weights of an adapter; a pickle in their place is named.
pub(super) fn read_weights(file: &Path) -> Result<Vec<u8>, Error> {
    match file.parent().and_then(pickle_in) {
        Some(pickle) if !file.exists() => Err(Error::PickleOnly { file: pickle }),
        Some(_) | None => read(file),
    }
}

/// A pickle of an adapter's weights in `folder`, if one is there.
fn pickle_in(folder: &Path) -> Option<PathBuf> {
    let is_pickle = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("bin" | "pt" | "pth" | "ckpt" | "pkl"))
            && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("adapter"))
    };
    std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).filter(is_pickle).min()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_larger_than_any_honest_ones_are_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("adapter_config.json");
        File::create(&file).and_then(|file| file.set_len(MAX_CONFIG_BYTES + 1)).expect("a long file");
        assert!(matches!(read_config(&file), Err(Error::Invalid { .. })));
        File::create(&file).and_then(|file| file.set_len(MAX_CONFIG_BYTES)).expect("a long file");
        assert!(read_config(&file).is_ok());
    }

    #[test]
    fn a_pickle_in_the_place_of_weights_is_named_with_the_cure() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let weights = folder.path().join("adapter_model.safetensors");
        assert!(matches!(read_weights(&weights), Err(Error::Io { .. })));
        for name in ["adapter_model.pt", "adapter_model.bin"] {
            std::fs::write(folder.path().join(name), b"pickled").expect("a written file");
            let error = read_weights(&weights).expect_err("only a pickle").to_string();
            assert!(
                error.contains(name) && error.contains("pickle") && error.contains("save_pretrained"),
                "{error}"
            );
        }
        std::fs::write(&weights, b"tensors").expect("a written file");
        assert_eq!(read_weights(&weights).expect("tensors beside pickles"), b"tensors");
    }
}
