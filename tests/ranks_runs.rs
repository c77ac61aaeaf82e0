//! Whole runs of several ranks, with their folder: as one process makes them, whoever evaluates which rows.
#![expect(clippy::result_large_err, reason = "an error of the program ends it, so none is moved about")]

use burn::tensor::Device;
use nola_train::Error;
use nola_train::fit::Terms;
use nola_train::progress::Style;
use nola_train::ranks::{RankError, Ranks};
use nola_train::recipe::{CheckedRecipe, Recipe};
use nola_train::run::{RunFolder, RunResult, compare_setup, follow, for_ranks};
use nola_train::task::{Task, Text};

use crate::program::{Workshop, bytes_of};
use crate::ranks::{LONG, as_ranks};
use crate::text_workshop::{FORMATS, e2e_row, text_workshop};

/// The recipe of the workshop, whatever folder the process is in, into `runs/NAME`.
fn recipe(workshop: &Workshop, name: &str, sets: &[&str]) -> CheckedRecipe {
    let path = |key: &str, file: &str| format!("{key}={}", workshop.at(file).display());
    let files = [
        ("model.path", "base"),
        ("data.train", FORMATS[0].1),
        ("data.validation", "many.txt"),
        ("output.dir", &format!("runs/{name}")),
    ];
    let sets = files.iter().map(|(key, file)| path(key, file)).chain(sets.iter().map(|&set| set.to_owned()));
    Recipe::read(&workshop.at("food.toml"), &sets.collect::<Vec<_>>()).expect("a recipe")
}

/// More rows than are scored at once.
fn workshop() -> Workshop {
    let workshop = text_workshop();
    let rows: String = (0..50).map(|row| e2e_row(&"a".repeat(1 + row % 23), "Thai") + "\n").collect();
    workshop.write("many.txt", rows);
    workshop
}

/// A run as one of its ranks; the first one has a result.
fn made(ranks: &Ranks, recipe: CheckedRecipe) -> Result<Option<RunResult>, Error> {
    let device = Device::flex();
    let recipe = for_ranks(recipe, ranks)?;
    let task = Text::open(&recipe, &device, Style::Quiet)?;
    compare_setup(ranks, &task, &recipe, "cpu")?;
    let terms = Terms { device: &device, style: Style::Quiet, ranks, label: "" };
    if !ranks.is_first() {
        return follow(&task, &recipe, &terms).map(|()| None);
    }
    let folder = RunFolder::create(&recipe.output.dir)?;
    Ok(Some(folder.make(&task, &recipe, &terms, "cpu")?.saved.result))
}

#[test]
fn a_run_of_three_ranks_leaves_the_files_of_one_process() {
    let workshop = workshop();
    let sets = ["train.shards=3", "train.clip_norm=1.0", "train.steps=6", "train.evaluate_every=3"];
    let of = |ranks: Ranks, name: &str| made(&ranks, recipe(&workshop, name, &sets)).expect("a run");
    let whole = of(Ranks::default(), "whole").expect("the only rank is the first");
    let found = as_ranks(3, LONG, |ranks| of(ranks, "ranks")).swap_remove(0).expect("the first rank");
    assert_eq!((found.loss, found.accuracy, found.best_step), (whole.loss, whole.accuracy, whole.best_step));
    assert_eq!(found.baseline, whole.baseline);
    assert_eq!((found.ranks, whole.ranks), (Some(3), None));
    for file in ["adapter/adapter_model.safetensors", "adapter-last/adapter_model.safetensors", "curves.svg"]
    {
        let of = |run: &str| bytes_of(&workshop.at(run).join(file));
        assert!(of("runs/ranks") == of("runs/whole"), "{file}");
    }
}

#[test]
fn ranks_with_other_recipes_or_data_are_refused_before_the_first_step() {
    let workshop = workshop();
    let other = format!("data.train={}", workshop.at("many.txt").display());
    let found = as_ranks(2, LONG, |ranks| {
        let sets = if ranks.is_first() { Vec::new() } else { vec!["train.seed=7", &other] };
        made(&ranks, recipe(&workshop, "refused", &sets)).expect_err("they differ")
    });
    for error in found {
        assert!(matches!(error, Error::Ranks(RankError::Differ { .. })), "{error}");
        let message = error.to_string();
        for part in
            ["rank 1 (process ", "`train.seed` is 7, and 0 on rank 0", "many.txt holds something else"]
        {
            assert!(message.contains(part), "no `{part}` in: {message}");
        }
    }
    assert!(!workshop.at("runs/refused").exists());
}

#[test]
fn more_ranks_than_samples_of_a_step_are_refused() {
    let workshop = workshop();
    let found = as_ranks(3, LONG, |ranks| {
        made(&ranks, recipe(&workshop, "few", &["train.batch=2"]))
            .expect_err("a rank without work")
            .to_string()
    });
    assert!(found[2].contains("3 ranks cannot share the 2 samples of a step"), "{}", found[2]);
}
