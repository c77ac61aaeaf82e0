//! What bad text, tokenizers and adapters get: an error that names file, line and cure, or a skip that is counted.

use std::fs;

use safetensors::SafeTensors;
use serde_json::json;

use crate::bad_input::edit_json;
use crate::program::{Outcome, Workshop, bytes_of};
use crate::text_workshop::{
    CONTEXT, e2e_row, gpt2_json, sets, text_workshop, tokenizer_config_json, tokenizer_json, train, trained,
};

/// A row of text may have this many bytes.
const MAX_ROW_BYTES: usize = 16 << 20;

const SKIP: &str = "data.text.on_bad_row=skip";

/// What `train` says of `content` as training data in this format.
fn with_rows(file: &str, format: &str, content: impl AsRef<[u8]>, more: &[&str]) -> Outcome {
    let workshop = text_workshop();
    workshop.write(file, content);
    train_on(&workshop, file, format, more)
}

fn train_on(workshop: &Workshop, file: &str, format: &str, more: &[&str]) -> Outcome {
    let [data, validation] = [format!("data.train={file}"), format!("data.validation={file}")];
    let format = format!("data.format={format}");
    train(workshop, &sets(&[&[&data[..], &validation, &format, "train.steps=1"], more].concat()))
}

/// Asserts that a good row, then `bad`, then a good row are refused with the line of the bad one, and that it can be skipped.
fn assert_bad_second_line(file: &str, format: &str, good: &str, bad: &[u8], parts: &[&str]) {
    let rows = [good.as_bytes(), b"\n", bad, b"\n", good.as_bytes(), b"\n"].concat();
    let place = format!("{file}:2: ");
    let run = with_rows(file, format, &rows, &[]);
    run.assert_refused(4, &[&["1 rows cannot be used", &place, "on_bad_row = \"skip\""], parts].concat());
    let skipped = with_rows(file, format, &rows, &[SKIP]);
    assert_eq!(skipped.code, 0, "{}", skipped.stderr);
    assert!(skipped.stderr.contains("3 rows read, 1 bad; 2 samples"), "{}", skipped.stderr);
    assert!(skipped.stderr.contains(&format!("left out: {place}")), "{}", skipped.stderr);
}

#[test]
fn a_token_beyond_the_embedding_is_refused_in_the_row_that_has_it() {
    let workshop = text_workshop();
    workshop.write("base/tokenizer.json", tokenizer_json(&[("<one>", 257), ("<two>", 258)]).to_string());
    workshop.write("plain.txt", "Hi there");
    workshop.run(&["evaluate", "--model", "base", "--data", "plain.txt", "--json"]).json();
    workshop.write("foreign.txt", "Hi <one>");
    let refused = workshop.run(&["evaluate", "--model", "base", "--data", "foreign.txt"]);
    refused.assert_refused(4, &["foreign.txt", "token 257", "the model has 257 embeddings"]);
}

#[test]
fn a_token_that_is_listed_with_an_id_out_of_range() {
    let workshop = text_workshop();
    workshop.write("base/tokenizer.json", tokenizer_json(&[("<far>", 70_000)]).to_string());
    let run = workshop.run(&["generate", "--model", "base", "<far>"]);
    run.assert_refused(
        5,
        &["base/tokenizer.json: token `<far>` is listed with the id 70000", "different models"],
    );
}

#[test]
fn an_end_token_that_generation_does_not_have() {
    let workshop = text_workshop();
    let run = workshop.run(&["generate", "--model", "base", "Hi", "--end", "300"]);
    run.assert_refused(2, &["--end names 300", "the model has 257 tokens"]);
}

#[test]
fn a_tokenizer_without_an_end_token() {
    let workshop = text_workshop();
    edit_json(&workshop.at("base/tokenizer_config.json"), |config| config["eos_token"] = json!(null));
    edit_json(&workshop.at("base/config.json"), |config| config["eos_token_id"] = json!(null));
    train(&workshop, &[])
        .assert_refused(4, &["no end token, which `e2e` needs", "eos_token in tokenizer_config.json"]);
}

