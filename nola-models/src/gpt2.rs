//! GPT-2: pre-norm decoder blocks, learned positions, output tied to the token embedding.
//!
//! Source: Radford et al. 2019; names and shapes of `GPT2LMHeadModel`.

mod config;
mod keys;

use std::path::Path;

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Initializer, LinearConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use nola_core::{Linear, adapted, adapted_embedding, in_compute_dtype};
use serde_json::Value;

use crate::attention::{AttentionMask, BlockCache, KeyValueCache, attend, split_heads};
use crate::checkpoint::KeyMap;
use crate::fresh::{Distribution, Plan, fresh};
use crate::norm::LayerNorm;
use crate::{Activation, Checkpoint, Error, HiddenStates, Precision, Stage, head};
pub use config::{Gpt2Config, ScoreScale};
pub use keys::peft_module;

/// Causal multi-head self-attention.
#[derive(Module, Debug)]
pub struct Attention {
    /// Tokens to queries.
    pub query: Linear,
    /// Tokens to keys.
    pub key: Linear,
    /// Tokens to values.
    pub value: Linear,
    /// Heads, side by side, back to tokens.
    pub output: Linear,
    n_heads: usize,
    score_scale: f64,
}

impl Attention {
    fn uninitialized(config: &Gpt2Config, layer_index: usize, device: &Device) -> Self {
        let square = || Linear::from(layer(config.d_model, config.d_model).init(device));
        Self {
            query: square(),
            key: square(),
            value: square(),
            output: square(),
            n_heads: config.n_heads,
            score_scale: config.score_scale.factor(config.d_model / config.n_heads, layer_index),
        }
    }

    /// # Shapes
    /// - `x` and output: `[batch, tokens, d_model]`
    fn forward(&self, x: Tensor<3>, mask: &AttentionMask, cache: Option<&mut BlockCache>) -> Tensor<3> {
        let heads = |layer: &Linear| split_heads(adapted(layer, x.clone()), self.n_heads);
        let (query, key, value) = (heads(&self.query), heads(&self.key), heads(&self.value));
        let (key, value) = match cache {
            Some(cache) => cache.extend(key, value),
            None => (key, value),
        };
        adapted(&self.output, attend(query, key, value, self.score_scale, mask))
    }
}

/// The feed-forward half of a block: wider, an activation, back.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `d_model` to `d_mlp`.
    pub up: Linear,
    /// `d_mlp` to `d_model`.
    pub down: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    /// # Shapes
    /// - `x` and output: `[batch, tokens, d_model]`
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        adapted(&self.down, self.activation.apply(adapted(&self.up, x)))
    }
}

/// One decoder block; both halves add to the stream they read normalised.
#[derive(Module, Debug)]
pub struct Block {
    /// Norm before the attention.
    pub norm_attention: LayerNorm,
    /// Mixes tokens.
    pub attention: Attention,
    /// Norm before the MLP.
    pub norm_mlp: LayerNorm,
    /// Works on each token alone.
    pub mlp: Mlp,
}

impl Block {
    fn uninitialized(config: &Gpt2Config, layer_index: usize, device: &Device) -> Self {
        Self {
            norm_attention: norm(config, device),
            attention: Attention::uninitialized(config, layer_index, device),
            norm_mlp: norm(config, device),
            mlp: Mlp {
                up: Linear::from(layer(config.d_model, config.d_mlp).init(device)),
                down: Linear::from(layer(config.d_mlp, config.d_model).init(device)),
                activation: config.activation,
            },
        }
    }

    /// # Shapes
    /// - `x` and output: `[batch, tokens, d_model]`
    fn forward(&self, x: Tensor<3>, mask: &AttentionMask, cache: Option<&mut BlockCache>) -> Tensor<3> {
        let x = x.clone() + self.attention.forward(self.norm_attention.forward(x), mask, cache);
        x.clone() + self.mlp.forward(self.norm_mlp.forward(x))
    }
}

