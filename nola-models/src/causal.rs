//! One type for every causal language model: what reads tokens from left to right and scores the next one.

mod module;

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use nola_core::folder::peft::ForeignModule;
use nola_core::{FoundParam, Update, float_params};
use serde_json::Value;

use crate::checkpoint::{ModelFolder, NamedTensor, parse_json, read_bounded, save};
use crate::decoder::Decoder;
use crate::fields::Fields;
use crate::{
    Architecture, AttentionMask, Checkpoint, Error, Gpt2, Gpt2Config, HiddenStates, KeyValueCache, Llama,
    LlamaConfig, Precision, Stage, WeightDtype, gpt2,
};

/// A random model with more numbers than this is refused: it is a typo or an attack.
const MAX_FRESH_NUMBERS: usize = 100_000_000_000;

/// A causal language model; to its parameters' paths the enum adds nothing.
#[derive(Debug, Clone)]
pub enum CausalLm {
    /// GPT-2.
    Gpt2(Gpt2),
    /// LLaMA and what differs from it by configuration.
    Llama(Llama),
}

/// `$result` for whichever model it is.
macro_rules! of_any {
    ($causal:expr, $model:ident => $result:expr) => {
        match $causal {
            CausalLm::Gpt2($model) => $result,
            CausalLm::Llama($model) => $result,
        }
    };
}

/// The same, and the result is that model again.
macro_rules! map_any {
    ($causal:expr, $model:ident => $result:expr) => {
        match $causal {
            CausalLm::Gpt2($model) => CausalLm::Gpt2($result),
            CausalLm::Llama($model) => CausalLm::Llama($result),
        }
    };
}

/// What a caller may have to know of a model with this configuration.
macro_rules! info_of {
    ($config:expr) => {
        ModelInfo {
            vocab_size: $config.vocab_size,
            max_tokens: $config.max_tokens,
            d_model: $config.d_model,
            n_layers: $config.n_layers,
            eos: $config.eos.clone(),
        }
    };
}

use {map_any, of_any};

/// What a caller may have to know of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// Token ids are `0..vocab_size`.
    pub vocab_size: usize,
    /// Longest sequence, in tokens.
    pub max_tokens: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Tokens that end a text, as the configuration says; a published one may lie outside the vocabulary.
    pub eos: Vec<u32>,
}

impl ModelInfo {
    /// What a `config.json` says; `file` names it in errors.
    ///
    /// # Errors
    /// As [`CausalLm::uninitialized`].
    pub fn of_config(config: &Value, file: &Path) -> Result<Self, Error> {
        match Architecture::of(config, file)? {
            Architecture::Gpt2 => Gpt2Config::from_json(config, file).map(|config| info_of!(config)),
            Architecture::Llama(family) => {
                LlamaConfig::from_json(config, file, family).map(|config| info_of!(config))
            }
        }
    }
}

impl CausalLm {
    /// Whether a `config.json` is one of a causal language model this program knows.
    pub fn is_named_by(config: &Value) -> bool {
        Architecture::named_by(config).is_some()
    }

    /// A model of the sizes in a `config.json` that takes no memory until it is used or loaded; `file` names it in errors.
    ///
    /// # Errors
    /// If it is no causal language model this program knows, or holds a value that cannot be.
    pub fn uninitialized(config: &Value, file: &Path, device: &Device) -> Result<Self, Error> {
        match Architecture::of(config, file)? {
            Architecture::Gpt2 => Gpt2::from_json(config, file, device).map(Self::Gpt2),
            Architecture::Llama(family) => Llama::from_json(config, file, family, device).map(Self::Llama),
        }
    }

    /// Loads a checkpoint of Hugging Face.
    ///
    /// # Errors
    /// If it is no causal language model this program knows, or if its tensors do not fit: all of them in one error.
    pub fn load(checkpoint: &Checkpoint, device: &Device) -> Result<Self, Error> {
        Self::load_as(checkpoint, WeightDtype::F32, device)
    }

    /// The same, its weights stored in `precision`.
    ///
    /// # Errors
    /// As [`CausalLm::load`], or if a weight is larger than its dtype can be.
    pub fn load_as(
        checkpoint: &Checkpoint,
        precision: impl Into<Precision>,
        device: &Device,
    ) -> Result<Self, Error> {
        let precision = precision.into();
        let (config, file) = (checkpoint.config(), checkpoint.config_file());
        let model = Self::uninitialized(config, &file, device)?;
        model.check_quantizable(precision, config, &file)?;
        match model {
            Self::Gpt2(model) => model.filled(checkpoint, precision).map(Self::Gpt2),
            Self::Llama(model) => model.filled(checkpoint, precision).map(Self::Llama),
        }
    }

