//! Files that hold nothing of what their names promise.

/// How the pointers of Git LFS begin.
const LFS_START: &[u8] = b"version https://git-lfs.";

/// Why a file holds nothing of what its name promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Hollow {
    /// It has no bytes.
    #[error("the file is empty (0 bytes): it was not downloaded or written to its end; fetch it again")]
    Empty,
    /// It says where Git LFS keeps the content.
    #[error(
        "this is a pointer of Git LFS, not the file itself; run `git lfs pull` in its repository, or download the file"
    )]
    LfsPointer,
}

impl Hollow {
    /// What is wrong with a file of these bytes, or with these first bytes; nothing if it holds something else.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [] => Some(Self::Empty),
            _ if bytes.starts_with(LFS_START) => Some(Self::LfsPointer),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_and_a_pointer_hold_nothing() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 17\n";
        assert_eq!(Hollow::of(b""), Some(Hollow::Empty));
        assert_eq!(Hollow::of(pointer), Some(Hollow::LfsPointer));
        for text in ["{}", "version", "#version: 0.2", " version https://git-lfs.github.com/spec/v1"] {
            assert_eq!(Hollow::of(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn each_says_its_cure() {
        assert!(Hollow::LfsPointer.to_string().contains("git lfs pull"));
        assert!(Hollow::Empty.to_string().contains("0 bytes"));
    }
}
