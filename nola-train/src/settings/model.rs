//! The base model.

use std::path::PathBuf;

use nola_core::weight::Quantization;
use nola_models::{FewBits, Precision, WeightDtype};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The base model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["path"]))]
pub struct ModelSettings {
    /// Folder with `config.json` and the weights, a GGUF file, or the model's name on the Hugging Face hub.
    #[schemars(length(min = 1), example = &"openai-community/gpt2", extend("x-unit" = "folder, file or hub name"))]
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
    /// Quantisation of the linear layers in blocks while they are loaded. They are frozen then, and multiplied in `dtype` where the
    /// processor can. A folder that is quantised already stays as it is; without this, so do the layers of a GGUF file in Q8_0, Q5_0,
    /// Q4_0, Q4_1 and Q4_K, unless the model is trained in full.
    #[schemars(example = &"nf4")]
    pub quantize: Quantize,
    /// What becomes of weights that a GGUF file stores in few bits; it follows from what is done with them.
    #[serde(skip)]
    pub few_bits: FewBits,
}

/// How linear layers are quantised while they are loaded, in blocks of 64 numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Quantize {
    /// Not at all: they are stored as the rest, or as a file has them that is quantised already.
    #[default]
    None,
    /// The same, but what a GGUF file has in few bits is stored as the rest.
    Dense,
    /// Integers from -127 to 127, and the largest absolute value of each block as `f32`: 8.5 bits a number.
    Int8,
    /// Sixteen quantiles of the normal distribution, and the largest absolute value of each block as `f32`: 4.5 bits a number.
    Nf4,
    /// NF4 whose scales are stored in 8 bits themselves: 4.13 bits a number.
    Nf4Double,
}

impl Quantize {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::Dense, Self::Int8, Self::Nf4, Self::Nf4Double];

    /// What becomes of the weights, if they are quantised.
    pub fn quantization(self) -> Option<Quantization> {
        match self {
            Self::None | Self::Dense => None,
            Self::Int8 => Some(Quantization::Int8),
            Self::Nf4 => Some(Quantization::Nf4),
            Self::Nf4Double => Some(Quantization::Nf4Double),
        }
    }

    /// Its name in recipes and on the command line.
    pub fn name(self) -> &'static str {
        let unquantized = if self == Self::Dense { "dense" } else { "none" };
        self.quantization().map_or(unquantized, Quantization::name)
    }
}

impl ModelSettings {
    /// How the weights are stored.
    pub fn precision(&self) -> Precision {
        let few_bits = if self.quantize == Quantize::Dense { FewBits::Dense } else { self.few_bits };
        Precision { few_bits, ..Precision::of(self.dtype, self.quantize.quantization()) }
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
            quantize: Quantize::None,
            few_bits: FewBits::Kept,
        }
    }
}
