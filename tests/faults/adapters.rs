//! Faults of adapters: those for another base, of another version, and damaged ones.

use std::fs;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use super::{edit, forget_hash, refused, set_last_weight, set_tensor};
use crate::bad_input::edit_json;
use crate::program::{Workshop, bytes_of};
use crate::text_workshop::{sets, text_workshop, train, trained};

#[test]
fn fault_10_an_adapter_for_another_base_is_refused() {
    let workshop = Workshop::new();
    workshop.trained();
    set_last_weight(&workshop, "base/model.safetensors", 0.125);
    let parts = ["adapter_config.json", "made for the base `base`", "the hash of the weights differs"];
    refused(&workshop, &["evaluate", "--run", "runs/colours"], 6, &parts);
}

#[test]
fn fault_12_coefficients_that_were_changed_are_refused() {
    let workshop = Workshop::new();
    workshop.trained();
    edit(&workshop.at("runs/colours/adapter/adapter_model.safetensors"), |bytes| {
        let end = bytes.len();
        bytes[end - 1] ^= 1;
    });
    let parts = ["adapter_model.safetensors", "SHA-256", "damaged"];
    refused(&workshop, &["evaluate", "--run", "runs/colours"], 6, &parts);
}

#[test]
fn fault_11_an_adapter_of_another_generator_or_version_is_refused() {
    for (field, value) in [("generator", json!("nola-philox-9")), ("format_version", json!(99))] {
        let workshop = Workshop::new();
        workshop.trained();
        edit_json(&workshop.at("runs/colours/adapter/adapter_config.json"), |config| {
            config[field] = value.clone();
        });
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let parts = ["adapter_config.json", field, &shown];
        refused(&workshop, &["inspect", "runs/colours/adapter"], 6, &parts);
    }
}

#[test]
fn fault_05_a_peft_adapter_with_a_tensor_too_many_is_refused() {
    let workshop = Workshop::new();
    workshop.trained();
    assert_eq!(workshop.run(&["export", "--run", "runs/colours", "--out", "peft"]).code, 0);
    let file = workshop.at("peft/adapter_model.safetensors");
    let bytes = bytes_of(&file);
    let tensors = SafeTensors::deserialize(&bytes).expect("an adapter");
    let extra = [0_u8; 4];
    let mut views: Vec<(String, TensorView)> = tensors.tensors();
    let name = "base_model.model.vit.layers.9.attention.q_proj.lora_A.weight";
    views.push((name.to_owned(), TensorView::new(Dtype::F32, vec![1, 1], &extra).expect("a tensor")));
    let changed = safetensors::serialize(views, None).expect("an adapter");
    fs::write(&file, changed).expect("a file");
    let arguments = ["evaluate", "--model", "base", "--adapter", "peft", "--data", "val"];
    refused(&workshop, &arguments, 6, &[name, "belongs to nothing in this model"]);
}

#[test]
fn fault_12_numbers_of_coefficients_beyond_reason_are_refused() {
    for (key, value) in [("k", 1_000_000_000_000_u64), ("r", 1_000_000_000_000), ("l", 0)] {
        let workshop = Workshop::new();
        workshop.trained();
        edit_json(&workshop.at("runs/colours/adapter/adapter_config.json"), |config| {
            config["nola"][key] = value.into();
        });
        refused(&workshop, &["inspect", "runs/colours/adapter"], 6, &["adapter_config.json"]);
    }
}

#[test]
fn fault_10_an_adapter_of_another_language_model_is_refused() {
    let workshop = text_workshop();
    trained(&workshop);
    set_last_weight(&workshop, "base/model.safetensors", 0.125);
    let parts = ["adapter_config.json", "made for the base `base`", "the hash of the weights differs"];
    for command in [&["generate", "--run", "runs/food", "Hi"][..], &["evaluate", "--run", "runs/food"]] {
        refused(&workshop, command, 6, &parts);
    }
    let on_llama = ["generate", "--model", "llama", "--adapter", "runs/food/adapter", "Hi"];
    refused(&workshop, &on_llama, 6, &["adapter_config.json", "made for the base `base`"]);
}

