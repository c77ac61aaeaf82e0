//! `[model]`.

use std::path::PathBuf;

use nola_models::WeightDtype;
use nola_models::hub::{self, Wanted};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::progress::Downloads;
use crate::{Error, assets};

/// The base model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["path"]))]
pub struct ModelRecipe {
    /// Folder with `config.json` and the weights, or the model's name on the Hugging Face hub.
    #[schemars(length(min = 1), example = &"openai-community/gpt2", extend("x-unit" = "folder or hub name"))]
    pub path: PathBuf,
    /// Where the weights come from.
    #[schemars(example = &"random")]
    pub init: Init,
    /// Side of the model's input; position embeddings are interpolated. Images only.
    #[schemars(
        range(min = 1, max = 4096),
        example = 224,
        extend("x-unit" = "pixels", "x-default" = "the model's own")
    )]
    pub image_size: Option<usize>,
    /// Storage dtype of the frozen weights, and on GPUs the dtype of the activations too; adapters, a head that is trained
    /// beside them, optimizer and loss are f32 whatever it is.
    #[schemars(example = &"bf16")]
    pub dtype: WeightDtype,
}

/// Where the base weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// The files of the folder.
    Pretrained,
    /// Random numbers; the folder needs no more than its `config.json`.
    Random,
}

impl Default for ModelRecipe {
    fn default() -> Self {
        Self { path: PathBuf::new(), init: Init::Pretrained, image_size: None, dtype: WeightDtype::F32 }
    }
}

impl ModelRecipe {
    /// The folder of the model, fetched from the hub if it is none on this machine.
    ///
    /// # Errors
    /// If there is no such folder and the hub does not give one.
    pub fn folder(&self, wanted: Wanted) -> Result<PathBuf, Error> {
        let path = assets::located(&self.path)?;
        Ok(hub::resolve(&path.to_string_lossy(), wanted, &Downloads::default())?)
    }
}
