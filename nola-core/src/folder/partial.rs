//! Files and folders that are there whole or not at all, and that a power cut does not take back.
//!
//! What a killed program had only begun to write stays under a name that begins with a dot; whoever writes the same thing
//! again removes it. What a living program is writing is locked, and stays.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir};

use crate::Error;

/// In the name of everything that is not whole yet.
const PARTIAL: &str = ".partial-";

/// Refuses a folder that exists and holds something; what is only half written in it is removed.
///
/// # Errors
/// If it holds something, or is none.
pub fn check_free(folder: &Path) -> Result<(), Error> {
    let io = || io_error(folder, "create");
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io()(error)),
    };
    let entries: Vec<PathBuf> =
        entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>().map_err(io())?;
    if !entries.iter().all(|entry| is_partial(entry)) {
        return Err(Error::Exists { folder: folder.to_owned() });
    }
    entries.iter().try_for_each(|entry| remove(entry).map_err(io_error(entry, "create")))
}

fn remove(path: &Path) -> io::Result<()> {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Whether the name says that this is not whole.
fn is_partial(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with('.') && name.contains(PARTIAL)
}

/// Temporary names beside the real one, which say what they are for.
fn partial_name(path: &Path) -> String {
    format!(".{}{PARTIAL}", path.file_name().unwrap_or_default().to_string_lossy())
}

/// The folder that `path` lies in.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn io_error(file: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Error {
    let file = file.to_owned();
    move |source| Error::Io { file, action, source }
}

/// Writes a file under another name, flushes it to the disk and renames it.
///
/// # Errors
/// If the folder cannot be written; an earlier file of that name is then as it was.
pub fn write_atomically(file: &Path, bytes: &[u8]) -> Result<(), Error> {
    PartialFile::beside(file)?.finish(bytes)
}

/// A file on its way: begun under another name beside its place, to see that it can be written, and renamed once it is whole.
/// Dropped before that, it is removed.
#[derive(Debug)]
pub struct PartialFile {
    temporary: NamedTempFile,
    target: PathBuf,
}

impl PartialFile {
    /// Begins a file that will be `target`, in the place of what has that name.
    ///
    /// # Errors
    /// If nothing can be written beside it.
    pub fn beside(target: &Path) -> Result<Self, Error> {
        remove_leftovers(target);
        let prefix = partial_name(target);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
        loop {
            let temporary = builder.tempfile_in(parent(target)).map_err(io_error(target, "write"))?;
            if is_held(temporary.as_file(), temporary.path()) {
                return Ok(Self { temporary, target: target.to_owned() });
            }
        }
    }

    /// Writes it and gives it its name.
    ///
    /// # Errors
    /// If the disk does not take it; an earlier file of that name is then as it was.
    pub fn finish(self, bytes: &[u8]) -> Result<(), Error> {
        let Self { mut temporary, target } = self;
        let mut finish = || {
            temporary.write_all(bytes)?;
            temporary.as_file().sync_all()
        };
        finish().map_err(io_error(&target, "write"))?;
        temporary.persist(&target).map_err(|error| io_error(&target, "write")(error.error))?;
        sync_folder(parent(&target)).map_err(io_error(&target, "write"))
    }
}

/// A folder on its way: filled under another name beside its place and renamed once, so that it is there whole or not
/// at all. Dropped before that, it is removed.
#[derive(Debug)]
pub struct PartialFolder {
    temporary: TempDir,
    target: PathBuf,
    /// Says that somebody still writes it; absent where folders cannot be opened.
    lock: Option<File>,
}

