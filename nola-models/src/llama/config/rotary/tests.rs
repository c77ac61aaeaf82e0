use std::path::Path;

use serde_json::json;

use super::*;
use crate::Architecture;
use crate::llama::LlamaConfig;

/// A LLaMA, or what `model_type` says.
fn read(config: &Value) -> Result<LlamaConfig, Error> {
    let (mut config, file) = (config.clone(), Path::new("config.json"));
    if config.get("model_type").is_none() {
        config["model_type"] = "llama".into();
    }
    match Architecture::of(&config, file)? {
        Architecture::Llama(family) => LlamaConfig::from_json(&config, file, family),
        Architecture::Gpt2 => panic!("no LLaMA"),
    }
}

fn config_of(config: &Value) -> LlamaConfig {
    read(config).expect("a language model")
}

fn rotary_of(config: Value) -> Rotary {
    config_of(&config).rotary
}

fn error(config: Value) -> String {
    read(&config).expect_err("it cannot be").to_string()
}

/// LongRoPE for heads of 4 pairs.
fn long_rope(kind: &str) -> Value {
    let (short, long) = ([1.0, 1.0, 1.1, 1.2], [1.5, 2.0, 4.0, 8.0]);
    json!({"type": kind, "short_factor": short, "long_factor": long})
}

/// `block` in a model of `model_type` with such heads, whose context is four times the original one.
fn of_four_pairs(model_type: &str, field: &str, block: Value) -> Value {
    let mut config = json!({
        "model_type": model_type, "hidden_size": 32, "num_attention_heads": 4, "head_dim": 8,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "original_max_position_embeddings": 16,
    });
    config[field] = block;
    config
}

fn llama3(original: Value) -> Value {
    json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    })
}

/// A configuration as each generation of transformers reads it: without what the other one wrote.
fn generations(written: &Value) -> [Value; 2] {
    let without = |fields: &[&str]| {
        let mut left = written.clone();
        let object = left.as_object_mut().expect("an object");
        fields.iter().for_each(|field| {
            object.remove(*field);
        });
        left
    };
    [without(&["rope_parameters"]), without(&["rope_theta", "rope_scaling", "rope_local_base_freq"])]
}

#[test]
fn both_generations_of_rotary_settings_are_written_whatever_was_read() {
    let linear = json!({"rope_type": "linear", "factor": 4.0});
    let yarn =
        json!({"rope_type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 1.0, "beta_slow": 2});
    let with_theta = |mut block: Value| {
        block["rope_theta"] = json!(5e5);
        block
    };
    let by_layer_type = json!({
        "full_attention": with_theta(linear.clone()),
        "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
    });
    let mut own_attention = long_rope("longrope");
    own_attention["attention_factor"] = json!(1.5);
    let files = [
        json!({"rope_theta": 5e5, "rope_scaling": llama3(json!(64))}),
        json!({"rope_parameters": with_theta(llama3(json!(64)))}),
        json!({"rope_theta": 5e5, "rope_scaling": linear}),
        json!({"rope_parameters": with_theta(linear.clone())}),
        json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}}),
        json!({"rope_theta": 5e5, "rope_scaling": {"type": "dynamic", "factor": 2.0}}),
        json!({"rope_theta": 5e5, "rope_scaling": yarn}),
        json!({"rope_parameters": with_theta(yarn.clone())}),
        json!({"rope_theta": 5e5}),
        json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}, "rope_scaling": null}),
        of_four_pairs("llama", "rope_scaling", long_rope("longrope")),
        of_four_pairs("qwen2", "rope_parameters", with_theta(long_rope("longrope"))),
        of_four_pairs("phi3", "rope_scaling", long_rope("su")),
        of_four_pairs("phi3", "rope_scaling", own_attention),
        of_four_pairs("gemma3_text", "rope_parameters", by_layer_type),
    ];
    for file in files {
        let expected = config_of(&file);
        let mut written = file.clone();
        expected.write_rotary_to(&mut written);
        for (generation, read) in [4, 5].into_iter().zip(generations(&written)) {
            assert_eq!(config_of(&read), expected, "transformers {generation} of {file}");
        }
        assert_eq!(config_of(&written), expected, "{file}");
    }
}

#[test]
fn transformers_4_takes_three_fields_of_a_phi3_and_no_more() {
    let mut written = of_four_pairs("phi3", "rope_scaling", long_rope("su"));
    config_of(&written).write_rotary_to(&mut written);
    assert_eq!(written["rope_scaling"], long_rope("longrope"));
}

#[test]
fn layers_with_a_window_have_waves_of_their_own_in_gemma_3() {
    let thetas = |file: Value| {
        let config = config_of(&merged(of_four_pairs("gemma3_text", "rope_scaling", Value::Null), file));
        (config.rotary, config.sliding_window.expect("its window").rotary)
    };
    let unscaled = |theta: f64| Rotary { theta, scaling: RotaryScaling::Unscaled };
    let old = json!({"rope_theta": 1e5, "rope_local_base_freq": 1e3});
    assert_eq!(thetas(old), (unscaled(1e5), unscaled(1e3)));
    let scaled = json!({"rope_scaling": {"rope_type": "linear", "factor": 8.0}});
    let linear = Rotary { theta: 1e6, scaling: RotaryScaling::Linear { factor: 8.0 } };
    assert_eq!(thetas(scaled), (linear, unscaled(1e4)));
    let new = json!({
        "rope_parameters": {"full_attention": {"rope_theta": 1e5}, "sliding_attention": {"rope_theta": 1e3}},
    });
    assert_eq!(thetas(new), (unscaled(1e5), unscaled(1e3)));
    let message = error(json!({"model_type": "gemma3_text", "rope_parameters": {"rope_theta": 1e5}}));
    assert!(message.contains("`sliding_attention`"), "{message}");
}

/// `json` with the fields of `more` in place of its own.
fn merged(mut json: Value, more: Value) -> Value {
    for (field, value) in more.as_object().expect("an object") {
        json[field] = value.clone();
    }
    json
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
    for name in ["proportional", "axial", "mrope"] {
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
fn long_rope_needs_a_factor_for_each_pair_of_entries() {
    for (field, value) in [("short_factor", json!([1.0])), ("long_factor", json!([1.0, 1.0, 1.0, "2"]))] {
        let mut block = long_rope("longrope");
        block[field] = value;
        let message = error(of_four_pairs("llama", "rope_scaling", block));
        assert!(message.contains(field) && message.contains("a list of 4 numbers"), "{message}");
    }
    let message = error(json!({"rope_scaling": {"type": "longrope"}}));
    assert!(message.contains("`short_factor` is absent"), "{message}");
}

#[test]
fn yarn_needs_waves_that_grow() {
    let message = error(json!({"rope_theta": 1.0, "rope_scaling": {"rope_type": "yarn", "factor": 2.0}}));
    assert!(message.contains("rope_theta"), "{message}");
}
