//! Sizes of a LLaMA or of what differs from it by configuration, read from and written to the `config.json` of Hugging Face.

mod layers;
mod rotary;

use std::path::Path;

use serde_json::{Value, json};

use super::family::{Biases, Caps, Family, Gate, ScoreDivisor};
use crate::fields::Fields;
use crate::rope::{Rotary, RotaryScaling};
use crate::{Activation, Error};
pub use layers::SlidingWindow;

const LOGIT_CAP: &str = "final_logit_softcapping";
const SCORE_CAP: &str = "attn_logit_softcapping";

/// Sizes and variants of a LLaMA.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Whose files it is read from and written to.
    pub family: &'static Family,
    /// Token ids are `0..vocab_size`.
    pub vocab_size: usize,
    /// Longest sequence it was made for, in tokens.
    pub max_tokens: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Heads of queries per block.
    pub n_heads: usize,
    /// Heads of keys and values per block; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a head; even.
    pub d_head: usize,
    /// Width inside the MLP.
    pub d_mlp: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// What attention scores are divided by the root of.
    pub score_divisor: ScoreDivisor,
    /// What attention scores approach as they grow, if they are capped.
    pub score_cap: Option<f64>,
    /// The same of logits.
    pub logit_cap: Option<f64>,
    /// Rotary positions, but for layers with a sliding window.
    pub rotary: Rotary,
    /// Layers that are not rotated, from 0.
    pub unrotated_layers: Vec<usize>,
    /// Layers that see the last tokens alone; none where every layer sees all.
    pub sliding_window: Option<SlidingWindow>,
    /// Whether each head of the queries and keys is normalised before it is rotated.
    pub qk_norm: bool,
    /// Whether the layers that make queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the layer behind the heads has a bias.
    pub output_bias: bool,
    /// Whether the linear layers of the MLP have biases.
    pub mlp_bias: bool,
    /// Whether the token embedding is the head too.
    pub tied_head: bool,
    /// Standard deviation of fresh weights.
    pub init_deviation: f64,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
}

impl LlamaConfig {
    /// LLaMA-2 with 7 thousand million numbers.
    pub fn llama2_7b() -> Self {
        Self {
            family: &Family::LLAMA,
            vocab_size: 32000,
            max_tokens: 4096,
            d_model: 4096,
            n_layers: 32,
            n_heads: 32,
            n_kv_heads: 32,
            d_head: 128,
            d_mlp: 11008,
            rms_norm_eps: 1e-5,
            score_divisor: ScoreDivisor::HeadWidth,
            score_cap: None,
            logit_cap: None,
            rotary: Rotary { theta: 10_000.0, scaling: RotaryScaling::Unscaled },
            unrotated_layers: Vec::new(),
            sliding_window: None,
            qk_norm: false,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            tied_head: false,
            init_deviation: 0.02,
            eos: vec![2],
        }
    }

    /// LLaMA-2 with 13 thousand million numbers.
    pub fn llama2_13b() -> Self {
        Self { d_model: 5120, n_layers: 40, n_heads: 40, n_kv_heads: 40, d_mlp: 13824, ..Self::llama2_7b() }
    }

    /// LLaMA-2 with 70 thousand million numbers and 8 heads of keys and values.
    pub fn llama2_70b() -> Self {
        Self { d_model: 8192, n_layers: 80, n_heads: 64, n_kv_heads: 8, d_mlp: 28672, ..Self::llama2_7b() }
    }

