//! Runs that were made before, known again by their recipe.

use std::fs;
use std::path::Path;

use super::{CutOff, Occupied, RECIPE, RESULT, RunResult, is_resumable};
use crate::Error;
use crate::recipe::CheckedRecipe;

/// What stands in the way of a run in its folder.
#[derive(Debug)]
pub enum Found {
    /// Nothing; the run is to be made.
    Nothing,
    /// The same run, interrupted, with a checkpoint.
    Interrupted,
    /// The same run, finished.
    Finished(Box<RunResult>),
}

/// Looks for a run of `recipe` in its folder; what a run of the same recipe left there that was cut off is removed.
///
/// # Errors
/// If another run lies there, or the folder cannot be read.
pub fn find(recipe: &CheckedRecipe) -> Result<Found, Error> {
    if let Some(found) = find_whole(recipe)? {
        return Ok(found);
    }
    let cut_off = CutOff::locked(&recipe.output.dir)?;
    // Until then another program may have gone on with it.
    match find_whole(recipe)? {
        Some(found) => {
            cut_off.unlock();
            Ok(found)
        }
        None => {
            cut_off.remove()?;
            Ok(Found::Nothing)
        }
    }
}

/// [`find`], which leaves everything as it is; nothing if the run was cut off.
fn find_whole(recipe: &CheckedRecipe) -> Result<Option<Found>, Error> {
    let folder = &recipe.output.dir;
    let Some(written) = fs::read_to_string(folder.join(RECIPE)).ok() else {
        return Ok(Some(Found::Nothing));
    };
    if !is_run_of(&written, recipe) {
        return Err(other_recipe(folder));
    }
    if is_resumable(folder) {
        return Ok(Some(Found::Interrupted));
    }
    if let Ok(bytes) = fs::read(folder.join(RESULT)) {
        let result = serde_json::from_slice::<RunResult>(&bytes);
        // What cannot be read is no reason to remove a run.
        let result = result.map_err(|_| other_recipe(folder))?;
        if !result.interrupted && result.failure.is_none() && result.adapter.is_dir() {
            return Ok(Some(Found::Finished(Box::new(result))));
        }
    }
    Ok(None)
}

/// The error for a folder in which another run lies.
pub fn other_recipe(folder: &Path) -> Error {
    Error::Occupied { folder: folder.to_owned(), holds: Occupied::OtherRecipe }
}

/// Whether the recipe of a run, as its folder has it, is `recipe`; passes over the data have become steps in it.
pub fn is_run_of(written: &str, recipe: &CheckedRecipe) -> bool {
    let Ok(written) = toml::from_str::<toml::Table>(written) else { return false };
    let Ok(mut expected) = toml::from_str::<toml::Table>(&recipe.resolved_toml()) else { return false };
    if recipe.train.epochs.is_some() {
        let Some(train) = expected.get_mut("train").and_then(toml::Value::as_table_mut) else { return false };
        train.remove("epochs");
        let steps = written.get("train").and_then(|train| train.get("steps")).cloned();
        steps.and_then(|steps| train.insert("steps".to_owned(), steps));
    }
    written == expected
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder_lock::LOCK;
    use crate::recipe::Recipe;

    fn recipe(set: &[&str]) -> CheckedRecipe {
        let text = "[model]\npath = \"m\"\n[data]\ntrain = \"t\"\nvalidation = \"v\"\n";
        let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
        Recipe::from_text(text, Path::new("r.toml"), &set).expect("a recipe")
    }

    #[test]
    fn a_run_of_the_same_recipe_is_known_by_every_key() {
        let written = recipe(&[]).resolved_toml();
        assert!(is_run_of(&written, &recipe(&[])));
        for other in ["train.steps=7", "train.seed=1", "data.shots=3", "model.path=n", "output.dir=elsewhere"]
        {
            assert!(!is_run_of(&written, &recipe(&[other])), "{other}");
        }
    }

    #[test]
    fn passes_over_the_data_are_known_by_their_steps() {
        let epochs = recipe(&["train.epochs=2", "train.batch=8"]);
        let written = epochs.clone().for_samples(40).resolved_toml();
        assert!(is_run_of(&written, &epochs));
        assert!(!is_run_of(&written, &recipe(&["train.epochs=2", "train.batch=4"])));
    }

    /// What is found of a run in `folder` that left this in its result, and its lock, since it was killed.
    fn found_in(folder: &tempfile::TempDir, left: &str) -> Found {
        let mut recipe = recipe(&[]).into_inner();
        recipe.output.dir = folder.path().join("run");
        let (recipe, run) = (recipe.check().expect("a recipe"), folder.path().join("run"));
        fs::create_dir_all(run.join("adapter")).expect("folders");
        fs::write(run.join(RECIPE), recipe.resolved_toml()).expect("a file");
        let result = format!(
            r#"{{"method": "nola", "trainable": 1, "adapter_numbers": 1, "adapter_bytes": 1, "accuracy": 0.5, "loss": 1.0,
                "baseline": {{"what": "base", "accuracy": 0.1}}, "steps": 1, "best_step": 1, "seconds": 1.0, "device": "cpu",
                "peak_memory_bytes": 1, "run": "", "adapter": {:?}, "report": "", "interrupted": false{left}}}"#,
            run.join("adapter")
        );
        fs::write(run.join(RESULT), result).expect("a file");
        fs::write(run.join(LOCK), "process 1 on a machine").expect("a file");
        find(&recipe).expect("a run of the same recipe")
    }

    fn found(left: &str) -> Found {
        found_in(&tempfile::tempdir().expect("a temporary folder"), left)
    }

    #[test]
    fn a_run_that_diverged_after_an_evaluation_is_not_finished() {
        assert!(matches!(found(""), Found::Finished(_)));
        assert!(matches!(found(r#", "failure": "the loss is NaN""#), Found::Nothing));
    }

    #[test]
    fn a_run_that_was_cut_off_is_removed_with_its_lock() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(matches!(found_in(&folder, r#", "failure": "the loss is NaN""#), Found::Nothing));
        assert!(!folder.path().join("run").exists());
    }
}