#[test]
fn conversations_for_a_model_without_a_chat_template() {
    let workshop = text_workshop();
    edit_json(&workshop.at("base/tokenizer_config.json"), |config| {
        config.as_object_mut().expect("a table").remove("chat_template");
    });
    let run = train_on(&workshop, "rows/chat.jsonl", "chat", &[]);
    run.assert_refused(4, &["no chat template, which `chat` needs", "tokenizer_config.json"]);
}

#[test]
fn samples_longer_than_asked_are_cut_or_dropped_and_counted() {
    let rows = format!("{}\n{}\n", e2e_row("Zizzi", "Thai"), e2e_row(&"Very long ".repeat(6), "Thai"));
    let short = "data.text.max_tokens=120";
    for (more, part) in [
        (&[short][..], "2 rows read, 0 bad; 2 samples, 1 cut at the end"),
        (&[short, "data.text.on_long=drop"], "2 rows read, 0 bad; 1 samples, 1 dropped as too long"),
    ] {
        let run = with_rows("long.txt", "e2e", &rows, more);
        assert!(run.code == 0 && run.stderr.contains(part), "{}", run.stderr);
    }
}

#[test]
fn samples_longer_than_the_context() {
    let long = format!("data.text.max_tokens={}", CONTEXT + 1);
    let run = with_rows("rows.txt", "e2e", e2e_row("Zizzi", "Thai"), &[&long]);
    run.assert_refused(4, &["`data.text.max_tokens` is 257", "1 to 256"]);
}

#[test]
fn samples_of_which_nothing_is_learned() {
    let (good, all_prompt) = (e2e_row("Zizzi", "Thai"), e2e_row(&"long ".repeat(60), "Thai"));
    let run = with_rows("rows.txt", "e2e", format!("{good}\n{all_prompt}\n"), &[]);
    let part = "1 samples, 1 dropped with too long a prompt";
    assert!(run.code == 0 && run.stderr.contains(part), "{}", run.stderr);
    let run = with_rows("rows.txt", "e2e", all_prompt, &[]);
    let parts =
        ["rows.txt: nothing to learn from: 1 rows read; 1 dropped", "data.text.max_tokens = 256", "shorten"];
    run.assert_refused(4, &parts);
}

#[test]
fn a_file_without_rows() {
    with_rows("empty.txt", "e2e", "", &[])
        .assert_refused(4, &["empty.txt: nothing to learn from: there are no rows in it"]);
}

#[test]
fn bytes_that_are_no_text() {
    let good = e2e_row("Zizzi", "Thai");
    assert_bad_second_line("rows.txt", "e2e", &good, b"name : \xff||x", &["not UTF-8 at byte 7"]);
    let running = with_rows("story.txt", "text", b"one line\nanother \xff line\n", &[]);
    running.assert_refused(4, &["story.txt:2: not UTF-8 at byte 8"]);
}

#[test]
fn utf_16_is_named() {
    with_rows("rows.txt", "e2e", b"\xff\xfen\0a\0", &[])
        .assert_refused(4, &["rows.txt: is UTF-16", "save it as UTF-8"]);
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_change_no_bit() {
    let workshop = text_workshop();
    trained(&workshop);
    let rows = String::from_utf8(bytes_of(&workshop.at("rows/e2e.txt"))).expect("text");
    workshop.write("windows.txt", format!("\u{feff}{}", rows.replace('\n', "\r\n")));
    train(&workshop, &sets(&["data.train=windows.txt", "output.dir=runs/windows"])).json();
    let adapter = |run: &str| bytes_of(&workshop.at(run).join("adapter/adapter_model.safetensors"));
    assert_eq!(adapter("runs/windows"), adapter("runs/food"));
}

#[test]
fn a_line_without_end() {
    let good = e2e_row("Zizzi", "Thai");
    let endless = vec![b'a'; MAX_ROW_BYTES + 1000];
    assert_bad_second_line("rows.txt", "e2e", &good, &endless, &["16778217 bytes; a row may have 16777216"]);
    let running = with_rows("story.txt", "text", &endless, &[]);
    running.assert_refused(4, &["story.txt:1: 16778216 bytes; a row may have 16777216"]);
    let document = [b"[{\"prompt\": \"", &endless[..], b"\"}]"].concat();
    let run = with_rows("rows.json", "prompt-completion", document, &[]);
    run.assert_refused(4, &["rows.json:1 (row 1): 16778230 bytes; a row may have 16777216"]);
}

#[test]
fn brackets_ten_thousand_deep() {
    let deep = "[".repeat(10_000);
    let row = json!({"prompt": "a", "completion": "b"}).to_string();
    assert_bad_second_line(
        "rows.jsonl",
        "prompt-completion",
        &row,
        deep.as_bytes(),
        &["not JSON: recursion limit"],
    );
    let run = with_rows("rows.json", "prompt-completion", &deep, &[]);
    run.assert_refused(4, &["rows.json:1: not JSON: brackets in more than 1000 brackets"]);
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        let workshop = text_workshop();
        workshop.write(&format!("base/{file}"), format!("{{\"model\": {{\"type\": {deep}"));
        let refused = workshop.run(&["generate", "--model", "base", "Hi"]);
        refused.assert_refused(5, &[&format!("base/{file}")]);
    }
}

