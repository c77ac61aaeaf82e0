//! `nola-train sweep` tries every combination, shows the best first and keeps it as a recipe.

use serde_json::Value;

use crate::program::{Outcome, Workshop, bytes_of, keys};
use crate::text_workshop::text_workshop;

const RATES: [&str; 2] = ["--set", "train.learning_rate=1e-5,2e-2"];

fn sweep(workshop: &Workshop, recipe: &str, arguments: &[&str]) -> Outcome {
    workshop.run(&[&["sweep", recipe], arguments].concat())
}

fn names(sweep: &Value) -> Vec<&str> {
    let rows = sweep["rows"].as_array().expect("a list");
    rows.iter().map(|row| row["recipe"].as_str().expect("a name")).collect()
}

#[test]
fn the_best_combination_comes_first_and_its_recipe_repeats_its_run() {
    let workshop = Workshop::new();
    let ranks = ["--set", "method.rank=1,2", "--set", "train.steps=10", "--json"];
    let outcome = sweep(&workshop, "colours.toml", &[&RATES[..], &ranks].concat());
    let found = outcome.json();
    insta::assert_snapshot!("sweep_json", keys(&found));
    assert_eq!(names(&found).len(), 4);
    let accuracies: Vec<f64> = (found["rows"].as_array().expect("a list").iter())
        .map(|row| row["accuracy_mean"].as_f64().expect("a number"))
        .collect();
    assert!(accuracies.is_sorted_by(|a, b| a >= b), "{accuracies:?}");
    assert_eq!(found["best"], names(&found)[0]);
    assert_eq!(found["rows"][0]["settings"]["train.learning_rate"], "2e-2", "{found}");
    assert!(outcome.stderr.contains("learning_rate=1e-5,rank=2 seed 0 (2 of 4)"), "{}", outcome.stderr);

    let best = String::from_utf8(bytes_of(&workshop.at("runs/sweep/best.toml"))).expect("text");
    let expected = format!("# The best of a sweep of colours.toml: {}.\n", names(&found)[0]);
    assert!(best.starts_with(&expected), "{best}");
    assert_eq!(workshop.run(&["train", "runs/sweep/best.toml"]).code, 0);
    let adapter = |run: &str| bytes_of(&workshop.at(run).join("adapter/adapter_model.safetensors"));
    let of_best = found["rows"][0]["runs"][0].as_str().expect("a folder");
    assert_eq!(adapter("runs/colours"), adapter(of_best));
}

#[test]
fn the_table_marks_the_best_and_text_is_sorted_by_its_loss() {
    let workshop = text_workshop();
    let seeds = ["--set", "train.steps=4", "--seeds", "2"];
    let shown = sweep(&workshop, "food.toml", &[&RATES[..], &seeds].concat());
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    assert_eq!(shown.stdout.matches("(best)").count(), 1, "{}", shown.stdout);
    let kept: Value = serde_json::from_slice(&bytes_of(&workshop.at("runs/sweep/sweep.json"))).expect("JSON");
    let losses = [0, 1].map(|row| kept["rows"][row]["loss_mean"].as_f64().expect("a number"));
    assert!(losses[0] <= losses[1], "{kept}");
    assert!(workshop.at("runs/sweep/sweep.html").is_file());
    let again = sweep(&workshop, "food.toml", &[&RATES[..], &seeds].concat());
    assert_eq!(again.stderr.matches("finished before").count(), 4, "{}", again.stderr);
    assert_eq!(again.stdout, shown.stdout, "the same table");
}

#[test]
fn a_longer_list_trains_only_what_is_new() {
    let workshop = Workshop::new();
    let of = |rates: &str| {
        let rates = format!("train.learning_rate={rates}");
        sweep(&workshop, "colours.toml", &["--set", &rates, "--set", "train.steps=2"])
    };
    assert_eq!(of("1e-3,1e-2").code, 0);
    let longer = of("1e-3,5e-3,1e-2");
    assert_eq!(longer.stderr.matches("finished before").count(), 2, "{}", longer.stderr);
    assert_eq!(longer.stdout.matches("learning_rate=").count(), 3, "{}", longer.stdout);
}

#[test]
fn a_rate_with_which_training_diverges_is_a_result_and_is_not_tried_again() {
    let workshop = Workshop::new();
    let rates = ["--set", "train.learning_rate=1e30,2e-2", "--set", "train.steps=4", "--json"];
    for _ in 0..2 {
        let outcome = sweep(&workshop, "colours.toml", &rates);
        let found = outcome.json();
        assert_eq!(names(&found), ["learning_rate=2e-2"]);
        let diverged = &found["diverged"][0];
        assert_eq!(diverged["recipe"], "learning_rate=1e30", "{found}");
        assert!(
            diverged["problem"].as_str().is_some_and(|text| text.contains("training diverged")),
            "{found}"
        );
    }
    let shown = sweep(&workshop, "colours.toml", &rates[..4]).stdout;
    assert!(shown.contains("| learning_rate=1e30") && shown.contains("| diverged"), "{shown}");
}

#[test]
fn nothing_is_trained_before_every_combination_was_checked() {
    let workshop = Workshop::new();
    for (set, code, part) in [
        ("method.rank=1,0", 3, "`method.rank`"),
        ("model.path=base,no-such/base", 5, "no-such/base"),
        ("data.train=train,nowhere", 4, "nowhere"),
        ("train.steps=3", 2, "nothing to try"),
        ("train.seed=1,2", 2, "--seeds N"),
    ] {
        let mut command = workshop.command("cpu");
        // A hub that nobody can reach.
        command.args(["sweep", "colours.toml", "--set", set]).env("HF_HUB_OFFLINE", "1");
        let outcome = Outcome::of(command.output().expect("the program starts"));
        outcome.assert_refused(code, &[part]);
        assert!(!workshop.at("runs").exists(), "{set}: something was trained");
    }
}
