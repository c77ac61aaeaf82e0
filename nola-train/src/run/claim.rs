//! Who may write into a run folder: one program at a time, and only where nothing of worth lies.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use nola_core::folder::create_folders;

use super::checkpoints::{CHECKPOINTS, is_resumable};
use super::log::METRICS;
use super::partial::{is_partial, old, remove};
use super::tensorboard::TENSORBOARD;
use super::{ADAPTER, LAST_ADAPTER, MODEL, Occupied, RECIPE, RESULT, SAMPLES};
use crate::Error;
use crate::folder_lock::{self, Attempt, LOCK};
use crate::train::ResumeError;

/// A run folder that no other program writes to; given back when dropped.
#[derive(Debug)]
pub(super) struct Claim {
    pub folder: PathBuf,
    /// Another one after the folder was removed.
    lock: RefCell<File>,
    /// The folders that were made for it, the innermost first.
    made: Vec<PathBuf>,
}

impl Claim {
    /// Makes `folder` where it is absent and claims it; what a run that was cut off before it kept anything left there is
    /// removed.
    ///
    /// # Errors
    /// If another run has claimed it, if it holds something, or if it cannot be written.
    pub fn of(folder: &Path) -> Result<Self, Error> {
        let output = |source| Error::Output { path: folder.to_owned(), source };
        let occupied = |holds| Error::Occupied { folder: folder.to_owned(), holds };
        let made = create_folders(folder).map_err(output)?;
        let was_claimed = is_begun(folder);
        if !was_claimed && fs::read_dir(folder).map_err(output)?.next().is_some() {
            return Err(occupied(holding(folder)));
        }
        let lock = locked(folder, was_claimed)?;
        let Some(rubble) = rubble(folder).map_err(output)? else { return Err(occupied(holding(folder))) };
        rubble.iter().try_for_each(|path| remove(path)).map_err(output)?;
        let claim = Self { folder: folder.to_owned(), lock: RefCell::new(lock), made };
        claim.sign().map_err(output)?;
        Ok(claim)
    }

    /// Claims the folder of a run that ended before its time; what it had only begun to write is removed.
    ///
    /// # Errors
    /// If there is no such run, it still goes on, it is finished, or the folder cannot be written.
    pub fn resumed(folder: &Path) -> Result<Self, Error> {
        let output = |source| Error::Output { path: folder.to_owned(), source };
        let was_claimed = is_begun(folder);
        if !was_claimed && !is_resumable(folder) {
            return Err(nothing_to_resume(folder).into());
        }
        let lock = locked(folder, was_claimed)?;
        if !is_resumable(folder) {
            let problem = nothing_to_resume(folder);
            if matches!(problem, ResumeError::Finished { .. }) {
                // The lock goes, too.
                drop(Self { folder: folder.to_owned(), lock: RefCell::new(lock), made: Vec::new() });
            }
            return Err(problem.into());
        }
        let claim = Self { folder: folder.to_owned(), lock: RefCell::new(lock), made: Vec::new() };
        for folder in [folder, &folder.join(CHECKPOINTS)] {
            remove_partial(folder).map_err(output)?;
        }
        claim.sign().map_err(output)?;
        Ok(claim)
    }

    /// Makes a folder around several runs where it is absent and claims it; some of the runs may be made already.
    ///
    /// # Errors
    /// If another program has claimed it, or it cannot be written.
    pub fn around_runs(folder: &Path) -> Result<Self, Error> {
        let output = |source| Error::Output { path: folder.to_owned(), source };
        let made = create_folders(folder).map_err(output)?;
        let lock = locked(folder, is_begun(folder))?;
        let claim = Self { folder: folder.to_owned(), lock: RefCell::new(lock), made };
        claim.sign().map_err(output)?;
        Ok(claim)
    }

    /// Claims the folder once more where somebody removed it or its lock meanwhile; true if so.
    ///
    /// # Errors
    /// If another run has it now, or it cannot be written.
    pub fn renew(&self) -> Result<bool, Error> {
        let path = self.folder.join(LOCK);
        if is_at(&self.lock.borrow(), &path) {
            return Ok(false);
        }
        let output = |source| Error::Output { path: self.folder.clone(), source };
        let occupied = |by| {
            let holds = Occupied::Running { by, lock: path.clone() };
            Error::Occupied { folder: self.folder.clone(), holds }
        };
        create_folders(&self.folder).map_err(output)?;
        let lock = match File::options().read(true).write(true).create_new(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(occupied(String::new())),
            other => other.map_err(output)?,
        };
        if !is_free(&lock, &self.folder, false) {
            return Err(occupied(claimant(&lock)));
        }
        self.lock.replace(lock);
        self.sign().map_err(output)?;
        Ok(true)
    }

