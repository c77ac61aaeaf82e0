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
        RotaryScaling::Dynamic { factor: 2.0, max_tokens: 4096.0 },
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

fn of_any(config: Value) -> Result<LlamaConfig, Error> {
    let file = Path::new("config.json");
    match Architecture::of(&config, file)? {
        Architecture::Llama(family) => LlamaConfig::from_json(&config, file, family),
        Architecture::Gpt2 => panic!("no LLaMA"),
    }
}

#[test]
fn scores_and_logits_are_capped_as_the_family_says() {
    let caps = |model_type: &str, more: Value| {
        let mut json = json!({"model_type": model_type, "final_logit_softcapping": more});
        if more.is_boolean() {
            json = json!({"model_type": model_type});
        }
        let config = of_any(json).expect("a model");
        [config.logit_cap, config.score_cap]
    };
    assert_eq!(caps("gemma2", json!(true)), [Some(30.0), Some(50.0)], "absent");
    assert_eq!(caps("gemma2", Value::Null), [None, Some(50.0)]);
    assert_eq!(caps("gemma3_text", json!(true)), [None, None]);
    assert_eq!(caps("gemma3_text", json!(20.0)), [Some(20.0), None]);
    assert_eq!(caps("llama", json!(20.0)), [None, None], "transformers does not read it");
}

#[test]
fn heads_of_keys_that_are_null_are_as_many_as_those_of_queries() {
    let heads = |json: Value| of_any(json).expect("a Mistral").n_kv_heads;
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
    for (field, name) in [("hidden_act", "silu"), ("hidden_activation", "gelu")] {
        let message = of_any(json!({"model_type": "gemma", field: name})).expect_err("no gate of Gemma");
        assert!(message.to_string().contains(field), "{message}");
    }
    of_any(json!({"model_type": "gemma", "hidden_act": "gelu"})).expect("the word of its first files");
}

#[test]
fn variants_of_gemma_that_are_not_computed_are_refused_by_name() {
    for (field, value) in
        [("use_bidirectional_attention", json!(true)), ("attn_logit_softcapping", json!(50.0))]
    {
        let message = of_any(json!({"model_type": "gemma3_text", field: value})).expect_err("a variant");
        assert!(message.to_string().contains(field), "{message}");
    }
}

#[test]
fn quantized_weights_are_refused_by_name() {
    let message = error(json!({"quantization_config": {"quant_method": "gptq"}}));
    assert!(message.contains("gptq"), "{message}");
}
