//! The shipped files: found where they lie, or unpacked from the program itself.

use std::env;
use std::path::{Component, Path, PathBuf};
use std::sync::{LazyLock, Once};

use include_dir::{Dir, DirEntry};
use nola_assets::FOLDERS;
use nola_core::folder::{PartialFolder, sha256_hex};

use crate::Error;
use crate::terminal::err_line;

/// What recipes and commands write before the name of a shipped file.
const PREFIX: &str = "assets";

/// Digits of the hash in the name of the unpacked folder: programs with other files unpack them elsewhere.
const HASH_DIGITS: usize = 16;

/// `path`, or the shipped file that it means: `assets/vit-micro` where the working directory has no such file.
///
/// # Errors
/// If the shipped files are needed and cannot be unpacked.
pub fn located(path: &Path) -> Result<PathBuf, Error> {
    match path.strip_prefix(PREFIX) {
        Ok(rest) if !path.exists() && is_shipped(rest) => Ok(folder()?.join(rest)),
        Ok(_) | Err(_) => Ok(path.to_owned()),
    }
}

/// Whether the program holds a file or folder of this name.
fn is_shipped(rest: &Path) -> bool {
    let mut parts = rest.components();
    let Some(Component::Normal(first)) = parts.next() else { return false };
    let Some(folder) = FOLDERS.iter().find(|folder| first == folder.name) else { return false };
    let inside = parts.as_path();
    inside.as_os_str().is_empty() || folder.dir.get_entry(inside).is_some()
}

/// The folder of the shipped files: beside the program, as an archive has it, or in the user's cache, where they are
/// unpacked once.
fn folder() -> Result<PathBuf, Error> {
    if let Some(beside) = beside_program() {
        return Ok(beside);
    }
    // All that is shipped is hashed, which is enough once.
    static HASH: LazyLock<String> = LazyLock::new(hash);
    let cached = cache().join(format!("assets-{}", &HASH[..HASH_DIGITS]));
    if !cached.is_dir() {
        unpack(&cached).map_err(|error| Error::from(error).about_output())?;
        static PRINTED: Once = Once::new();
        PRINTED.call_once(|| err_line(&format!("assets: unpacked to {}", cached.display())));
    }
    Ok(cached)
}

fn beside_program() -> Option<PathBuf> {
    let program = env::current_exe().ok()?;
    let folder = program.parent()?.join(PREFIX);
    FOLDERS.iter().all(|shipped| folder.join(shipped.name).is_dir()).then_some(folder)
}

/// `NOLA_CACHE`, else `nola` in the user's cache folder, else in the one for temporary files.
fn cache() -> PathBuf {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let of_user = || set("XDG_CACHE_HOME").or_else(|| Some(env::home_dir()?.join(".cache")));
    set("NOLA_CACHE").unwrap_or_else(|| of_user().unwrap_or_else(env::temp_dir).join("nola"))
}

/// Changes with every name and byte that is shipped.
fn hash() -> String {
    let mut lines = String::new();
    for shipped in &FOLDERS {
        each_file(shipped.dir, &mut |path, bytes| {
            lines.push_str(&format!("{}/{} {}\n", shipped.name, path.display(), sha256_hex(bytes)));
        });
    }
    sha256_hex(lines.as_bytes())
}

fn unpack(target: &Path) -> Result<(), nola_core::Error> {
    let io = |file: &Path| {
        let file = file.to_owned();
        move |source| nola_core::Error::Io { file, action: "write", source }
    };
    let partial = match PartialFolder::beside(target) {
        // Another program was faster, with the same files.
        Err(nola_core::Error::Exists { .. }) => return Ok(()),
        begun => begun?,
    };
    for shipped in &FOLDERS {
        let folder = partial.path().join(shipped.name);
        std::fs::create_dir_all(&folder).map_err(io(&folder))?;
        shipped.dir.extract(&folder).map_err(io(&folder))?;
    }
    // Whoever finds the folder trusts it: a power cut must not leave it with empty files.
    partial.sync()?;
    match partial.finish() {
        Err(_) if target.is_dir() => Ok(()),
        finished => finished,
    }
}

fn each_file(dir: &'static Dir<'static>, found: &mut impl FnMut(&Path, &'static [u8])) {
    for entry in dir.entries() {
        match entry {
            DirEntry::Dir(inside) => each_file(inside, found),
            DirEntry::File(file) => found(file.path(), file.contents()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_holds_what_lies_in_the_folder() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets");
        for shipped in &FOLDERS {
            each_file(shipped.dir, &mut |path, bytes| {
                let file = source.join(shipped.name).join(path);
                assert_eq!(std::fs::read(&file).expect("it is there"), bytes, "{}", file.display());
            });
        }
    }

    #[test]
    fn what_is_unpacked_is_whole() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let target = scratch.path().join("unpacked");
        unpack(&target).expect("a free disk");
        for shipped in &FOLDERS {
            each_file(shipped.dir, &mut |path, bytes| {
                assert_eq!(std::fs::read(target.join(shipped.name).join(path)).expect("it is there"), bytes);
            });
        }
        unpack(&target).expect("it is there already");
    }

    #[test]
    fn only_names_of_shipped_files_are_shipped() {
        for known in ["vit-micro", "vit-micro/config.json", "digits/val/0", "recipes/vit-digits-nola.toml"] {
            assert!(is_shipped(Path::new(known)), "{known}");
        }
        for unknown in ["", "vit-base", "vit-micro/weights", "../vit-micro", "/vit-micro", "golden"] {
            assert!(!is_shipped(Path::new(unknown)), "{unknown}");
        }
    }
}