    /// Reads the `config.json` of a model of `family`; what it leaves out has the default of transformers.
    ///
    /// # Errors
    /// If it asks for what this program does not compute, or holds a value that cannot be. The error names `file`.
    pub fn from_json(config: &Value, file: &Path, family: &'static Family) -> Result<Self, Error> {
        let fields = Fields { json: config, file };
        fields.refuse_other_quantization()?;
        check_gate(&fields, family.gate)?;
        fields.refuse_flag("use_bidirectional_attention")?;
        let absent = family.absent;
        let d_model = fields.number("hidden_size", absent.d_model, 1..=65536)?;
        let n_heads = fields.number("num_attention_heads", absent.n_heads, 1..=1024)?;
        let max_tokens = fields.number("max_position_embeddings", absent.max_tokens, 1..=1 << 24)?;
        let n_layers = fields.number("num_hidden_layers", absent.n_layers, 1..=512)?;
        let d_head = fields.number("head_dim", absent.d_head.unwrap_or(d_model / n_heads), 1..=65536)?;
        let [rotary, of_windows] = rotary::read(&fields, family, rotary::Sizes { max_tokens, d_head })?;
        let unrotated_layers = layers::unrotated(&fields, family, n_layers)?;
        let [qkv_bias, output_bias, mlp_bias] = biases(&fields, family)?;
        let [logit_cap, score_cap] = caps(&fields, family)?;
        let sizes = Self {
            family,
            vocab_size: fields.number("vocab_size", absent.vocab_size, 1..=1 << 24)?,
            max_tokens,
            d_model,
            n_layers,
            n_heads,
            n_kv_heads: kv_heads(&fields, family, n_heads)?,
            d_head,
            d_mlp: fields.number("intermediate_size", absent.d_mlp, 1..=1 << 20)?,
            rms_norm_eps: fields.positive("rms_norm_eps", absent.rms_norm_eps)?,
            score_divisor: score_divisor(&fields, family)?,
            score_cap,
            logit_cap,
            rotary,
            sliding_window: layers::sliding_window(&fields, family, n_layers, &unrotated_layers, of_windows)?,
            unrotated_layers,
            qk_norm: family.qk_norm,
            qkv_bias,
            output_bias,
            mlp_bias,
            tied_head: fields.flag("tie_word_embeddings", absent.tied_head)?,
            init_deviation: fields.float("initializer_range", 0.02)?,
            eos: fields.token_ids("eos_token_id", absent.eos)?,
        };
        sizes.checked(&fields)
    }

    /// The rotary embeddings of its layers.
    pub(super) fn rotaries(&self) -> impl Iterator<Item = &Rotary> {
        std::iter::once(&self.rotary).chain(self.sliding_window.as_ref().map(|window| &window.rotary))
    }

    /// The sizes must divide as they should.
    fn checked(self, fields: &Fields) -> Result<Self, Error> {
        let given = |field: &str| fields.json.get(field).is_some_and(|value| !value.is_null());
        let is_shared_out = !given("head_dim") && self.family.absent.d_head.is_none();
        if is_shared_out && !self.d_model.is_multiple_of(self.n_heads) {
            let expected = format!("a divisor of hidden_size = {}", self.d_model);
            return Err(fields.wrong("num_attention_heads", &expected));
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            let expected = format!("a divisor of num_attention_heads = {}", self.n_heads);
            return Err(fields.wrong("num_key_value_heads", &expected));
        }
        if self.d_head == 0 || !self.d_head.is_multiple_of(2) {
            let expected = format!("an even width of a head, for rotary positions; it is {}", self.d_head);
            return Err(fields.wrong(if given("head_dim") { "head_dim" } else { "hidden_size" }, &expected));
        }
        Ok(self)
    }

    /// The `config.json` that transformers reads, of every generation.
    pub fn to_json(&self) -> Value {
        let mut config = json!({
            "architectures": [self.family.class],
            "model_type": self.family.model_type,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_tokens,
            "hidden_size": self.d_model,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.d_head,
            "intermediate_size": self.d_mlp,
            "rms_norm_eps": self.rms_norm_eps,
            "tie_word_embeddings": self.tied_head,
            "initializer_range": self.init_deviation,
            "eos_token_id": self.eos,
        });
        match self.family.biases {
            Biases::Never | Biases::QueryKeyValue => {}
            Biases::OfAttention => config["attention_bias"] = self.qkv_bias.into(),
            Biases::OfAttentionAndMlp => {
                config["attention_bias"] = self.qkv_bias.into();
                config["mlp_bias"] = self.mlp_bias.into();
            }
        }
        match self.family.gate {
            Gate::Silu => config["hidden_act"] = "silu".into(),
            // The second is what Gemma 3 reads, and transformers 4.
            Gate::GeluTanh => ["hidden_act", "hidden_activation"]
                .into_iter()
                .for_each(|field| config[field] = "gelu_pytorch_tanh".into()),
        }
        match self.score_divisor {
            ScoreDivisor::HeadWidth => {}
            ScoreDivisor::Field(divisor) => config["query_pre_attn_scalar"] = divisor.into(),
        }
        match self.family.caps {
            Caps::Never => {}
            Caps::Logits | Caps::LogitsAndScores => {
                config[LOGIT_CAP] = json!(self.logit_cap);
                config[SCORE_CAP] = json!(self.score_cap);
            }
        }
        layers::write_to(self, &mut config);
        self.write_rotary_to(&mut config);
        config
    }
}

