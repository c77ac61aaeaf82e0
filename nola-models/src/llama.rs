//! LLaMA and what differs from it by configuration: pre-norm decoder blocks with rotary positions, a gated MLP and groups of queries.
//!
//! Source: Touvron et al. 2023; names and shapes of `LlamaForCausalLM` and of the classes that the table of architectures names.

mod config;
pub mod family;
mod keys;

use std::borrow::Cow;
use std::path::Path;

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Initializer, LinearConfig};
use burn::tensor::{Device, Int, Tensor};
use nola_core::{Linear, adapted, adapted_embedding, compute_dtype, in_compute_dtype};
use serde_json::Value;

use crate::attention::{AttentionMask, Cache, Scores, attend_with, capped, split_heads};
use crate::checkpoint::Source;
use crate::decoder::Decoder;
use crate::fused::gated;
use crate::norm::RmsNorm;
use crate::rope::{Rope, Rotary};
use crate::{Activation, Error, head};
pub use config::{LlamaConfig, SlidingWindow};
pub use family::Family;
use family::{Gate, Norms};

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
    #[module(skip)]
    scores: Scores,
    /// Whether queries and keys are rotated.
    rotates: bool,
    /// Whether a token sees those in the sliding window alone.
    slides: bool,
}

impl Attention {
    fn uninitialized(config: &LlamaConfig, layer_index: usize, device: &Device) -> Self {
        let LlamaConfig { d_model, n_heads, n_kv_heads, d_head, qkv_bias, output_bias, .. } = *config;
        let head_norm = || config.qk_norm.then(|| norm_of(config, d_head, device));
        Self {
            query: layer(d_model, n_heads * d_head, device, qkv_bias),
            key: layer(d_model, n_kv_heads * d_head, device, qkv_bias),
            value: layer(d_model, n_kv_heads * d_head, device, qkv_bias),
            output: layer(n_heads * d_head, d_model, device, output_bias),
            query_norm: head_norm(),
            key_norm: head_norm(),
            n_heads,
            n_kv_heads,
            scores: Scores { scale: config.score_divisor.score_scale(d_head), cap: config.score_cap },
            rotates: !config.unrotated_layers.contains(&layer_index),
            slides: config.sliding_window.as_ref().is_some_and(|window| window.layers.contains(&layer_index)),
        }
    }

    /// # Shapes
    /// - `x` and output: `[batch, tokens, d_model]`
    fn forward(&self, x: Tensor<3>, pass: &Pass, cache: Cache) -> Tensor<3> {
        let (mask, window, rope) = match self.slides {
            true => (pass.window_mask.as_ref(), pass.window, &pass.window_rope),
            false => (pass.mask, None, &pass.rope),
        };
        let rotated = |heads| if self.rotates { rope.apply(heads) } else { heads };
        let query = split_heads(adapted(&self.query, x.clone()), self.n_heads);
        let key = split_heads(adapted(&self.key, x.clone()), self.n_kv_heads);
        let value = split_heads(adapted(&self.value, x), self.n_kv_heads);
        let query = rotated(normed(self.query_norm.as_ref(), query));
        let key = rotated(normed(self.key_norm.as_ref(), key));
        adapted(&self.output, attend_with(cache, [query, key, value], self.scores, mask, window))
    }
}

fn normed<const D: usize>(norm: Option<&RmsNorm>, x: Tensor<D>) -> Tensor<D> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
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
    #[module(skip)]
    activation: Gate,
}

impl Mlp {
    /// # Shapes
    /// - `x` and output: `[batch, tokens, d_model]`
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let (gate, up) = (adapted(&self.gate, x.clone()), adapted(&self.up, x));
        let inside = match self.activation {
            Gate::Silu => gated(gate, up),
            Gate::GeluTanh => Activation::GeluTanh.apply(gate) * up,
        };
        adapted(&self.down, inside)
    }
}

/// One decoder block; both halves add to the stream they read normalised.
#[derive(Module, Debug)]
pub struct Block {
    /// Norm before the attention.
    pub norm_attention: RmsNorm,
    /// Mixes tokens.
    pub attention: Attention,
    /// Norm of what the attention adds.
    pub norm_attention_output: Option<RmsNorm>,
    /// Norm before the MLP.
    pub norm_mlp: RmsNorm,
    /// Works on each token alone.
    pub mlp: Mlp,
    /// Norm of what the MLP adds.
    pub norm_mlp_output: Option<RmsNorm>,
}

impl Block {
    fn uninitialized(config: &LlamaConfig, layer_index: usize, device: &Device) -> Self {
        let layer = |d_in, d_out| layer(d_in, d_out, device, config.mlp_bias);
        let norm = || norm_of(config, config.d_model, device);
        let norm_behind = || match config.family.norms {
            Norms::Before => None,
            Norms::BeforeAndBehind => Some(norm()),
        };
        Self {
            norm_attention: norm(),
            attention: Attention::uninitialized(config, layer_index, device),
            norm_attention_output: norm_behind(),
            norm_mlp: norm(),
            mlp: Mlp {
                gate: layer(config.d_model, config.d_mlp),
                up: layer(config.d_model, config.d_mlp),
                down: layer(config.d_mlp, config.d_model),
                activation: config.family.gate,
            },
            norm_mlp_output: norm_behind(),
        }
    }

