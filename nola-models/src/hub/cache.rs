//! The cache of one repository, laid out as `huggingface_hub` does it, so that both share what either has fetched.
//!
//! `blobs/<hash>` holds contents, `snapshots/<commit>/<file>` links to them, `refs/<revision>` names a commit.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nola_core::folder::sync_folder;

use super::HubError;
use super::name::{RepositoryName, is_commit};

/// The folders of one repository.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    locks: PathBuf,
}

impl Cache {
    pub fn new(root: &Path, name: &RepositoryName) -> Self {
        Self { folder: root.join(name.folder()), locks: root.join(".locks").join(name.folder()) }
    }

    /// The commit that a revision stood for when it was last fetched; `None` if it never was.
    pub fn commit(&self, revision: &str) -> Result<Option<String>, HubError> {
        if is_commit(revision) {
            return Ok(Some(revision.to_string()));
        }
        let file = self.folder.join("refs").join(revision);
        match fs::read_to_string(&file) {
            Ok(text) => Ok(Some(text.trim().to_string()).filter(|commit| is_commit(commit))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HubError::Io { file, source }),
        }
    }

    /// Writes down which commit a revision stands for, unless it is known; so a full cache may be read-only.
    pub fn remember(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if self.commit(revision)?.as_deref() == Some(commit) {
            return Ok(());
        }
        place(&self.folder.join("refs").join(revision), |path| write_new(path, commit))
    }

    /// Writes down which files a commit has, so that a part of them is never taken for all.
    pub fn remember_listing(&self, commit: &str, files: &BTreeSet<String>) -> Result<(), HubError> {
        if self.listing(commit)?.as_ref() == Some(files) {
            return Ok(());
        }
        let lines: String = files.iter().map(|file| format!("{file}\n")).collect();
        place(&self.listing_file(commit), |path| write_new(path, &lines))
    }

    /// The files of a commit, if they were written down.
    pub fn listing(&self, commit: &str) -> Result<Option<BTreeSet<String>>, HubError> {
        let file = self.listing_file(commit);
        match fs::read_to_string(&file) {
            Ok(text) => Ok(Some(text.lines().map(str::to_string).collect())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HubError::Io { file, source }),
        }
    }

    /// Beside what `huggingface_hub` has; it looks only at the folders that it knows.
    fn listing_file(&self, commit: &str) -> PathBuf {
        self.folder.join("listings").join(commit)
    }

    /// Folder of a commit.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Where the content of that hash lies or will lie.
    pub fn blob(&self, hash: &str) -> PathBuf {
        self.folder.join("blobs").join(hash)
    }

