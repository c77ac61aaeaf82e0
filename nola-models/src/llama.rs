//! LLaMA and what differs from it by configuration: pre-norm decoder blocks with rotary positions, a gated MLP and groups of queries.
//!
//! Source: Touvron et al. 2023; names and shapes of `LlamaForCausalLM` and of the classes that the table of architectures names.

mod config;
pub mod family;
mod keys;
mod rotary;

use std::borrow::Cow;
use std::path::Path;
use std::rc::Rc;

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Initializer, LinearConfig};
use burn::tensor::{Device, Int, Tensor};
use nola_core::{Linear, adapted, adapted_embedding, compute_dtype, in_compute_dtype};
use serde_json::Value;

use crate::attention::{AttentionMask, BlockCache, KeyValueCache, attend, split_heads};
use crate::checkpoint::KeyMap;
use crate::fresh::{Distribution, Plan, fresh};
use crate::fused::gated;
use crate::norm::RmsNorm;
use crate::{Checkpoint, Error, HiddenStates, Precision, Stage, head};
pub use config::{LlamaConfig, SlidingWindow};
pub use family::Family;
use rotary::Rope;
pub use rotary::{Rotary, RotaryScaling};

/// Causal self-attention; several heads of queries may share one of keys and values.
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
    /// Norm of each head of the queries, before they are rotated.
    pub query_norm: Option<RmsNorm>,
    /// The same of the keys.
    pub key_norm: Option<RmsNorm>,
    n_heads: usize,
    n_kv_heads: usize,
    score_scale: f64,
    /// Whether queries and keys are rotated.
    rotates: bool,
    /// Whether a token sees those in the sliding window alone.
    slides: bool,
}

impl Attention {
    fn uninitialized(config: &LlamaConfig, layer_index: usize, device: &Device) -> Self {
        let LlamaConfig { d_model, n_heads, n_kv_heads, d_head, qkv_bias, output_bias, .. } = *config;
        let head_norm = || config.qk_norm.then(|| RmsNorm::new(d_head, config.rms_norm_eps, device));
        Self {
            query: layer(d_model, n_heads * d_head, device, qkv_bias),
            key: layer(d_model, n_kv_heads * d_head, device, qkv_bias),
            value: layer(d_model, n_kv_heads * d_head, device, qkv_bias),
            output: layer(n_heads * d_head, d_model, device, output_bias),
            query_norm: head_norm(),
            key_norm: head_norm(),
            n_heads,
            n_kv_heads,
            score_scale: 1.0 / (d_head as f64).sqrt(),
            rotates: !config.unrotated_layers.contains(&layer_index),
            slides: config.sliding_window.as_ref().is_some_and(|window| window.layers.contains(&layer_index)),
        }
    }

    /// # Shapes
    /// - `x` and output: `[batch, tokens, d_model]`
    fn forward(&self, x: Tensor<3>, pass: &Pass, cache: Option<&mut BlockCache>) -> Tensor<3> {
        let query = split_heads(adapted(&self.query, x.clone()), self.n_heads);
        let key = split_heads(adapted(&self.key, x.clone()), self.n_kv_heads);
        let value = split_heads(adapted(&self.value, x), self.n_kv_heads);
        let query = self.rotated(normed(self.query_norm.as_ref(), query), pass);
        let key = self.rotated(normed(self.key_norm.as_ref(), key), pass);
        let (key, value) = match cache {
            Some(cache) => cache.extend(key, value),
            None => (key, value),
        };
        let mask = if self.slides { pass.window_mask.as_ref() } else { pass.mask };
        adapted(&self.output, attend(query, key, value, self.score_scale, mask))
    }

    fn rotated(&self, heads: Tensor<4>, pass: &Pass) -> Tensor<4> {
        if self.rotates { pass.rope.apply(heads) } else { heads }
    }
}

fn normed(norm: Option<&RmsNorm>, heads: Tensor<4>) -> Tensor<4> {
    match norm {
        Some(norm) => norm.forward(heads),
        None => heads,
    }
}

/// The feed-forward half of a block: two ways up, one of them a gate, and back.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `d_model` to `d_mlp`; opens and closes `up`.
    pub gate: Linear,
    /// `d_model` to `d_mlp`.
    pub up: Linear,
    /// `d_mlp` to `d_model`.
    pub down: Linear,
}

impl Mlp {
    /// # Shapes
    /// - `x` and output: `[batch, tokens, d_model]`
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        adapted(&self.down, gated(adapted(&self.gate, x.clone()), adapted(&self.up, x)))
    }
}

/// One decoder block; both halves add to the stream they read normalised.
#[derive(Module, Debug)]
pub struct Block {
    /// Norm before the attention.
    pub norm_attention: RmsNorm,
    /// Mixes tokens.
    pub attention: Attention,
    /// Norm before the MLP.
    pub norm_mlp: RmsNorm,
    /// Works on each token alone.
    pub mlp: Mlp,
}

impl Block {
    fn uninitialized(config: &LlamaConfig, layer_index: usize, device: &Device) -> Self {
        let layer = |d_in, d_out| layer(d_in, d_out, device, config.mlp_bias);
        Self {
            norm_attention: norm(config, device),
            attention: Attention::uninitialized(config, layer_index, device),
            norm_mlp: norm(config, device),
            mlp: Mlp {
                gate: layer(config.d_model, config.d_mlp),
                up: layer(config.d_model, config.d_mlp),
                down: layer(config.d_mlp, config.d_model),
            },
        }
    }

    /// # Shapes
    /// - `x` and output: `[batch, tokens, d_model]`
    fn forward(&self, x: Tensor<3>, pass: &Pass, cache: Option<&mut BlockCache>) -> Tensor<3> {
        let x = x.clone() + self.attention.forward(self.norm_attention.forward(x), pass, cache);
        x.clone() + self.mlp.forward(self.norm_mlp.forward(x))
    }
}