/// A GPT-2 with its language-model head.
#[derive(Module, Debug)]
pub struct Gpt2 {
    /// Token ids to vectors; the head too, where it is tied.
    pub tokens: Embedding,
    /// Added to the vector of a token, by its position.
    pub positions: Embedding,
    /// The decoder.
    pub blocks: Vec<Block>,
    /// The last norm.
    pub norm: LayerNorm,
    /// States to logits; none where the head is tied.
    pub head: Option<Linear>,
    #[module(skip)]
    config: Gpt2Config,
    #[module(skip)]
    json: Value,
}

impl Gpt2 {
    /// A model of these sizes that takes no memory until it is used or loaded; its weights are zero.
    pub fn uninitialized(config: &Gpt2Config, device: &Device) -> Self {
        let table = |rows| {
            EmbeddingConfig::new(rows, config.d_model).with_initializer(Initializer::Zeros).init(device)
        };
        let head = || Linear::from(layer(config.d_model, config.vocab_size).with_bias(false).init(device));
        Self {
            tokens: table(config.vocab_size),
            positions: table(config.max_tokens),
            blocks: (0..config.n_layers).map(|n| Block::uninitialized(config, n, device)).collect(),
            norm: norm(config, device),
            head: (!config.tied_head).then(head),
            config: config.clone(),
            json: config.to_json(),
        }
    }

    /// A model of the sizes in a `config.json`, which it keeps as it is; `file` names it in errors.
    ///
    /// # Errors
    /// As [`Gpt2Config::from_json`].
    pub fn from_json(json: &Value, file: &Path, device: &Device) -> Result<Self, Error> {
        let config = Gpt2Config::from_json(json, file)?;
        Ok(Self { json: json.clone(), ..Self::uninitialized(&config, device) })
    }

    /// The same model to train from scratch, stored in `precision`: weights normal, those that add to the stream smaller by
    /// √(2·`n_layers`), biases zero.
    ///
    /// # Source
    /// `GPT2PreTrainedModel._init_weights` of transformers.
    pub fn with_fresh_weights(self, seed: u64, precision: impl Into<Precision>) -> Self {
        let precision = precision.into();
        let Gpt2Config { init_deviation, n_layers, .. } = self.config;
        let added = init_deviation / (2.0 * n_layers as f64).sqrt();
        let is_added =
            |path: &str| path.ends_with("attention.output.weight") || path.ends_with("mlp.down.weight");
        let deviation = |path: &str| if is_added(path) { added } else { init_deviation };
        let plan = Plan {
            deviation: &deviation,
            dtype: &|_| precision.dtype,
            quantization: &|path| precision.quantization_at(path),
        };
        fresh(self, seed, Distribution::Normal, &plan)
    }

    /// Loads a checkpoint whose names are those of Hugging Face, with or without `transformer.`.
    ///
    /// # Errors
    /// If the configuration is no GPT-2's or cannot be true, or if the tensors do not fit it: all of them in one error.
    pub fn load(checkpoint: &Checkpoint, device: &Device) -> Result<Self, Error> {
        let model = Self::from_json(checkpoint.config(), &checkpoint.config_file(), device)?;
        model.filled(checkpoint, Precision::default())
    }

    /// The same model with the weights of a checkpoint, stored in `precision`.
    pub(crate) fn filled(self, checkpoint: &Checkpoint, precision: Precision) -> Result<Self, Error> {
        let config = self.config.clone();
        let source = |path: &str| Some(keys::source(&config, path));
        let map = KeyMap {
            source: &source,
            dtype: &|_| precision.dtype,
            quantization: &|path| precision.quantization_at(path),
            ignored: keys::IGNORED,
        };
        checkpoint.fill(self, &map)
    }

    /// The same model with a head of its own, which its configuration then says; one that has a head stays as it is.
    pub fn untied(mut self) -> Self {
        if self.head.is_none() {
            self.head = Some(head::of_embedding(&self.tokens));
            self.config.tied_head = false;
            self.json["tie_word_embeddings"] = Value::Bool(false);
        }
        self
    }

