//! Sizes of a GPT-2, read from and written to the `config.json` of Hugging Face.

use std::path::Path;

use serde_json::{Value, json};

use crate::fields::Fields;
use crate::{Activation, Error};

/// Sizes and variants of a GPT-2.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpt2Config {
    /// Token ids are `0..vocab_size`.
    pub vocab_size: usize,
    /// Longest sequence, in tokens.
    pub max_tokens: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Heads per block; divides `d_model`.
    pub n_heads: usize,
    /// Width inside the MLP.
    pub d_mlp: usize,
    /// Between the halves of the MLP.
    pub activation: Activation,
    /// Added to the variance in every norm.
    pub layer_norm_eps: f64,
    /// Which factors attention scores have.
    pub score_scale: ScoreScale,
    /// Whether the token embedding is the head too.
    pub tied_head: bool,
    /// Standard deviation of fresh weights.
    pub init_deviation: f64,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
}

/// Which factors attention scores have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScoreScale {
    /// Whether they are divided by the root of a head's width.
    pub by_width: bool,
    /// Whether they are divided by the number of their block, counted from 1.
    pub by_layer: bool,
}

impl ScoreScale {
    /// The factor in the block `layer`, counted from 0.
    pub(super) fn factor(self, d_head: usize, layer: usize) -> f64 {
        let of_width = if self.by_width { (d_head as f64).sqrt() } else { 1.0 };
        let of_layer = if self.by_layer { (layer + 1) as f64 } else { 1.0 };
        1.0 / (of_width * of_layer)
    }
}

impl Gpt2Config {
    /// The released model of 124 M numbers.
    pub fn small() -> Self {
        Self {
            vocab_size: 50257,
            max_tokens: 1024,
            d_model: 768,
            n_layers: 12,
            n_heads: 12,
            d_mlp: 3072,
            activation: Activation::GeluTanh,
            layer_norm_eps: 1e-5,
            score_scale: ScoreScale { by_width: true, by_layer: false },
            tied_head: true,
            init_deviation: 0.02,
            eos: vec![50256],
        }
    }

    /// The released model of 355 M numbers.
    pub fn medium() -> Self {
        Self { d_model: 1024, n_layers: 24, n_heads: 16, d_mlp: 4096, ..Self::small() }
    }

    /// The released model of 774 M numbers.
    pub fn large() -> Self {
        Self { d_model: 1280, n_layers: 36, n_heads: 20, d_mlp: 5120, ..Self::small() }
    }

    /// The released model of 1558 M numbers.
    pub fn xl() -> Self {
        Self { d_model: 1600, n_layers: 48, n_heads: 25, d_mlp: 6400, ..Self::small() }
    }

    /// Reads a `config.json` of the model type `gpt2`; what it leaves out has the default of transformers.
    ///
    /// # Errors
    /// If it asks for what this program does not compute, or holds a value that cannot be. The error names `file`.
    pub fn from_json(config: &Value, file: &Path) -> Result<Self, Error> {
        let fields = Fields { json: config, file };
        let default = Self::small();
        fields.refuse_flag("add_cross_attention")?;
        fields.refuse_other_quantization()?;
        let d_model = fields.number("n_embd", default.d_model, 1..=65536)?;
        let sizes = Self {
            vocab_size: fields.number("vocab_size", default.vocab_size, 1..=1 << 24)?,
            max_tokens: fields.number("n_positions", default.max_tokens, 1..=1 << 24)?,
            d_model,
            n_layers: fields.number("n_layer", default.n_layers, 1..=512)?,
            n_heads: fields.number("n_head", default.n_heads, 1..=1024)?,
            d_mlp: fields.number("n_inner", 4 * d_model, 1..=1 << 20)?,
            activation: activation(&fields)?,
            layer_norm_eps: fields.positive("layer_norm_epsilon", default.layer_norm_eps)?,
            score_scale: ScoreScale {
                by_width: fields.flag("scale_attn_weights", true)?,
                by_layer: fields.flag("scale_attn_by_inverse_layer_idx", false)?,
            },
            tied_head: fields.flag("tie_word_embeddings", true)?,
            init_deviation: fields.float("initializer_range", default.init_deviation)?,
            eos: fields.token_ids("eos_token_id", &default.eos)?,
        };
        if !sizes.d_model.is_multiple_of(sizes.n_heads) {
            return Err(fields.wrong("n_head", &format!("a divisor of n_embd = {}", sizes.d_model)));
        }
        Ok(sizes)
    }

