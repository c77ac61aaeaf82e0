//! What every language model keeps to, whatever its numbers are.

use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor};
use nola_core::adapter::LoraConfig;
use nola_core::folder::peft::{Layout, Part, Shares};
use nola_core::{AdapterConfig, float_params};
use nola_models::checkpoint::{ModelFolder, NamedTensor, save};
use nola_models::{AttentionMask, CausalLm, Checkpoint, Error, KeyValueCache, WeightDtype};
use serde_json::{Value, json};

use crate::devices::values;
use crate::fixtures::assert_close;
use crate::golden_causal::{greedy, ids, logits};
use crate::tiny::{
    causal, family_jsons, gpt2_json, llama_json, mistral_json, phi3_json, row, tiny_gpt2, tiny_llama,
    tiny_phi3, with,
};

/// A GPT-2, a LLaMA and one of each family that differs from it by configuration.
fn every_model(device: &Device) -> Vec<CausalLm> {
    let all = [gpt2_json(), llama_json()].into_iter().chain(family_jsons());
    all.map(|json| causal(&json, device)).collect()
}

/// The logits of `row` alone, token by token.
fn alone(model: &CausalLm, row: &[u32], device: &Device) -> Vec<f32> {
    values(logits(model, ids(&[row.to_vec()], device)))
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

#[test]
fn parameter_paths_do_not_name_the_kind_of_model() {
    for model in every_model(&Device::flex()) {
        let paths: Vec<String> = float_params(&model).into_iter().map(|param| param.path).collect();
        for path in
            ["tokens.weight", "blocks.0.attention.query.weight", "blocks.1.mlp.down.weight", "norm.gamma"]
        {
            assert!(paths.iter().any(|found| found == path), "no {path} in {paths:?}");
        }
        assert!(paths.iter().all(|path| !path.contains("Gpt2") && !path.contains("Llama")), "{paths:?}");
    }
}

#[test]
fn a_model_is_shown_as_the_one_inside() {
    for (json, name) in [(gpt2_json(), "Gpt2 {"), (llama_json(), "Llama {")] {
        let model = causal(&json, &Device::flex());
        let shown = model.to_string();
        assert!(shown.starts_with(name), "{shown}");
        assert!(shown.contains(&format!("params: {}", Module::num_params(&model))), "{shown}");
    }
}

#[test]
fn prompts_padded_on_the_left_go_on_as_if_alone() {
    let device = Device::flex();
    for model in every_model(&device) {
        let prompts = [row(1, 6), row(2, 3), row(3, 1)];
        let expected: Vec<Vec<u32>> = prompts
            .iter()
            .flat_map(|prompt| greedy(&model, std::slice::from_ref(prompt), 5, &device))
            .collect();
        let lengths = prompts.each_ref().map(Vec::len);
        let padded = prompts.each_ref().map(|prompt| [vec![0; 6 - prompt.len()], prompt.clone()].concat());
        let mut cache = KeyValueCache::new();
        let mut next = ids(&padded, &device);
        let mut mask = AttentionMask::padded_left(&next, &lengths);
        let mut found = prompts.to_vec();
        for _ in 0..5 {
            let hidden = model.extend(next, &mask, &mut cache);
            let [_, tokens, _] = hidden.dims();
            let best = model.logits(hidden.narrow(1, tokens - 1, 1)).argmax(2);
            let best: Vec<u32> = best.into_data_as::<u32>().try_into_vec().expect("the type was asked for");
            found.iter_mut().zip(&best).for_each(|(row, &id)| row.push(id));
            next = ids(&best.into_iter().map(|id| vec![id]).collect::<Vec<_>>(), &device);
            mask = AttentionMask::following(&next, &cache);
        }
        assert_eq!(found, expected);
    }
}

#[test]
fn packed_samples_have_the_logits_they_have_alone() {
    let device = Device::flex();
    for model in every_model(&device) {
        let (first, second) = (row(1, 5), row(4, 3));
        let expected = [alone(&model, &first, &device), alone(&model, &second, &device)].concat();
        let packed = ids(&[[first, second].concat()], &device);
        let mask = AttentionMask::packed(&packed, &[0, 1, 2, 3, 4, 0, 1, 2], &[0, 0, 0, 0, 0, 1, 1, 1]);
        let found = values(model.logits(model.hidden(packed, &mask)));
        assert_close("packed", &found, &wide(&expected), 1e-5);
    }
}

#[test]
fn a_reordered_cache_goes_on_from_the_rows_it_was_told() {
    let device = Device::flex();
    for model in every_model(&device) {
        let prompts = [row(1, 4), row(2, 4)];
        let mut cache = KeyValueCache::new();
        let first = ids(&prompts, &device);
        // The second row has one token of padding.
        model.extend(first.clone(), &AttentionMask::padded_left(&first, &[4, 3]), &mut cache);
        cache.reorder(&[1, 0, 1]);
        let next = ids(&[vec![5], vec![6], vec![7]], &device);
        let mask = AttentionMask::following(&next, &cache);
        let found = values(model.logits(model.extend(next, &mask, &mut cache)));
        let whole = [
            &[&prompts[1][1..], &[5]].concat(),
            &[&prompts[0][..], &[6]].concat(),
            &[&prompts[1][1..], &[7]].concat(),
        ];
        let last = |row: &&Vec<u32>| {
            let logits = alone(&model, row, &device);
            logits[logits.len() - 29..].to_vec()
        };
        assert_close("reordered", &found, &wide(&whole.iter().flat_map(last).collect::<Vec<_>>()), 1e-5);
    }
}

#[test]
fn rows_that_began_at_different_times_get_what_each_gets_alone() {
    let device = Device::flex();
    for model in every_model(&device) {
        let rows = [row(1, 7), row(2, 3), row(3, 12)];
        let mut caches = rows.each_ref().map(|_| KeyValueCache::new());
        for (row, cache) in rows.iter().zip(&mut caches) {
            // In parts, as a server reads long prompts.
            for part in row[..row.len() - 2].chunks(4) {
                let part = ids(&[part.to_vec()], &device);
                model.extend(part.clone(), &AttentionMask::following(&part, cache), cache);
            }
        }
        let mut found = rows.each_ref().map(|_| Vec::new());
        for back in [2, 1] {
            let next: Vec<Vec<u32>> = rows.iter().map(|row| vec![row[row.len() - back]]).collect();
            let hidden = model.advance(ids(&next, &device), &mut caches.iter_mut().collect::<Vec<_>>());
            let logits = values(model.logits(hidden));
            found.iter_mut().zip(logits.chunks(29)).for_each(|(found, row)| found.extend_from_slice(row));
        }
        for (row, found) in rows.iter().zip(found) {
            let whole = alone(&model, row, &device);
            assert_close("a row of its own", &found, &wide(&whole[whole.len() - 58..]), 1e-5);
        }
    }
}

#[test]
fn random_weights_depend_on_the_seed_alone() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    for json in [gpt2_json(), llama_json()] {
        fs::write(scratch.path().join("config.json"), json.to_string()).expect("a free folder");
        let drawn =
            |seed| CausalLm::init(scratch.path(), seed, &Device::flex()).expect("a small model").to_tensors();
        assert_eq!(drawn(3), drawn(3));
        assert_ne!(drawn(3), drawn(4));
    }
}