/// The gate must be the one of the family.
fn check_gate(fields: &Fields, gate: Gate) -> Result<(), Error> {
    let named = |field: &str| fields.json[field].as_str();
    match gate {
        Gate::Silu => match named("hidden_act").map(Activation::of_hugging_face) {
            Some(Some(Activation::Silu)) | None => Ok(()),
            Some(_) => Err(fields.wrong("hidden_act", "`silu`")),
        },
        Gate::GeluTanh => ["hidden_act", "hidden_activation"].into_iter().try_for_each(|field| {
            match named(field) {
                // In the first files of Gemma it means the tanh formula.
                Some("gelu") if field == "hidden_act" => Ok(()),
                Some(name) if Activation::of_hugging_face(name) != Some(Activation::GeluTanh) => {
                    Err(fields.wrong(field, "`gelu_pytorch_tanh`"))
                }
                Some(_) | None => Ok(()),
            }
        }),
    }
}

/// What logits and attention scores are capped by.
fn caps(fields: &Fields, family: &Family) -> Result<[Option<f64>; 2], Error> {
    let cap = |field: &'static str, absent: Option<f64>| match fields.json.get(field) {
        None => Ok(absent),
        Some(Value::Null) => Ok(None),
        Some(_) => fields.positive(field, 1.0).map(Some),
    };
    let of_logits = || cap(LOGIT_CAP, family.absent.logit_cap);
    match family.caps {
        Caps::Never => Ok([None, None]),
        Caps::Logits => match cap(SCORE_CAP, None)? {
            Some(_) => Err(fields.wrong(SCORE_CAP, "null: no model of this type computes it")),
            None => Ok([of_logits()?, None]),
        },
        Caps::LogitsAndScores => Ok([of_logits()?, cap(SCORE_CAP, family.absent.score_cap)?]),
    }
}

fn score_divisor(fields: &Fields, family: &Family) -> Result<ScoreDivisor, Error> {
    match family.score_divisor {
        ScoreDivisor::HeadWidth => Ok(ScoreDivisor::HeadWidth),
        ScoreDivisor::Field(absent) => {
            fields.number("query_pre_attn_scalar", absent, 1..=1 << 20).map(ScoreDivisor::Field)
        }
    }
}

/// Heads of keys and values: where `null` stands as many as of queries, whatever an absent field means.
fn kv_heads(fields: &Fields, family: &Family, n_heads: usize) -> Result<usize, Error> {
    let field = "num_key_value_heads";
    match (fields.json.get(field), family.absent.n_kv_heads) {
        (None, Some(absent)) => Ok(absent),
        (Some(_), _) | (None, None) => fields.number(field, n_heads, 1..=1024),
    }
}

/// Whether there are biases of query, key and value, of the output of the attention, and of the MLP.
fn biases(fields: &Fields, family: &Family) -> Result<[bool; 3], Error> {
    let of_attention = || fields.flag("attention_bias", false);
    match family.biases {
        Biases::Never => Ok([false; 3]),
        Biases::QueryKeyValue => Ok([true, false, false]),
        Biases::OfAttention => of_attention().map(|bias| [bias, bias, false]),
        Biases::OfAttentionAndMlp => of_attention().and_then(|b| Ok([b, b, fields.flag("mlp_bias", false)?])),
    }
}

#[cfg(test)]
mod tests;