    /// Sizes and the rest of what is no weight.
    pub fn config(&self) -> &Gpt2Config {
        &self.config
    }

    /// The `config.json` as it was read or made.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// States after the final norm.
    ///
    /// # Shapes
    /// - `ids`: `[batch, tokens]`
    /// - output: `[batch, tokens, d_model]`
    ///
    /// # Panics
    /// If a token stands beyond `max_tokens`.
    pub fn hidden(&self, ids: Tensor<2, Int>, mask: &AttentionMask) -> Tensor<3> {
        let embeddings = self.embeddings(ids, mask);
        self.norm.forward(self.blocks.iter().fold(embeddings, |x, block| block.forward(x, mask, None)))
    }

    /// The same for tokens that follow those in `cache`, which takes them up.
    ///
    /// # Shapes
    /// - `ids`: `[batch, tokens]`
    /// - output: `[batch, tokens, d_model]`
    ///
    /// # Panics
    /// If a token stands beyond `max_tokens`.
    pub fn extend(&self, ids: Tensor<2, Int>, mask: &AttentionMask, cache: &mut KeyValueCache) -> Tensor<3> {
        let embeddings = self.embeddings(ids, mask);
        let blocks = self.blocks.iter().zip(cache.begin(self.blocks.len(), mask.padding()));
        self.norm.forward(blocks.fold(embeddings, |x, (block, cache)| block.forward(x, mask, Some(cache))))
    }

    /// Scores of the next token, in f32 whatever the weights are.
    ///
    /// # Shapes
    /// - `hidden`: `[.., d_model]`
    /// - output: `[.., vocab_size]`
    pub fn logits<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        head::logits(hidden, &self.tokens, self.head.as_ref())
    }

    /// The output of every stage, to compare with another implementation.
    ///
    /// # Shapes
    /// - `ids`: `[batch, tokens]`
    pub fn hidden_states(&self, ids: Tensor<2, Int>, mask: &AttentionMask) -> HiddenStates {
        let forward = |block: &Block, x| block.forward(x, mask, None);
        HiddenStates::trace(self.embeddings(ids, mask), &self.blocks, forward, |x| self.norm.forward(x))
    }

    /// The blocks, one by one.
    pub fn stages<'a>(&'a self, mask: &'a AttentionMask) -> Vec<Stage<'a>> {
        let stage = |block: &'a Block| -> Stage<'a> { Box::new(move |x| block.forward(x, mask, None)) };
        self.blocks.iter().map(stage).collect()
    }

    /// What the first block gets.
    ///
    /// # Shapes
    /// - `ids`: `[batch, tokens]`
    /// - output: `[batch, tokens, d_model]`
    ///
    /// # Panics
    /// If a token stands beyond `max_tokens`.
    pub fn embeddings(&self, ids: Tensor<2, Int>, mask: &AttentionMask) -> Tensor<3> {
        let (positions, rows) = mask.positions();
        let longest = self.config.max_tokens;
        assert!(positions.iter().all(|&position| position < longest), "a token beyond position {longest}");
        let values: Vec<i32> = positions.iter().map(|&position| position as i32).collect();
        let shape = [rows, values.len() / rows];
        let positions = Tensor::from_data(TensorData::new(values, shape), &ids.device());
        let (tokens, positions) =
            (adapted_embedding(&self.tokens, ids), adapted_embedding(&self.positions, positions));
        if tokens.dtype() == positions.dtype() {
            return in_compute_dtype(tokens + positions);
        }
        // One of them has an adapter and is in this type already.
        in_compute_dtype(tokens) + in_compute_dtype(positions)
    }
}

fn layer(d_in: usize, d_out: usize) -> LinearConfig {
    LinearConfig::new(d_in, d_out).with_initializer(Initializer::Zeros)
}

fn norm(config: &Gpt2Config, device: &Device) -> LayerNorm {
    LayerNorm::new(config.d_model, config.layer_norm_eps, device)
}
