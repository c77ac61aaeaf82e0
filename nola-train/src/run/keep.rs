//! What a run keeps while it goes on: the best model so far, there whole at every moment.

use std::cell::OnceCell;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use nola_core::Adapted;
use nola_core::adapter::Format;
use nola_core::folder::{self, BaseIdentity, CoefficientBits, Description, peft};
use nola_models::WeightDtype;
use serde_json::Value;

use super::partial::{PARTIAL, beside, old, remove};
use super::resume::{OfRun, Origin};
use super::{ADAPTER, LAST_ADAPTER, MODEL, RunFolder, checkpoints};
use crate::Error;
use crate::fit::{Course, Keeper, Note, rounded};
use crate::recipe::{CheckedRecipe, MethodRecipe};
use crate::session::Base;
use crate::task::{Model, Task};
use crate::terminal::err_line;
use crate::train::{Checkpoint, TrainingState};

/// What lies in a run folder beside the models: recipe, result and report, without images.
const OTHER_BYTES: u64 = 64 << 10;

/// Keeps the models of one run in its folder.
pub struct Keeping<'a, T: Task> {
    pub(super) folder: &'a RunFolder,
    pub(super) task: &'a T,
    pub(super) recipe: &'a CheckedRecipe,
    /// As results call it.
    pub(super) device: &'a str,
    /// What the run is made of, once it was asked for.
    pub(super) origin: OnceCell<Origin>,
}

impl<T: Task> Keeper<T> for Keeping<'_, T> {
    fn prepare(&self, model: &Adapted<Model<T>>) -> Result<(), Error> {
        let trial = beside(&self.place(), &format!("{PARTIAL}trial"));
        let bytes = if self.is_full() {
            // Gigabytes, which are not written only to see whether they can be.
            let trained = model.trainable_parameters();
            ((trained.adapter + trained.other) * size_of::<f32>()) as u64
        } else {
            let written = self.write(&trial, model, "").and_then(|()| folder_bytes(&trial));
            remove(&trial).map_err(|source| Error::Output { path: self.place(), source })?;
            written.map_err(|error| about(&self.place(), &trial, error.about_output()))?
        };
        // The best, a better one beside it while it takes its place, and the last.
        check_room(self.folder.path(), 3 * bytes + OTHER_BYTES)
    }

    fn keep_best(&self, model: &Adapted<Model<T>>, evaluation: &T::Evaluation) -> Result<(), Error> {
        self.folder.hold(self.recipe)?;
        self.folder.holds_best.set(false);
        let summary = T::scores(evaluation).summary();
        replace(&self.place(), |new| self.write(new, model, &summary))?;
        self.folder.holds_best.set(true);
        Ok(())
    }

    fn keep_unscored(&self, model: &Adapted<Model<T>>) -> Result<(), Error> {
        self.folder.hold(self.recipe)?;
        let kept = if self.is_full() { self.place() } else { self.folder.path().join(LAST_ADAPTER) };
        self.keep_last(model, &kept)?;
        let kept = kept.display();
        err_line(&format!("nothing could be evaluated; what the last step left is kept in {kept}"));
        Ok(())
    }

    fn keep_checkpoint(&self, state: TrainingState, course: &Course) -> Result<(), Error> {
        self.folder.hold(self.recipe)?;
        // A checkpoint counts on the lines of its steps.
        self.folder.logs.sync()?;
        let (course, history) = course.to_stored();
        let of_run = OfRun { origin: self.origin().clone(), course };
        let run = serde_json::to_value(of_run).expect("numbers and text");
        let count = self.recipe.train.keep_checkpoints;
        checkpoints::keep(self.folder.path(), &Checkpoint { state, run, history }, count)
    }

    fn note(&self, note: &Note) -> Result<(), Error> {
        self.folder.logs.note(note)
    }
}

