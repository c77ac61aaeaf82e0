//! `nola-train compare`: methods side by side over several seeds.

use std::path::{Path, PathBuf};

use clap::Args;
use comfy_table::{Table, presets};
use serde::Serialize;

use super::{Global, print_json, print_line};
use crate::data::DataError;
use crate::device::OpenDevice;
use crate::evaluate::TextScores;
use crate::fit::fit;
use crate::memory::peak_bytes;
use crate::recipe::{CheckedRecipe, MethodRecipe, Recipe, Subject};
use crate::run::{RunFolder, RunResult};
use crate::task::{Pictures, Task, Text};
use crate::terminal::{StdoutError, err_line};
use crate::{Error, device};

#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Recipe files, one line of the table each.
    #[arg(required = true)]
    recipes: Vec<PathBuf>,
    /// Change a value of every recipe, as in `--set train.steps=100`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Runs of each recipe, with seeds 0, 1, …: of the few shots, the order, the basis.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Write a text after each prompt of this file, greedily, and compare it with the references (text only).
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
}

/// The JSON object of `compare --json`.
#[derive(Debug, Serialize)]
struct Comparison {
    rows: Vec<ComparedRow>,
    seeds: u64,
    device: String,
    threads: usize,
    peak_memory_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct ComparedRow {
    recipe: String,
    method: String,
    trainable: usize,
    adapter_numbers: usize,
    adapter_bytes: u64,
    accuracy_mean: f64,
    accuracy_deviation: f64,
    loss_mean: f64,
    loss_deviation: f64,
    /// mteval BLEU, 0 to 1; absent without `--metrics`.
    #[serde(skip_serializing_if = "Option::is_none")]
    bleu_mean: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bleu_deviation: Option<f64>,
    seconds_median: f64,
    accuracies: Vec<f64>,
    losses: Vec<f64>,
    /// One per seed; absent without `--metrics`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    metrics: Vec<TextScores>,
}

pub fn run(args: &CompareArgs, global: &Global) -> Result<(), Error> {
    if let Some(path) = &args.metrics {
        // Found missing only after the first training, it would have been for nothing.
        std::fs::metadata(path).map_err(|source| DataError::Io { path: path.clone(), source })?;
    }
    let open = device::open(global.device)?;
    let _running = global.stop.run();
    let mut comparing = Comparing { args, open: &open, global, rows: Vec::new() };
    let ended = comparing.run();
    let comparison = Comparison {
        rows: comparing.rows,
        seeds: args.seeds,
        device: open.name.clone(),
        threads: rayon::current_num_threads(),
        peak_memory_bytes: peak_bytes(),
    };
    // What was finished is shown whatever cut off the rest.
    if ended.is_ok() || !comparison.rows.is_empty() {
        if global.json {
            print_json(&comparison)?;
        } else {
            show(&comparison)?;
        }
    }
    ended
}

/// A comparison that goes on.
struct Comparing<'a> {
    args: &'a CompareArgs,
    open: &'a OpenDevice,
    global: &'a Global,
    /// Recipes with runs that are finished.
    rows: Vec<ComparedRow>,
}

impl Comparing<'_> {
    /// Makes all runs, up to the first that is cut off.
    fn run(&mut self) -> Result<(), Error> {
        for (index, file) in self.args.recipes.iter().enumerate() {
            let mut runs = Vec::new();
            let ended = self.runs_of(file, &mut runs);
            let finished = runs.len();
            if finished > 0 {
                self.rows.push(summary(file, runs));
            }
            if ended.is_err() {
                let (recipe, seeds) = (file.display(), self.args.seeds);
                let others = self.args.recipes.len() - index - 1;
                err_line(&format!(
                    "cut off: {recipe} after {finished} of {seeds} seeds; {others} recipes were not begun"
                ));
            }
            ended?;
        }
        Ok(())
    }

    /// Makes the runs of one recipe, one for each seed.
    fn runs_of(&self, file: &Path, runs: &mut Vec<Once>) -> Result<(), Error> {
        let scratch =
            tempfile::tempdir().map_err(|source| Error::Output { path: std::env::temp_dir(), source })?;
        for seed in 0..self.args.seeds {
            if self.global.stop.is_asked() {
                return Err(Error::Interrupted);
            }
            let recipe = seeded(file, &self.args.set, seed)?;
            let folder = scratch.path().join(seed.to_string());
            runs.push(match recipe.data.format.subject() {
                Subject::Pictures => self.once::<Pictures>(&recipe, &folder)?,
                Subject::Text => self.once::<Text>(&recipe, &folder)?,
            });
        }
        Ok(())
    }

    /// One run of a recipe.
    fn once<T: Task>(&self, recipe: &CheckedRecipe, folder: &Path) -> Result<Once, Error> {
        let device = &self.open.device;
        let task = T::open(recipe, device)?;
        let recipe = &recipe.clone().for_samples(task.samples());
        let folder = RunFolder::create(folder)?;
        let keeper = folder.keeper(&task, recipe);
        let mut fitted = fit(&task, recipe, &self.global.terms(device), &keeper)?;
        let saved = folder.save(&task, recipe, &fitted, &self.open.name)?;
        let failure = fitted.failure.take().or(saved.failure);
        match failure {
            Some(error) => return Err(error),
            None if saved.result.interrupted => return Err(Error::Interrupted),
            None => {}
        }
        let metrics =
            match &self.args.metrics {
                Some(file) => Some(task.score_writing(&fitted.best.model, file, recipe)?.ok_or(
                    Error::WrongSubject { command: "compare --metrics", found: recipe.data.format.subject() },
                )?),
                None => None,
            };
        Ok(Once { result: saved.result, metrics })
    }
}