    /// A model with random weights, of the sizes in the `config.json` of a folder that may hold no weights.
    ///
    /// The numbers are drawn on the host, one stream of `seed` a parameter, so every device gets the same ones.
    ///
    /// # Errors
    /// As [`CausalLm::uninitialized`], or if it would be larger than any machine.
    pub fn init(folder: &Path, seed: u64, device: &Device) -> Result<Self, Error> {
        Self::init_as(folder, seed, WeightDtype::F32, device)
    }

    /// The same, its weights stored in `precision`.
    ///
    /// # Errors
    /// As [`CausalLm::init`].
    pub fn init_as(
        folder: &Path,
        seed: u64,
        precision: impl Into<Precision>,
        device: &Device,
    ) -> Result<Self, Error> {
        let precision = precision.into();
        let file = folder.join("config.json");
        let config: Value = parse_json(&file, &read_bounded(&file)?)?;
        let model = Self::uninitialized(&config, &file, device)?;
        if model.num_params() > MAX_FRESH_NUMBERS {
            let expected = format!("sizes of a model of at most {MAX_FRESH_NUMBERS} numbers");
            return Err(Fields { json: &config, file: &file }.wrong(model.width_field(), &expected));
        }
        model.check_quantizable(precision, &config, &file)?;
        Ok(model.with_fresh_weights(seed, precision))
    }