    /// Says in the lock who has it.
    fn sign(&self) -> io::Result<()> {
        let host = sysinfo::System::host_name().unwrap_or_else(|_| "an unknown machine".to_owned());
        let mut lock = self.lock.borrow_mut();
        lock.set_len(0)?;
        write!(lock, "process {} on {host}", std::process::id())
    }
}

impl Drop for Claim {
    /// Leaves nothing where nothing was kept.
    fn drop(&mut self) {
        if !is_at(&self.lock.borrow(), &self.folder.join(LOCK)) {
            // Somebody else's by now.
            return;
        }
        let is_tidy = match rubble(&self.folder) {
            Ok(rubble) => rubble.iter().flatten().try_for_each(|path| remove(path)).is_ok(),
            Err(_) => false,
        };
        if !is_tidy {
            // By the lock the next run knows that it may try again.
            return;
        }
        let _ = fs::remove_file(self.folder.join(LOCK));
        // Only an empty folder can be removed so, and what is around one that is not is not empty either.
        let _ = self.made.iter().try_for_each(fs::remove_dir);
    }
}

/// The lock of a folder, which this program holds from now on.
fn locked(folder: &Path, was_claimed: bool) -> Result<File, Error> {
    let lock = folder_lock::open(folder);
    let lock = lock.map_err(|source| Error::Output { path: folder.to_owned(), source })?;
    if !is_free(&lock, folder, was_claimed) {
        let holds = Occupied::Running { by: claimant(&lock), lock: folder.join(LOCK) };
        return Err(Error::Occupied { folder: folder.to_owned(), holds });
    }
    Ok(lock)
}

/// Whether nobody else holds the lock of a folder; this file holds it from now on.
fn is_free(lock: &File, folder: &Path, was_claimed: bool) -> bool {
    match folder_lock::attempt(lock, folder) {
        Attempt::Held => true,
        Attempt::Taken => false,
        // Nobody knows whether the other run lives.
        Attempt::Unknown => !was_claimed,
    }
}

/// Whether `path` still leads to an open file.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(file), Ok(there)) => identity(file) == identity(there),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

/// Whether `path` still leads to an open file, which cannot be removed where this is compiled.
#[cfg(not(unix))]
fn is_at(_file: &File, path: &Path) -> bool {
    path.exists()
}

/// Why a folder without a checkpoint, which nobody else has claimed, cannot be resumed.
fn nothing_to_resume(folder: &Path) -> ResumeError {
    let run = folder.to_owned();
    if folder.join(RESULT).exists() {
        // A kill or its disk kept it from tidying up behind itself; what cannot be removed is in nobody's way.
        let _ = remove_partial(folder);
        ResumeError::Finished { run }
    } else if is_begun(folder) || folder.join(RECIPE).exists() {
        ResumeError::NoCheckpoint { run }
    } else {
        ResumeError::NoRun { run }
    }
}

/// The folder of a run that was cut off, which no other program writes to.
#[derive(Debug)]
pub struct CutOff {
    folder: PathBuf,
    lock: File,
}

impl CutOff {
    /// Locks the folder. What was found there before may have changed meanwhile.
    ///
    /// # Errors
    /// If the run still goes on, or the folder cannot be written.
    pub fn locked(folder: &Path) -> Result<Self, Error> {
        Ok(Self { folder: folder.to_owned(), lock: locked(folder, is_begun(folder))? })
    }

    /// Removes the lock alone.
    pub fn unlock(self) {
        // One that stays is no obstacle: only who has locked it is.
        let _ = fs::remove_file(self.folder.join(LOCK));
    }

    /// Removes the folder.
    ///
    /// What says that it is one goes last, so that a kill in between leaves a folder that is still known for what it is.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(self) -> Result<(), Error> {
        let Self { folder, lock } = self;
        let remove_all = || {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                if ![LOCK, RECIPE].iter().any(|name| entry.file_name() == *name) {
                    remove(&entry.path())?;
                }
            }
            [RECIPE, LOCK].iter().try_for_each(|name| remove(&folder.join(name)))?;
            // A network's disk keeps an open file in the folder under another name.
            drop(lock);
            match fs::remove_dir(&folder) {
                // Another program has claimed it already, or removed it as well.
                Err(error) if [ErrorKind::DirectoryNotEmpty, ErrorKind::NotFound].contains(&error.kind()) => {
                    Ok(())
                }
                other => other,
            }
        };
        let removed: io::Result<()> = remove_all();
        removed.map_err(|source| Error::Output { path: folder.clone(), source })
    }
}

/// Who wrote a lock.
fn claimant(mut lock: &File) -> String {
    let mut text = String::new();
    // On some systems a locked file cannot be read.
    let _ = lock.read_to_string(&mut text);
    if text.is_empty() { text } else { format!(" ({text})") }
}