#[test]
fn random_projections_into_the_stream_of_gpt2_are_smaller() {
    let json = with(with(gpt2_json(), "n_embd", 64), "n_layer", 8);
    let deviation = |name: &str| {
        let tensors = causal(&json, &Device::flex()).to_tensors();
        let tensor = tensors.into_iter().find(|tensor| tensor.name == name).expect(name);
        let squares: f32 = tensor.values.iter().map(|value| value * value).sum();
        (squares / tensor.values.len() as f32).sqrt()
    };
    let up = deviation("transformer.h.3.mlp.c_fc.weight");
    let down = deviation("transformer.h.3.mlp.c_proj.weight");
    assert!((up - 0.4).abs() < 0.02, "{up}");
    assert!((down - 0.1).abs() < 0.005, "0.4 / sqrt(2 · 8): {down}");
}

/// Writes a checkpoint of `tensors` and loads it.
fn written(json: &Value, tensors: &[NamedTensor], dtype: WeightDtype) -> Result<CausalLm, Error> {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let folder = scratch.path().join("model");
    let model = ModelFolder { config: json, preprocessor: None, tensors, dtype, companions: &[] };
    save(&folder, &model).expect("a free folder");
    CausalLm::load(&Checkpoint::open(&folder).expect("a whole folder"), &Device::flex())
}

