//! `nola-train compare` loses nothing, and checks everything before it trains anything.

use serde_json::Value;

use crate::program::{Workshop, bytes_of, keys};
use crate::text_workshop::text_workshop;

const SHORT: [&str; 4] = ["--set", "train.steps=2", "--seeds", "2"];

fn compare(workshop: &Workshop, arguments: &[&str]) -> crate::program::Outcome {
    workshop.run(&[&["compare"], arguments, &SHORT].concat())
}

#[test]
fn a_comparison_leaves_every_run_and_a_page_that_links_to_them() {
    let workshop = Workshop::new();
    let comparison = compare(&workshop, &["colours.toml", "--json"]).json();
    insta::assert_snapshot!("compare_json", keys(&comparison));
    assert_eq!(comparison["rows"][0]["accuracies"].as_array().expect("a list").len(), 2);
    let kept: Value =
        serde_json::from_slice(&bytes_of(&workshop.at("runs/compare/compare.json"))).expect("JSON");
    assert_eq!(kept["rows"], comparison["rows"]);
    let page = String::from_utf8(bytes_of(&workshop.at("runs/compare/compare.html"))).expect("text");
    let page = page.replace("&#x2f;", "/");
    for seed in ["colours/seed-0/report.html", "colours/seed-1/report.html"] {
        assert!(page.contains(seed) && workshop.at("runs/compare").join(seed).is_file(), "{seed}: {page}");
    }
    assert_eq!(workshop.run(&["evaluate", "--run", "runs/compare/colours/seed-1"]).code, 0);
}

#[test]
fn what_was_finished_is_not_made_again() {
    let workshop = Workshop::new();
    let one = ["compare", "colours.toml", "--set", "train.steps=2", "--seeds", "1", "--out", "both"];
    assert_eq!(workshop.run(&one).code, 0);
    let adapter = workshop.at("both/colours/seed-0/adapter/adapter_model.safetensors");
    let (bytes, made) = (bytes_of(&adapter), std::fs::metadata(&adapter).and_then(|file| file.modified()));
    let again = compare(&workshop, &["colours.toml", "--out", "both"]);
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert!(again.stderr.contains("colours seed 0 (1 of 2): finished before"), "{}", again.stderr);
    assert!(!again.stderr.contains("seed 1 (2 of 2): finished before"), "{}", again.stderr);
    assert_eq!(bytes_of(&adapter), bytes);
    let now = std::fs::metadata(&adapter).and_then(|file| file.modified());
    assert_eq!(now.expect("a time"), made.expect("a time"));
}

#[test]
fn a_run_that_was_cut_off_is_made_anew() {
    let workshop = Workshop::new();
    let before = compare(&workshop, &["colours.toml", "--json"]).json();
    std::fs::remove_file(workshop.at("runs/compare/colours/seed-1/result.json")).expect("a file");
    let after = compare(&workshop, &["colours.toml", "--json"]).json();
    assert_eq!(before["rows"][0]["losses"], after["rows"][0]["losses"]);
}

#[test]
fn a_folder_with_runs_of_another_recipe_is_refused() {
    let workshop = Workshop::new();
    assert_eq!(compare(&workshop, &["colours.toml"]).code, 0);
    let other = compare(&workshop, &["colours.toml", "--set", "method.k=4"]);
    other.assert_refused(9, &["seed-0 holds a run of another recipe", "--out FOLDER"]);
}

#[test]
fn quiet_says_nothing_of_data_that_is_as_it_should_be() {
    let workshop = text_workshop();
    for command in [&["train"][..], &["compare", "--seeds=1"], &["sweep", "--set=method.k=8,16"]] {
        let stderr_of = |more: &[&str]| {
            let outcome = workshop.run(&[command, &["food.toml", "--set", "train.steps=1"], more].concat());
            assert_eq!(outcome.code, 0, "{}", outcome.stderr);
            std::fs::remove_dir_all(workshop.at("runs")).expect("what it left");
            outcome.stderr
        };
        let loud = stderr_of(&[]);
        assert!(loud.contains("data: training: ") && loud.contains("data: the first sample"), "{loud}");
        let quiet = stderr_of(&["-q"]);
        assert!(!quiet.contains("data: "), "{command:?}: {quiet}");
    }
}

#[test]
fn one_seed_has_no_deviation() {
    let workshop = Workshop::new();
    let shown = workshop.run(&["compare", "colours.toml", "--set", "train.steps=2", "--seeds", "1"]).stdout;
    assert!(!shown.contains('±') && shown.contains("1 seed, cpu"), "{shown}");
}

#[test]
fn nothing_is_trained_before_everything_was_checked() {
    let workshop = Workshop::new();
    let recipe = String::from_utf8(bytes_of(&workshop.at("colours.toml"))).expect("text");
    for (name, wrong, right, code) in [
        ("no_model.toml", "\"no-such/base\"", "\"base\"", 5),
        ("no_data.toml", "\"no-such-folder\"", "\"train\"", 4),
        ("no_validation.toml", "\"no-such-folder\"", "\"val\"", 4),
        ("wrong_key.toml", "rnak = 2", "rank = 2", 3),
    ] {
        workshop.write(name, recipe.replace(right, wrong));
        let mut command = workshop.command("cpu");
        // A hub that nobody can reach.
        command.args(["compare", "colours.toml", name]).args(SHORT).env("HF_HUB_OFFLINE", "1");
        let outcome = crate::program::Outcome::of(command.output().expect("the program starts"));
        assert_eq!(outcome.code, code, "{name}: {}", outcome.stderr);
        assert!(!workshop.at("runs").exists(), "{name}: something was trained");
    }
    let missing = compare(&workshop, &["colours.toml", "missing.toml"]);
    missing.assert_refused(3, &["missing.toml"]);
    let metrics = compare(&workshop, &["colours.toml", "--metrics", "colours.toml"]);
    metrics.assert_refused(2, &["compare --metrics"]);
    assert!(!workshop.at("runs").exists(), "something was trained");
}

#[test]
fn metrics_of_finished_runs_are_made_without_training_them_again() {
    let workshop = text_workshop();
    let small = ["food.toml", "--set", "method.k=4"];
    assert_eq!(compare(&workshop, &small).code, 0);
    let scored = compare(&workshop, &[&small[..], &["--metrics", "val.txt", "--json"]].concat());
    assert_eq!(scored.stderr.matches("finished before").count(), 2, "{}", scored.stderr);
    let again = compare(&workshop, &[&small[..], &["--metrics", "val.txt", "--json"]].concat());
    let metrics = |outcome: &crate::program::Outcome| outcome.json()["rows"][0]["metrics"].clone();
    assert_eq!(metrics(&scored).as_array().expect("a list").len(), 2);
    assert_eq!(metrics(&scored), metrics(&again));
}
