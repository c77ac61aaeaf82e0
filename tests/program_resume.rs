//! Runs that are stopped at any moment and go on: they end with the bytes of a run that never stopped.
#![cfg(unix)]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::program::{Outcome, Workshop, bytes_of};
use crate::running::Running;
use crate::text_workshop::text_workshop;

/// Images that are changed at random, passes, clipping, a rate that falls, and dropout.
const IMAGES: [&str; 9] = [
    "train",
    "colours.toml",
    "--set=train.steps=300",
    "--set=train.clip_norm=1.0",
    "--set=train.warmup=10",
    "--set=train.evaluate_every=25",
    "--set=data.augment.flip_probability=0.5",
    "--set=data.augment.grey_probability=0.3",
    "--set=method.kind=dora",
];
/// Rows of several texts.
const TEXT: [&str; 6] = [
    "train",
    "food.toml",
    "--set=train.steps=120",
    "--set=train.batch=2",
    "--set=train.evaluate_every=20",
    "--set=data.text.packing=on",
];

fn started(workshop: &Workshop, recipe: &[&str], more: &[&str]) -> Running {
    Running::start(workshop, &[recipe, more].concat())
}

fn resumed(workshop: &Workshop, run: &str, more: &[&str]) -> Outcome {
    workshop.run_on("cpu", &[&["train", "--resume", run, "--json"], more].concat())
}

/// The lines of the log, without what the clock says.
fn log(workshop: &Workshop, run: &str) -> Vec<Value> {
    let text = String::from_utf8(bytes_of(&workshop.at(run).join("metrics.jsonl"))).expect("text");
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).expect("JSON");
        line.as_object_mut().expect("a table").remove("seconds").expect("seconds");
        line
    };
    text.lines().map(line).collect()
}

/// Asserts that the adapters of two runs are the same bytes, and that nothing half done lies beside them.
pub fn assert_same_adapters(workshop: &Workshop, run: &str, whole: &str) {
    for folder in ["adapter", "adapter-last"] {
        for entry in fs::read_dir(workshop.at(whole).join(folder)).expect("an adapter") {
            let name = entry.expect("an entry").file_name();
            let of = |run: &str| bytes_of(&workshop.at(run).join(folder).join(&name));
            assert!(of(run) == of(whole), "{folder}/{} of {run} and {whole} differ", name.display());
        }
    }
    let names =
        fs::read_dir(workshop.at(run)).expect("a run").map(|entry| entry.expect("an entry").file_name());
    let hidden: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(hidden.is_empty(), "{run} holds {hidden:?}");
    assert!(!workshop.at(run).join("checkpoints").exists(), "a finished run has nothing to go on with");
}

/// Asserts that two runs are one: adapters, curves, log and scores.
pub fn assert_same(workshop: &Workshop, run: &str, whole: &str) {
    assert_same_adapters(workshop, run, whole);
    let curves = |run: &str| bytes_of(&workshop.at(run).join("curves.svg"));
    assert!(curves(run) == curves(whole), "the curves of {run} and {whole} differ");
    assert_eq!(log(workshop, run), log(workshop, whole), "{run}");
    let result = |run: &str| {
        let text = bytes_of(&workshop.at(run).join("result.json"));
        let result: Value = serde_json::from_slice(&text).expect("JSON");
        ["accuracy", "loss", "steps", "best_step", "interrupted", "warnings", "baseline"]
            .map(|key| result[key].clone())
    };
    assert_eq!(result(run), result(whole), "{run}");
}

fn checkpoints(workshop: &Workshop, run: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(workshop.at(run).join("checkpoints")).expect("checkpoints");
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    found.sort();
    found
}

/// A run that is ended by SIGTERM after its second evaluation.
fn interrupted(workshop: &Workshop, recipe: &[&str], more: &[&str]) {
    let mut running = started(workshop, recipe, more);
    running.wait_for("validation loss", 3);
    running.signal("-TERM");
    let (code, stderr) = running.ended();
    assert_eq!(code, Some(143), "{stderr}");
    assert!(stderr.contains("train --resume runs/"), "{stderr}");
}

#[test]
fn images_with_augmentation_resume_to_the_same_bytes() {
    let workshop = Workshop::new();
    let whole = workshop.run_on("cpu", &[&IMAGES[..], &["--set=output.dir=runs/whole"]].concat());
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    interrupted(&workshop, &IMAGES, &[]);
    let rest = resumed(&workshop, "runs/colours", &[]);
    assert!(rest.stderr.contains("goes on after step "), "{}", rest.stderr);
    assert_eq!(rest.json()["steps"], 300);
    assert_same(&workshop, "runs/colours", "runs/whole");
}

#[test]
fn packed_text_resumes_to_the_same_bytes() {
    let workshop = text_workshop();
    let whole = workshop.run_on("cpu", &[&TEXT[..], &["--set=output.dir=runs/whole"]].concat());
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    interrupted(&workshop, &TEXT, &[]);
    assert_eq!(resumed(&workshop, "runs/food", &[]).json()["steps"], 120);
    assert_same(&workshop, "runs/food", "runs/whole");
}

