//! Sizes of a LLaMA or of what differs from it by configuration, read from and written to the `config.json` of Hugging Face.

mod layers;
mod rotary;

use std::path::Path;

use serde_json::{Value, json};

use super::family::{Biases, Family};
use super::rotary::{Rotary, RotaryScaling};
use crate::Error;
use crate::fields::Fields;
pub use layers::SlidingWindow;

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
    /// Rotary positions.
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
        if !matches!(config["hidden_act"].as_str(), Some("silu" | "swish") | None) {
            return Err(fields.wrong("hidden_act", "`silu`"));
        }
        let absent = family.absent;
        let d_model = fields.number("hidden_size", absent.d_model, 1..=65536)?;
        let n_heads = fields.number("num_attention_heads", absent.n_heads, 1..=1024)?;
        let max_tokens = fields.number("max_position_embeddings", absent.max_tokens, 1..=1 << 24)?;
        let n_layers = fields.number("num_hidden_layers", absent.n_layers, 1..=512)?;
        let unrotated_layers = layers::unrotated(&fields, family, n_layers)?;
        let [qkv_bias, output_bias, mlp_bias] = biases(&fields, family)?;
        let sizes = Self {
            family,
            vocab_size: fields.number("vocab_size", absent.vocab_size, 1..=1 << 24)?,
            max_tokens,
            d_model,
            n_layers,
            n_heads,
            n_kv_heads: kv_heads(&fields, family, n_heads)?,
            d_head: fields.number("head_dim", absent.d_head.unwrap_or(d_model / n_heads), 1..=65536)?,
            d_mlp: fields.number("intermediate_size", absent.d_mlp, 1..=1 << 20)?,
            rms_norm_eps: fields.positive("rms_norm_eps", absent.rms_norm_eps)?,
            rotary: rotary::read(&fields, max_tokens, absent.theta)?,
            sliding_window: layers::sliding_window(&fields, family, n_layers, &unrotated_layers)?,
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
            "hidden_act": "silu",
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
        layers::write_to(self, &mut config);
        self.rotary.write_to(&mut config);
        config
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
mod tests {
    use super::*;
    use crate::Architecture;

    fn read(config: Value) -> Result<LlamaConfig, Error> {
        LlamaConfig::from_json(&config, Path::new("config.json"), &Family::LLAMA)
    }

    fn error(config: Value) -> String {
        read(config).expect_err("it cannot be").to_string()
    }

    #[test]
    fn an_empty_configuration_has_the_defaults_of_transformers() {
        let expected = LlamaConfig { max_tokens: 2048, rms_norm_eps: 1e-6, ..LlamaConfig::llama2_7b() };
        assert_eq!(read(json!({})).expect("all fields have defaults"), expected);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let scalings = [
            RotaryScaling::Unscaled,
            RotaryScaling::Linear { factor: 2.0 },
            RotaryScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_tokens: 8192.0,
            },
        ];
        for scaling in scalings {
            let config = LlamaConfig { rotary: Rotary { theta: 5e5, scaling }, ..LlamaConfig::llama2_70b() };
            assert_eq!(read(config.to_json()).expect("our own file"), config);
        }
    }

    #[test]
    fn heads_of_keys_that_are_null_are_as_many_as_those_of_queries() {
        let heads = |json: Value| {
            let file = Path::new("config.json");
            let Architecture::Llama(family) = Architecture::of(&json, file).expect("a Mistral") else {
                panic!("no LLaMA")
            };
            LlamaConfig::from_json(&json, file, family).expect("a Mistral").n_kv_heads
        };
        assert_eq!(heads(json!({"model_type": "mistral"})), 8);
        assert_eq!(heads(json!({"model_type": "mistral", "num_key_value_heads": null})), 32);
    }

    #[test]
    fn groups_of_heads_must_be_equal() {
        let message = error(json!({"num_attention_heads": 32, "num_key_value_heads": 5}));
        assert!(message.contains("num_key_value_heads"), "{message}");
    }

    #[test]
    fn a_head_of_odd_width_cannot_turn() {
        assert!(error(json!({"head_dim": 5})).contains("head_dim"));
    }

    #[test]
    fn another_activation_is_refused_by_name() {
        assert!(error(json!({"hidden_act": "gelu"})).contains("gelu"));
    }

    #[test]
    fn quantized_weights_are_refused_by_name() {
        let message = error(json!({"quantization_config": {"quant_method": "gptq"}}));
        assert!(message.contains("gptq"), "{message}");
    }
}
