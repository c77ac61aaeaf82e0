use std::path::Path;

use super::*;
use crate::gguf::names::ROPE_FACTORS;
use crate::gguf_file::{GgufFile, GgufTensor};

/// A file of this architecture with two heads of keys for four of queries, 8 wide.
fn file(architecture: &str) -> GgufFile {
    let mut file = GgufFile::default();
    file.set("general.architecture", architecture);
    for (name, number) in [
        ("context_length", 64),
        ("embedding_length", 32),
        ("block_count", 2),
        ("feed_forward_length", 48),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
    ] {
        file.set(&format!("{architecture}.{name}"), number);
    }
    file.set(&format!("{architecture}.attention.layer_norm_rms_epsilon"), 1e-5);
    file.set(&format!("{architecture}.attention.layer_norm_epsilon"), 1e-5);
    file.set("tokenizer.ggml.eos_token_id", 2);
    file.tensors.push(GgufTensor::of_f32(TOKENS, &[11, 32], &[0.0; 11 * 32]));
    file
}

fn read(file: &GgufFile) -> Result<Value, String> {
    let (bytes, path) = (file.bytes(), Path::new("model.gguf"));
    let header = Header::of(path, &bytes).map_err(|error| error.to_string())?;
    let numbers = |name: &str| {
        let tensor = header.tensor(name).expect("a tensor");
        let mut numbers = vec![0.0; tensor.shape.iter().product()];
        tensor.format.dequantize(&bytes[tensor.bytes.clone()], &mut numbers);
        Ok(numbers)
    };
    config(&header, &Tensors { numbers: &numbers, tied: true }).map_err(|error| error.to_string())
}

fn config_of(file: &GgufFile) -> Value {
    read(file).expect("a model")
}

fn changed(change: impl FnOnce(&mut GgufFile)) -> Result<Value, String> {
    let mut file = file("llama");
    change(&mut file);
    read(&file)
}

fn refusal(change: impl FnOnce(&mut GgufFile)) -> String {
    changed(change).expect_err("it cannot be")
}

#[test]
fn a_llama_has_the_configuration_of_its_folder() {
    let expected = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 64,
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "intermediate_size": 48, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "rope_scaling": null, "attention_bias": false, "mlp_bias": false, "vocab_size": 11,
        "tie_word_embeddings": true, "bos_token_id": null, "eos_token_id": 2, "pad_token_id": null,
    });
    assert_eq!(config_of(&file("llama")), expected);
}

#[test]
fn each_architecture_has_its_type() {
    for (architecture, model_type) in
        [("gpt2", "gpt2"), ("phi3", "phi3"), ("qwen2", "qwen2"), ("qwen3", "qwen3"), ("smollm3", "smollm3")]
    {
        assert_eq!(config_of(&file(architecture))["model_type"], model_type);
    }
    let window = |file: &mut GgufFile| file.set("llama.attention.sliding_window", 5);
    let config = changed(window).expect("a Mistral");
    assert_eq!((&config["model_type"], &config["sliding_window"]), (&json!("mistral"), &json!(5)));
}

#[test]
fn several_tokens_may_end_a_text_and_the_largest_number_is_none() {
    let ends = |eot: u32| {
        let config = changed(|file| {
            file.set("tokenizer.ggml.eot_token_id", eot);
            file.set("tokenizer.ggml.bos_token_id", u32::MAX);
        });
        let config = config.expect("a model");
        assert_eq!(config["bos_token_id"], Value::Null);
        config["eos_token_id"].clone()
    };
    assert_eq!((ends(7), ends(2)), (json!([2, 7]), json!(2)));
}

#[test]
fn a_key_that_is_absent_or_cannot_be_is_named() {
    for key in ["llama.block_count", "llama.attention.layer_norm_rms_epsilon", "llama.attention.head_count"] {
        let message = refusal(|file| file.remove(key));
        assert!(message.contains(&format!("`{key}` is absent")), "{message}");
        let message = refusal(|file| file.set(key, "many"));
        assert!(message.contains(&format!("`{key}` is \"many\"")), "{message}");
    }
    for (key, number) in [
        ("llama.attention.head_count_kv", 3),
        ("llama.attention.head_count_kv", 0),
        ("llama.vocab_size", 12),
        ("llama.attention.key_length", 6),
        ("llama.rope.dimension_count", 4),
        ("llama.block_count", 0),
    ] {
        let message = refusal(|file| {
            file.set("llama.attention.value_length", 8);
            file.set(key, number);
        });
        let named = if key.ends_with("key_length") { "llama.attention.value_length" } else { key };
        assert!(message.contains(&format!("`{named}`")), "{message}");
    }
    let message = refusal(|file| file.tensors.clear());
    assert!(message.contains("`token_embd.weight` is absent"), "{message}");
}