#[test]
fn a_chat_template_that_never_ends() {
    let loops = [
        "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ];
    for template in loops {
        let workshop = text_workshop();
        edit_json(&workshop.at("base/tokenizer_config.json"), |config| {
            config["chat_template"] = template.into()
        });
        train_on(&workshop, "rows/chat.jsonl", "chat", &[])
            .assert_refused(4, &["12 rows cannot be used", "chat template: ", "rows/chat.jsonl:1"]);
        workshop
            .run(&["generate", "--model", "base", "--chat", "Hi"])
            .assert_refused(5, &["tokenizer_config.json"]);
    }
}

#[test]
fn a_chat_template_that_is_none() {
    let workshop = text_workshop();
    edit_json(&workshop.at("base/tokenizer_config.json"), |config| {
        config["chat_template"] = "{% for %}".into()
    });
    train_on(&workshop, "rows/chat.jsonl", "chat", &[])
        .assert_refused(5, &["tokenizer_config.json", "chat template"]);
}

#[test]
fn a_tokenizer_that_is_damaged_or_absent() {
    let workshop = text_workshop();
    workshop.write("base/tokenizer.json", "{\"model\": {\"type\": \"BPE\", \"vocab\"");
    train(&workshop, &[]).assert_refused(5, &["base/tokenizer.json", "restore the file from its source"]);
    fs::remove_file(workshop.at("base/tokenizer.json")).expect("the tokenizer");
    train(&workshop, &[]).assert_refused(5, &["base: no tokenizer", "vocab.json with merges.txt"]);
}

#[test]
fn columns_of_other_names() {
    let rows = "question,answer\nFood?,Thai\n";
    let run = with_rows("rows.csv", "prompt-completion", rows, &[]);
    run.assert_refused(
        4,
        &["rows.csv:2: no field `prompt`", "the row has question, answer", "data.text.columns.prompt"],
    );
    let named = ["data.text.columns.prompt=question", "data.text.columns.completion=answer"];
    assert_eq!(with_rows("rows.csv", "prompt-completion", rows, &named).code, 0);
    let alpaca = with_rows("rows.csv", "alpaca", rows, &[]);
    alpaca.assert_refused(4, &["rows.csv:2: no field `instruction`", "the row has question, answer"]);
}

#[test]
fn a_csv_row_of_another_length() {
    let rows = "prompt,completion\na,b\na,b,c\n";
    let run = with_rows("rows.csv", "prompt-completion", rows, &[]);
    run.assert_refused(4, &["rows.csv:3: 3 fields; the header has 2"]);
}

#[test]
fn equal_bad_rows_are_told_once_with_the_first_places() {
    let rows: String = (1..=15).map(|row| format!("row {row} has no separator\n")).collect();
    let run = with_rows("rows.txt", "e2e", rows, &[]);
    run.assert_refused(
        4,
        &["15 rows cannot be used", "15 rows: no `||`", "(rows.txt:1, 2, 3, 4, 5 and 10 more)"],
    );
    assert!(!run.stderr.contains("step "), "nothing may be trained: {}", run.stderr);
}

#[test]
fn data_that_is_not_there_or_of_an_unknown_kind() {
    let workshop = text_workshop();
    train_on(&workshop, "nowhere.txt", "e2e", &[]).assert_refused(4, &["nowhere.txt: cannot be read"]);
    workshop.write("rows.docx", "words");
    train_on(&workshop, "rows.docx", "e2e", &[])
        .assert_refused(4, &["rows.docx: unknown kind of file", ".jsonl"]);
    train_on(&workshop, "rows/e2e.txt", "alpaca", &[])
        .assert_refused(4, &["rows/e2e.txt", "is data.format right?"]);
    train_on(&workshop, "rows/e2e.txt", "e2a", &[])
        .assert_refused(3, &["`data.format` cannot be `e2a`", "`e2e`"]);
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
fn an_adapter_of_another_language_model() {
    let workshop = text_workshop();
    trained(&workshop);
    let file = workshop.at("base/model.safetensors");
    let mut bytes = fs::read(&file).expect("the weights");
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&0.125_f32.to_le_bytes());
    fs::write(&file, bytes).expect("a file");
    let parts = ["adapter_config.json", "made for the base `base`", "the hash of the weights differs"];
    for command in [&["generate", "--run", "runs/food", "Hi"][..], &["evaluate", "--run", "runs/food"]] {
        workshop.run(command).assert_refused(6, &parts);
    }
    let on_llama = ["generate", "--model", "llama", "--adapter", "runs/food/adapter", "Hi"];
    workshop.run(&on_llama).assert_refused(6, &["adapter_config.json", "made for the base `base`"]);
}

#[test]
fn a_lora_of_gpt2_on_a_llama() {
    let workshop = text_workshop();
    train(&workshop, &sets(&["method.kind=lora"])).json();
    let on_llama = ["generate", "--model", "llama", "--adapter", "runs/food/adapter", "Hi"];
    workshop.run(&on_llama).assert_refused(6, &["adapter_config.json", "made for the base `base`"]);
    // As PEFT writes it, without the hashes of the base.
    let file = workshop.at("runs/food/adapter/adapter_model.safetensors");
    let bytes = fs::read(&file).expect("the adapter");
    let tensors = SafeTensors::deserialize(&bytes).expect("an adapter").tensors();
    fs::write(&file, safetensors::serialize(tensors, None).expect("an adapter")).expect("a file");
    let part =
        "`base_model.model.transformer.h.0.attn.c_attn.lora_A.weight` belongs to nothing in this model";
    workshop.run(&on_llama).assert_refused(6, &[part]);
}

#[test]
fn a_language_model_of_a_kind_that_is_not_computed() {
    let workshop = text_workshop();
    edit_json(&workshop.at("base/config.json"), |config| config["model_type"] = "mistral".into());
    let parts = ["base/config.json", "`model_type` is \"mistral\"", "`gpt2`", "`llama`"];
    train(&workshop, &[]).assert_refused(5, &parts);
    for command in
        [&["generate", "--model", "base", "Hi"][..], &["evaluate", "--model", "base", "--data", "val.txt"]]
    {
        workshop.run(command).assert_refused(5, &parts);
    }
}

#[test]
fn text_for_a_model_of_images_and_images_for_one_of_text() {
    let workshop = Workshop::new();
    workshop.write("rows.txt", e2e_row("Zizzi", "Thai"));
    let text = sets(&["data.format=e2e", "data.train=rows.txt", "data.validation=rows.txt"]);
    let run = workshop.run(&[&["train", "colours.toml"], &text[..]].concat());
    run.assert_refused(5, &["base/config.json", "`model_type` is \"vit\"", "`gpt2` or `llama`"]);
    crate::text_workshop::model(&workshop, "writer", &gpt2_json());
    let run = workshop.run(&["train", "colours.toml", "--set", "model.path=writer"]);
    run.assert_refused(5, &["writer/config.json", "`model_type` is \"gpt2\"", "`vit`"]);
}

#[test]
fn a_chat_template_of_its_own_file_is_read_first() {
    let workshop = text_workshop();
    workshop.write("base/chat_template.jinja", "{{ oops( }}");
    assert!(tokenizer_config_json()["chat_template"].is_string());
    let run = workshop.run(&["generate", "--model", "base", "--chat", "Hi"]);
    run.assert_refused(5, &["base/chat_template.jinja"]);
}
