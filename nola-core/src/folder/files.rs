//! The files of an adapter folder as they are read, and headers of safetensors files.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::foreign_json::MAX_CONFIG_BYTES;
use crate::hollow::Hollow;

/// Key under which a safetensors header holds texts about the whole file.
pub(super) const HEADER_METADATA: &str = "__metadata__";

/// SHA-256 in hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of `file`, if it holds some of its own.
fn read(file: &Path) -> Result<Vec<u8>, Error> {
    let bytes =
        fs::read(file).map_err(|source| Error::Io { file: file.to_owned(), action: "read", source })?;
    full(file, bytes)
}

/// The bytes, unless they are none of what `file` should hold.
fn full(file: &Path, bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
    match Hollow::of(&bytes) {
        Some(what) => Err(Error::Hollow { file: file.to_owned(), what }),
        None => Ok(bytes),
    }
}

/// The bytes of `file`, if it holds some of its own and no more than so many.
pub(crate) fn read_at_most(file: &Path, most_bytes: u64) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Io { file: file.to_owned(), action: "read", source };
    let opened = File::open(file).map_err(failed)?;
    let mut bytes = Vec::new();
    opened.take(most_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most_bytes {
        let problem = format!("larger than {most_bytes} bytes, which no honest file of its kind is");
        return Err(Error::Invalid { file: file.to_owned(), problems: vec![problem] });
    }
    full(file, bytes)
}

/// The bytes of the settings of an adapter, if they are no more than those of any honest one.
pub(super) fn read_config(file: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => {
            Error::NoSettings { file: file.to_owned(), pickle: file.parent().and_then(pickle_in) }
        }
        _ => Error::Io { file: file.to_owned(), action: "read", source },
    };
    let mut text = Vec::new();
    File::open(file)
        .and_then(|file| file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text))
        .map_err(failed)?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        let problem = format!("larger than {MAX_CONFIG_BYTES} bytes, which no adapter configuration is");
        return Err(Error::Invalid { file: file.to_owned(), problems: vec![problem] });
    }
    full(file, text)
}

/// The bytes of the weights of an adapter; a pickle in their place is named.
pub(super) fn read_weights(file: &Path) -> Result<Vec<u8>, Error> {
    match file.parent().and_then(pickle_in) {
        Some(pickle) if !file.exists() => Err(Error::PickleOnly { file: pickle }),
        Some(_) | None => read(file),
    }
}

/// The header of a safetensors file, with the length before it.
pub(super) fn read_header(file: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(file)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let mut header = length.to_vec();
    file.take(u64::from_le_bytes(length).min(MAX_CONFIG_BYTES)).read_to_end(&mut header)?;
    Ok(header)
}

/// A pickle of an adapter's weights in `folder`, if one is there.
fn pickle_in(folder: &Path) -> Option<PathBuf> {
    let is_pickle = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("bin" | "pt" | "pth" | "ckpt" | "pkl"))
            && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("adapter"))
    };
    fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).filter(is_pickle).min()
}

/// Puts the metadata of a safetensors file in the order of its keys: the library writes them in the order of a hash
/// map, which changes from process to process.
///
/// # Errors
/// If the file cannot be read or written, or has no such header.
pub fn order_metadata(file: &mut (impl Read + Write + Seek)) -> io::Result<()> {
    edit_metadata(file, |metadata| metadata.sort_keys())
}

/// Puts `value` in the place of a value of equal length in the metadata of a safetensors file.
///
/// # Errors
/// If the file cannot be read or written, has no such header, or the header would become longer.
pub fn set_metadata(file: &mut (impl Read + Write + Seek), key: &str, value: &str) -> io::Result<()> {
    edit_metadata(file, |metadata| drop(metadata.insert(key.to_owned(), value.into())))
}