impl<T: Task> Keeping<'_, T> {
    /// What the run is made of; hashing all data takes its time, so it is done once.
    fn origin(&self) -> &Origin {
        self.origin.get_or_init(|| Origin::of(self.task, self.recipe, self.device))
    }

    /// Where the best model lies.
    pub(super) fn place(&self) -> PathBuf {
        self.folder.path().join(if self.is_full() { MODEL } else { ADAPTER })
    }

    fn is_full(&self) -> bool {
        self.recipe.method == MethodRecipe::Full
    }

    /// Keeps what the last step left beside the best one.
    pub(super) fn keep_last(&self, model: &Adapted<Model<T>>, folder: &Path) -> Result<(), Error> {
        replace(folder, |new| self.write(new, model, "As the last step left it."))
    }

    /// Writes a model, or its adapter in the format of its method: LoRA as PEFT does, all else in our own.
    fn write(&self, folder: &Path, model: &Adapted<Model<T>>, summary: &str) -> Result<(), Error> {
        let base = self.task.base();
        if self.is_full() {
            return base.save(&model.model, folder, WeightDtype::F32);
        }
        let description = Description {
            base: BaseIdentity {
                quantization: self.recipe.model.quantize.quantization(),
                ..base.identity().clone()
            },
            labels: T::Base::labels(&model.model).to_vec(),
            summary: summary.to_owned(),
            data: base
                .adapter_data(self.recipe.data.format, &self.recipe.data.text)
                .map_or(Value::Null, |data| data.to_value()),
        };
        // The numbers are rounded only once, when they are stored.
        let (_, bits, _) = rounded(model, self.recipe);
        self.write_adapter(folder, model, &description, bits)
    }

    fn write_adapter(
        &self,
        folder: &Path,
        adapted: &Adapted<Model<T>>,
        description: &Description,
        bits: CoefficientBits,
    ) -> Result<(), Error> {
        let base = self.task.base();
        let modules = |site: &str| base.foreign_module(site);
        let is_peft = adapted.config().is_some_and(|config| config.method().format() == Format::Peft);
        if is_peft {
            let generation = peft::Generation::default();
            peft::write(folder, adapted, &modules, generation, base.peft_task(), description)?;
        } else {
            folder::write(folder, adapted, description, bits)?;
        }
        Ok(())
    }
}

/// Puts a folder in the place of `target`, or where nothing is: one of them lies there whole at every moment, the old one
/// for the moment between two renames under the name that [`whole`](super::whole) knows.
fn replace(target: &Path, write: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
    let (new, old) = (beside(target, &format!("{PARTIAL}new")), old(target));
    let exchange = || {
        if target.exists() {
            remove(&old)?;
            fs::rename(target, &old)?;
        }
        fs::rename(&new, target)?;
        // Until the new name is on the disk, the old one is all that a power cut leaves.
        target.parent().map_or(Ok(()), folder::sync_folder)?;
        remove(&old)
    };
    let output = |source| Error::Output { path: target.to_owned(), source };
    let written =
        remove(&new).map_err(output).and_then(|()| write(&new)).and_then(|()| exchange().map_err(output));
    if written.is_err() {
        // The first error is the one to report.
        let _ = remove(&new);
    }
    written.map_err(|error| about(target, &new, error.about_output()))
}

/// The same error about the folder that was meant instead of the one that was written meanwhile.
fn about(target: &Path, written: &Path, error: Error) -> Error {
    match error {
        Error::Output { path, source } if path == written => {
            Error::Output { path: target.to_owned(), source }
        }
        Error::Output { path, source } => {
            let meant = path.strip_prefix(written).map(|inside| target.join(inside));
            Error::Output { path: meant.unwrap_or(path), source }
        }
        other => other,
    }
}

/// Whether a folder's disk has so much room.
fn check_room(folder: &Path, bytes: u64) -> Result<(), Error> {
    match free_bytes(folder) {
        Some(free) if free < bytes => {
            let problem = format!("the run takes about {bytes} bytes, and {free} are free");
            let source = io::Error::new(ErrorKind::StorageFull, problem);
            Err(Error::Output { path: folder.to_owned(), source })
        }
        Some(_) | None => Ok(()),
    }
}