#[test]
fn a_tied_matrix_may_be_stored_under_either_name_or_both() {
    for (json, name) in [(gpt2_json(), "transformer.wte.weight"), (llama_json(), "model.embed_tokens.weight")]
    {
        let tensors = causal(&json, &Device::flex()).to_tensors();
        let renamed = |from: &NamedTensor| NamedTensor { name: "lm_head.weight".to_owned(), ..from.clone() };
        let tied = tensors.iter().find(|tensor| tensor.name == name).expect(name);
        let both = [tensors.clone(), vec![renamed(tied)]].concat();
        let other =
            tensors.iter().map(|tensor| if tensor.name == name { renamed(tensor) } else { tensor.clone() });
        for stored in [both, other.collect()] {
            let loaded = written(&json, &stored, WeightDtype::F32).expect("one matrix");
            assert_eq!(loaded.to_tensors(), tensors, "{name}");
        }
    }
}

#[test]
fn a_tied_matrix_stored_twice_and_unequal_is_an_error_that_names_both() {
    for (json, name) in [(gpt2_json(), "transformer.wte.weight"), (llama_json(), "model.embed_tokens.weight")]
    {
        let mut tensors = causal(&json, &Device::flex()).to_tensors();
        let tied = tensors.iter().find(|tensor| tensor.name == name).expect(name);
        let mut head = NamedTensor { name: "lm_head.weight".to_owned(), ..tied.clone() };
        head.values[0] += 1.0;
        tensors.push(head);
        let message = written(&json, &tensors, WeightDtype::F32).expect_err("two heads").to_string();
        assert!(message.contains(name) && message.contains("lm_head.weight"), "{message}");
    }
}

#[test]
fn an_untied_head_is_loaded_and_its_absence_told() {
    for json in [gpt2_json(), llama_json()] {
        let json = with(json, "tie_word_embeddings", false);
        let mut tensors = causal(&json, &Device::flex()).to_tensors();
        let loaded = written(&json, &tensors, WeightDtype::F32).expect("a head");
        assert_eq!(loaded.to_tensors(), tensors);
        tensors.retain(|tensor| tensor.name != "lm_head.weight");
        let message = written(&json, &tensors, WeightDtype::F32).expect_err("no head").to_string();
        assert!(message.contains("missing: lm_head.weight"), "{message}");
    }
}

#[test]
fn a_fused_matrix_of_another_shape_is_told_once() {
    let mut tensors = causal(&gpt2_json(), &Device::flex()).to_tensors();
    let name = "transformer.h.0.attn.c_attn.weight";
    let fused = tensors.iter_mut().find(|tensor| tensor.name == name).expect(name);
    fused.shape.reverse();
    let message =
        written(&gpt2_json(), &tensors, WeightDtype::F32).expect_err("a linear layer's").to_string();
    assert_eq!(message.matches(name).count(), 1, "{message}");
    assert!(message.contains("[48, 16], expected [16, 48]"), "{message}");
}

#[test]
fn a_tensor_the_model_has_no_place_for_is_told() {
    let mut tensors = causal(&llama_json(), &Device::flex()).to_tensors();
    tensors.push(NamedTensor { name: "score.weight".to_owned(), shape: vec![1], values: vec![0.0] });
    let message = written(&llama_json(), &tensors, WeightDtype::F32).expect_err("a classifier").to_string();
    assert!(message.contains("not used by this model: score.weight"), "{message}");
}

