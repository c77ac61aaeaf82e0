//! Runs of a comparison that were finished before, and their scores.

use std::fs;
use std::path::{Path, PathBuf};

use nola_core::folder::{create_folders, write_atomically};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::evaluate::TextScores;
use crate::recipe::CheckedRecipe;
use crate::run::{Occupied, RECIPE, RESULT, RunResult, is_resumable, remove_cut_off};

/// How the texts of a run were scored.
const METRICS: &str = "metrics.json";

/// That training diverged.
const DIVERGED: &str = "diverged.json";

/// How training diverged, with which recipe.
#[derive(Debug, Serialize, Deserialize)]
struct StoredDivergence {
    recipe: String,
    step: usize,
    /// Absent where JSON has no such number.
    loss: Option<f32>,
}

/// Scores of what a run writes, and the references they were made with.
#[derive(Debug, Serialize, Deserialize)]
struct StoredMetrics {
    references: PathBuf,
    scores: TextScores,
}

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
    let folder = &recipe.output.dir;
    let Some(written) = fs::read_to_string(folder.join(RECIPE)).ok() else { return Ok(Found::Nothing) };
    if !is_same(&written, recipe) {
        return Err(other_recipe(folder));
    }
    if is_resumable(folder) {
        return Ok(Found::Interrupted);
    }
    if let Ok(bytes) = fs::read(folder.join(RESULT)) {
        let result = serde_json::from_slice::<RunResult>(&bytes);
        // What cannot be read is no reason to remove a run.
        let result = result.map_err(|_| other_recipe(folder))?;
        if !result.interrupted && result.adapter.is_dir() {
            return Ok(Found::Finished(Box::new(result)));
        }
    }
    remove_cut_off(folder)?;
    Ok(Found::Nothing)
}

/// The error with which a run of `recipe` ended before, if it diverged.
///
/// # Errors
/// If a run of another recipe did.
pub fn diverged(recipe: &CheckedRecipe) -> Result<Option<Error>, Error> {
    let folder = &recipe.output.dir;
    let Ok(bytes) = fs::read(folder.join(DIVERGED)) else { return Ok(None) };
    let stored = serde_json::from_slice::<StoredDivergence>(&bytes).map_err(|_| other_recipe(folder))?;
    if !is_same(&stored.recipe, recipe) {
        return Err(other_recipe(folder));
    }
    Ok(Some(Error::Diverged { step: stored.step, loss: stored.loss.unwrap_or(f32::NAN) }))
}

/// Keeps in the folder of a run that it diverged, so that it is not made again to find out.
///
/// # Errors
/// If the folder cannot be written.
pub fn keep_diverged(recipe: &CheckedRecipe, error: &Error) -> Result<(), Error> {
    let Error::Diverged { step, loss } = error else { return Ok(()) };
    let folder = &recipe.output.dir;
    create_folders(folder).map_err(|source| Error::Output { path: folder.clone(), source })?;
    let stored = StoredDivergence { recipe: recipe.resolved_toml(), step: *step, loss: Some(*loss) };
    let json = serde_json::to_vec_pretty(&stored).expect("numbers and text");
    write_atomically(&folder.join(DIVERGED), &json).map_err(|error| Error::from(error).about_output())
}

fn other_recipe(folder: &Path) -> Error {
    Error::Occupied { folder: folder.to_owned(), holds: Occupied::OtherRecipe }
}

/// Whether the recipe of a run is `recipe`; passes over the data have become steps in it.
fn is_same(written: &str, recipe: &CheckedRecipe) -> bool {
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

/// Scores that were made with the same references before.
pub fn metrics(run: &Path, references: &Path) -> Option<TextScores> {
    let stored: StoredMetrics = serde_json::from_slice(&fs::read(run.join(METRICS)).ok()?).ok()?;
    (stored.references == references).then_some(stored.scores)
}

/// Keeps scores beside their run.
///
/// # Errors
/// If the folder cannot be written.
pub fn keep_metrics(run: &Path, references: &Path, scores: TextScores) -> Result<(), Error> {
    let stored = StoredMetrics { references: references.to_owned(), scores };
    let json = serde_json::to_vec_pretty(&stored).expect("numbers and a path");
    write_atomically(&run.join(METRICS), &json).map_err(|error| Error::from(error).about_output())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Recipe;

    fn recipe(set: &[&str]) -> CheckedRecipe {
        let text = "[model]\npath = \"m\"\n[data]\ntrain = \"t\"\nvalidation = \"v\"\n";
        let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
        Recipe::from_text(text, Path::new("r.toml"), &set).expect("a recipe")
    }

    #[test]
    fn a_run_of_the_same_recipe_is_known_by_every_key() {
        let written = recipe(&[]).resolved_toml();
        assert!(is_same(&written, &recipe(&[])));
        for other in ["train.steps=7", "train.seed=1", "data.shots=3", "model.path=n", "output.dir=elsewhere"]
        {
            assert!(!is_same(&written, &recipe(&[other])), "{other}");
        }
    }

    #[test]
    fn passes_over_the_data_are_known_by_their_steps() {
        let epochs = recipe(&["train.epochs=2", "train.batch=8"]);
        let written = epochs.clone().for_samples(40).resolved_toml();
        assert!(is_same(&written, &epochs));
        assert!(!is_same(&written, &recipe(&["train.epochs=2", "train.batch=4"])));
    }
}