/// Changes the metadata in place, which must not make the header longer.
fn edit_metadata(
    file: &mut (impl Read + Write + Seek),
    edit: impl FnOnce(&mut Map<String, Value>),
) -> io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    let mut length = [0; size_of::<u64>()];
    file.read_exact(&mut length)?;
    let mut header = vec![0; u64::from_le_bytes(length) as usize];
    file.read_exact(&mut header)?;
    let mut json: Map<String, Value> = serde_json::from_slice(&header)?;
    if let Some(Value::Object(metadata)) = json.get_mut(HEADER_METADATA) {
        edit(metadata);
    }
    let mut text = serde_json::to_vec(&json)?;
    if text.len() > header.len() {
        return Err(io::Error::other("the header would become longer"));
    }
    // The library fills with spaces too.
    text.resize(header.len(), b' ');
    file.seek(SeekFrom::Start(length.len() as u64))?;
    file.write_all(&text)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::Cursor;

    use safetensors::SafeTensors;
    use safetensors::tensor::{Dtype, TensorView};

    use super::*;

    fn with_metadata(keys: &[&str]) -> Vec<u8> {
        let data = [1_u8, 2, 3, 4];
        let view = TensorView::new(Dtype::U8, vec![4], &data).expect("four bytes");
        let metadata: HashMap<String, String> =
            keys.iter().map(|key| ((*key).to_owned(), format!("\"{key}\" ä"))).collect();
        safetensors::serialize([("x", view)], Some(metadata)).expect("a tensor")
    }

    #[test]
    fn the_order_of_metadata_is_that_of_its_keys() {
        let keys = ["nola", "format", "a", "zeta", "base", "q"];
        let mut files: Vec<Vec<u8>> = (0..12).map(|_| with_metadata(&keys)).collect();
        for bytes in &mut files {
            order_metadata(&mut Cursor::new(bytes)).expect("a header");
        }
        assert!(files.windows(2).all(|pair| pair[0] == pair[1]));
        let tensors = SafeTensors::deserialize(&files[0]).expect("it is still whole");
        assert_eq!(tensors.tensor("x").expect("a tensor").data(), [1, 2, 3, 4]);
    }

    #[test]
    fn a_value_of_the_metadata_is_set_in_place() {
        let mut bytes = with_metadata(&["sha256"]);
        let length = bytes.len();
        set_metadata(&mut Cursor::new(&mut bytes), "sha256", "0123").expect("it is shorter");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
        assert_eq!(header.metadata().as_ref().expect("metadata")["sha256"], "0123");
        assert_eq!(bytes.len(), length);
        let long = "x".repeat(4096);
        assert!(set_metadata(&mut Cursor::new(&mut bytes), "sha256", &long).is_err());
    }

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
    fn settings_that_are_not_there_are_named_beside_the_pickle_that_needs_them() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = folder.path().join("adapter_config.json");
        let error = read_config(&config).expect_err("nothing").to_string();
        assert!(error.contains("adapter_config.json: no such file") && !error.contains("pickle"), "{error}");
        for name in ["adapter_model.pt", "adapter_model.bin"] {
            std::fs::write(folder.path().join(name), b"pickled").expect("a written file");
            let error = read_config(&config).expect_err("only a pickle").to_string();
            assert!(error.contains("adapter_config.json") && error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_file_without_content_of_its_own_is_named_with_the_cure() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3\n";
        for (content, cure) in [("", "empty (0 bytes)"), (pointer, "git lfs pull")] {
            let [config, weights] = ["adapter_config.json", "adapter_model.safetensors"].map(|name| {
                let file = folder.path().join(name);
                std::fs::write(&file, content).expect("a written file");
                file
            });
            for (file, read) in [(&config, read_config(&config)), (&weights, read_weights(&weights))] {
                let error = read.expect_err("nothing is there").to_string();
                assert!(error.starts_with(&file.display().to_string()) && error.contains(cure), "{error}");
            }
        }
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
            assert!(error.contains(&format!("torch.load(\"{name}\", weights_only=True)")), "{error}");
        }
        std::fs::write(&weights, b"tensors").expect("a written file");
        assert_eq!(read_weights(&weights).expect("tensors beside pickles"), b"tensors");
    }
}