#[test]
fn masks_and_frequencies_stored_with_the_weights_are_left_out() {
    let cases = [
        (gpt2_json(), ["transformer.h.1.attn.bias", "transformer.h.1.attn.masked_bias"]),
        (
            llama_json(),
            ["model.layers.1.self_attn.rotary_emb.inv_freq", "model.layers.0.self_attn.rotary_emb.inv_freq"],
        ),
    ];
    for (json, names) in cases {
        let mut tensors = causal(&json, &Device::flex()).to_tensors();
        tensors.extend(names.map(|name| NamedTensor {
            name: name.to_owned(),
            shape: vec![1],
            values: vec![1.0],
        }));
        written(&json, &tensors, WeightDtype::F32).expect("buffers are no weights");
    }
}

#[test]
fn weights_stored_in_16_bits_are_loaded_rounded() {
    for json in [gpt2_json(), llama_json()] {
        let tensors = causal(&json, &Device::flex()).to_tensors();
        let loaded = written(&json, &tensors, WeightDtype::Bf16).expect("half precision").to_tensors();
        for (found, stored) in loaded.iter().zip(&tensors) {
            let rounded: Vec<f32> =
                stored.values.iter().map(|&value| half::bf16::from_f32(value).to_f32()).collect();
            assert_eq!(found.values, rounded, "{}", found.name);
        }
    }
}

#[test]
fn another_kind_of_model_is_refused_by_name() {
    let device = Device::flex();
    for kind in ["gemma3", "qwen2_moe", "gpt_neo"] {
        let error = CausalLm::uninitialized(&json!({"model_type": kind}), Path::new("config.json"), &device);
        let message = error.expect_err("no model of ours").to_string();
        assert!(message.contains(kind) && message.contains("`gpt2`, `llama`"), "{message}");
    }
}

#[test]
fn a_random_model_larger_than_any_machine_is_refused() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let json = with(with(llama_json(), "hidden_size", 65536), "intermediate_size", 1 << 20);
    fs::write(scratch.path().join("config.json"), json.to_string()).expect("a free folder");
    let message = CausalLm::init(scratch.path(), 0, &Device::flex()).expect_err("too large").to_string();
    assert!(message.contains("hidden_size"), "{message}");
}

#[test]
fn a_saved_configuration_is_the_one_that_was_read_in_the_words_of_both_generations() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let json = with(with(llama_json(), "initializer_range", 0.4), "unknown_to_us", "kept");
    let folder = scratch.path().join("saved");
    causal(&json, &Device::flex()).save(&folder, WeightDtype::Bf16).expect("a free folder");
    let saved = Checkpoint::open(&folder).expect("a whole folder");
    let json = ["dtype", "torch_dtype"].into_iter().fold(json, |json, key| with(json, key, "bfloat16"));
    let json = with(with(json, "rope_theta", 10_000.0), "rope_scaling", serde_json::Value::Null);
    let rope = serde_json::json!({ "rope_type": "default", "rope_theta": 10_000.0 });
    assert_eq!(saved.config(), &with(json, "rope_parameters", rope));
}

#[test]
fn sites_have_the_names_of_peft() {
    let [gpt2, llama, phi3] =
        [gpt2_json(), llama_json(), phi3_json()].map(|json| causal(&json, &Device::flex()));
    let value = gpt2.peft_module("blocks.1.attention.value");
    assert_eq!(value.names, ["transformer.h.1.attn.c_attn"; 2]);
    assert_eq!((value.part, value.layout), (Part::Outputs(Shares::nth(2, 3)), Layout::Conv1d));
    let up = gpt2.peft_module("blocks.1.mlp.up");
    assert_eq!((up.names[0].as_str(), up.part), ("transformer.h.1.mlp.c_fc", Part::Whole));
    let key = llama.peft_module("blocks.0.attention.key");
    assert_eq!(key.names, ["model.layers.0.self_attn.k_proj"; 2]);
    assert_eq!((key.part, key.layout), (Part::Whole, Layout::Linear));
    let key = phi3.peft_module("blocks.0.attention.key");
    assert_eq!(key.names, ["model.layers.0.self_attn.qkv_proj"; 2]);
    assert_eq!((key.part, key.layout), (Part::Outputs(Shares { from: 4, to: 6, of: 8 }), Layout::Linear));
}