#[test]
fn fault_10_a_lora_of_gpt2_on_a_llama_is_refused() {
    let workshop = text_workshop();
    train(&workshop, &sets(&["method.kind=lora"])).json();
    let on_llama = ["generate", "--model", "llama", "--adapter", "runs/food/adapter", "Hi"];
    refused(&workshop, &on_llama, 6, &["adapter_config.json", "made for the base `base`"]);
    // As PEFT writes it, without the hashes of the base.
    let file = workshop.at("runs/food/adapter/adapter_model.safetensors");
    let bytes = bytes_of(&file);
    let tensors = SafeTensors::deserialize(&bytes).expect("an adapter").tensors();
    fs::write(&file, safetensors::serialize(tensors, None).expect("an adapter")).expect("a file");
    let part =
        "`base_model.model.transformer.h.0.attn.c_attn.lora_A.weight` belongs to nothing in this model";
    refused(&workshop, &on_llama, 6, &[part]);
}

#[test]
fn fault_11_settings_that_are_not_known_are_refused() {
    let config = "runs/colours/adapter/adapter_config.json";
    for name in ["momentum", "NOLA2"] {
        let workshop = Workshop::new();
        workshop.trained();
        edit_json(&workshop.at(config), |config| match name {
            "momentum" => config["nola"][name] = json!(0.9),
            _ => config["peft_type"] = json!(name),
        });
        refused(&workshop, &["evaluate", "--run", "runs/colours"], 6, &["adapter_config.json", name]);
    }
}

#[test]
fn fault_11_a_peft_adapter_of_a_method_that_is_not_computed_is_refused_by_its_name() {
    let workshop = Workshop::new();
    workshop.trained();
    assert_eq!(workshop.run(&["export", "--run", "runs/colours", "--out", "peft"]).code, 0);
    edit_json(&workshop.at("peft/adapter_config.json"), |config| {
        *config = json!({"peft_type": "LOHA", "target_modules": ["q_proj"], "r": 2, "alpha": 2});
    });
    let arguments = ["evaluate", "--model", "base", "--adapter", "peft", "--data", "val"];
    refused(&workshop, &arguments, 6, &["peft/adapter_config.json", "LOHA"]);
}

#[test]
fn fault_12_a_tensor_that_is_nan_under_a_hash_that_fits_are_refused() {
    let workshop = Workshop::new();
    workshop.trained();
    let weights = workshop.at("runs/colours/adapter/adapter_model.safetensors");
    set_tensor(&weights, "head.weight", |bytes| bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    let hash = nola_core::folder::sha256_hex(&bytes_of(&weights));
    edit_json(&workshop.at("runs/colours/adapter/adapter_config.json"), |config| {
        config["model_sha256"] = hash.into();
    });
    let arguments = ["evaluate", "--run", "runs/colours"];
    let parts = ["adapter_model.safetensors", "`head.weight` holds 1 numbers that are not finite"];
    refused(&workshop, &arguments, 6, &parts);
}

#[test]
fn fault_10_one_byte_of_the_base_that_differs_is_found() {
    let name = "vit.encoder.layer.0.intermediate.dense.weight";
    for place in [1, 1_000, 2_001] {
        let workshop = Workshop::new();
        forget_hash(&workshop);
        workshop.trained();
        set_tensor(&workshop.at("base/model.safetensors"), name, |bytes| bytes[place] ^= 1);
        let parts = ["adapter_config.json", "made for the base `base`", "the hash of the weights differs"];
        refused(&workshop, &["evaluate", "--run", "runs/colours"], 6, &parts);
    }
}

/// What a backend would do whose arithmetic makes another basis: the word that tells the basis of a layer does not fit.
#[test]
fn fault_13_a_basis_that_comes_out_otherwise_is_refused() {
    let workshop = Workshop::new();
    workshop.trained();
    let weights = workshop.at("runs/colours/adapter/adapter_model.safetensors");
    set_tensor(&weights, "check", |bytes| bytes[0] ^= 1);
    let hash = nola_core::folder::sha256_hex(&bytes_of(&weights));
    edit_json(&workshop.at("runs/colours/adapter/adapter_config.json"), |config| {
        config["model_sha256"] = hash.into();
    });
    let parts = ["site `blocks.0.attention.query`: check word", "but the basis regenerated here has"];
    refused(&workshop, &["evaluate", "--run", "runs/colours"], 6, &parts);
}