#[test]
fn twenty_kills_at_any_moment_end_with_the_same_bytes() {
    let workshop = Workshop::new();
    let sets = ["--set=train.save_every=3", "--set=train.steps=300", "--set=train.evaluate_every=10"];
    let recipe = [&["train", "colours.toml"], &sets[..]].concat();
    assert_eq!(workshop.run_on("cpu", &[&recipe[..], &["--set=output.dir=runs/whole"]].concat()).code, 0);
    let (mut kills, mut finished, mut random) = (0, 0, 12345_u64);
    while kills < 20 {
        let has_checkpoint = workshop.at("runs/colours/checkpoints").exists()
            && checkpoints(&workshop, "runs/colours")
                .iter()
                .any(|path| path.to_string_lossy().contains("/step-"));
        let resume = ["train", "--resume", "runs/colours"];
        let mut running = Running::start(&workshop, if has_checkpoint { &resume[..] } else { &recipe[..] });
        // Most of them hit a step, a checkpoint or an evaluation; the first ones the start.
        running.wait_for("colours", usize::from(has_checkpoint));
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_millis((random >> 33) % 700));
        running.child.kill().expect("it runs or is over");
        let (code, stderr) = running.ended();
        match code {
            None => kills += 1,
            Some(code) => {
                assert_eq!(code, 0, "{stderr}");
                assert_same(&workshop, "runs/colours", "runs/whole");
                fs::remove_dir_all(workshop.at("runs/colours")).expect("a finished run");
                finished += 1;
                assert!(finished < 50, "the kills come too late");
            }
        }
    }
    if checkpoints(&workshop, "runs/colours").is_empty() {
        return;
    }
    resumed(&workshop, "runs/colours", &[]).json();
    assert_same(&workshop, "runs/colours", "runs/whole");
}

#[test]
fn fault_29_a_checkpoint_that_is_not_whole_is_never_used() {
    let workshop = Workshop::new();
    let whole = workshop.run_on("cpu", &[&IMAGES[..], &["--set=output.dir=runs/whole"]].concat());
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    interrupted(&workshop, &IMAGES, &["--set=train.save_every=7"]);
    let found = checkpoints(&workshop, "runs/colours");
    assert_eq!(found.len(), 2, "{found:?}");
    let weights = found[1].join("trained.safetensors");
    let half = bytes_of(&weights).len() / 2;
    fs::write(&weights, &bytes_of(&weights)[..half]).expect("a file");
    // What a kill in the middle of a save leaves.
    fs::create_dir(workshop.at("runs/colours/checkpoints/.step-000299.partial-abc")).expect("a folder");
    let rest = resumed(&workshop, "runs/colours", &[]);
    let name = found[1].file_name().expect("a name").to_string_lossy();
    assert!(rest.stderr.contains(&*name) && rest.stderr.contains("it is left out"), "{}", rest.stderr);
    rest.json();
    assert_same(&workshop, "runs/colours", "runs/whole");
}

#[test]
fn fault_29_what_changed_since_is_named_and_nothing_is_lost() {
    let workshop = Workshop::new();
    interrupted(&workshop, &IMAGES, &[]);
    let run = "runs/colours";
    resumed(&workshop, run, &["--set=train.seed=1"]).assert_refused(3, &[run, "`train.seed` is 1 and was 0"]);
    resumed(&workshop, run, &["--set=train.steps=900"])
        .assert_refused(3, &["`train.steps`", "learning rate"]);
    let image = workshop.at("train/red/0.png");
    let was = bytes_of(&image);
    fs::copy(workshop.at("train/blue/0.png"), &image).expect("an image");
    resumed(&workshop, run, &[]).assert_refused(4, &[run, "`data.train`", "train has changed"]);
    fs::write(&image, was).expect("an image");
    let base = workshop.at("base/model.safetensors");
    let was = bytes_of(&base);
    let mut other = was.clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    fs::write(&base, other).expect("a base");
    let refused = resumed(&workshop, run, &[]);
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    fs::write(&base, was).expect("a base");
    workshop
        .run(&IMAGES)
        .assert_refused(9, &[run, "was interrupted", "train --resume runs/colours", "output.dir"]);
    resumed(&workshop, run, &["--set=train.save_every=50"]).json();
    resumed(&workshop, run, &[]).assert_refused(9, &[run, "is finished"]);
    resumed(&workshop, "runs/nowhere", &[]).assert_refused(9, &["runs/nowhere", "holds no run"]);
}

#[test]
fn a_run_with_a_constant_rate_becomes_longer() {
    let workshop = Workshop::new();
    let constant = [&IMAGES[..], &["--set=train.schedule=constant"]].concat();
    let longer = [&constant[..], &["--set=train.steps=350", "--set=output.dir=runs/whole"]].concat();
    assert_eq!(workshop.run_on("cpu", &longer).code, 0);
    interrupted(&workshop, &constant, &[]);
    assert_eq!(resumed(&workshop, "runs/colours", &["--set=train.steps=350"]).json()["steps"], 350);
    assert_same(&workshop, "runs/colours", "runs/whole");
}

#[test]
fn a_comparison_goes_on_in_the_middle_of_a_run() {
    let workshop = Workshop::new();
    let compare = ["compare", "colours.toml", "--seeds=1", "--set=train.steps=300"];
    let whole = workshop.run_on("cpu", &[&compare[..], &["--out=whole"]].concat());
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    let mut running = Running::start(&workshop, &compare);
    running.wait_for("validation loss", 3);
    running.signal("-INT");
    assert_eq!(running.ended().0, Some(130));
    let rest = workshop.run_on("cpu", &compare);
    assert!(rest.code == 0 && rest.stderr.contains("goes on after step "), "{}", rest.stderr);
    let adapter = |out: &str| {
        let text = bytes_of(&workshop.at(out).join("compare.json"));
        let table: Value = serde_json::from_slice(&text).expect("JSON");
        let run = table["rows"][0]["runs"][0].as_str().expect("a folder").to_owned();
        bytes_of(&workshop.at(&run).join("adapter/adapter_model.safetensors"))
    };
    assert_eq!(adapter("runs/compare"), adapter("whole"));
}
