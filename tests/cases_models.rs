//! Model folders: configurations, tokenizers and generation settings.

use crate::cases::{assert_number, assert_refused, assert_scored, case, json, run};

const TEXT: &str = "--model base --data text.txt";

#[test]
fn infinity_in_a_foreign_configuration_is_read() {
    assert_scored("config-infinity", TEXT, 6.66955, 11);
}

#[test]
fn the_original_length_may_stand_beside_the_rotary_block() {
    assert_scored("rope-original-outside", TEXT, 6.85463, 36);
}

#[test]
fn fault_09_an_end_token_of_the_config_that_the_model_has_not_is_refused() {
    let generate = "generate --model model --max-new-tokens 1 the";
    assert_refused("fault-end-token-beyond-the-table", generate, 5, &["eos_token_id", "99999"]);
}

#[test]
fn settings_of_generation_stop_nothing_else() {
    assert_scored("generation-suppress-tokens", TEXT, 6.66955, 11);
    let workshop = case("generation-suppress-tokens");
    run(&workshop, "train recipe.toml --json").json();
    run(&workshop, "merge --run run --out merged --json").json();
    let settings = |folder: &str| {
        let file = workshop.at(folder).join("generation_config.json");
        let settings = std::fs::read_to_string(file).expect("a file");
        serde_json::from_str::<serde_json::Value>(&settings).expect("JSON")["suppress_tokens"].clone()
    };
    assert_eq!(settings("base"), settings("merged"));
    assert!(settings("merged").is_array());
}

#[test]
fn a_folder_that_adds_no_begin_token_gets_none() {
    assert_scored("tokenizer-no-bos-generic", TEXT, 6.81485, 8);
}

#[test]
fn a_prefix_space_is_added_where_the_folder_says_so() {
    assert_scored("tokenizer-prefix-space", TEXT, 6.96115, 8);
}

#[test]
fn fault_09_a_padding_token_beyond_the_embedding_does_no_harm() {
    assert_scored("tokenizer-pad-beyond-embedding", TEXT, 6.40209, 5);
}

#[test]
fn prompt_and_completion_are_one_text_to_the_tokenizer() {
    let arguments = "--model base --format prompt-completion --data rows.jsonl";
    assert_scored("seam-newline", arguments, 8.64838, 5);
}

#[test]
fn special_tokens_do_not_stay_in_a_text() {
    let texts = json("interop-decode-special-tokens", "generate --model model a");
    assert_eq!(texts["texts"][0]["text"], "b c d");
    assert_number(&texts["texts"][0], "tokens", 6.0, 0.0);
}

#[test]
fn fault_08_a_tokenizer_that_lies_about_a_size_is_refused() {
    let generate = "generate --model model --max-new-tokens 1 the";
    assert_refused("fault-tokenizer-charsmap", generate, 5, &["precompiled_charsmap"]);
}

#[test]
fn fault_08_a_tokenizer_at_which_the_library_panics_is_refused_without_noise() {
    let refused =
        run(&case("fault-tokenizer-panic-on-stderr"), "generate --model model --max-new-tokens 1 the");
    refused.assert_refused(5, &["tokenizer.json"]);
    assert!(!refused.stderr.contains("RUST_BACKTRACE"), "{}", refused.stderr);
}

#[test]
fn a_setting_that_would_change_the_text_is_refused_by_name() {
    let generate = "generate --model base once --max-new-tokens 12";
    assert_refused("generation-stop-strings", generate, 5, &["generation_config.json", "stop_strings"]);
}

#[test]
fn fault_07_a_configuration_of_60_megabytes_is_refused_by_its_size() {
    let workshop = case("config-infinity");
    let config = std::fs::read_to_string(workshop.at("base/config.json")).expect("a file");
    let (start, _) = config.rsplit_once('}').expect("an object");
    workshop.write("base/config.json", format!("{start}, \"x\": [{}1]}}", "1,".repeat(30_000_000)));
    run(&workshop, &format!("evaluate {TEXT}")).assert_refused(5, &["config.json"]);
}
