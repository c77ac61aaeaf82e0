//! The checkpoints of a run: one folder each, `checkpoints/step-000123`, the newest of which is resumed from.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::partial::{PARTIAL, beside, remove};
use crate::Error;
use crate::train::{Checkpoint, ResumeError};

/// Where they lie in the folder of a run.
pub(super) const CHECKPOINTS: &str = "checkpoints";
/// How the name of one begins; the number of its step follows.
const STEP: &str = "step-";

/// The folder of the checkpoint after `step` optimizer steps.
fn place(run: &Path, step: usize) -> PathBuf {
    run.join(CHECKPOINTS).join(format!("{STEP}{step:06}"))
}

/// The checkpoints of a run, the oldest first; one may be damaged.
fn all(run: &Path) -> io::Result<Vec<(usize, PathBuf)>> {
    let entries = match fs::read_dir(run.join(CHECKPOINTS)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(step) = name.strip_prefix(STEP).and_then(|step| step.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a run can perhaps be resumed.
pub fn is_resumable(run: &Path) -> bool {
    all(run).is_ok_and(|found| !found.is_empty())
}

/// Writes a checkpoint, and then removes all but the newest `keep`.
///
/// # Errors
/// If it cannot be written; those before are then as they were.
pub(super) fn keep(run: &Path, checkpoint: &Checkpoint, keep: usize) -> Result<(), Error> {
    let folder = place(run, checkpoint.state.step);
    let output = |source| Error::Output { path: run.join(CHECKPOINTS), source };
    if Checkpoint::check(&folder).is_err() {
        remove_at_once(&folder).map_err(output)?;
        checkpoint.write(&folder).map_err(Error::about_output)?;
    }
    let found = all(run).map_err(output)?;
    let old = &found[..found.len().saturating_sub(keep.max(1))];
    old.iter()
        .filter(|(_, path)| *path != folder)
        .try_for_each(|(_, path)| remove_at_once(path))
        .map_err(output)
}

/// Removes a folder so that nobody finds half of it.
fn remove_at_once(folder: &Path) -> io::Result<()> {
    let gone = beside(folder, &format!("{PARTIAL}old"));
    remove(&gone)?;
    match fs::rename(folder, &gone) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.and_then(|()| remove(&gone)),
    }
}

/// Removes all of them: the run is over.
pub(super) fn remove_all(run: &Path) -> Result<(), Error> {
    let removed = remove_at_once(&run.join(CHECKPOINTS));
    removed.map_err(|source| Error::Output { path: run.join(CHECKPOINTS), source })
}

/// The newest whole checkpoint of a run; `say` is called with each error of a damaged one.
///
/// # Errors
/// If there is none.
pub fn newest(run: &Path, mut say: impl FnMut(&ResumeError)) -> Result<Checkpoint, ResumeError> {
    for (_, folder) in all(run).unwrap_or_default().into_iter().rev() {
        match Checkpoint::read(&folder) {
            Ok(checkpoint) => return Ok(checkpoint),
            Err(error) => say(&error),
        }
    }
    Err(ResumeError::NoCheckpoint { run: run.to_owned() })
}

#[cfg(test)]
mod tests {
    use nola_core::TrainedState;

    use super::*;
    use crate::train::Moments;
    use crate::train::{Best, Between, TrainingState};

    fn after(step: usize) -> Checkpoint {
        let (trained, moments, best) = (TrainedState::new(), Moments::new(), Best::default());
        let state = TrainingState { step, between: Between::Done, trained, moments, best, skipped: 0 };
        Checkpoint { state, run: serde_json::Value::Null, history: TrainedState::new() }
    }

    fn steps(run: &Path) -> Vec<usize> {
        all(run).expect("a folder").into_iter().map(|(step, _)| step).collect()
    }

    #[test]
    fn the_newest_are_kept_and_the_newest_whole_one_is_found() {
        let run = tempfile::tempdir().expect("a temporary folder");
        for step in [8, 9, 10, 1_000_000] {
            keep(run.path(), &after(step), 2).expect("a free disk");
        }
        assert_eq!(steps(run.path()), [10, 1_000_000]);
        let mut errors = Vec::new();
        let found = newest(run.path(), |error| errors.push(error.to_string())).expect("two are whole");
        assert_eq!((found.state.step, errors.len()), (1_000_000, 0));
        let cut = place(run.path(), 1_000_000).join("trained.safetensors");
        fs::write(&cut, b"half").expect("a file");
        let found = newest(run.path(), |error| errors.push(error.to_string())).expect("one is whole");
        assert_eq!(found.state.step, 10);
        assert!(
            errors[0].contains("step-1000000") && errors[0].contains("trained.safetensors"),
            "{errors:?}"
        );
    }

    #[test]
    fn what_has_a_temporary_name_is_no_checkpoint() {
        let run = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir_all(run.path().join(CHECKPOINTS).join(".step-000007.partial-abc")).expect("a folder");
        assert!(!is_resumable(run.path()));
        assert!(matches!(newest(run.path(), |_| {}), Err(ResumeError::NoCheckpoint { .. })));
    }

    #[test]
    fn a_damaged_one_is_replaced_by_one_of_the_same_step() {
        let run = tempfile::tempdir().expect("a temporary folder");
        keep(run.path(), &after(3), 1).expect("a free disk");
        fs::remove_file(place(run.path(), 3).join("state.json")).expect("a file");
        keep(run.path(), &after(3), 1).expect("a free disk");
        assert!(newest(run.path(), |error| panic!("{error}")).is_ok());
        remove_all(run.path()).expect("a free disk");
        assert!(!run.path().join(CHECKPOINTS).exists());
    }
}