    /// The `config.json` that transformers reads.
    pub fn to_json(&self) -> Value {
        json!({
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": self.vocab_size,
            "n_positions": self.max_tokens,
            "n_embd": self.d_model,
            "n_layer": self.n_layers,
            "n_head": self.n_heads,
            "n_inner": self.d_mlp,
            "activation_function": self.activation.hugging_face(),
            "layer_norm_epsilon": self.layer_norm_eps,
            "scale_attn_weights": self.score_scale.by_width,
            "scale_attn_by_inverse_layer_idx": self.score_scale.by_layer,
            "tie_word_embeddings": self.tied_head,
            "initializer_range": self.init_deviation,
            "eos_token_id": self.eos,
            "bos_token_id": self.eos.first(),
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
        })
    }
}

fn activation(fields: &Fields) -> Result<Activation, Error> {
    let Some(name) = fields.json.get("activation_function").filter(|name| !name.is_null()) else {
        return Ok(Activation::GeluTanh);
    };
    let activation = name.as_str().and_then(Activation::of_hugging_face);
    activation.ok_or_else(|| {
        fields.wrong("activation_function", &format!("one of {}", Activation::known_to_hugging_face()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: Value) -> Result<Gpt2Config, Error> {
        Gpt2Config::from_json(&config, Path::new("config.json"))
    }

    fn error(config: Value) -> String {
        read(config).expect_err("it cannot be").to_string()
    }

    #[test]
    fn an_empty_configuration_is_the_small_model() {
        assert_eq!(read(json!({})).expect("all fields have defaults"), Gpt2Config::small());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let config = Gpt2Config { activation: Activation::Relu, tied_head: false, ..Gpt2Config::xl() };
        assert_eq!(read(config.to_json()).expect("our own file"), config);
    }

    #[test]
    fn an_inner_width_of_null_is_four_times_the_model() {
        let config = read(json!({"n_embd": 24, "n_head": 2, "n_inner": null})).expect("a small model");
        assert_eq!(config.d_mlp, 96);
    }

    #[test]
    fn a_null_end_of_text_is_none() {
        assert!(read(json!({"eos_token_id": null})).expect("no end").eos.is_empty());
    }

    #[test]
    fn end_of_text_may_be_a_list() {
        assert_eq!(read(json!({"eos_token_id": [1, 7]})).expect("two ends").eos, [1, 7]);
    }

    #[test]
    fn cross_attention_is_refused_by_name() {
        let message = error(json!({"add_cross_attention": true}));
        assert!(message.contains("add_cross_attention"), "{message}");
    }

    #[test]
    fn an_unknown_activation_is_refused_by_name() {
        let message = error(json!({"activation_function": "mish"}));
        assert!(message.contains("mish") && message.contains("gelu_new"), "{message}");
    }

    #[test]
    fn heads_must_divide_the_width() {
        assert!(error(json!({"n_embd": 10, "n_head": 3})).contains("a divisor of n_embd = 10"));
    }

    #[test]
    fn a_norm_without_epsilon_is_refused() {
        assert!(error(json!({"layer_norm_epsilon": 0.0})).contains("layer_norm_epsilon"));
    }

    #[test]
    fn scores_are_divided_by_the_number_of_their_block() {
        let scale = ScoreScale { by_width: true, by_layer: true };
        assert_eq!(scale.factor(16, 1), 1.0 / 8.0);
        assert_eq!(ScoreScale { by_width: false, by_layer: false }.factor(16, 1), 1.0);
    }
}
