//! Sizes of a LLaMA, read from and written to the `config.json` of Hugging Face, of every generation.

use std::path::Path;

use serde_json::{Value, json};

use super::rotary::{Rotary, RotaryScaling};
use crate::Error;
use crate::fields::Fields;

/// Sizes and variants of a LLaMA.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
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
    /// Whether the linear layers of the attention have biases.
    pub attention_bias: bool,
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
            attention_bias: false,
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

    /// Reads a `config.json` of the model type `llama`; what it leaves out has the default of transformers.
    ///
    /// # Errors
    /// If it asks for what this program does not compute, or holds a value that cannot be. The error names `file`.
    pub fn from_json(config: &Value, file: &Path) -> Result<Self, Error> {
        let fields = Fields { json: config, file };
        fields.refuse_other_quantization()?;
        if !matches!(config["hidden_act"].as_str(), Some("silu" | "swish") | None) {
            return Err(fields.wrong("hidden_act", "`silu`"));
        }
        let d_model = fields.number("hidden_size", 4096, 1..=65536)?;
        let n_heads = fields.number("num_attention_heads", 32, 1..=1024)?;
        let max_tokens = fields.number("max_position_embeddings", 2048, 1..=1 << 24)?;
        let vocab_size = fields.number("vocab_size", 32000, 1..=1 << 24)?;
        let sizes = Self {
            vocab_size,
            max_tokens,
            d_model,
            n_layers: fields.number("num_hidden_layers", 32, 1..=512)?,
            n_heads,
            n_kv_heads: fields.number("num_key_value_heads", n_heads, 1..=1024)?,
            d_head: fields.number("head_dim", d_model / n_heads, 1..=65536)?,
            d_mlp: fields.number("intermediate_size", 11008, 1..=1 << 20)?,
            rms_norm_eps: fields.positive("rms_norm_eps", 1e-6)?,
            rotary: rotary(&fields, max_tokens)?,
            attention_bias: fields.flag("attention_bias", false)?,
            mlp_bias: fields.flag("mlp_bias", false)?,
            tied_head: fields.flag("tie_word_embeddings", false)?,
            init_deviation: fields.float("initializer_range", 0.02)?,
            eos: fields.token_ids("eos_token_id", &[2])?,
        };
        sizes.checked(&fields)
    }

    /// The sizes must divide as they should.
    fn checked(self, fields: &Fields) -> Result<Self, Error> {
        let given = |field: &str| fields.json.get(field).is_some_and(|value| !value.is_null());
        if !given("head_dim") && !self.d_model.is_multiple_of(self.n_heads) {
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
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
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
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "tie_word_embeddings": self.tied_head,
            "initializer_range": self.init_deviation,
            "eos_token_id": self.eos,
        });
        self.rotary.write_to(&mut config);
        config
    }
}

impl Rotary {
    /// Writes it into a configuration in both spellings: `rope_theta` and `rope_scaling`, which is all that transformers
    /// 4 reads, and `rope_parameters`, which transformers 5 writes.
    pub(crate) fn write_to(&self, config: &mut Value) {
        let scaling = match self.scaling {
            RotaryScaling::Unscaled => json!({"rope_type": "default"}),
            RotaryScaling::Linear { factor } => {
                json!({"rope_type": "linear", "type": "linear", "factor": factor})
            }
            RotaryScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_tokens } => {
                json!({
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": low_freq_factor,
                    "high_freq_factor": high_freq_factor,
                    "original_max_position_embeddings": whole(original_max_tokens),
                })
            }
        };
        let mut parameters = scaling.clone();
        parameters["rope_theta"] = self.theta.into();
        config["rope_theta"] = self.theta.into();
        // Before transformers 4.43 there was no type `default`.
        config["rope_scaling"] = if self.scaling == RotaryScaling::Unscaled { Value::Null } else { scaling };
        config["rope_parameters"] = parameters;
    }
}

/// A whole number as one: transformers declares contexts so.
fn whole(number: f64) -> Value {
    if number.fract() == 0.0 { Value::from(number as u64) } else { Value::from(number) }
}