/// The settings of a small LoRA.
fn lora() -> AdapterConfig {
    AdapterConfig::Lora(LoraConfig { rank: 2, alpha: Some(4.0), ..LoraConfig::default() })
}

#[test]
fn an_adapter_is_saved_merged() {
    let device = Device::flex().autodiff();
    for tiny in [tiny_gpt2(&device), tiny_llama(&device), tiny_phi3(&device)] {
        let adapted = tiny.perturbed(&lora());
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let folder = scratch.path().join("saved");
        adapted.model.save(&folder, WeightDtype::F32).expect("a free folder");
        let saved = Checkpoint::open(&folder).expect("a whole folder");
        let saved = CausalLm::load(&saved, &device).expect("a language model");
        let expected = wide(&tiny.logits(&adapted.model));
        assert_close("saved", &tiny.logits(&saved), &expected, 1e-4);
    }
}

#[test]
fn every_adapted_weight_gets_a_gradient_through_a_packed_row() {
    let device = Device::flex().autodiff();
    for tiny in [tiny_gpt2(&device), tiny_llama(&device), tiny_phi3(&device)] {
        let model = tiny.perturbed(&lora()).model;
        let input: Tensor<2, Int> = ids(&[row(1, 6)], &device);
        let mask = AttentionMask::packed(&input, &[0, 1, 2, 0, 1, 2], &[0, 0, 0, 1, 1, 1]);
        let loss = model.logits(model.hidden(input, &mask)).powi_scalar(2).mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        for param in float_params(&model).into_iter().filter(|param| !param.frozen) {
            let gradient = gradients.get::<2>(param.id).unwrap_or_else(|| panic!("none for {}", param.path));
            let values = values(gradient);
            assert!(values.iter().all(|value| value.is_finite()), "{}", param.path);
            assert!(values.iter().any(|&value| value != 0.0), "{}", param.path);
        }
    }
}

#[test]
fn a_model_in_evaluation_takes_tokens_of_a_training_device() {
    let device = Device::flex().autodiff();
    for model in every_model(&device) {
        let input = ids(&[row(1, 8)], &device);
        let expected = values(logits(&model, input.clone()));
        let found = values(logits(&model.valid(), input));
        // Norms whose own numbers are trained are computed in another way than frozen ones.
        let is_near = |(found, expected): (&f32, &f32)| (found - expected).abs() < 1e-5;
        assert!(found.iter().zip(&expected).all(is_near), "{found:?} and {expected:?}");
    }
}

#[test]
fn what_a_family_writes_is_loaded_to_the_same_bits() {
    let device = Device::flex();
    for json in family_jsons() {
        let model = causal(&json, &device);
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let folder = scratch.path().join("saved");
        model.save(&folder, WeightDtype::F32).expect("a free folder");
        let again = CausalLm::load(&Checkpoint::open(&folder).expect("a whole folder"), &device);
        assert_eq!(again.expect("its own folder").to_tensors(), model.to_tensors(), "{json}");
    }
}

#[test]
fn what_lies_outside_a_sliding_window_changes_nothing() {
    let device = Device::flex();
    let model = causal(&with(mistral_json(), "num_hidden_layers", 1), &device);
    let last = |row: &[u32]| {
        let logits = alone(&model, row, &device);
        logits[logits.len() - 29..].to_vec()
    };
    let near = row(1, 6);
    let [mut outside, mut inside] = [near.clone(), near.clone()];
    (outside[2], inside[3]) = (28, 28);
    assert_eq!(last(&outside), last(&near), "the window has three tokens");
    assert_ne!(last(&inside), last(&near));
}
