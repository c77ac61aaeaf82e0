//! Adapters that PEFT wrote, and what is made of adapters: merged and exported folders.

use crate::cases::{assert_loss, assert_number, assert_refused, assert_scored, case, json, run};
use crate::program::Workshop;

const SCORE: &str = "--model base --adapter adapter --data text.txt";

#[test]
fn a_rank_pattern_is_a_python_expression() {
    assert_scored("peft-rank-lookahead", SCORE, 6.25191, 11);
}

#[test]
fn an_alpha_pattern_is_a_python_expression() {
    assert_scored("peft-alpha-lookahead", SCORE, 6.58772, 11);
}

#[test]
fn fault_05_an_adapter_without_tensors_is_refused() {
    for name in ["peft-empty-layers", "peft-empty-lookahead", "peft-empty-other-names"] {
        assert_refused(name, &format!("evaluate {SCORE}"), 6, &["adapter", "tensor"]);
        assert_refused(name, "merge --model base --adapter adapter --out merged", 6, &["adapter", "tensor"]);
    }
}

#[test]
fn a_start_that_leaves_the_base_alone_loads() {
    assert_scored("peft-init-eva", SCORE, 6.56126, 11);
}

#[test]
fn fault_11_a_start_that_changes_the_base_is_refused() {
    assert_refused("peft-init-lora-ga", &format!("evaluate {SCORE}"), 6, &["init_lora_weights", "lora_ga"]);
}

#[test]
fn fault_06_a_pickled_adapter_is_refused_with_the_cure() {
    assert_refused(
        "peft-pickle-only",
        &format!("evaluate {SCORE}"),
        6,
        &["adapter_model.bin", "pickle", "PEFT"],
    );
}

#[test]
fn a_saved_embedding_of_a_tied_base_leaves_the_head_alone() {
    assert_scored("peft-tied-embedding", SCORE, 7.80816, 11);
    let scored = |adapter: &str| {
        let data = "--data data.jsonl --format prompt-completion";
        let arguments = format!("evaluate --model model --adapter {adapter} {data}");
        json("interop-peft-tied-embedding-saved", &arguments)
    };
    assert_number(&scored("embed-only"), "loss", 0.744_842_7, 1e-4);
    assert_number(&scored("weight-tying"), "loss", 0.287_687_6, 1e-4);
}

#[test]
fn a_saved_embedding_of_a_tied_base_is_merged_into_the_embedding_alone() {
    let workshop = case("peft-tied-embedding");
    run(&workshop, "merge --model base --adapter adapter --out merged --json").json();
    let scored = run(&workshop, "evaluate --model merged --data text.txt --json").json();
    assert_number(&scored, "loss", 7.80816, 1e-4);
}

#[test]
fn a_tied_base_can_have_a_head_of_its_own() {
    assert_scored("peft-tied-head", SCORE, 6.68843, 11);
}

#[test]
fn copies_of_embedding_and_head_of_an_untied_base_are_both_used() {
    assert_scored("peft-untied-head-and-embedding", SCORE, 7.43626, 11);
}

#[test]
fn a_module_that_is_a_target_and_saved_is_the_saved_one() {
    let arguments = "evaluate --model model --adapter adapter --data data";
    let scored = json("interop-peft-target-also-saved", arguments);
    assert_number(&scored, "loss", 0.013_411_7, 1e-5);
    assert_number(&scored, "accuracy", 1.0, 0.0);
}

#[test]
fn a_path_with_an_equals_sign_is_a_path() {
    let generate = |name: &str, adapters: &[&str]| {
        let flags = adapters.iter().flat_map(|adapter| ["--adapter", adapter]);
        let rest = ["once upon", "--max-new-tokens", "6", "--json"];
        let arguments: Vec<&str> =
            ["generate", "--model", "base"].into_iter().chain(flags).chain(rest).collect();
        case(name).run_on("cpu", &arguments).json()
    };
    let one = generate("adapter-path-with-equals", &["lr=2e-4/adapter"]);
    assert_eq!(one["texts"][0]["text"], "\u{19} on of of of of");
    let two = generate("adapter-path-with-equals-named", &["plain", "k=8,r=2/adapter"]);
    assert_eq!(two["texts"][0]["text"], two["texts"][1]["text"]);
    assert_eq!(two["texts"][1]["adapter"], "k=8,r=2/adapter");
}