/// Reads `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (before).
fn rotary(fields: &Fields, max_tokens: usize) -> Result<Rotary, Error> {
    // An empty block says nothing, and the other one is asked.
    let says = |block: &Value| !block.is_null() && block.as_object().is_none_or(|block| !block.is_empty());
    let given = ["rope_scaling", "rope_parameters"]
        .into_iter()
        .find(|&field| fields.json.get(field).is_some_and(says));
    whole_heads(fields)?;
    let theta = fields.positive("rope_theta", 10_000.0)?;
    let Some(field) = given else {
        return Ok(Rotary { theta, scaling: RotaryScaling::Unscaled });
    };
    let json = &fields.json[field];
    // Settings for each kind of layer would be objects inside.
    let is_settings = |value: &Value| value.as_object().is_some_and(|value| !value.contains_key("__float__"));
    if json.as_object().is_none_or(|settings| settings.values().any(is_settings)) {
        return Err(fields.wrong(field, "one object with `rope_type`, for all layers, or null"));
    }
    let inside = Fields { json, file: fields.file };
    whole_heads(&inside)?;
    let original_max_tokens = original_max_tokens(fields, &inside, max_tokens)?;
    let scaling = scaling(&inside, original_max_tokens)?;
    Ok(Rotary { theta: inside.positive("rope_theta", theta)?, scaling })
}

fn whole_heads(fields: &Fields) -> Result<(), Error> {
    match fields.positive("partial_rotary_factor", 1.0)? {
        1.0 => Ok(()),
        _ => Err(fields.wrong("partial_rotary_factor", "1: whole heads turn")),
    }
}

/// The context of the pretraining: beside the block if it stands there, else in it, else that of the model.
///
/// # Source
/// `standardize_rope_params` of transformers 5.24. Transformers 4 reads the one in the block alone.
fn original_max_tokens(outside: &Fields, inside: &Fields, max_tokens: usize) -> Result<f64, Error> {
    let field = "original_max_position_embeddings";
    outside.positive(field, inside.positive(field, max_tokens as f64)?)
}