#[test]
fn what_would_change_the_result_and_is_not_computed_is_refused_by_name() {
    for name in ["expert_count", "attention.clamp_kqv", "logit_scale"] {
        let key = format!("llama.{name}");
        let message = refusal(|file| file.set(&key, 8.0));
        assert!(message.contains(&format!("`{key}` is 8")), "{message}");
        changed(|file| file.set(&key, 0)).expect("it is off");
    }
    let message = refusal(|file| file.set("llama.attention.causal", false));
    assert!(message.contains("`llama.attention.causal` is false"), "{message}");
    let message = refusal(|file| file.set("general.architecture", "gemma3"));
    assert!(message.contains("one of `gpt2`, `llama`, `phi3`, `qwen2`, `qwen3`, `smollm3`"), "{message}");
}

#[test]
fn rotary_scaling_is_none_or_linear() {
    let scaling = |name: &str, factor: f32| {
        changed(|file| {
            file.set("llama.rope.scaling.type", name);
            file.set("llama.rope.scaling.factor", factor);
            file.set("llama.rope.freq_base", 5e5);
        })
    };
    assert_eq!(scaling("none", 4.0).unwrap()["rope_scaling"], Value::Null);
    let linear = scaling("linear", 4.0).unwrap();
    assert_eq!(linear["rope_scaling"], json!({"rope_type": "linear", "factor": 4.0}));
    assert_eq!(linear["rope_theta"], 5e5);
    assert!(scaling("linear", 0.0).unwrap_err().contains("`llama.rope.scaling.factor` is 0"));
    assert!(scaling("longrope", 4.0).unwrap_err().contains("`llama.rope.scaling.type` is \"longrope\""));
}

#[test]
fn yarn_is_read_with_what_the_file_says_of_it() {
    let yarn = |more: &[(&str, f32)]| {
        changed(|file| {
            file.set("llama.rope.scaling.type", "yarn");
            file.set("llama.rope.scaling.factor", 4.0);
            file.set("llama.rope.scaling.original_context_length", 16);
            more.iter().for_each(|(name, number)| file.set(&format!("llama.rope.scaling.{name}"), *number));
        })
    };
    let expected = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
    assert_eq!(yarn(&[("attn_factor", 1.0)]).expect("YaRN")["rope_scaling"], expected);
    assert_eq!(yarn(&[("yarn_beta_fast", 8.0)]).expect("YaRN")["rope_scaling"]["beta_fast"], 8.0);
    let message = yarn(&[("yarn_log_multiplier", 0.1)]).expect_err("another attention factor");
    assert!(message.contains("`llama.rope.scaling.yarn_log_multiplier` is 0.1"), "{message}");
}

#[test]
fn factors_for_long_contexts_are_those_of_longrope() {
    let read = |attention: f32, long: bool| {
        let mut file = file("phi3");
        file.set("phi3.rope.scaling.original_context_length", 16);
        file.set("phi3.rope.scaling.attn_factor", attention);
        file.tensors.push(GgufTensor::of_f32("rope_factors_short.weight", &[4], &[1.0; 4]));
        if long {
            file.tensors.push(GgufTensor::of_f32("rope_factors_long.weight", &[4], &[2.0; 4]));
        }
        read(&file)
    };
    // The root of 1.5, for 64 tokens.
    let config = read(1.224_745, true).expect("a Phi-3");
    let expected =
        json!({"rope_type": "longrope", "short_factor": vec![1.0; 4], "long_factor": vec![2.0; 4]});
    assert_eq!(config["rope_scaling"], expected);
    assert_eq!(config["original_max_position_embeddings"], 16);
    assert_eq!(read(1.5, true).expect("a Phi-3")["rope_scaling"]["attention_factor"], 1.5);
    let message = read(1.5, false).expect_err("one of two");
    assert!(message.contains("`rope_factors_long.weight`"), "{message}");
}

#[test]
fn factors_of_frequencies_are_the_scaling_of_llama_3() {
    // As llama.cpp writes them for LLaMA 3.2: heads 64 wide, base 500000, factor 32, 8192 tokens.
    let factor_of = |n: usize, original: f64| {
        let wave = std::f64::consts::TAU * 5e5_f64.powf(2.0 * n as f64 / 64.0);
        let smooth = (original / wave - 1.0) / 3.0;
        (1.0 / ((1.0 - smooth.clamp(0.0, 1.0)) / 32.0 + smooth.clamp(0.0, 1.0))) as f32
    };
    let with = |factors: &[f32]| {
        changed(|file| {
            file.set("llama.attention.key_length", 64);
            file.set("llama.rope.freq_base", 5e5);
            file.tensors.push(GgufTensor::of_f32(ROPE_FACTORS, &[factors.len()], factors));
        })
    };
    for original in [8192.0, 1000.0] {
        let factors: Vec<f32> = (0..32).map(|n| factor_of(n, original)).collect();
        let expected = json!({
            "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": original as u64,
        });
        assert_eq!(with(&factors).expect("LLaMA 3")["rope_scaling"], expected);
        let mut others = factors.clone();
        others[16] *= 1.5;
        for wrong in [&others[..], &factors[..31]] {
            assert!(with(wrong).unwrap_err().contains("`rope_freqs.weight`"));
        }
    }
    assert_eq!(with(&[1.0; 32]).expect("no scaling")["rope_scaling"], Value::Null);
}
