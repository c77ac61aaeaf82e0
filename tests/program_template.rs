//! Prompts of an own template, through the built program.

use crate::program::Workshop;
use crate::text_workshop::{loss, text_workshop, train};

const TEMPLATE: [&str; 6] = [
    "--set=data.format=template",
    "--set=data.train=rows/facts.jsonl",
    "--set=data.validation=rows/facts.jsonl",
    "--set=data.text.template=In {{{town}}} {name} has",
    "--set=data.text.completion={food} food",
    "--set=method.kind=lora",
];

/// Rows of three columns, and an adapter of two of them in the prompt.
fn workshop() -> (Workshop, f64) {
    let workshop = text_workshop();
    let row = |name, food| format!("{{\"town\": 7, \"name\": \"{name}\", \"food\": \"{food}\"}}\n");
    workshop.write("rows/facts.jsonl", row("Zizzi", "Thai") + &row("Aromi", "French"));
    let loss = loss(&train(&workshop, &TEMPLATE).json());
    (workshop, loss)
}

#[test]
fn an_adapter_of_an_own_template_is_scored_and_prompted_as_it_was_trained() {
    let (workshop, of_run) = workshop();
    let adapter = ["--model", "base", "--adapter", "runs/food/adapter"];
    let data = ["--data", "rows/facts.jsonl", "--json"];
    let scored = workshop.run(&[&["evaluate"], &adapter[..], &data].concat());
    assert!((loss(&scored.json()) - of_run).abs() < 1e-4 * of_run, "{}", scored.stderr);
    let metrics =
        workshop.run(&[&["evaluate", "--metrics", "--max-new-tokens", "4"], &adapter[..], &data].concat());
    assert_eq!(metrics.json()["prompts"], 2);
    let text = |more: &[&str]| {
        let few = ["generate", "--max-new-tokens", "6", "--json"];
        workshop.run(&[&few[..], more].concat()).json()["texts"][0].clone()
    };
    let whole = text(&[&adapter[..], &["--field", "town=7", "--field", "name=Zizzi"]].concat());
    let one = text(&[&adapter[..], &["--field", "town=7", "Zizzi"]].concat());
    let raw = text(&["--run", "runs/food", "--raw", "In {7} Zizzi has"]);
    assert_eq!((&whole["text"], &one["text"]), (&raw["text"], &raw["text"]));
    assert_eq!((&whole["prompt"], &one["prompt"]), (&"In {7} Zizzi has".into(), &"Zizzi".into()));
}

#[test]
fn columns_that_a_prompt_leaves_open_are_named() {
    let (workshop, _) = workshop();
    let generate = |more: &[&str]| workshop.run(&[&["generate", "--run", "runs/food"], more].concat());
    generate(&["Zizzi"]).assert_refused(2, &["has the columns town, name", "--field town=TEXT"]);
    generate(&["--field", "city=7", "Zizzi"]).assert_refused(2, &["no column `city`", "town, name"]);
    generate(&["--field", "city", "Zizzi"]).assert_refused(2, &["COLUMN=TEXT"]);
    let plain = ["generate", "--model", "base", "--field", "q=a", "Zizzi"];
    workshop.run(&plain).assert_refused(2, &["--field q", "data.format = \"template\""]);
    let unknown = ["evaluate", "--model", "base", "--data", "rows/facts.jsonl", "--format", "template"];
    workshop.run(&unknown).assert_refused(4, &["data.text.template", "not known"]);
}

#[test]
fn what_is_wrong_with_a_template_is_said_before_anything_is_loaded() {
    let (workshop, _) = workshop();
    let refused = |changes: &[&str], code, parts: &[&str]| {
        train(&workshop, &[&TEMPLATE[..], &["--set=output.dir=runs/other"], changes].concat())
            .assert_refused(code, parts);
    };
    refused(&["--set=data.text.template=a { b"], 3, &["data.text.template", "`{` stands alone"]);
    refused(&["--set=data.text.template="], 3, &["data.text.template", "is missing"]);
    refused(&["--set=data.text.completion=yes"], 3, &["data.text.completion", "a column in braces"]);
    refused(&["--set=data.format=alpaca"], 3, &["data.text.template", "has no effect"]);
    refused(&["--set=data.text.template={town} {nam}"], 4, &["no field `nam`; the row has town, name, food"]);
    workshop.write("rows/facts.jsonl", "{\"town\": null, \"name\": \"a\", \"food\": \"b\"}\n");
    refused(&[], 4, &["facts.jsonl:1", "`town` is null; expected a value"]);
}