fn scaling(fields: &Fields, original_max_tokens: f64) -> Result<RotaryScaling, Error> {
    // Before transformers 4.43 the key was `type`.
    let key = if fields.json.get("rope_type").is_some() { "rope_type" } else { "type" };
    let required = |field: &'static str| match fields.json.get(field) {
        Some(Value::Null) | None => Err(fields.wrong(field, "a number above 0")),
        Some(_) => fields.positive(field, 1.0),
    };
    match fields.json[key].as_str() {
        Some("default") => Ok(RotaryScaling::Unscaled),
        Some("linear") => Ok(RotaryScaling::Linear { factor: required("factor")? }),
        Some("llama3") => {
            let low_freq_factor = required("low_freq_factor")?;
            let high_freq_factor = required("high_freq_factor")?;
            if high_freq_factor <= low_freq_factor {
                let expected = format!("more than low_freq_factor = {low_freq_factor}");
                return Err(fields.wrong("high_freq_factor", &expected));
            }
            Ok(RotaryScaling::Llama3 {
                factor: required("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_max_tokens,
            })
        }
        None if fields.json.get(key).is_none() && key == "type" => Ok(RotaryScaling::Unscaled),
        Some(_) | None => Err(fields.wrong(key, "`default`, `linear` or `llama3`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: Value) -> Result<LlamaConfig, Error> {
        LlamaConfig::from_json(&config, Path::new("config.json"))
    }

    fn rotary_of(config: Value) -> Rotary {
        read(config).expect("a LLaMA").rotary
    }

    fn error(config: Value) -> String {
        read(config).expect_err("it cannot be").to_string()
    }

    fn llama3(original: Value) -> Value {
        json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": original,
        })
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
    fn both_generations_of_rotary_settings_are_written_whatever_was_read() {
        let linear = json!({"rope_type": "linear", "factor": 4.0});
        let with_theta = |mut block: Value| {
            block["rope_theta"] = json!(5e5);
            block
        };
        let files = [
            json!({"rope_theta": 5e5, "rope_scaling": llama3(json!(64))}),
            json!({"rope_parameters": with_theta(llama3(json!(64)))}),
            json!({"rope_theta": 5e5, "rope_scaling": linear}),
            json!({"rope_parameters": with_theta(linear.clone())}),
            json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}}),
            json!({"rope_theta": 5e5}),
            json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}, "rope_scaling": null}),
        ];
        for file in files {
            let expected = rotary_of(file.clone());
            let mut written = file.clone();
            expected.write_to(&mut written);
            let mut four = written.clone();
            four.as_object_mut().expect("an object").remove("rope_parameters");
            let mut five = written.clone();
            let five = five.as_object_mut().expect("an object");
            for key in ["rope_theta", "rope_scaling"] {
                five.remove(key);
            }
            assert_eq!(rotary_of(four), expected, "transformers 4 of {file}");
            assert_eq!(rotary_of(five.clone().into()), expected, "transformers 5 of {file}");
            assert_eq!(rotary_of(written), expected, "{file}");
        }
    }

    #[test]
    fn every_generation_of_rotary_settings_is_read() {
        let linear = Rotary { theta: 5e5, scaling: RotaryScaling::Linear { factor: 2.0 } };
        let files = [
            json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}),
            json!({"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
            json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}}),
        ];
        for file in files {
            assert_eq!(rotary_of(file.clone()), linear, "{file}");
        }
    }

    #[test]
    fn rotary_parameters_of_the_default_type_are_unscaled() {
        let rotary = rotary_of(json!({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}));
        assert_eq!(rotary, Rotary { theta: 1e6, scaling: RotaryScaling::Unscaled });
    }

    #[test]
    fn llama3_without_an_original_context_has_that_of_the_model() {
        let file = json!({"max_position_embeddings": 8192, "rope_scaling": llama3(Value::Null)});
        assert_eq!(rotary_of(file), rotary_of(json!({"rope_scaling": llama3(json!(8192))})));
    }

    #[test]
    fn the_original_context_may_stand_beside_the_block_of_either_name() {
        for original in [24, 8192] {
            let expected = rotary_of(json!({"rope_scaling": llama3(json!(original))}));
            for block in ["rope_scaling", "rope_parameters"] {
                for inside in [Value::Null, json!(4096)] {
                    let file = json!({block: llama3(inside), "original_max_position_embeddings": original});
                    assert_eq!(rotary_of(file.clone()), expected, "{file}");
                }
            }
        }
    }

    #[test]
    fn an_original_context_that_is_no_number_is_refused_wherever_it_stands() {
        for file in [
            json!({"rope_scaling": llama3(json!("8192"))}),
            json!({"rope_scaling": llama3(json!(8192)), "original_max_position_embeddings": 0}),
        ] {
            assert!(error(file.clone()).contains("original_max_position_embeddings"), "{file}");
        }
    }

    #[test]
    fn an_empty_block_says_nothing() {
        let linear = json!({"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0});
        let file = json!({"rope_scaling": {}, "rope_parameters": linear});
        assert_eq!(rotary_of(file).scaling, RotaryScaling::Linear { factor: 2.0 });
    }

    #[test]
    fn heads_that_turn_in_part_are_refused_wherever_it_is_said() {
        for file in [
            json!({"partial_rotary_factor": 0.5}),
            json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
        ] {
            assert!(error(file.clone()).contains("partial_rotary_factor"), "{file}");
        }
    }

    #[test]
    fn other_scalings_are_refused_by_name() {
        for name in ["dynamic", "yarn", "longrope"] {
            let message = error(json!({"rope_scaling": {"rope_type": name, "factor": 2.0}}));
            assert!(message.contains(name) && message.contains("`llama3`"), "{message}");
        }
    }

    #[test]
    fn rotary_settings_of_each_kind_of_layer_are_refused() {
        let message = error(json!({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}));
        assert!(message.contains("rope_parameters") && message.contains("for all layers"), "{message}");
    }

    #[test]
    fn linear_scaling_needs_its_factor() {
        let message = error(json!({"rope_scaling": {"type": "linear"}}));
        assert!(message.contains("`factor` is absent"), "{message}");
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