#[test]
fn an_exported_adapter_with_biases_is_the_same_model() {
    let workshop = case("export-bias-all");
    run(&workshop, "export --model base --adapter adapter --out exported --json").json();
    let scored = run(&workshop, "evaluate --model base --adapter exported --data text.txt --json").json();
    assert_number(&scored, "loss", 7.26144, 1e-4);
    let config = std::fs::read_to_string(workshop.at("exported/adapter_config.json")).expect("a file");
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    assert_eq!(config["bias"], "all");
    assert_eq!(config["modules_to_save"], serde_json::Value::Null);
}

#[test]
fn fault_02_an_export_that_is_not_finite_is_refused() {
    let export = "export --model model --adapter adapter --out lora";
    assert_refused("fault-export-says-zero-of-nan", export, 6, &["finite"]);
}

#[test]
fn a_merge_that_rounds_the_update_away_says_so() {
    let workshop = case("merge-bf16-nothing-left");
    let merged = run(&workshop, "merge --model base --adapter adapter --out merged --dtype bf16");
    assert_eq!(merged.code, 0, "{}", merged.stderr);
    for word in ["bf16", "0 of 512", "f32"] {
        assert!(merged.stderr.contains(word), "no `{word}` in: {}", merged.stderr);
    }
    assert!(merged.stdout.contains("; 0.0 % of the update survives rounding to bf16"), "{}", merged.stdout);
}

#[test]
fn a_merge_says_how_much_of_the_update_survives() {
    let workshop = case("merge-bf16-nothing-left");
    let share = |dtype: &str| {
        let merge = format!("merge --model base --adapter adapter --out in-{dtype} --dtype {dtype} --json");
        run(&workshop, &merge).json()["surviving_share"].as_f64().expect("a share")
    };
    let [whole, lost] = ["f32", "bf16"].map(share);
    assert!((whole - 1.0).abs() < 1e-3, "{whole}");
    assert_eq!(lost, 0.0);
}

#[test]
fn a_merged_folder_spells_rotary_positions_for_both_generations() {
    let workshop = case("merge-rope-scaling-for-transformers-4");
    run(&workshop, "merge --model base --adapter adapter --out merged --json").json();
    let scored = run(&workshop, "evaluate --model merged --data text.txt --json").json();
    assert_number(&scored, "loss", 6.74343, 1e-4);
    let config = std::fs::read_to_string(workshop.at("merged/config.json")).expect("a file");
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    assert_eq!(config["rope_theta"], config["rope_parameters"]["rope_theta"]);
    assert_eq!(config["rope_scaling"]["rope_type"], config["rope_parameters"]["rope_type"]);
    assert_eq!(config["rope_scaling"]["factor"], config["rope_parameters"]["factor"]);
}

#[test]
fn one_adapter_is_one_file_byte_for_byte() {
    let workshop = case("interop-lora-folder-bytes");
    let exported = |out: &str| {
        run(&workshop, &format!("export --model model --adapter adapter --out {out} --json")).json();
        crate::program::bytes_of(&workshop.at(out).join("adapter_model.safetensors"))
    };
    let first = exported("lora-0");
    for number in 1..8 {
        assert!(exported(&format!("lora-{number}")) == first, "export {number} has other bytes");
    }
}

#[test]
fn fault_12_a_setting_or_seed_that_was_edited_is_refused() {
    let workshop = Workshop::new();
    workshop.trained();
    let file = "runs/colours/adapter/adapter_config.json";
    let written = std::fs::read_to_string(workshop.at(file)).expect("a file");
    let edits = [
        ("\"uniform\"", "\"sign\""),
        ("\"default\"", "\"paper-2023\""),
        ("\"lora_alpha\":2.0", "\"lora_alpha\":4.0"),
        ("\"seed\":\"0\"", "\"seed\":\"1\""),
    ];
    for (from, to) in edits {
        assert!(written.contains(from), "no {from} in {written}");
        workshop.write(file, written.replacen(from, to, 1));
        let arguments = "evaluate --model base --adapter runs/colours/adapter --data val";
        run(&workshop, arguments).assert_refused(6, &["adapter_config.json"]);
    }
}

#[test]
fn an_adapter_whose_settings_nothing_covers_is_loaded_with_a_warning() {
    let assets = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets");
    let (model, data) = (assets.join("vit-micro"), assets.join("digits/val"));
    let arguments =
        format!("evaluate --model {} --adapter adapter --data {} --json", model.display(), data.display());
    let scored = run(&case("fault-adapter-settings-unprotected"), &arguments);
    assert_number(&scored.json(), "accuracy", 0.744, 1e-9);
    assert!(scored.stderr.contains("written by an older version"), "{}", scored.stderr);
}

#[test]
fn an_adapter_of_an_embedding_is_applied() {
    assert_loss("peft-embedding-lora", &format!("evaluate {SCORE}"), 6.92452);
}