    /// # Shapes
    /// - `x` and output: `[batch, tokens, d_model]`
    fn forward(&self, x: Tensor<3>, pass: &Pass, cache: Cache) -> Tensor<3> {
        let mixed = self.attention.forward(self.norm_attention.forward(x.clone()), pass, cache);
        let x = x + normed(self.norm_attention_output.as_ref(), mixed);
        let alone = self.mlp.forward(self.norm_mlp.forward(x.clone()));
        x + normed(self.norm_mlp_output.as_ref(), alone)
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
pub(crate) struct Pass<'a> {
    mask: &'a AttentionMask,
    /// Of the layers with a sliding window.
    window_mask: Cow<'a, AttentionMask>,
    /// Tokens of that window.
    window: Option<usize>,
    rope: Rope,
    /// Of the layers with a sliding window.
    window_rope: Rope,
}

impl Llama {
    /// A model of these sizes that takes no memory until it is used or loaded; its weights are zero.
    pub fn uninitialized(config: &LlamaConfig, device: &Device) -> Self {
        let tokens = EmbeddingConfig::new(config.vocab_size, config.d_model);
        let head = || layer(config.d_model, config.vocab_size, device, false);
        Self {
            tokens: tokens.with_initializer(Initializer::Zeros).init(device),
            blocks: (0..config.n_layers).map(|n| Block::uninitialized(config, n, device)).collect(),
            norm: norm_of(config, config.d_model, device),
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

    /// Sizes and the rest of what is no weight.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The `config.json` as it was read or made.
    pub fn json(&self) -> &Value {
        &self.json
    }
}

impl Decoder for Llama {
    type Config = LlamaConfig;
    type Block = Block;
    type Pass<'a> = Pass<'a>;

    const IGNORED: &'static [&'static str] = keys::IGNORED;

    fn source(config: &LlamaConfig, path: &str) -> Source {
        keys::source(config, path)
    }

    /// # Source
    /// `LlamaPreTrainedModel._init_weights` of transformers.
    fn deviation(config: &LlamaConfig, _path: &str) -> f64 {
        config.init_deviation
    }

    fn config(&self) -> &LlamaConfig {
        &self.config
    }

    fn embeddings(&self, ids: Tensor<2, Int>, _mask: &AttentionMask) -> Tensor<3> {
        let tokens = in_compute_dtype(adapted_embedding(&self.tokens, ids));
        match self.config.family.scales_embeddings {
            true => tokens * (self.config.d_model as f64).sqrt(),
            false => tokens,
        }
    }

    fn depends_on_length(&self) -> bool {
        self.config.rotaries().any(Rotary::depends_on_length)
    }

    fn changes(&self, before: usize, after: usize) -> bool {
        self.config.rotaries().any(|rotary| rotary.changes(before, after))
    }

    fn pass<'a>(&self, mask: &'a AttentionMask) -> Pass<'a> {
        let table = self.tokens.weight.base();
        let (device, held) = (table.device(), table.dtype());
        let dtype = compute_dtype(&device, held);
        let rope_of = |rotary: &Rotary| rotary.rope(self.config.d_head, mask, &device, dtype);
        let (rope, window) = (rope_of(&self.config.rotary), self.config.sliding_window.as_ref());
        let window_mask = match window {
            Some(window) => Cow::Owned(mask.within(window.tokens, &device)),
            None => Cow::Borrowed(mask),
        };
        let window_rope = match window.filter(|window| window.rotary != self.config.rotary) {
            Some(window) => rope_of(&window.rotary),
            None => rope.clone(),
        };
        Pass { mask, window_mask, window: window.map(|window| window.tokens), rope, window_rope }
    }

    fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    fn forward(block: &Block, x: Tensor<3>, pass: &Pass<'_>, cache: Cache) -> Tensor<3> {
        block.forward(x, pass, cache)
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

    fn logits<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        let logits = head::logits(hidden, &self.tokens, self.head());
        match self.config.logit_cap {
            Some(cap) => capped(logits, cap),
            None => logits,
        }
    }

    fn set_head(&mut self, head: Linear) {
        self.head = Some(head);
        self.config.tied_head = false;
        self.json["tie_word_embeddings"] = Value::Bool(false);
    }
}

fn layer(d_in: usize, d_out: usize, device: &Device, bias: bool) -> Linear {
    LinearConfig::new(d_in, d_out).with_bias(bias).with_initializer(Initializer::Zeros).init(device).into()
}

fn norm_of(config: &LlamaConfig, width: usize, device: &Device) -> RmsNorm {
    RmsNorm::new(width, config.rms_norm_eps, config.family.gain, device)
}
