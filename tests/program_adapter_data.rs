//! An adapter folder alone, without its run, is used as it was trained.

use serde_json::Value;

use crate::program::Workshop;
use crate::program_generate::texts;
use crate::text_workshop::{loss, sets, text_workshop, train};

/// Runs with NOLA and with LoRA, and an export of the first: the folders that people hand on.
const HANDED_ON: [&str; 3] = ["runs/nola/adapter", "runs/lora/adapter", "exported"];

/// Trained on rows of `format`, with the loss of each run.
fn workshop_of(format: &str, data: &str) -> (Workshop, [f64; 2]) {
    let workshop = text_workshop();
    let losses = ["nola", "lora"].map(|method| {
        let changes = [
            format!("data.format={format}"),
            format!("data.train={data}"),
            format!("data.validation={data}"),
            format!("method.kind={method}"),
            format!("output.dir=runs/{method}"),
            "data.text.max_tokens=200".to_owned(),
            "data.text.system=Be brief.".to_owned(),
        ];
        loss(&train(&workshop, &sets(&changes.each_ref().map(String::as_str))).json())
    });
    assert_eq!(workshop.run(&["export", "--run", "runs/nola", "--out", "exported"]).code, 0);
    (workshop, losses)
}

fn evaluate(workshop: &Workshop, folder: &str, data: &str, more: &[&str]) -> (f64, String) {
    let named = ["evaluate", "--json", "--model", "base", "--adapter", folder, "--data", data];
    let outcome = workshop.run(&[&named[..], more].concat());
    (loss(&outcome.json()), outcome.stderr)
}

#[test]
fn an_adapter_folder_alone_is_scored_as_its_run_was() {
    for (format, data) in [("e2e", "rows/e2e.txt"), ("chat", "rows/chat.jsonl")] {
        let (workshop, [nola, lora]) = workshop_of(format, data);
        for (folder, of_run) in HANDED_ON.into_iter().zip([nola, lora, nola]) {
            let (found, stderr) = evaluate(&workshop, folder, data, &[]);
            assert!((found - of_run).abs() < 1e-4 * of_run, "{folder}: {found}, but {of_run} in the run");
            assert!(
                stderr.contains(&format!("read as {format}, which the adapter was trained on")),
                "{stderr}"
            );
        }
    }
}

#[test]
fn prompts_of_an_adapter_folder_alone_are_written_as_its_run_writes_them() {
    for (format, data, prompt) in
        [("e2e", "rows/e2e.txt", "name : Zizzi | food : Thai"), ("chat", "rows/chat.jsonl", "Zizzi?")]
    {
        let (workshop, _) = workshop_of(format, data);
        let of_run = texts(&workshop, &["--run", "runs/nola", prompt]);
        let raw = texts(&workshop, &["--run", "runs/nola", prompt, "--raw"]);
        assert_ne!(of_run, raw, "{format}: the prompt says nothing");
        for folder in ["runs/nola/adapter", "exported"] {
            assert_eq!(
                texts(&workshop, &["--model", "base", "--adapter", folder, prompt]),
                of_run,
                "{folder}"
            );
        }
        let [a, b] = ["a=runs/nola/adapter", "b=exported"];
        let both = texts(&workshop, &["--model", "base", "--adapter", a, "--adapter", b, prompt]);
        assert_eq!(both, [&of_run[..], &of_run].concat());
    }
}

#[test]
fn a_flag_overrules_the_folder_and_says_so() {
    let (workshop, [nola, _]) = workshop_of("e2e", "rows/e2e.txt");
    let (as_text, stderr) = evaluate(&workshop, HANDED_ON[0], "rows/e2e.txt", &["--format", "text"]);
    assert!(as_text > nola + 0.1, "{as_text} and {nola}");
    assert!(stderr.contains("read as text, as asked; the adapter was trained on e2e"), "{stderr}");
    let generate = ["generate", "--model", "base", "--adapter", HANDED_ON[0], "A", "--max-new-tokens", "2"];
    let stderr = workshop.run(&[&generate[..], &["--raw"]].concat()).stderr;
    assert!(
        stderr.contains("read as they stand, as asked; runs/nola/adapter was trained on e2e"),
        "{stderr}"
    );
}

#[test]
fn another_chat_template_than_the_one_of_training_is_told() {
    let (workshop, _) = workshop_of("chat", "rows/chat.jsonl");
    let file = workshop.at("base/tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).expect("a file")).expect("JSON");
    config["chat_template"] = "{% for m in messages %}{{ m['content'] }}{% endfor %}".into();
    workshop.write("base/tokenizer_config.json", config.to_string());
    for folder in HANDED_ON {
        let generate = ["generate", "--model", "base", "--adapter", folder, "A", "--max-new-tokens", "2"];
        let stderr = workshop.run(&generate).stderr;
        assert!(stderr.contains(&format!("{folder}: trained with another chat template")), "{stderr}");
    }
}

#[test]
fn inspect_shows_what_the_adapter_was_trained_on() {
    let (workshop, _) = workshop_of("e2e", "rows/e2e.txt");
    for folder in HANDED_ON {
        let data = workshop.run(&["inspect", folder, "--json"]).json()["data"].clone();
        assert_eq!((&data["format"], &data["max_tokens"]), (&"e2e".into(), &200.into()), "{folder}: {data}");
    }
}
