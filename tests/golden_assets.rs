//! Small models with real training, of the assets beside the workspace: logits, and greedy texts to the letter.

use std::path::Path;

use burn::tensor::{Device, Int, Tensor};
use nola_models::tokenizer::{DecodeSpecials, Specials, Tokenizer};
use nola_models::{AttentionMask, CausalLm, Checkpoint};
use serde_json::Value;

use crate::devices::values;
use crate::fixtures::{self, assert_close};
use crate::golden_causal::{greedy, ids, logits};
use crate::shared::shared;

/// Largest difference from the expected logits, as the assets' README says.
const TOLERANCE: f64 = 1e-3;

fn load(folder: &Path) -> CausalLm {
    let checkpoint = Checkpoint::open(folder).expect("a model of the assets");
    CausalLm::load(&checkpoint, &Device::flex()).expect("a language model")
}

fn numbers(json: &Value) -> Vec<f64> {
    json.as_array().expect("a list").iter().map(|number| number.as_f64().expect("a number")).collect()
}

fn token_ids(json: &Value) -> Vec<u32> {
    numbers(json).into_iter().map(|id| id as u32).collect()
}

fn list<'a>(json: &'a Value, key: &str) -> &'a [Value] {
    json[key].as_array().expect("a list")
}

fn input(row: Vec<u32>) -> Tensor<2, Int> {
    ids(&[row], &Device::flex())
}

/// The logits of the last of `row`'s tokens.
fn last_logits(model: &CausalLm, row: Vec<u32>) -> Vec<f32> {
    let last = row.len() - 1;
    values(logits(model, input(row)).narrow(1, last, 1))
}

/// The most probable token after each of `row`'s tokens.
fn best(model: &CausalLm, row: Vec<u32>) -> Vec<u32> {
    let best = logits(model, input(row)).argmax(2);
    best.into_data_as::<u32>().try_into_vec().expect("the type was asked for")
}

#[test]
fn golden_stories_are_told_to_the_letter() {
    let Some(folder) = shared("assets/models/llama-stories260k") else { return };
    let (model, expected) = (load(&folder), fixtures::json(&folder.join("expected.json")));
    let tokenizer = Tokenizer::open(&folder).expect("a tokenizer");
    for story in list(&expected, "greedy") {
        let prompt = story["prompt"].as_str().expect("a text");
        let prompt = tokenizer.encode(prompt, Specials::AsModel).expect("a text it can encode");
        assert_eq!(prompt, token_ids(&story["prompt_ids"]));
        let new_tokens = story["new_tokens"].as_u64().expect("a number") as usize;
        let found = greedy(&model, &[prompt], new_tokens, &Device::flex()).remove(0);
        assert_eq!(found, token_ids(&story["ids"]), "{}", story["prompt"]);
        let text = tokenizer.decode(&found, DecodeSpecials::Skip).expect("tokens of its own");
        assert_eq!(text, story["text"].as_str().expect("a text"));
    }
    for case in list(&expected, "logits") {
        let row = token_ids(&case["ids"]);
        let golden = numbers(&case["last_position_logits"]);
        assert_close("stories260k", &last_logits(&model, row.clone()), &golden, TOLERANCE);
        assert_eq!(best(&model, row), token_ids(&case["argmax_per_position"]));
    }
}

#[test]
fn golden_shakespeare_goes_on_as_expected() {
    let Some(folder) = shared("assets/models/gpt2-micro-shakespeare") else { return };
    let (model, expected) = (load(&folder), fixtures::json(&folder.join("expected.json")));
    for case in list(&expected, "greedy") {
        let prompt = token_ids(&case["prompt_ids"]);
        let new_tokens = case["new_tokens"].as_u64().expect("a number") as usize;
        let found = greedy(&model, &[prompt], new_tokens, &Device::flex());
        assert_eq!(found, [token_ids(&case["ids"])], "{}", case["prompt"]);
    }
    for case in list(&expected, "logits") {
        let row = token_ids(&case["ids"]);
        let found = last_logits(&model, row.clone());
        let golden = numbers(&case["last_position_first_64_logits"]);
        assert_close("micro-shakespeare", &found[..64], &golden, TOLERANCE);
        let sum: f64 = found.iter().map(|&logit| f64::from(logit).exp()).sum();
        let golden = case["last_position_logsumexp"].as_f64().expect("a number");
        assert_close("log-sum-exp", &[sum.ln() as f32], &[golden], TOLERANCE);
        assert_eq!(best(&model, row), token_ids(&case["argmax_per_position"]));
    }
}

#[test]
fn golden_process_chains_end_where_they_should() {
    let Some(folder) = shared("assets/models/gpt2-capp") else { return };
    let (model, expected) = (load(&folder), fixtures::json(&folder.join("expected.json")));
    assert_eq!(model.info().eos, [51]);
    for case in list(&expected, "cases") {
        let (prompt, chain) = (token_ids(&case["prompt_ids"]), token_ids(&case["greedy_ids"]));
        let golden = numbers(&case["logits_last_prompt_position"]);
        assert_close("capp", &last_logits(&model, prompt.clone()), &golden, TOLERANCE);
        let new_tokens = chain.len() - prompt.len();
        assert_eq!(greedy(&model, &[prompt], new_tokens, &Device::flex()), [chain]);
    }
}

#[test]
fn golden_layers_of_a_gpt2_without_prefix_are_met() {
    let Some(folder) = shared("assets/models/gpt2-tiny-golden") else { return };
    let (model, expected) = (load(&folder), fixtures::json(&folder.join("golden.json")));
    for case in list(&expected, "cases") {
        let row = token_ids(&case["tokens"]);
        let last = row.len() - 1;
        let ids = input(row);
        let hidden = model.hidden_states(ids.clone(), &AttentionMask::causal(&ids));
        let of_last = |states: Tensor<3>| values(states.narrow(1, last, 1));
        for (layer, golden) in list(case, "per_layer").iter().enumerate() {
            let found = of_last(hidden.blocks[layer].clone());
            assert_close(&format!("layer {layer}"), &found, &numbers(golden), TOLERANCE);
        }
        assert_close("hidden", &of_last(hidden.final_norm.clone()), &numbers(&case["hidden"]), TOLERANCE);
        let found = of_last(model.logits(hidden.final_norm));
        assert_close("logits", &found, &numbers(&case["logits"]), TOLERANCE);
    }
}