/// A recipe with the seed of one of its runs.
fn seeded(file: &Path, set: &[String], seed: u64) -> Result<CheckedRecipe, Error> {
    let mut recipe = Recipe::read(file, set)?.into_inner();
    recipe.train.seed = seed;
    recipe.data.shots_seed = seed;
    match &mut recipe.method {
        MethodRecipe::Nola(nola) => nola.seed = seed,
        MethodRecipe::Lora(lora) => lora.seed = seed,
        MethodRecipe::Linear {} | MethodRecipe::Full {} => {}
    }
    Ok(recipe.check()?)
}

/// What the runs of one recipe came to.
fn summary(file: &Path, runs: Vec<Once>) -> ComparedRow {
    let of =
        |value: fn(&RunResult) -> f64| -> Vec<f64> { runs.iter().map(|run| value(&run.result)).collect() };
    let (accuracies, losses) = (of(|run| run.accuracy), of(|run| run.loss.into()));
    let mut seconds = of(|run| run.seconds);
    seconds.sort_by(f64::total_cmp);
    let metrics: Vec<TextScores> = runs.iter().filter_map(|run| run.metrics).collect();
    let bleu: Vec<f64> = metrics.iter().map(|scores| scores.e2e.bleu).collect();
    let bleu = (!bleu.is_empty()).then(|| mean_and_deviation(&bleu));
    let (accuracy_mean, accuracy_deviation) = mean_and_deviation(&accuracies);
    let (loss_mean, loss_deviation) = mean_and_deviation(&losses);
    let first = &runs[0].result;
    ComparedRow {
        recipe: file.file_stem().map_or(String::new(), |name| name.to_string_lossy().into_owned()),
        method: first.method.clone(),
        trainable: first.trainable,
        adapter_numbers: first.adapter_numbers,
        adapter_bytes: first.adapter_bytes,
        accuracy_mean,
        accuracy_deviation,
        loss_mean,
        loss_deviation,
        bleu_mean: bleu.map(|(mean, _)| mean),
        bleu_deviation: bleu.map(|(_, deviation)| deviation),
        seconds_median: seconds[seconds.len() / 2],
        accuracies,
        losses,
        metrics,
    }
}

/// One run, and how its texts were scored.
struct Once {
    result: RunResult,
    metrics: Option<TextScores>,
}

fn show(comparison: &Comparison) -> Result<(), StdoutError> {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    let with_bleu = comparison.rows.iter().any(|row| row.bleu_mean.is_some());
    let mut header = vec!["recipe", "trained numbers", "without head", "adapter bytes", "accuracy %", "loss"];
    header.extend(with_bleu.then_some("BLEU %"));
    table.set_header(header.into_iter().chain(["seconds"]));
    for row in &comparison.rows {
        let mut cells = vec![
            row.recipe.clone(),
            row.trainable.to_string(),
            row.adapter_numbers.to_string(),
            row.adapter_bytes.to_string(),
            format!("{:.1} ± {:.1}", 100.0 * row.accuracy_mean, 100.0 * row.accuracy_deviation),
            format!("{:.4} ± {:.4}", row.loss_mean, row.loss_deviation),
        ];
        if let (Some(mean), Some(deviation)) = (row.bleu_mean, row.bleu_deviation) {
            cells.push(format!("{:.2} ± {:.2}", 100.0 * mean, 100.0 * deviation));
        }
        cells.push(format!("{:.1}", row.seconds_median));
        table.add_row(cells);
    }
    print_line(&table.to_string())?;
    print_line(&format!("{} seeds, {}, {} threads", comparison.seeds, comparison.device, comparison.threads))
}

/// Mean and sample standard deviation; the latter is 0 for one value.
fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0).max(1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        assert_eq!(mean_and_deviation(&[1.0, 2.0, 3.0]), (2.0, 1.0));
        assert_eq!(mean_and_deviation(&[4.0]), (4.0, 0.0));
    }
}