impl PartialFolder {
    /// Begins a folder that will be `target`, which must not exist or be empty.
    ///
    /// # Errors
    /// If `target` holds something, or nothing can be written beside it.
    pub fn beside(target: &Path) -> Result<Self, Error> {
        check_free(target)?;
        let parent = parent(target);
        create_folders(parent).map_err(io_error(parent, "create"))?;
        remove_leftovers(target);
        let prefix = partial_name(target);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755));
        loop {
            let temporary = builder.tempdir_in(parent).map_err(io_error(target, "create"))?;
            let lock = opened(temporary.path()).map_err(io_error(target, "create"))?;
            if lock.as_ref().is_none_or(|lock| is_held(lock, temporary.path())) {
                return Ok(Self { temporary, target: target.to_owned(), lock });
            }
        }
    }

    /// Where its files lie until it is whole.
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Writes a file into it and flushes it to the disk.
    ///
    /// # Errors
    /// If the disk does not take it; the error names the file as it would have been called.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let write = || {
            let mut file = File::create(self.path().join(name))?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(io_error(&self.target.join(name), "write"))
    }

    /// Flushes to the disk what was written into it by other means, at any depth.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub fn sync(&self) -> Result<(), Error> {
        sync_tree(self.path()).map_err(io_error(&self.target, "write"))
    }

    /// Gives it its name: from now on it is there as a whole.
    ///
    /// # Errors
    /// If something took the name meanwhile.
    pub fn finish(self) -> Result<(), Error> {
        let Self { temporary, target, lock } = self;
        let finish = || {
            if target.exists() {
                // Only an empty folder can be removed so.
                fs::remove_dir(&target)?;
            }
            sync_folder(temporary.path())?;
            fs::rename(temporary.path(), &target)?;
            sync_folder(parent(&target))
        };
        finish().map_err(io_error(&target, "write"))?;
        // It has another name now: there is nothing left to remove, or to lock.
        let _ = temporary.keep();
        drop(lock);
        Ok(())
    }
}

/// Removes what killed programs had begun to write in the place of `target`.
fn remove_leftovers(target: &Path) {
    let (Ok(entries), prefix) = (fs::read_dir(parent(target)), partial_name(target)) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with(&prefix) {
            continue;
        }
        // What cannot be removed is no obstacle: every attempt has a name of its own.
        if let Ok(Some(lock)) = opened(&path)
            && lock.try_lock().is_ok()
        {
            let _ = remove(&path);
        }
    }
}

/// Whether what was just made is locked for this program; false if another one takes it for a leftover and removes it.
fn is_held(made: &File, path: &Path) -> bool {
    match made.try_lock() {
        Ok(()) => path.exists(),
        Err(TryLockError::WouldBlock) => false,
        // Where there are no locks, nobody removes leftovers.
        Err(TryLockError::Error(_)) => true,
    }
}

/// A file or folder, to be locked; none where folders cannot be opened and locked files not be read.
fn opened(path: &Path) -> io::Result<Option<File>> {
    if cfg!(unix) { File::open(path).map(Some) } else { Ok(None) }
}

/// Makes a folder and those around it that are not there yet, and flushes their names to the disk; returns those that were made,
/// the innermost first.
///
/// # Errors
/// If one of them cannot be made.
pub fn create_folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    if folder.is_dir() {
        return Ok(Vec::new());
    }
    let missing = folder.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
    let missing: Vec<PathBuf> = missing.map(Path::to_owned).collect();
    fs::create_dir_all(folder)?;
    missing.iter().rev().try_for_each(|made| sync_folder(parent(made)))?;
    Ok(missing)
}

/// Flushes files and names to the disk.
fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            File::options().read(true).write(true).open(path)?.sync_all()?;
        }
    }
    sync_folder(folder)
}

