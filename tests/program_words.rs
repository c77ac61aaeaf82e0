//! What the program says of data and settings that it takes, but that somebody should know of; in the user's own words.

use serde_json::{Value, json};

use crate::bad_input::edit_json;
use crate::program::bytes_of;
use crate::text_workshop::{text_workshop, train};

/// Every word of the rows but one name.
const WORDS: [&str; 18] = [
    "<unk>", "name", ":", "|", "food", "Aromi", "Blue", "Spice", "The", "Mill", "French", "Indian", "Thai",
    "serves", ".", "There", "is", "at",
];

#[test]
fn words_that_the_tokenizer_does_not_know_are_counted_and_named() {
    let workshop = text_workshop();
    edit_json(&workshop.at("base/tokenizer.json"), |tokenizer| {
        let vocabulary = WORDS.iter().enumerate().map(|(id, word)| ((*word).to_owned(), id.into()));
        let others = (WORDS.len()..256).map(|id| (format!("other{id}"), id.into()));
        let end = ("<|endoftext|>".to_owned(), 256.into());
        let vocabulary = Value::Object(vocabulary.chain(others).chain([end]).collect());
        tokenizer["model"] = json!({"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"});
        tokenizer["pre_tokenizer"] = json!({"type": "Whitespace"});
        tokenizer["decoder"] = Value::Null;
    });
    let run = train(&workshop, &["--set", "train.steps=1"]);
    let warnings = run.json()["warnings"].clone();
    for (index, parts) in [
        ["3.6 % of the training tokens are `<unk>` (6 of 168), first in ", "rows/e2e.txt:10; "],
        ["3.3 % of the validation tokens are `<unk>` (4 of 120), first in ", "val.txt:7; "],
    ]
    .into_iter()
    .enumerate()
    {
        let warning = warnings[index].as_str().unwrap_or_else(|| panic!("no warning {index} in {warnings}"));
        assert!(parts.iter().all(|part| warning.contains(part)), "{warning}");
        assert!(warning.ends_with("the tokenizer does not know `Zizzi`"), "{warning}");
        assert!(run.stderr.contains(&format!("warning: {warning}")), "{}", run.stderr);
    }
    let report = String::from_utf8(bytes_of(&workshop.at("runs/food/report.html"))).expect("text");
    assert!(report.contains("of the training tokens are"), "the report has the warning");
    let scored = workshop.run(&["evaluate", "--run", "runs/food"]);
    assert!(scored.stderr.contains("warning: 3.3 % of the validation tokens"), "{}", scored.stderr);
}

#[test]
fn settings_are_named_by_option_or_by_file_and_key() {
    let workshop = text_workshop();
    let settings = json!({"eos_token_id": 256, "num_beams": 3, "max_new_tokens": 4});
    workshop.write("base/generation_config.json", settings.to_string());
    let generate =
        |options: &[&str]| workshop.run(&[&["generate", "--model", "base", "Hi"], options].concat());
    let file = "generation_config.json is 3";
    generate(&["--temperature=0.5"])
        .assert_refused(2, &["--temperature draws", "`num_beams` of ", file, "--beams 1"]);
    generate(&["--temperature=0.5", "--beams=2"])
        .assert_refused(2, &["--beams 2 and --temperature do not go together"]);
    generate(&["--end=999"]).assert_refused(2, &["--end names 999, but the model has 257 tokens"]);
    let vain = generate(&["--top-k=5"]);
    assert_eq!(vain.code, 0, "{}", vain.stderr);
    assert!(vain.stderr.contains("warning: --top-k has no effect"), "{}", vain.stderr);
}

#[test]
fn files_are_refused_without_words_of_rust() {
    let workshop = text_workshop();
    workshop.write("base/generation_config.json", r#"{"top_k": "many"}"#);
    let run = workshop.run(&["generate", "--model", "base", "Hi"]);
    run.assert_refused(5, &["generation_config.json: `top_k`", "the text \"many\", expected a whole number"]);
    workshop.write("base/tokenizer.json", r#"{"version": "1.0", "model": {"type": "BPE", "vocab": 3}}"#);
    let run = workshop.run(&["generate", "--model", "base", "Hi"]);
    run.assert_refused(5, &["tokenizer.json"]);
    for word in ["usize", "u32", "invalid type", "untagged", "variant", "sequence", "struct"] {
        assert!(!run.stderr.contains(word), "{word} in {}", run.stderr);
    }
}