/// A LLaMA with its language-model head.
#[derive(Module, Debug)]
pub struct Llama {
    /// Token ids to vectors; the head too, where it is tied.
    pub tokens: Embedding,
    /// The decoder.
    pub blocks: Vec<Block>,
    /// The last norm.
    pub norm: RmsNorm,
    /// States to logits; none where the head is tied.
    pub head: Option<Linear>,
    #[module(skip)]
    config: LlamaConfig,
    #[module(skip)]
    json: Value,
}

/// What all blocks need of one pass.
struct Pass<'a> {
    mask: &'a AttentionMask,
    /// Of the layers with a sliding window.
    window_mask: Cow<'a, AttentionMask>,
    rope: Rope,
}

impl Llama {
    /// A model of these sizes that takes no memory until it is used or loaded; its weights are zero.
    pub fn uninitialized(config: &LlamaConfig, device: &Device) -> Self {
        let tokens = EmbeddingConfig::new(config.vocab_size, config.d_model);
        let head = || layer(config.d_model, config.vocab_size, device, false);
        Self {
            tokens: tokens.with_initializer(Initializer::Zeros).init(device),
            blocks: (0..config.n_layers).map(|n| Block::uninitialized(config, n, device)).collect(),
            norm: norm(config, device),
            head: (!config.tied_head).then(head),
            config: config.clone(),
            json: config.to_json(),
        }
    }

    /// A model of `family` and of the sizes in a `config.json`, which it keeps as it is; `file` names it in errors.
    ///
    /// # Errors
    /// As [`LlamaConfig::from_json`].
    pub fn from_json(
        json: &Value,
        file: &Path,
        family: &'static Family,
        device: &Device,
    ) -> Result<Self, Error> {
        let config = LlamaConfig::from_json(json, file, family)?;
        Ok(Self { json: json.clone(), ..Self::uninitialized(&config, device) })
    }

    /// The same model to train from scratch, stored in `precision`: weights normal, biases zero.
    ///
    /// # Source
    /// `LlamaPreTrainedModel._init_weights` of transformers.
    pub fn with_fresh_weights(self, seed: u64, precision: impl Into<Precision>) -> Self {
        let precision = precision.into();
        let deviation = self.config.init_deviation;
        let plan = Plan {
            deviation: &|_| deviation,
            dtype: &|_| precision.dtype,
            quantization: &|path| precision.quantization_at(path),
        };
        fresh(self, seed, Distribution::Normal, &plan)
    }

    /// The same model with the weights of a checkpoint, stored in `precision`; the names are those of Hugging Face, with or without
    /// `model.`.
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
    pub fn config(&self) -> &LlamaConfig {
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
    pub fn hidden(&self, ids: Tensor<2, Int>, mask: &AttentionMask) -> Tensor<3> {
        let (embeddings, pass) = (self.embeddings(ids), self.pass(mask));
        self.norm.forward(self.blocks.iter().fold(embeddings, |x, block| block.forward(x, &pass, None)))
    }

    /// The same for tokens that follow those in `cache`, which takes them up.
    ///
    /// # Shapes
    /// - `ids`: `[batch, tokens]`
    /// - output: `[batch, tokens, d_model]`
    pub fn extend(&self, ids: Tensor<2, Int>, mask: &AttentionMask, cache: &mut KeyValueCache) -> Tensor<3> {
        let (embeddings, pass) = (self.embeddings(ids), self.pass(mask));
        let blocks = self.blocks.iter().zip(cache.begin(self.blocks.len(), mask.padding()));
        self.norm.forward(blocks.fold(embeddings, |x, (block, cache)| block.forward(x, &pass, Some(cache))))
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
        let (embeddings, pass) = (self.embeddings(ids), self.pass(mask));
        let forward = |block: &Block, x| block.forward(x, &pass, None);
        HiddenStates::trace(embeddings, &self.blocks, forward, |x| self.norm.forward(x))
    }

    /// The blocks, one by one.
    pub fn stages<'a>(&'a self, mask: &'a AttentionMask) -> Vec<Stage<'a>> {
        let pass = Rc::new(self.pass(mask));
        let stage = |block: &'a Block| -> Stage<'a> {
            let pass = Rc::clone(&pass);
            Box::new(move |x| block.forward(x, &pass, None))
        };
        self.blocks.iter().map(stage).collect()
    }

    /// What the first block gets.
    ///
    /// # Shapes
    /// - `ids`: `[batch, tokens]`
    /// - output: `[batch, tokens, d_model]`
    pub fn embeddings(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        in_compute_dtype(adapted_embedding(&self.tokens, ids))
    }

    /// What the blocks need beside their input.
    fn pass<'a>(&self, mask: &'a AttentionMask) -> Pass<'a> {
        let table = self.tokens.weight.base();
        let (device, held) = (table.device(), table.dtype());
        let rope = self.config.rotary.rope(self.config.d_head, mask, &device, compute_dtype(&device, held));
        let window_mask = match &self.config.sliding_window {
            Some(window) => Cow::Owned(mask.within(window.tokens, &device)),
            None => Cow::Borrowed(mask),
        };
        Pass { mask, window_mask, rope }
    }
}

fn layer(d_in: usize, d_out: usize, device: &Device, bias: bool) -> Linear {
    LinearConfig::new(d_in, d_out).with_bias(bias).with_initializer(Initializer::Zeros).init(device).into()
}

fn norm(config: &LlamaConfig, device: &Device) -> RmsNorm {
    RmsNorm::new(config.d_model, config.rms_norm_eps, device)
}
