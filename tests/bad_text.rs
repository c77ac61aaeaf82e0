//! What text, prompts and settings of decoding get that cannot be used: an error that names file, field and cure. `faults`
//! holds the thirty that have a number.

use crate::faults::refused_on;
use crate::program::Workshop;
use crate::text_workshop::{CONTEXT, e2e_row, gpt2_json, sets, text_workshop};

#[test]
fn data_that_is_not_there_or_of_an_unknown_kind() {
    let workshop = text_workshop();
    workshop.write("rows.docx", "words");
    let cases: [(&str, &str, i32, &[&str]); 4] = [
        ("nowhere.txt", "e2e", 4, &["nowhere.txt: cannot be read"]),
        ("rows.docx", "e2e", 4, &["rows.docx: unknown kind of file", ".jsonl"]),
        ("rows/e2e.txt", "alpaca", 4, &["rows/e2e.txt", "is data.format right?"]),
        ("rows/e2e.txt", "e2a", 3, &["`data.format` cannot be `e2a`", "`e2e`"]),
    ];
    for (file, format, code, parts) in cases {
        refused_on(&workshop, file, format, &[], code, parts);
    }
}

#[test]
fn a_format_of_images_for_text() {
    let workshop = text_workshop();
    let parts = ["`folder` is a format of images", "such as `e2e`"];
    for command in [&["generate", "Hi"][..], &["evaluate", "--data", "val.txt"]] {
        workshop
            .run(&[command, &["--model", "base", "--format", "folder"]].concat())
            .assert_refused(4, &parts);
    }
}

#[test]
fn text_of_which_metrics_cannot_be_made() {
    let workshop = text_workshop();
    let arguments = ["evaluate", "--model", "base", "--data", "rows/story.txt", "--metrics"];
    workshop
        .run(&arguments)
        .assert_refused(4, &["rows/story.txt", "rows of `text` have no prompts", "--format"]);
}

#[test]
fn a_place_where_texts_cannot_be_saved_is_noticed_before_they_are_written() {
    let workshop = text_workshop();
    let data = ["evaluate", "--model", "base", "--data", "val.txt", "--format", "e2e", "--metrics"];
    let run = workshop.run(&[&data[..], &["--save-texts", "nowhere/texts.txt"]].concat());
    run.assert_refused(9, &["nowhere/texts.txt", "cannot be written"]);
}

#[test]
fn a_prompt_that_leaves_no_room_in_the_context() {
    let workshop = text_workshop();
    let prompt = "a".repeat(CONTEXT);
    for base in ["base", "llama"] {
        let run = workshop.run(&["generate", "--model", base, &prompt]);
        run.assert_refused(2, &["has 256 tokens", "at most 256", "shorten it"]);
    }
}

#[test]
fn a_text_that_fills_the_context_ends_there() {
    let workshop = text_workshop();
    let prompt = "a".repeat(CONTEXT - 3);
    let arguments = ["generate", "--model", "base", "--end", "255", "--json", &prompt];
    let text = &workshop.run(&arguments).json()["texts"][0];
    assert_eq!((&text["tokens"], &text["finish"]), (&3.into(), &"the model's context".into()), "{text}");
}

#[test]
fn an_empty_prompt_for_a_model_without_a_start_token() {
    let workshop = text_workshop();
    workshop.run(&["generate", "--model", "base", ""]).assert_refused(2, &["is empty", "at least one token"]);
}

#[test]
fn decoding_settings_that_cannot_be_meant() {
    let workshop = text_workshop();
    for (option, part) in [
        ("--temperature=-1", "--temperature is -1"),
        ("--top-p=0", "--top-p is 0"),
        ("--beams=0", "--beams is 0"),
        ("--max-new-tokens=0", "--max-new-tokens is 0"),
        ("--repetition-penalty=0", "--repetition-penalty is 0"),
    ] {
        workshop.run(&["generate", "--model", "base", "Hi", option]).assert_refused(2, &[part, "it must be"]);
    }
}

#[test]
fn text_for_a_model_of_images_and_images_for_one_of_text() {
    let workshop = Workshop::new();
    workshop.write("rows.txt", e2e_row("Zizzi", "Thai"));
    let text = sets(&["data.format=e2e", "data.train=rows.txt", "data.validation=rows.txt"]);
    let run = workshop.run(&[&["train", "colours.toml"], &text[..]].concat());
    run.assert_refused(5, &["base/config.json", "`model_type` is \"vit\"", "`gpt2`, `llama`"]);
    crate::text_workshop::model(&workshop, "writer", &gpt2_json());
    let run = workshop.run(&["train", "colours.toml", "--set", "model.path=writer"]);
    run.assert_refused(5, &["writer/config.json", "`model_type` is \"gpt2\"", "`vit`"]);
}