/// Bytes that the disk of a folder could still take; absent where the system does not say.
#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = nix::sys::statvfs::statvfs(folder).ok()?;
    #[allow(clippy::useless_conversion, reason = "some systems count in smaller integers")]
    Some(u64::from(disk.blocks_available()) * u64::from(disk.fragment_size()))
}

/// Bytes that the disk of a folder could still take; absent where the system does not say.
#[cfg(not(unix))]
fn free_bytes(_folder: &Path) -> Option<u64> {
    None
}

/// Bytes of all files in a folder.
pub(super) fn folder_bytes(folder: &Path) -> Result<u64, Error> {
    let output = |source| Error::Output { path: folder.to_owned(), source };
    let mut bytes = 0;
    for entry in fs::read_dir(folder).map_err(output)? {
        bytes += entry.and_then(|entry| entry.metadata()).map_err(output)?.len();
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::whole;
    use super::*;

    /// Writes a folder of one file.
    fn writing(text: &str) -> impl Fn(&Path) -> Result<(), Error> {
        move |folder| {
            let write = || {
                fs::create_dir(folder)?;
                fs::write(folder.join("weights"), text)
            };
            write().map_err(|source| Error::Output { path: folder.to_owned(), source })
        }
    }

    fn read(folder: &Path) -> String {
        fs::read_to_string(folder.join("weights")).expect("a whole folder")
    }

    #[test]
    fn a_better_one_takes_the_place_and_leaves_nothing_beside_it() {
        let run = tempfile::tempdir().expect("a temporary folder");
        let target = run.path().join(ADAPTER);
        for text in ["first", "second", "third"] {
            replace(&target, writing(text)).expect("a free disk");
            assert_eq!(read(&target), text);
        }
        assert_eq!(fs::read_dir(run.path()).expect("the folder").count(), 1);
    }

    #[test]
    fn one_that_cannot_be_written_leaves_the_last_good_one() {
        let run = tempfile::tempdir().expect("a temporary folder");
        let target = run.path().join(ADAPTER);
        replace(&target, writing("good")).expect("a free disk");
        let half = |folder: &Path| {
            writing("half")(folder)?;
            let full = io::Error::from(ErrorKind::StorageFull);
            let file = folder.join("weights");
            Err(nola_core::Error::Io { file, action: "write", source: full }.into())
        };
        let error = replace(&target, half).expect_err("the disk is full");
        assert_eq!(error.exit_code(), 9);
        assert!(error.to_string().contains("output.dir"), "{error}");
        assert!(error.to_string().starts_with(&target.join("weights").display().to_string()), "{error}");
        assert_eq!(read(&target), "good");
        assert_eq!(fs::read_dir(run.path()).expect("the folder").count(), 1);
    }

    #[test]
    fn a_kill_at_any_moment_leaves_a_whole_one() {
        let run = tempfile::tempdir().expect("a temporary folder");
        let target = run.path().join(ADAPTER);
        let (new, old) = (beside(&target, ".partial-new"), old(&target));
        let states: [&[(&Path, &str)]; 4] = [
            &[(&target, "old"), (&new, "half")],
            &[(&old, "old"), (&new, "new")],
            &[(&target, "new"), (&old, "old")],
            &[(&target, "new")],
        ];
        for state in states {
            for (folder, text) in state {
                writing(text)(folder).expect("a free disk");
            }
            let found = whole(run.path(), ADAPTER).expect("one of them");
            assert!(["old", "new"].contains(&read(&found).as_str()));
            // And a run can go on from there.
            replace(&target, writing("next")).expect("a free disk");
            assert_eq!(read(&target), "next");
            for entry in fs::read_dir(run.path()).expect("the folder") {
                remove(&entry.expect("an entry").path()).expect("a folder of ours");
            }
        }
    }

    #[test]
    fn a_disk_without_room_is_found_before_training() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(check_room(folder.path(), 1).is_ok());
        if cfg!(unix) {
            let error = check_room(folder.path(), u64::MAX).expect_err("no disk is so large");
            assert_eq!(error.exit_code(), 9);
            assert!(error.with_sources().contains("are free"), "{}", error.with_sources());
        }
    }
}
