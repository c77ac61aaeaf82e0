//! Names of adapters where many lie together.

use std::path::{Component, Path};

/// Longest name of an adapter, in bytes.
const MOST_NAME_BYTES: usize = 255;

/// Whether this can be an adapter's name among others: one part of a path.
///
/// # Errors
/// With what is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_part = Path::new(name).components().eq([Component::Normal(name.as_ref())]);
    let is_odd = |char: char| char.is_control() || matches!(char, '/' | '\\');
    if is_part && name.len() <= MOST_NAME_BYTES && !name.contains(is_odd) {
        return Ok(());
    }
    Err(format!(
        "an adapter's name has 1 to {MOST_NAME_BYTES} bytes, no slash and no control character, and is not `.` or `..`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for name in ["a", "tenant-1", "ä b", "a.b", "..."] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", ".", "..", "a/b", "/", "a\\b", "a\nb", &"a".repeat(256)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
