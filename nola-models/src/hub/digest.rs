//! The two hashes that a hub promises: of git for small files, SHA-256 for large ones.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::name::is_hex;

/// Bytes that are hashed at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// A hash, in lower-case hexadecimal; also the name of the content in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Digest {
    /// SHA-1 of the content behind git's header.
    Git(String),
    /// SHA-256 of the content.
    Sha256(String),
}

impl Digest {
    /// Reads an `ETag`, weak or strong; `None` if it is neither hash.
    pub fn from_etag(etag: &str) -> Option<Self> {
        let text = etag.trim().trim_start_matches("W/").trim_matches('"');
        match text.len() {
            40 if is_hex(text) => Some(Self::Git(text.to_string())),
            64 if is_hex(text) => Some(Self::Sha256(text.to_string())),
            _ => None,
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Git(text) | Self::Sha256(text) => text,
        }
    }

    /// The same kind of hash of a file.
    pub fn of_file(&self, path: &Path) -> io::Result<String> {
        match self {
            Self::Sha256(_) => sha256_of(path),
            Self::Git(_) => {
                let mut file = File::open(path)?;
                let header = format!("blob {}\0", file.metadata()?.len());
                hash(Sha1::new_with_prefix(header), &mut file)
            }
        }
    }
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// If it cannot be read.
pub fn sha256_of(path: &Path) -> io::Result<String> {
    hash(Sha256::new(), &mut File::open(path)?)
}

fn hash<D: sha2::Digest>(mut hash: D, content: &mut impl Read) -> io::Result<String> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match content.read(&mut chunk)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            count => hash.update(&chunk[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_BLOB: &str = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391";
    const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn an_etag_tells_its_hash_by_its_length() {
        let git = Digest::Git(EMPTY_BLOB.to_string());
        assert_eq!(Digest::from_etag(&format!("W/\"{EMPTY_BLOB}\"")), Some(git));
        assert_eq!(Digest::from_etag(EMPTY_SHA256), Some(Digest::Sha256(EMPTY_SHA256.to_string())));
        for etag in [
            "",
            "\"5d41402abc4b2a76b9719d911017c592\"",
            "\"../../../../../../../../../../../etc/passwd12345\"",
        ] {
            assert_eq!(Digest::from_etag(etag), None);
        }
    }

    #[test]
    fn an_empty_file_has_the_hashes_that_git_and_sha256sum_print() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for etag in [EMPTY_BLOB, EMPTY_SHA256] {
            assert_eq!(Digest::from_etag(etag).unwrap().of_file(file.path()).unwrap(), etag);
        }
    }

    #[test]
    fn a_file_has_the_hash_that_git_prints() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hello\n").unwrap();
        let digest = Digest::from_etag("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        assert_eq!(digest.of_file(file.path()).unwrap(), digest.as_str());
    }
}