/// What lies in a folder that holds something.
fn holding(folder: &Path) -> Occupied {
    if is_resumable(folder) {
        return Occupied::Interrupted { run: folder.to_owned() };
    }
    if folder.join(RESULT).exists() {
        return Occupied::Finished;
    }
    let kept = [ADAPTER, MODEL, LAST_ADAPTER].map(|name| whole(folder, name));
    match kept.into_iter().flatten().next() {
        Some(kept) if folder.join(RECIPE).exists() => Occupied::CutOff(kept),
        Some(_) | None => Occupied::Foreign,
    }
}

/// Removes what a program in a folder had only begun to write, or to remove.
fn remove_partial(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if is_partial(&entry.file_name().to_string_lossy()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Everything in a folder, apart from its lock, if a run that kept nothing left it; none if there is something else.
fn rubble(folder: &Path) -> io::Result<Option<Vec<PathBuf>>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        if text == LOCK {
            continue;
        }
        let is_empty = text == CHECKPOINTS && !is_resumable(folder);
        let is_log = [METRICS, SAMPLES, TENSORBOARD].contains(&&*text);
        if !is_empty && !is_log && text != RECIPE && !is_partial(&text) {
            return Ok(None);
        }
        found.push(folder.join(&name));
    }
    Ok(Some(found))
}

/// Where the folder `name` of a run lies: under its name, or, if a kill hit the moment in which a better one took its
/// place, under the name that the old one has meanwhile.
pub fn whole(run: &Path, name: &str) -> Option<PathBuf> {
    [run.join(name), old(&run.join(name))].into_iter().find(|path| path.is_dir())
}

