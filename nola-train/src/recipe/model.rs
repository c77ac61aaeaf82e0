//! `[model]`.

use std::path::PathBuf;

use nola_models::WeightDtype;
use nola_models::hub::{self, Wanted};
use serde::{Deserialize, Serialize};

use super::error::Findings;
use super::require_path;
use crate::progress::Downloads;
use crate::{Error, assets};

/// `[model]`: the base model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelRecipe {
    /// Folder with `config.json` and the weights, or the model's name on the hub, such as `openai-community/gpt2`.
    pub path: PathBuf,
    /// Where the weights come from.
    pub init: Init,
    /// Side of the model's input in pixels; absent: the model's own. Position embeddings are interpolated.
    pub image_size: Option<usize>,
    /// The number type that the frozen weights are held in, and so the activations; adapters, a head that is trained beside
    /// them, optimizer and loss are f32 whatever it is.
    pub dtype: WeightDtype,
}

/// Where the base weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    pub(super) fn check(&self, findings: &mut Findings) {
        require_path("model.path", &self.path, "a folder with config.json and model.safetensors", findings);
        if let Some(size) = self.image_size {
            let allowed = (1..=4096).contains(&size);
            findings.require("model.image_size", size as f64, allowed, "between 1 and 4096 pixels");
        }
    }

    /// The folder of the model, fetched from the hub if it is none on this machine.
    ///
    /// # Errors
    /// If there is no such folder and the hub does not give one.
    pub fn folder(&self, wanted: Wanted) -> Result<PathBuf, Error> {
        let path = assets::located(&self.path)?;
        Ok(hub::resolve(&path.to_string_lossy(), wanted, &Downloads::default())?)
    }
}