    /// Waits until no other program fetches the content of that hash; `waiting` is called if one does.
    pub fn lock(&self, hash: &str, waiting: impl FnOnce()) -> Result<File, HubError> {
        let file = self.locks.join(format!("{hash}.lock"));
        make_parent(&file)?;
        make_parent(&self.blob(hash))?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&file)
            .map_err(|source| HubError::Io { file: file.clone(), source })?;
        let locked = match lock.try_lock() {
            Err(TryLockError::WouldBlock) => {
                waiting();
                lock.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        locked.map_err(|source| HubError::Lock { file, source })?;
        Ok(lock)
    }

    /// Puts a content into the snapshot of a commit under its name.
    pub fn link(&self, commit: &str, file: &str, hash: &str) -> Result<(), HubError> {
        self.link_by(symlink, commit, file, hash)
    }

    fn link_by(
        &self,
        symlink: fn(&Path, &Path) -> io::Result<()>,
        commit: &str,
        file: &str,
        hash: &str,
    ) -> Result<(), HubError> {
        let climb: PathBuf = file.split('/').map(|_| "..").chain([".."]).collect();
        let (target, blob) = (climb.join("blobs").join(hash), self.blob(hash));
        place(&self.snapshot(commit).join(file), |path| match symlink(&target, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => copy(&blob, path),
            other => other,
        })
    }
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn make_parent(file: &Path) -> Result<(), HubError> {
    let parent = file.parent().expect("a file of the cache lies in a folder of the cache");
    fs::create_dir_all(parent).map_err(|source| HubError::Io { file: parent.into(), source })
}

/// Writes a file that is not there yet, and flushes it to the disk.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Copies a file and flushes the copy to the disk.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    File::options().write(true).open(to)?.sync_all()
}

/// Makes a file under a name of its own beside `file` and renames it, so that nobody sees it half made.
fn place(file: &Path, make: impl FnMut(&Path) -> io::Result<()>) -> Result<(), HubError> {
    make_parent(file)?;
    let failed = |source| HubError::Io { file: file.into(), source };
    let parent = file.parent().expect("a file of the cache lies in a folder of the cache");
    let made = tempfile::Builder::new().make_in(parent, make).map_err(failed)?;
    made.into_temp_path().persist(file).map_err(|error| failed(error.error))?;
    sync_folder(parent).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789012345678901234567890123456789";

    fn cache(root: &Path) -> Cache {
        Cache::new(root, &RepositoryName::parse("ada/small").unwrap())
    }

    fn with_blob(root: &Path) -> Cache {
        let cache = cache(root);
        fs::create_dir_all(cache.blob("ab").parent().unwrap()).unwrap();
        fs::write(cache.blob("ab"), "content").unwrap();
        cache
    }

    #[test]
    #[cfg(unix)]
    fn a_file_of_a_snapshot_is_a_relative_link() {
        let root = tempfile::tempdir().unwrap();
        let cache = with_blob(root.path());
        cache.link(COMMIT, "deep/file", "ab").unwrap();
        let file = root.path().join("models--ada--small/snapshots").join(COMMIT).join("deep/file");
        assert_eq!(fs::read_link(&file).unwrap(), Path::new("../../../blobs/ab"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "content");
    }

    #[test]
    fn where_there_are_no_links_a_copy_is_made() {
        let root = tempfile::tempdir().unwrap();
        let cache = with_blob(root.path());
        let refuse = |_: &Path, _: &Path| Err(io::ErrorKind::PermissionDenied.into());
        cache.link_by(refuse, COMMIT, "file", "ab").unwrap();
        let file = cache.snapshot(COMMIT).join("file");
        assert!(!file.is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "content");
    }

    #[test]
    #[cfg(unix)]
    fn a_link_to_nowhere_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let cache = with_blob(root.path());
        cache.link(COMMIT, "file", "gone").unwrap();
        cache.link(COMMIT, "file", "ab").unwrap();
        assert_eq!(fs::read_to_string(cache.snapshot(COMMIT).join("file")).unwrap(), "content");
    }

    #[test]
    fn a_revision_with_slashes_is_remembered() {
        let root = tempfile::tempdir().unwrap();
        let cache = cache(root.path());
        assert_eq!(cache.commit("refs/pr/1").unwrap(), None);
        cache.remember("refs/pr/1", COMMIT).unwrap();
        assert_eq!(cache.commit("refs/pr/1").unwrap().as_deref(), Some(COMMIT));
    }

    #[test]
    fn a_known_commit_is_not_written_again() {
        let root = tempfile::tempdir().unwrap();
        let cache = cache(root.path());
        cache.remember("main", COMMIT).unwrap();
        let file = root.path().join("models--ada--small/refs/main");
        fs::write(&file, format!("{COMMIT}\n")).unwrap();
        cache.remember("main", COMMIT).unwrap();
        cache.remember(COMMIT, COMMIT).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{COMMIT}\n"));
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_reference_leads_nowhere() {
        let root = tempfile::tempdir().unwrap();
        let cache = cache(root.path());
        cache.remember("main", "../../../etc").unwrap();
        assert_eq!(cache.commit("main").unwrap(), None);
    }
}
