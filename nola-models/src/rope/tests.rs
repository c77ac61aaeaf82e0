use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::*;
use crate::Architecture;
use crate::llama::LlamaConfig;

/// What transformers makes of one configuration.
#[derive(Deserialize)]
struct Case {
    name: String,
    config: Value,
    expected: Vec<Expected>,
}

#[derive(Deserialize)]
struct Expected {
    tokens: usize,
    frequencies: Vec<f64>,
    attention_factor: f64,
}

fn config_of(json: &Value) -> LlamaConfig {
    let file = Path::new("config.json");
    match Architecture::of(json, file).expect("a language model") {
        Architecture::Llama(family) => LlamaConfig::from_json(json, file, family).expect("its settings"),
        Architecture::Gpt2 => panic!("no LLaMA"),
    }
}

fn assert_near(found: f64, expected: f64, what: &str) {
    // transformers computes in f32.
    assert!((found / expected - 1.0).abs() < 2e-6, "{what}: {found}, not {expected}");
}

#[test]
fn every_spelling_of_rotary_scaling_has_the_frequencies_of_transformers() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/golden/rope/cases.json");
    let cases: Vec<Case> =
        serde_json::from_slice(&std::fs::read(file).expect("a golden file")).expect("its cases");
    for Case { name, config, expected } in cases {
        let LlamaConfig { rotary, d_head, .. } = config_of(&config);
        for Expected { tokens, frequencies, attention_factor } in expected {
            let what = format!("{name}, {tokens} tokens");
            let found = rotary.frequencies(d_head, tokens);
            assert_eq!(found.len(), frequencies.len(), "{what}");
            found.iter().zip(frequencies).for_each(|(&found, expected)| assert_near(found, expected, &what));
            assert_near(rotary.scaling.attention_factor(), attention_factor, &what);
        }
    }
}

/// A rotary embedding whose frequencies are halved from the third token on.
fn halved_from_three() -> Rotary {
    let scaling = RotaryScaling::LongRope(LongRope {
        short_factor: vec![1.0],
        long_factor: vec![2.0],
        attention_factor: 1.0,
        original_max_tokens: 2.0,
    });
    Rotary { theta: 10_000.0, scaling }
}

/// The angles of the tokens of a pass, by their sines and cosines.
fn angles(rope: &Rope) -> Vec<f32> {
    let values = |table: &Tensor<4>| -> Vec<f32> {
        table.clone().into_data_as::<f32>().try_into_vec().expect("the type was asked for")
    };
    values(&rope.sin).iter().zip(values(&rope.cos)).map(|(sin, cos)| sin.atan2(cos)).collect()
}

#[track_caller]
fn assert_angles(rope: &Rope, expected: &[f32]) {
    let found = angles(rope);
    let is_near = |(found, expected): (&f32, &f32)| (found - expected).abs() < 1e-6;
    assert!(
        found.len() == expected.len() && found.iter().zip(expected).all(is_near),
        "{found:?}, not {expected:?}"
    );
}

#[test]
fn each_text_of_a_row_turns_by_its_own_length() {
    let device = Device::flex();
    let ids = Tensor::zeros([1, 5], &device);
    let mask = AttentionMask::packed(&ids, &[0, 1, 2, 0, 1], &[0, 0, 0, 1, 1]);
    let rope = halved_from_three().rope(2, &mask, &device, DType::F32);
    assert_angles(&rope, &[0.0, 0.5, 1.0, 0.0, 1.0]);
}

#[test]
fn a_row_turns_by_the_length_that_it_has_before_its_padding() {
    let device = Device::flex();
    let mask = AttentionMask::padded_right(&Tensor::zeros([2, 3], &device), &[3, 2]);
    let rope = halved_from_three().rope(2, &mask, &device, DType::F32);
    assert_angles(&rope, &[0.0, 0.5, 1.0, 0.0, 1.0, 2.0]);
}

#[test]
fn a_text_changes_when_it_outgrows_the_original_context() {
    let rotary = halved_from_three();
    let changes = [(1, 2), (2, 3), (1, 5), (3, 4)].map(|(before, after)| rotary.changes(before, after));
    assert_eq!(changes, [false, true, true, false]);
}
