//! Rotary positions in a `config.json`, in the words of every generation.

use serde_json::{Value, json};

use super::super::rotary::{Rotary, RotaryScaling};
use crate::Error;
use crate::fields::Fields;

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

/// Reads `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (before); without either, the base of the waves is
/// `theta`.
pub(super) fn read(fields: &Fields, max_tokens: usize, theta: f64) -> Result<Rotary, Error> {
    // An empty block says nothing, and the other one is asked.
    let says = |block: &Value| !block.is_null() && block.as_object().is_none_or(|block| !block.is_empty());
    let given = ["rope_scaling", "rope_parameters"]
        .into_iter()
        .find(|&field| fields.json.get(field).is_some_and(says));
    whole_heads(fields)?;
    let theta = fields.positive("rope_theta", theta)?;
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
    use std::path::Path;

    use super::*;
    use crate::llama::{Family, LlamaConfig};

    fn read(config: &Value) -> Result<Rotary, Error> {
        let config = LlamaConfig::from_json(config, Path::new("config.json"), &Family::LLAMA)?;
        Ok(config.rotary)
    }

    fn rotary_of(config: Value) -> Rotary {
        read(&config).expect("a LLaMA")
    }

    fn error(config: Value) -> String {
        read(&config).expect_err("it cannot be").to_string()
    }

    fn llama3(original: Value) -> Value {
        json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": original,
        })
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
}