/// Flushes the names in a folder to the disk, where folders can be opened and flushed.
///
/// # Errors
/// If the disk does not take them.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    let Some(folder) = opened(folder)? else { return Ok(()) };
    match folder.sync_all() {
        // Some file systems flush names by themselves and know no such request.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries =
            fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_is_absent_until_it_is_whole() {
        let scratch = scratch();
        let target = scratch.path().join("adapter");
        let partial = PartialFolder::beside(&target).expect("a free place");
        partial.write("one", b"1").expect("room");
        assert!(!target.exists());
        partial.finish().expect("a free place");
        assert_eq!(
            (names(scratch.path()), names(&target)),
            (vec!["adapter".to_owned()], vec!["one".to_owned()])
        );
    }

    #[test]
    fn a_folder_that_is_given_up_leaves_nothing() {
        let scratch = scratch();
        let partial = PartialFolder::beside(&scratch.path().join("a/b")).expect("a free place");
        partial.write("one", b"1").expect("room");
        drop(partial);
        assert!(names(&scratch.path().join("a")).is_empty());
    }

    #[test]
    fn an_empty_folder_may_be_taken_but_no_other() {
        let scratch = scratch();
        let target = scratch.path().join("adapter");
        fs::create_dir(&target).expect("a folder");
        let partial = PartialFolder::beside(&target).expect("it is empty");
        partial.write("one", b"1").expect("room");
        partial.finish().expect("it is empty");
        let error = PartialFolder::beside(&target).expect_err("it holds a file");
        assert!(matches!(error, Error::Exists { .. }), "{error}");
    }

    #[test]
    fn what_a_killed_program_left_is_no_obstacle() {
        let scratch = scratch();
        fs::create_dir(scratch.path().join(".adapter.partial-x1y2z3")).expect("a folder");
        fs::write(scratch.path().join(".recipe.toml.partial-abc"), b"half").expect("a file");
        check_free(scratch.path()).expect("only rubble");
        assert!(names(scratch.path()).is_empty());
        fs::write(scratch.path().join("partial-notes"), b"mine").expect("a file");
        assert!(matches!(check_free(scratch.path()), Err(Error::Exists { .. })));
    }

    #[test]
    fn a_file_that_replaces_another_leaves_no_second_name() {
        let scratch = scratch();
        let file = scratch.path().join("result.json");
        for text in ["old", "new"] {
            write_atomically(&file, text.as_bytes()).expect("room");
        }
        assert_eq!(names(scratch.path()), ["result.json"]);
        assert_eq!(fs::read(&file).expect("a file"), b"new");
    }

    #[test]
    fn what_a_killed_program_left_of_the_same_thing_is_removed() {
        let scratch = scratch();
        fs::create_dir(scratch.path().join(".adapter.partial-x1y2z3")).expect("a folder");
        for other in [".adapter.partial-half", ".adapter-last.partial-abc", "adapter.partial-mine"] {
            fs::write(scratch.path().join(other), b"half").expect("a file");
        }
        let partial = PartialFolder::beside(&scratch.path().join("adapter")).expect("a free place");
        partial.finish().expect("a free place");
        let left = if cfg!(unix) {
            vec![".adapter-last.partial-abc", "adapter", "adapter.partial-mine"]
        } else {
            vec![
                ".adapter-last.partial-abc",
                ".adapter.partial-half",
                ".adapter.partial-x1y2z3",
                "adapter",
                "adapter.partial-mine",
            ]
        };
        assert_eq!(names(scratch.path()), left);
    }

    #[test]
    fn what_another_program_is_writing_stays() {
        let scratch = scratch();
        let (folder, file) = (scratch.path().join("merged"), scratch.path().join("result.json"));
        let (first_folder, second_folder) = (PartialFolder::beside(&folder), PartialFolder::beside(&folder));
        let (first_file, second_file) = (PartialFile::beside(&file), PartialFile::beside(&file));
        first_folder.and_then(PartialFolder::finish).expect("it was not removed");
        second_folder.and_then(PartialFolder::finish).expect("the other one is empty");
        first_file.and_then(|file| file.finish(b"first")).expect("it was not removed");
        second_file.and_then(|file| file.finish(b"second")).expect("a free disk");
        assert_eq!(names(scratch.path()), ["merged", "result.json"]);
        assert_eq!(fs::read(&file).expect("a file"), b"second");
    }

    #[test]
    fn folders_are_made_as_deep_as_they_are_named() {
        let scratch = scratch();
        for folder in ["a/b/c", "a/b/c", "a/d", "."] {
            create_folders(&scratch.path().join(folder)).expect("a free disk");
            assert!(scratch.path().join(folder).is_dir());
        }
        fs::write(scratch.path().join("file"), b"mine").expect("a file");
        assert!(create_folders(&scratch.path().join("file/a")).is_err());
    }

    #[test]
    fn what_others_wrote_into_a_folder_is_flushed_at_any_depth() {
        let scratch = scratch();
        let partial = PartialFolder::beside(&scratch.path().join("assets")).expect("a free place");
        fs::create_dir_all(partial.path().join("a/b")).expect("a folder");
        fs::write(partial.path().join("a/b/c"), b"1").expect("a file");
        partial.sync().expect("a free disk");
        partial.finish().expect("a free place");
        assert!(scratch.path().join("assets/a/b/c").is_file());
    }
}
