//! What a recipe names, as files of this machine.

use crate::data_files::{check_images, pinned};
use crate::recipe::{CheckedRecipe, DataRecipe};
use crate::settings::{Modality, ModelSettings};
use crate::{Error, assets};

/// The model with its place, if it is shipped and the working directory does not have it.
///
/// # Errors
/// If the shipped files cannot be unpacked.
pub fn located_model(model: &ModelSettings) -> Result<ModelSettings, Error> {
    Ok(ModelSettings { path: assets::located(&model.path)?, ..model.clone() })
}

/// The data with the places of shipped files, where the working directory does not have them.
///
/// # Errors
/// If the shipped files cannot be unpacked.
pub fn located(data: &DataRecipe) -> Result<DataRecipe, Error> {
    let train = data.train.mapped(assets::located)?;
    let validation = data.validation.mapped(assets::located)?;
    Ok(DataRecipe { train, validation, ..data.clone() })
}

/// The recipe with the commits of data sets of the hub, so that it means the same rows for ever.
///
/// # Errors
/// If the data is not there.
pub fn pinned_recipe(recipe: CheckedRecipe) -> Result<CheckedRecipe, Error> {
    match recipe.data.format.modality() {
        Modality::Text => recipe.with_text_named(pinned),
        Modality::Images => {
            recipe.data.train.paths().chain(recipe.data.validation.paths()).try_for_each(check_images)?;
            Ok(recipe)
        }
    }
}