/// Whether a run began in a folder, however early it ended.
pub fn is_begun(run: &Path) -> bool {
    run.join(LOCK).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claims a folder that holds these files.
    fn claimed(files: &[&str]) -> (tempfile::TempDir, Result<Claim, Error>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().expect("a folder around it")).expect("folders");
            fs::write(path, "content").expect("a file");
        }
        let claim = Claim::of(folder.path());
        (folder, claim)
    }

    fn refusal(files: &[&str]) -> Occupied {
        match claimed(files).1 {
            Err(Error::Occupied { holds, .. }) => holds,
            other => panic!("{other:?}"),
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let names =
            fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_second_run_is_refused_while_the_first_one_lives() {
        let (folder, first) = claimed(&[]);
        let first = first.expect("an empty folder");
        let Err(error) = Claim::of(folder.path()) else { panic!("claimed twice") };
        assert_eq!(error.exit_code(), 9);
        assert!(error.to_string().contains("is in use by another run"), "{error}");
        if cfg!(unix) {
            assert!(error.to_string().contains(&format!("process {} on ", std::process::id())), "{error}");
        }
        drop(first);
        assert!(Claim::of(folder.path()).is_ok());
    }

    #[test]
    fn a_run_that_goes_on_is_not_removed_as_one_that_was_cut_off() {
        let (folder, running) = claimed(&[]);
        let running = running.expect("an empty folder");
        fs::create_dir(folder.path().join(ADAPTER)).expect("a folder");
        let error = CutOff::locked(folder.path()).expect_err("it goes on");
        assert!(error.to_string().contains("is in use by another run"), "{error}");
        assert!(folder.path().join(ADAPTER).exists());
        drop(running);
        CutOff::locked(folder.path()).and_then(CutOff::remove).expect("nobody holds it");
        assert!(!folder.path().exists());
    }

    #[test]
    fn what_a_killed_run_left_before_it_kept_anything_is_removed() {
        for rubble in [
            &[LOCK][..],
            &[LOCK, RECIPE],
            &[LOCK, RECIPE, ".adapter.partial-new/adapter_model.safetensors", ".space.partial-test"],
            &[LOCK, RECIPE, METRICS, "checkpoints/.step-000009.partial-x/state.json"],
        ] {
            let (folder, claim) = claimed(rubble);
            let claim = claim.expect("nothing of worth");
            assert_eq!(names(folder.path()), [LOCK], "{rubble:?}");
            drop(claim);
            assert!(names(folder.path()).is_empty());
        }
    }

    #[test]
    fn a_folder_that_holds_something_says_what() {
        assert_eq!(refusal(&["mine.txt"]), Occupied::Foreign);
        // A recipe that no run wrote.
        assert_eq!(refusal(&[RECIPE]), Occupied::Foreign);
        assert_eq!(refusal(&[LOCK, RECIPE, "mine.txt"]), Occupied::Foreign);
        assert_eq!(refusal(&[RECIPE, "adapter/README.md", RESULT]), Occupied::Finished);
        assert_eq!(refusal(&[LOCK, RECIPE, "adapter/README.md", RESULT]), Occupied::Finished);
        for (kept, name) in [("adapter", "adapter"), ("model", "model"), (".adapter.old", ".adapter.old")] {
            let Occupied::CutOff(found) = refusal(&[LOCK, RECIPE, &format!("{kept}/config.json")]) else {
                panic!("{kept}")
            };
            assert!(found.ends_with(name), "{}", found.display());
        }
    }

    #[test]
    fn a_run_with_a_checkpoint_is_resumed_and_not_begun_anew() {
        let checkpoint = "checkpoints/step-000009/checkpoint.json";
        for files in [&[LOCK, RECIPE, checkpoint][..], &[RECIPE, RESULT, "adapter/README.md", checkpoint]] {
            let (folder, claim) = claimed(files);
            drop(claim.expect_err("it holds a run"));
            assert_eq!(holding(folder.path()), Occupied::Interrupted { run: folder.path().to_owned() });
            let claim = Claim::resumed(folder.path()).expect("nobody holds it");
            assert!(Claim::resumed(folder.path()).is_err(), "it is held");
            drop(claim);
            assert!(folder.path().join(checkpoint).exists() && !folder.path().join(LOCK).exists());
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_folder_that_was_removed_is_claimed_once_more_unless_another_run_has_it() {
        let (folder, claim) = claimed(&[]);
        let claim = claim.expect("an empty folder");
        assert!(!claim.renew().expect("it is there"));
        for gone in [folder.path().join(LOCK), folder.path().to_owned()] {
            remove(&gone).expect("a folder of ours");
            assert!(claim.renew().expect("a free place"));
            assert!(Claim::of(folder.path()).is_err(), "it is held");
        }
        remove(folder.path()).expect("a folder of ours");
        let other = Claim::of(folder.path()).expect("a free place");
        let error = claim.renew().expect_err("it is another's").to_string();
        assert!(error.contains("is in use by another run"), "{error}");
        drop(claim);
        assert_eq!(names(folder.path()), [LOCK], "the other run still has it");
        drop(other);
    }

    #[test]
    fn a_finished_run_that_was_killed_while_it_tidied_up_is_finished_and_tidy() {
        let files =
            [RECIPE, "adapter/README.md", RESULT, ".checkpoints.partial-old/step-000009/state.json", LOCK];
        for left in [&files[..], &files[..files.len() - 1]] {
            let (folder, _) = claimed(left);
            let error = Claim::resumed(folder.path()).expect_err("nothing to resume").to_string();
            assert!(error.contains("is finished"), "{error}");
            assert_eq!(names(folder.path()), [ADAPTER, RECIPE, RESULT]);
        }
    }

    #[test]
    fn what_cannot_be_resumed_says_why() {
        for (files, why) in [
            (&["mine.txt"][..], "holds no run"),
            (&[RECIPE, "adapter/README.md", RESULT], "is finished"),
            (&[LOCK, RECIPE, "adapter/README.md"], "no checkpoint"),
        ] {
            let (folder, _) = claimed(files);
            let error = Claim::resumed(folder.path()).expect_err("nothing to resume").to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_folder_that_is_refused_stays_as_it_was() {
        for files in [&["mine.txt"][..], &[RECIPE], &[LOCK, RECIPE, "adapter/README.md"]] {
            let (folder, claim) = claimed(files);
            assert!(claim.is_err());
            let expected = files.iter().map(|file| file.split('/').next().unwrap_or(file));
            assert!(expected.clone().all(|name| folder.path().join(name).exists()), "{files:?}");
        }
    }

    #[test]
    fn folders_that_were_made_for_a_run_go_with_it_if_it_kept_nothing() {
        let around = tempfile::tempdir().expect("a temporary folder");
        let folder = around.path().join("runs/mine");
        drop(Claim::of(&folder).expect("a free place"));
        assert!(names(around.path()).is_empty());
        fs::create_dir(around.path().join("runs")).expect("a folder");
        drop(Claim::around_runs(&folder).expect("a free place"));
        assert_eq!(names(around.path()), ["runs"], "it was there before");
        let claim = Claim::of(&folder).expect("a free place");
        fs::write(folder.join("mine.txt"), "").expect("a file");
        drop(claim);
        assert_eq!(names(&folder), ["mine.txt"]);
    }

    #[test]
    fn what_was_kept_stays_when_the_claim_is_given_back() {
        let (folder, claim) = claimed(&[]);
        fs::write(folder.path().join(RECIPE), "").expect("a file");
        fs::create_dir(folder.path().join(ADAPTER)).expect("a folder");
        drop(claim);
        assert_eq!(names(folder.path()), [ADAPTER, RECIPE]);
    }
}
