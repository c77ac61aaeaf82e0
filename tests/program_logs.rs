//! What a run notes as it goes, and steps that are not finite: skipped or the end of it, with the names of their samples.

use std::fs;

use serde_json::Value;

use crate::faults::{forget_hash, set_tensor};
use crate::program::{Outcome, Workshop, bytes_of};
use crate::text_workshop::{CONTEXT, e2e_row, text_workshop};

/// A position that only one row of the training data reaches, in tokens.
const FAR: usize = 200;
/// Where that row stands.
const LONG_ROW: &str = "rows/e2e.txt:13";
/// One row a step, so that a step with the long one is only that.
const ONE_ROW: [&str; 5] =
    ["train", "food.toml", "--set=train.batch=1", "--set=train.steps=26", "--set=train.evaluate_every=13"];

/// A base whose position [`FAR`] overflows, and a last row that reaches it.
fn overflowing() -> Workshop {
    let workshop = text_workshop();
    let mut rows = fs::read_to_string(workshop.at("rows/e2e.txt")).expect("rows");
    rows.push_str(&(e2e_row("The Mill", &"very ".repeat(FAR / 11)) + "\n"));
    workshop.write("rows/e2e.txt", rows);
    forget_hash(&workshop);
    set_tensor(&workshop.at("base/model.safetensors"), "transformer.wpe.weight", |positions| {
        let width = positions.len() / CONTEXT;
        // Finite, but a sum of two of them is not.
        let value = f32::MAX.to_le_bytes();
        positions[FAR * width..][..width].copy_from_slice(&value.repeat(width / value.len()));
    });
    workshop
}

fn train(workshop: &Workshop, arguments: &[&str], more: &[&str]) -> Outcome {
    workshop.run_on("cpu", &[arguments, &["--json"], more].concat())
}