    /// The key of `config.json` that its width stands under.
    fn width_field(&self) -> &'static str {
        match self {
            Self::Gpt2(_) => "n_embd",
            Self::Llama(_) => "hidden_size",
        }
    }

    /// A packed weight counts its numbers in 32 bits.
    fn check_quantizable(&self, precision: Precision, config: &Value, file: &Path) -> Result<(), Error> {
        let is_too_large = |param: &FoundParam| {
            let count: u64 = param.shape.iter().map(|&side| side as u64).product();
            precision.quantization_at(&param.path).is_some() && count > u64::from(u32::MAX)
        };
        if float_params(self).iter().any(is_too_large) {
            let expected =
                format!("sizes of a model whose weights can be quantised: {} numbers each", u32::MAX);
            return Err(Fields { json: config, file }.wrong(self.width_field(), &expected));
        }
        Ok(())
    }

    /// The same model with random weights: the same numbers on every device.
    pub fn with_fresh_weights(self, seed: u64, precision: impl Into<Precision>) -> Self {
        let precision = precision.into();
        map_any!(self, model => model.with_fresh_weights(seed, precision))
    }

    /// What a caller may have to know.
    pub fn info(&self) -> ModelInfo {
        of_any!(self, model => info_of!(model.config()))
    }

    /// Whether the token embedding is the head too.
    pub fn has_tied_head(&self) -> bool {
        of_any!(self, model => model.head().is_none())
    }

    /// The same model with a head of its own, equal to its embedding if it had none.
    pub fn untied(self) -> Self {
        map_any!(self, model => model.untied())
    }

    /// The model as it is written: untied if the token embedding has an adapter, which changes no head.
    fn to_write(&self) -> Self {
        let tokens = of_any!(self, model => &model.tokens().weight);
        let is_adapted = tokens.reparameterization::<Update>().is_some();
        if is_adapted { self.clone().untied() } else { self.clone() }
    }

    /// Whether what makes logits is trained: the head, or the token embedding where that is tied.
    pub fn head_is_trained(&self) -> bool {
        let (tokens, head) = of_any!(self, model => (&model.tokens().weight, model.head()));
        // Asking for `val` would merge an adapter.
        head.map_or(tokens, |head| &head.weight).base().is_require_grad()
    }

    /// The `config.json` as it was read or made.
    pub fn json(&self) -> &Value {
        of_any!(self, model => model.json())
    }

    /// States after the final norm.
    ///
    /// # Shapes
    /// - `ids`: `[batch, tokens]`, each below `vocab_size`
    /// - output: `[batch, tokens, d_model]`
    ///
    /// # Panics
    /// If a model with learned positions gets a token beyond `max_tokens`.
    pub fn hidden(&self, ids: Tensor<2, Int>, mask: &AttentionMask) -> Tensor<3> {
        of_any!(self, model => model.hidden(ids, mask))
    }

    /// What the first block gets.
    ///
    /// # Shapes
    /// - `ids`: `[batch, tokens]`, each below `vocab_size`
    /// - output: `[batch, tokens, d_model]`
    ///
    /// # Panics
    /// If a model with learned positions gets a token beyond `max_tokens`.
    pub fn embeddings(&self, ids: Tensor<2, Int>, mask: &AttentionMask) -> Tensor<3> {
        of_any!(self, model => model.embeddings(ids, mask))
    }

    /// The blocks, one by one.
    pub fn stages<'a>(&'a self, mask: &'a AttentionMask) -> Vec<Stage<'a>> {
        of_any!(self, model => model.stages(mask))
    }

    /// What [`CausalLm::hidden`] makes of the output of the last block.
    ///
    /// # Shapes
    /// - `tokens` and output: `[batch, tokens, d_model]`
    pub fn normed(&self, tokens: Tensor<3>) -> Tensor<3> {
        of_any!(self, model => model.normed(tokens))
    }

    /// The same for tokens that follow those in `cache`, which takes them up.
    ///
    /// # Shapes
    /// - `ids`: `[batch, tokens]`, each below `vocab_size`
    /// - output: `[batch, tokens, d_model]`
    ///
    /// # Panics
    /// If a model with learned positions gets a token beyond `max_tokens`.
    pub fn extend(&self, ids: Tensor<2, Int>, mask: &AttentionMask, cache: &mut KeyValueCache) -> Tensor<3> {
        of_any!(self, model => model.extend(ids, mask, cache))
    }

    /// The same for one token of each of several texts that began at different times, behind all that its own cache holds.
    ///
    /// # Shapes
    /// - `ids`: `[rows, 1]`, each below `vocab_size`; one cache a row
    /// - output: `[rows, 1, d_model]`
    ///
    /// # Panics
    /// If there is not one cache a row, a cache has padding, a text [outgrows](CausalLm::is_outgrown) its cache, or a model with
    /// learned positions gets a token beyond `max_tokens`.
    pub fn advance(&self, ids: Tensor<2, Int>, caches: &mut [&mut KeyValueCache]) -> Tensor<3> {
        of_any!(self, model => model.advance(ids, caches))
    }

    /// Whether all that `cache` holds has to be read again when so many tokens follow, because the model computes long texts
    /// otherwise: [`CausalLm::extend`] does it unasked.
    pub fn is_outgrown(&self, cache: &KeyValueCache, tokens: usize) -> bool {
        of_any!(self, model => model.is_outgrown(cache, tokens))
    }

    /// Scores of the next token, in f32 whatever the weights are.
    ///
    /// # Shapes
    /// - `hidden`: `[.., d_model]`
    /// - output: `[.., vocab_size]`
    pub fn logits<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        of_any!(self, model => model.logits(hidden))
    }

    /// The output of every stage, to compare with another implementation.
    ///
    /// # Shapes
    /// - `ids`: `[batch, tokens]`
    pub fn hidden_states(&self, ids: Tensor<2, Int>, mask: &AttentionMask) -> HiddenStates {
        of_any!(self, model => model.hidden_states(ids, mask))
    }

    /// Where transformers and PEFT keep a module, such as `blocks.0.attention.query`: its names, and which part of a
    /// fused module it is.
    ///
    /// # Panics
    /// If the model has no such module.
    pub fn peft_module(&self, site: &str) -> ForeignModule {
        match self {
            Self::Gpt2(_) => gpt2::peft_module(site),
            Self::Llama(model) => model.peft_module(site),
        }
    }

    /// Every weight under transformers' name for it; adapters are merged in.
    pub fn to_tensors(&self) -> Vec<NamedTensor> {
        of_any!(self.to_write(), model => model.to_tensors())
    }

    /// Writes a model folder that transformers loads; adapters are merged in.
    ///
    /// # Errors
    /// If `folder` exists and is not empty, or cannot be written.
    pub fn save(&self, folder: &Path, dtype: WeightDtype) -> Result<(), Error> {
        self.save_with(folder, dtype, &[])
    }

    /// The same with copies of the files `companions`, such as those of the tokenizer.
    ///
    /// # Errors
    /// As [`CausalLm::save`], or if one of them cannot be read.
    pub fn save_with(&self, folder: &Path, dtype: WeightDtype, companions: &[PathBuf]) -> Result<(), Error> {
        let model = self.to_write();
        let mut config = model.json().clone();
        dtype.name_in(&mut config);
        // What is written is dense.
        if let Some(fields) = config.as_object_mut() {
            fields.remove("quantization_config");
        }
        match &model {
            Self::Gpt2(_) => {}
            Self::Llama(model) => model.config().write_rotary_to(&mut config),
        }
        let tensors = &model.to_tensors();
        save(folder, &ModelFolder { config: &config, preprocessor: None, tensors, dtype, companions })
    }
}

#[cfg(test)]
mod tests {
    use nola_core::weight::Quantization;

    use super::*;

    #[test]
    fn a_weight_with_too_many_numbers_to_be_quantised_is_refused_by_the_field_that_makes_it_so() {
        let folder = tempfile::tempdir().unwrap();
        let config = r#"{"model_type": "gpt2", "n_embd": 60000, "n_layer": 1, "n_head": 4, "vocab_size": 10, "n_positions": 4}"#;
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let precision = Precision { quantization: Some(Quantization::Nf4), ..Precision::default() };
        let error = CausalLm::init_as(folder.path(), 0, precision, &Device::flex()).unwrap_err().to_string();
        assert!(error.contains("n_embd") && error.contains("4294967295 numbers"), "{error}");
    }
}
