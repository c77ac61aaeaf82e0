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

use crate::attention::{AttentionMask, Cache, Scores, attend_with, split_heads};
use crate::checkpoint::Source;
use crate::decoder::Decoder;
use crate::norm::LayerNorm;
use crate::{Activation, Checkpoint, Error, Precision};
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
    fn forward(&self, x: Tensor<3>, mask: &AttentionMask, cache: Cache) -> Tensor<3> {
        let heads = |layer: &Linear| split_heads(adapted(layer, x.clone()), self.n_heads);
        let heads = [&self.query, &self.key, &self.value].map(heads);
        let scores = Scores { scale: self.score_scale, cap: None };
        adapted(&self.output, attend_with(cache, heads, scores, mask, None))
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
    fn forward(&self, x: Tensor<3>, mask: &AttentionMask, cache: Cache) -> Tensor<3> {
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

    /// Loads a checkpoint whose names are those of Hugging Face, with or without `transformer.`.
    ///
    /// # Errors
    /// If the configuration is no GPT-2's or cannot be true, or if the tensors do not fit it: all of them in one error.
    pub fn load(checkpoint: &Checkpoint, device: &Device) -> Result<Self, Error> {
        let model = Self::from_json(checkpoint.config(), &checkpoint.config_file(), device)?;
        model.filled(checkpoint, Precision::default())
    }

    /// Sizes and the rest of what is no weight.
    pub fn config(&self) -> &Gpt2Config {
        &self.config
    }

    /// The `config.json` as it was read or made.
    pub fn json(&self) -> &Value {
        &self.json
    }
}

impl Decoder for Gpt2 {
    type Config = Gpt2Config;
    type Block = Block;
    type Pass<'a> = &'a AttentionMask;

    const IGNORED: &'static [&'static str] = keys::IGNORED;

    fn source(config: &Gpt2Config, path: &str) -> Source {
        keys::source(config, path)
    }

    /// Smaller by √(2·`n_layers`) where a layer adds to the stream.
    ///
    /// # Source
    /// `GPT2PreTrainedModel._init_weights` of transformers.
    fn deviation(config: &Gpt2Config, path: &str) -> f64 {
        let is_added = path.ends_with("attention.output.weight") || path.ends_with("mlp.down.weight");
        let layers = if is_added { 2.0 * config.n_layers as f64 } else { 1.0 };
        config.init_deviation / layers.sqrt()
    }

    fn config(&self) -> &Gpt2Config {
        &self.config
    }

    /// # Panics
    /// If a token stands beyond `max_tokens`.
    fn embeddings(&self, ids: Tensor<2, Int>, mask: &AttentionMask) -> Tensor<3> {
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

    fn pass<'a>(&self, mask: &'a AttentionMask) -> &'a AttentionMask {
        mask
    }

    fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    fn forward(block: &Block, x: Tensor<3>, mask: &&AttentionMask, cache: Cache) -> Tensor<3> {
        block.forward(x, mask, cache)
    }

    fn normed(&self, x: Tensor<3>) -> Tensor<3> {
        self.norm.forward(x)
    }

    fn tokens(&self) -> &Embedding {
        &self.tokens
    }

    fn head(&self) -> Option<&Linear> {
        self.head.as_ref()
    }

    fn set_head(&mut self, head: Linear) {
        self.head = Some(head);
        self.config.tied_head = false;
        self.json["tie_word_embeddings"] = Value::Bool(false);
    }
}

fn layer(d_in: usize, d_out: usize) -> LinearConfig {
    LinearConfig::new(d_in, d_out).with_initializer(Initializer::Zeros)
}

fn norm(config: &Gpt2Config, device: &Device) -> LayerNorm {
    LayerNorm::new(config.d_model, config.layer_norm_eps, device)
}
