//! How good an adapter is, and its member of a bundle: on the validation data of the run that it is of.

use std::path::Path;

use burn::tensor::Device;
use nola_models::{CausalLm, Vit};
use serde::Serialize;

use crate::data::Dataset;
use crate::evaluate::{evaluate, evaluate_text};
use crate::progress::{Scores, Style};
use crate::recipe::{CheckedRecipe, Recipe};
use crate::recipe_files::located;
use crate::session::{Base, ImageBase, TextBase};
use crate::task::{load, open_texts};
use crate::{Error, data_files, run};

/// What an adapter scored before it was compressed, and scores since.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Quality {
    pub loss_before: f32,
    pub loss: f32,
    pub accuracy_before: f64,
    pub accuracy: f64,
}

impl Quality {
    pub(super) fn of(before: Scores, after: Scores) -> Self {
        Self {
            loss_before: before.loss,
            loss: after.loss,
            accuracy_before: before.accuracy,
            accuracy: after.accuracy,
        }
    }
}

/// A base whose models can be scored on the data of a run.
pub(super) trait ScoredBase: Base {
    /// The scores of `model` on the validation data of `recipe`.
    ///
    /// # Errors
    /// If the data cannot be used.
    fn scores(&self, model: &Self::Model, recipe: &CheckedRecipe, device: &Device) -> Result<Scores, Error>;
}

impl ScoredBase for TextBase {
    fn scores(&self, model: &CausalLm, recipe: &CheckedRecipe, device: &Device) -> Result<Scores, Error> {
        let data = located(&recipe.data)?;
        let sources = data_files::find(data.scored_on(recipe.train.seed), data.scored_split())?.sources;
        let texts = open_texts("validation", &sources, &data, &self.encoder, Style::Quiet)?.data;
        Ok(evaluate_text(model, &texts, device, |_| ()).scores)
    }
}

impl ScoredBase for ImageBase {
    fn scores(&self, vit: &Vit, recipe: &CheckedRecipe, device: &Device) -> Result<Scores, Error> {
        let data = located(&recipe.data)?;
        let (dataset, _) = Dataset::scored_on(&data.images(recipe.train.seed)?)?;
        let images = load(dataset.matched_to(&vit.config().labels)?.dataset, &data)?;
        Ok(evaluate(vit, &images, &self.preprocessor, device)?.scores)
    }
}

/// The recipe of a run.
///
/// # Errors
/// If it cannot be used.
pub(super) fn recipe_of(folder: &Path) -> Result<CheckedRecipe, Error> {
    Ok(Recipe::read(&folder.join(run::RECIPE), &[])?)
}
