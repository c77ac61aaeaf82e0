//! `nola-train generate`, as a user runs it, on tiny language models that read bytes.

use serde_json::{Value, json};

use crate::program::{Workshop, keys};
use crate::text_workshop::{run_with_input, sets, text_workshop, train, trained};

const PROMPT: &str = "name : Zizzi | food : Thai";

fn generated(workshop: &Workshop, arguments: &[&str]) -> Value {
    let is_long = arguments.contains(&"--max-new-tokens");
    let length: &[&str] = if is_long { &[] } else { &["--max-new-tokens", "12"] };
    workshop.run(&[&["generate", "--json"], length, arguments].concat()).json()
}

/// The texts that `generate --json` gives.
pub fn texts(workshop: &Workshop, arguments: &[&str]) -> Vec<String> {
    let result = generated(workshop, arguments);
    let texts = result["texts"].as_array().expect("a list").iter();
    texts.map(|text| text["text"].as_str().expect("text").to_owned()).collect()
}

#[test]
fn what_streams_is_what_json_holds() {
    let workshop = text_workshop();
    let result = generated(&workshop, &["--model", "base", "At "]);
    insta::assert_snapshot!("generate_json", keys(&result));
    let text = &result["texts"][0];
    assert_eq!((&text["prompt"], &text["tokens"]), (&"At ".into(), &12.into()), "{result}");
    let streamed = workshop.run(&["generate", "--model", "base", "At ", "--max-new-tokens", "12"]);
    assert_eq!(streamed.stdout, format!("{}\n", text["text"].as_str().expect("text")));
}

#[test]
fn a_drawn_text_depends_on_its_seed_alone() {
    let workshop = text_workshop();
    let drawn = |seed| texts(&workshop, &["--model", "base", "At ", "--temperature", "1.5", "--seed", seed]);
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
}

#[test]
fn a_batch_goes_on_like_each_prompt_alone() {
    let workshop = text_workshop();
    for decoding in [&["--temperature", "0"][..], &["--beams", "3"], &["--temperature", "1.2"]] {
        let prompts = ["At ", "Blue Spice", "T", "Zizzi cooks what no one"];
        let of = |batch| {
            texts(&workshop, &[&["--model", "llama", "--batch", batch], decoding, &prompts[..]].concat())
        };
        assert_eq!(of("1"), of("4"), "{decoding:?}");
    }
}

#[test]
fn prompts_come_from_standard_input_a_line_each() {
    let workshop = text_workshop();
    let arguments = ["generate", "--model", "base", "--max-new-tokens", "5", "--json"];
    let result = run_with_input(&workshop, "At \n\nBlue\n", &arguments).json();
    let prompts: Vec<&Value> =
        result["texts"].as_array().expect("a list").iter().map(|text| &text["prompt"]).collect();
    assert_eq!(prompts, ["At ", "Blue"]);
    run_with_input(&workshop, "\n", &arguments).assert_refused(2, &["no prompt"]);
}

#[test]
fn a_run_reads_prompts_as_its_rows_unless_told_otherwise() {
    let workshop = text_workshop();
    trained(&workshop);
    let of = |more: &[&str]| texts(&workshop, &[&["--run", "runs/food", PROMPT], more].concat());
    let end = format!("{PROMPT}<|endoftext|>");
    let typed = texts(&workshop, &["--run", "runs/food", "--raw", &end]);
    assert_eq!(of(&[]), typed, "a row of E2E has an end token behind its context");
    assert_ne!(of(&["--raw"]), typed);
    assert_eq!(of(&["--format", "prompt-completion"]), of(&["--raw"]), "such a row has nothing behind it");
}

#[test]
fn a_conversation_goes_through_the_chat_template() {
    let workshop = text_workshop();
    let answer = texts(&workshop, &["--model", "base", "--chat", "--system", "be brief", "Hi"]);
    let written = "system: be brief<|endoftext|>\nuser: Hi<|endoftext|>\nassistant:";
    assert_eq!(answer, texts(&workshop, &["--model", "base", written]));
}

#[test]
fn a_model_without_a_chat_template_does_not_chat() {
    let workshop = text_workshop();
    workshop.write("base/tokenizer_config.json", json!({"eos_token": "<|endoftext|>"}).to_string());
    let run = workshop.run(&["generate", "--model", "base", "--chat", "Hi"]);
    run.assert_refused(2, &["prompt `Hi`", "no chat template", "leave out --chat"]);
}

#[test]
fn a_merged_adapter_says_what_it_says_unmerged() {
    let workshop = text_workshop();
    trained(&workshop);
    let arguments = ["--run", "runs/food", PROMPT];
    assert_eq!(texts(&workshop, &arguments), texts(&workshop, &[&arguments[..], &["--merge"]].concat()));
}

#[test]
fn several_adapters_answer_by_their_names() {
    let workshop = text_workshop();
    trained(&workshop);
    train(&workshop, &sets(&["method.kind=lora", "output.dir=runs/lora"])).json();
    let adapters = ["--adapter", "ours=runs/food/adapter", "--adapter", "theirs=runs/lora/adapter"];
    let both =
        generated(&workshop, &[&["--model", "base", "--format", "e2e", PROMPT], &adapters[..]].concat());
    for (index, (name, run)) in [("ours", "runs/food"), ("theirs", "runs/lora")].into_iter().enumerate() {
        let text = &both["texts"][index];
        assert_eq!(text["adapter"], name);
        assert_eq!([text["text"].clone()], texts(&workshop, &["--run", run, PROMPT])[..], "{name}");
    }
    let arguments =
        [&["generate", "--model", "base", "At "][..], &["--max-new-tokens", "12"], &adapters[..]].concat();
    let shown = workshop.run(&arguments).stdout;
    assert!(shown.contains("== [ours] At \n") && shown.contains("== [theirs] At \n"), "{shown}");
}