/// The lines of a log of JSON objects.
fn lines(workshop: &Workshop, path: &str) -> Vec<Value> {
    let text = fs::read_to_string(workshop.at(path)).expect("a log");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn adapter(workshop: &Workshop, run: &str) -> Vec<Vec<u8>> {
    ["adapter", "adapter-last"]
        .map(|folder| bytes_of(&workshop.at(run).join(folder).join("adapter_model.safetensors")))
        .to_vec()
}

#[test]
fn a_step_that_is_not_finite_ends_the_run_and_is_named_with_its_row() {
    let workshop = overflowing();
    let stopped = train(&workshop, &ONE_ROW, &[]);
    stopped.assert_refused(8, &["training diverged", LONG_ROW, "train.on_non_finite = \"skip\""]);
    // From the last finite state it goes on once such steps are skipped, to what a run gives that skipped from the start.
    let rest = workshop.run_on("cpu", &["train", "--resume=runs/food", "--set=train.on_non_finite=skip"]);
    assert_eq!(rest.code, 0, "{}", rest.stderr);
    let skips = ["--set=train.on_non_finite=skip", "--set=output.dir=runs/skips"];
    assert_eq!(train(&workshop, &ONE_ROW, &skips).code, 0);
    assert!(adapter(&workshop, "runs/food") == adapter(&workshop, "runs/skips"));
}

#[test]
fn steps_that_are_not_finite_are_skipped_and_told() {
    let workshop = overflowing();
    let run = train(&workshop, &ONE_ROW, &["--set=train.on_non_finite=skip"]);
    let result = run.json();
    assert_eq!(result["steps"], 26);
    let warnings = result["warnings"].to_string();
    assert!(warnings.contains("2 of 26 steps were skipped"), "{warnings}");
    assert!(run.stderr.contains(" is skipped: the loss is NaN at step "), "{}", run.stderr);
    assert!(run.stderr.contains(LONG_ROW), "{}", run.stderr);
    let lines = lines(&workshop, "runs/food/metrics.jsonl");
    assert_eq!(lines.len(), 26);
    let skipped: Vec<&Value> = lines.iter().filter(|line| line["skipped"] == true).collect();
    assert_eq!(skipped.len(), 2, "one in each epoch");
    for line in skipped {
        assert!(line["loss"].is_null() && line["samples"] == serde_json::json!([LONG_ROW]), "{line}");
    }
}

#[test]
fn a_run_of_which_every_step_is_skipped_ends_as_one_that_diverged() {
    let workshop = overflowing();
    let rows = fs::read_to_string(workshop.at("rows/e2e.txt")).expect("rows");
    workshop.write("rows/e2e.txt", rows.lines().last().expect("the long row").to_owned() + "\n");
    let skips = ["--set=train.on_non_finite=skip", "--set=train.max_skipped=3"];
    let run = train(&workshop, &ONE_ROW, &skips);
    run.assert_refused(8, &["training diverged", "at step 4", "3 skipped steps in a row", "rows/e2e.txt:1)"]);
    assert_eq!(run.stderr.matches(" is skipped: ").count(), 3, "{}", run.stderr);
    // Without a skip it is the base that overflows at once.
    train(&workshop, &ONE_ROW, &["--set=output.dir=runs/stops"]).assert_refused(5, &["rows/e2e.txt:1)"]);
}

#[test]
fn a_run_without_such_a_step_has_the_same_bytes_whatever_would_become_of_one() {
    let workshop = Workshop::new();
    for (run, more) in
        [("runs/stop", "--set=train.on_non_finite=stop"), ("runs/skip", "--set=train.on_non_finite=skip")]
    {
        let dir = format!("--set=output.dir={run}");
        assert_eq!(train(&workshop, &["train", "colours.toml"], &[more, &dir]).code, 0);
    }
    assert!(adapter(&workshop, "runs/stop") == adapter(&workshop, "runs/skip"));
}

#[test]
fn samples_are_written_at_every_evaluation_and_change_no_byte_of_what_is_learned() {
    let workshop = text_workshop();
    let food = ["train", "food.toml", "--set=output.coefficient_bits=32"];
    assert_eq!(train(&workshop, &food, &["--set=output.dir=runs/plain"]).code, 0);
    let prompts = "--set=samples.prompts=[\"name : Aromi | food : Thai\", \"name : Zizzi | food : Indian\"]";
    let logs = [prompts, "--set=samples.max_new_tokens=9", "--set=output.tensorboard=true"];
    let run = train(&workshop, &food, &logs);
    let result = run.json();
    assert!(adapter(&workshop, "runs/food") == adapter(&workshop, "runs/plain"));
    assert!(run.stderr.contains("sample at step 16: name : Aromi | food : Thai -> "), "{}", run.stderr);
    let lines = lines(&workshop, "runs/food/samples.jsonl");
    let steps: Vec<u64> = lines.iter().filter_map(|line| line["step"].as_u64()).collect();
    assert_eq!(steps, [0, 0, 8, 8, 16, 16]);
    // The adapter that is kept writes what its evaluation wrote.
    let best = lines.iter().find(|line| line["step"] == result["best_step"]).expect("an evaluation");
    let generated = workshop.run_on(
        "cpu",
        &["generate", "--run=runs/food", "--max-new-tokens=9", "--json", "name : Aromi | food : Thai"],
    );
    let text = generated.json()["texts"][0]["text"].as_str().expect("a text").trim().to_owned();
    assert_eq!(best["text"], text);
    let report = fs::read_to_string(workshop.at("runs/food/report.html")).expect("a report");
    assert!(report.contains("before training:") && report.contains("after step 16:"));
    let events = fs::read_dir(workshop.at("runs/food/tensorboard")).expect("a folder").count();
    assert_eq!(events, 1);
}

#[test]
fn samples_that_cannot_be_made_are_refused_by_their_key() {
    Workshop::new()
        .run(&["train", "colours.toml", "--set=samples.prompts=[\"a\"]"])
        .assert_refused(3, &["`samples.prompts`", "no effect", "images"]);
    let long = format!("--set=samples.prompts=[\"{}\"]", "a".repeat(400));
    text_workshop()
        .run(&["train", "food.toml", &long])
        .assert_refused(3, &["`samples.prompts`", "leave no room"]);
}

#[cfg(unix)]
#[test]
fn a_resumed_run_has_the_samples_of_one_that_never_stopped() {
    let workshop = text_workshop();
    let food = [
        "train",
        "food.toml",
        "--set=train.steps=120",
        "--set=train.batch=2",
        "--set=train.evaluate_every=20",
        "--set=samples.prompts=[\"name : Aromi | food : Thai\"]",
        "--set=samples.max_new_tokens=5",
        "--set=output.tensorboard=true",
    ];
    assert_eq!(train(&workshop, &food, &["--set=output.dir=runs/whole"]).code, 0);
    let mut running = crate::running::Running::start(&workshop, &food);
    running.wait_for("validation loss", 3);
    running.signal("-TERM");
    assert_eq!(running.ended().0, Some(143));
    assert_eq!(workshop.run_on("cpu", &["train", "--resume=runs/food"]).code, 0);
    let samples = |run: &str| lines(&workshop, &format!("runs/{run}/samples.jsonl"));
    assert_eq!(samples("food"), samples("whole"));
    assert_eq!(fs::read_dir(workshop.at("runs/food/tensorboard")).expect("a folder").count(), 2);
}
