//! Ids of real tokenizers, compared with those of the reference implementation.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::fixtures::{assets, copied};
use super::{DecodeSpecials, Specials, Tokenizer};

/// Texts and ids as the reference implementation has them.
fn expected(file: &Path) -> Vec<(String, Vec<u32>)> {
    let json: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let case = |case: &Value| {
        let ids = case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        (case["text"].as_str().unwrap().to_string(), ids)
    };
    json["cases"].as_array().unwrap().iter().map(case).collect()
}

fn assert_golden(tokenizer: &Tokenizer, file: &Path) {
    let cases = expected(file);
    assert!(cases.len() >= 18);
    for (text, ids) in cases {
        assert_eq!(tokenizer.encode(&text, Specials::AsModel).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, DecodeSpecials::Skip).unwrap(), text);
    }
}

#[test]
fn ids_from_tokenizer_json_are_those_of_the_reference() {
    for (folder, file) in [
        ("tokenizers/gpt2", "expected.json"),
        ("tokenizers/llama2", "expected.json"),
        ("models/gpt2-micro-shakespeare", "tokenizer_expected.json"),
        ("models/llama-stories260k", "tokenizer_expected.json"),
    ] {
        let Some(folder) = assets(folder) else { return };
        assert_golden(&Tokenizer::open(&folder).unwrap(), &folder.join(file));
    }
}

#[test]
fn ids_from_vocabulary_and_merges_are_those_of_the_reference() {
    for (folder, file) in
        [("tokenizers/gpt2", "expected.json"), ("models/gpt2-micro-shakespeare", "tokenizer_expected.json")]
    {
        let Some(folder) = assets(folder) else { return };
        let copy = copied(&folder, &["vocab.json", "merges.txt"]);
        let tokenizer = Tokenizer::open(copy.path()).unwrap();
        assert_golden(&tokenizer, &folder.join(file));
        assert_eq!(tokenizer.eos(), tokenizer.id("<|endoftext|>"));
        assert_eq!(tokenizer.bos(), Some(tokenizer.vocab_size() as u32 - 1));
    }
}

#[test]
fn ids_from_a_sentencepiece_model_are_those_of_the_reference() {
    let Some(folder) = assets("tokenizers/llama2") else { return };
    let copy = copied(&folder, &["tokenizer.model"]);
    let tokenizer = Tokenizer::open(copy.path()).unwrap();
    assert_golden(&tokenizer, &folder.join("expected.json"));
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(1), Some(2), None));
    assert_eq!(tokenizer.vocab_size(), 32_000);
}

#[test]
fn a_sentencepiece_model_becomes_the_tokenizer_json_of_the_reference() {
    let Some(folder) = assets("tokenizers/llama2") else { return };
    let read = Tokenizer::open(copied(&folder, &["tokenizer.model"]).path()).unwrap();
    let reference = Tokenizer::open(&folder).unwrap();
    let parts = |tokenizer: &Tokenizer| -> (Vec<String>, Value) {
        let mut json = serde_json::to_value(&tokenizer.inner).unwrap();
        // The order among merges of equal score is another one, which no text shows: see the next test.
        let merges = json["model"]["merges"].take();
        let mut merges: Vec<String> = merges.as_array().unwrap().iter().map(Value::to_string).collect();
        merges.sort_unstable();
        (merges, json)
    };
    // Not `assert_eq`: 60,000 merges would be unreadable.
    assert!(parts(&read) == parts(&reference));
}

#[test]
fn a_sentencepiece_model_splits_long_real_texts_as_the_reference_does() {
    let Some(folder) = assets("tokenizers/llama2") else { return };
    let read = Tokenizer::open(copied(&folder, &["tokenizer.model"]).path()).unwrap();
    let reference = Tokenizer::open(&folder).unwrap();
    for name in ["text/tinystories/tinystories.txt", "text/alpaca/alpaca_tiny.json", "text/e2e/test.txt"] {
        let text = fs::read_to_string(folder.join("../..").join(name)).unwrap();
        let text = &text[..text.floor_char_boundary(200_000)];
        let ids = read.encode(text, Specials::AsModel).unwrap();
        assert!(ids.len() > 20_000);
        assert!(ids == reference.encode(text, Specials::AsModel).unwrap(), "{name}");
    }
}
