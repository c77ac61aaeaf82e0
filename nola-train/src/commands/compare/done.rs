//! What is kept beside the runs of a comparison: how texts were scored, and that training diverged.

use std::fs;
use std::path::{Path, PathBuf};

use nola_core::folder::{create_folders, write_atomically};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::evaluate::TextScores;
use crate::recipe::CheckedRecipe;
use crate::run::{is_run_of, other_recipe};
use crate::train::StepSamples;

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
    #[serde(default)]
    samples: StepSamples,
    #[serde(default)]
    skipped: usize,
}

/// Scores of what a run writes, and the references they were made with.
#[derive(Debug, Serialize, Deserialize)]
struct StoredMetrics {
    references: PathBuf,
    scores: TextScores,
}

/// The error with which a run of `recipe` ended before, if it diverged.
///
/// # Errors
/// If a run of another recipe did.
pub fn diverged(recipe: &CheckedRecipe) -> Result<Option<Error>, Error> {
    let folder = &recipe.output.dir;
    let Ok(bytes) = fs::read(folder.join(DIVERGED)) else { return Ok(None) };
    let stored = serde_json::from_slice::<StoredDivergence>(&bytes).map_err(|_| other_recipe(folder))?;
    if !is_run_of(&stored.recipe, recipe) {
        return Err(other_recipe(folder));
    }
    let StoredDivergence { step, loss, samples, skipped, .. } = stored;
    Ok(Some(Error::Diverged { step, loss: loss.unwrap_or(f32::NAN), samples, skipped }))
}

/// Keeps in the folder of a run that it diverged, so that it is not made again to find out.
///
/// # Errors
/// If the folder cannot be written.
pub fn keep_diverged(recipe: &CheckedRecipe, error: &Error) -> Result<(), Error> {
    let Error::Diverged { step, loss, samples, skipped } = error else { return Ok(()) };
    let folder = &recipe.output.dir;
    create_folders(folder).map_err(|source| Error::Output { path: folder.clone(), source })?;
    let (recipe, samples) = (recipe.resolved_toml(), samples.clone());
    let stored = StoredDivergence { recipe, step: *step, loss: Some(*loss), samples, skipped: *skipped };
    let json = serde_json::to_vec_pretty(&stored).expect("numbers and text");
    write_atomically(&folder.join(DIVERGED), &json).map_err(|error| Error::from(error).about_output())
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
