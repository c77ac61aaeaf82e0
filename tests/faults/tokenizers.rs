//! Faults of tokenizers and of the tokens that they name.

use std::fs;

use serde_json::json;

use super::refused;
use crate::bad_input::edit_json;
use crate::text_workshop::{text_workshop, tokenizer_json};

const TRAIN: [&str; 2] = ["train", "food.toml"];

#[test]
fn fault_09_a_token_beyond_the_embedding_is_refused_in_the_row_that_has_it() {
    let workshop = text_workshop();
    workshop.write("base/tokenizer.json", tokenizer_json(&[("<one>", 257), ("<two>", 258)]).to_string());
    workshop.write("plain.txt", "Hi there");
    workshop.run(&["evaluate", "--model", "base", "--data", "plain.txt", "--json"]).json();
    workshop.write("foreign.txt", "Hi <one>");
    let parts = ["foreign.txt", "token 257", "the model has 257 embeddings"];
    refused(&workshop, &["evaluate", "--model", "base", "--data", "foreign.txt"], 4, &parts);
}

#[test]
fn fault_09_a_token_that_is_listed_with_an_id_out_of_range_is_refused() {
    let workshop = text_workshop();
    workshop.write("base/tokenizer.json", tokenizer_json(&[("<far>", 70_000)]).to_string());
    let parts = ["base/tokenizer.json: token `<far>` is listed with the id 70000", "different models"];
    refused(&workshop, &["generate", "--model", "base", "<far>"], 5, &parts);
}

#[test]
fn fault_09_an_end_token_that_the_model_does_not_have_is_refused() {
    let workshop = text_workshop();
    let parts = ["--end names 300", "the model has 257 tokens"];
    refused(&workshop, &["generate", "--model", "base", "Hi", "--end", "300"], 2, &parts);
}

#[test]
fn fault_09_a_tokenizer_without_an_end_token_is_refused_where_one_is_needed() {
    let workshop = text_workshop();
    edit_json(&workshop.at("base/tokenizer_config.json"), |config| config["eos_token"] = json!(null));
    edit_json(&workshop.at("base/config.json"), |config| config["eos_token_id"] = json!(null));
    let parts = ["no end token, which `e2e` needs", "eos_token in tokenizer_config.json"];
    refused(&workshop, &TRAIN, 4, &parts);
}

#[test]
fn fault_08_a_tokenizer_that_is_damaged_or_absent_is_refused() {
    let workshop = text_workshop();
    workshop.write("base/tokenizer.json", "{\"model\": {\"type\": \"BPE\", \"vocab\"");
    refused(&workshop, &TRAIN, 5, &["base/tokenizer.json", "restore the file from its source"]);
    fs::remove_file(workshop.at("base/tokenizer.json")).expect("the tokenizer");
    refused(&workshop, &TRAIN, 5, &["base: no tokenizer", "vocab.json with merges.txt"]);
}

#[test]
fn fault_08_merges_of_tokens_that_are_not_there_or_of_nothing_are_refused() {
    for merges in [json!([["zz", "yy"]]), json!(["a"]), json!([["a", "b", "c"]]), json!([7]), json!("a b")] {
        let workshop = text_workshop();
        edit_json(&workshop.at("base/tokenizer.json"), |tokenizer| {
            tokenizer["model"]["merges"] = merges.clone()
        });
        refused(&workshop, &TRAIN, 5, &["base/tokenizer.json"]);
    }
}

#[test]
fn fault_08_a_tokenizer_of_a_hundred_megabytes_is_refused_by_its_size() {
    let workshop = text_workshop();
    workshop.write("base/tokenizer.json", format!("{{\"a\": \"{}\"}}", "a".repeat(100 << 20)));
    refused(&workshop, &TRAIN, 5, &["base/tokenizer.json", "the most that is read"]);
}
