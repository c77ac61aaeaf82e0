//! The base model.

use std::path::PathBuf;

use nola_core::weight::Quantization;
use nola_models::{Precision, WeightDtype};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The base model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["path"]))]
pub struct ModelSettings {
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
    /// Quantisation of the linear layers in blocks, while they are loaded: `int8`, `nf4`, or `nf4-double`, whose scales are quantised too. They
    /// are frozen then, and multiplied in `dtype` where the processor can. A folder that bitsandbytes quantised stays as it is.
    #[schemars(example = &"nf4", extend("x-default" = "as the rest"))]
    pub quantize: Option<Quantization>,
}

impl ModelSettings {
    /// How the weights are stored.
    pub fn precision(&self) -> Precision {
        Precision { dtype: self.dtype, quantization: self.quantize }
    }
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

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            init: Init::Pretrained,
            image_size: None,
            dtype: WeightDtype::F32,
            quantize: None,
        }
    }
}
