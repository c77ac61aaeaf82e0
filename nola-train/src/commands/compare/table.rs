//! What the runs of each recipe came to, as numbers and as a table.

use std::cmp::Ordering;
use std::path::PathBuf;

use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Once, Planned};
use crate::commands::print_line;
use crate::evaluate::TextScores;
use crate::run::RunResult;
use crate::settings::Modality;
use crate::terminal::StdoutError;

/// The JSON object of `compare --json`, and `compare.json`; the same of `sweep`.
#[derive(Debug, Serialize)]
pub struct Comparison<'a> {
    pub rows: &'a [Compared],
    /// Only of a sweep.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub diverged: &'a [Diverged],
    /// The best recipe of a sweep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best: Option<&'a str>,
    pub seeds: u64,
    pub device: &'a str,
    pub threads: usize,
    pub peak_memory_bytes: Option<u64>,
}

/// A recipe with which training diverged.
#[derive(Debug, Serialize)]
pub struct Diverged {
    pub recipe: String,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub settings: Map<String, Value>,
    pub problem: String,
}

/// One recipe.
#[derive(Debug, Serialize)]
pub struct Compared {
    pub recipe: String,
    /// The values that a sweep tries; absent from `compare`.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub settings: Map<String, Value>,
    pub method: String,
    pub trainable: usize,
    pub adapter_numbers: usize,
    pub adapter_bytes: u64,
    pub accuracy_mean: f64,
    pub accuracy_deviation: f64,
    pub loss_mean: f64,
    pub loss_deviation: f64,
    /// mteval BLEU, 0 to 1; absent without `--metrics`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bleu_mean: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bleu_deviation: Option<f64>,
    pub seconds_median: f64,
    pub accuracies: Vec<f64>,
    pub losses: Vec<f64>,
    /// One per seed; absent without `--metrics`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<TextScores>,
    /// Where the run of each seed lies.
    pub runs: Vec<PathBuf>,
}

/// What the runs of one recipe came to.
pub fn summary(recipe: &Planned, runs: &[Once]) -> Compared {
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
    Compared {
        recipe: recipe.name.clone(),
        settings: recipe.settings.clone(),
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
        runs: runs.iter().map(|run| run.result.run.clone()).collect(),
    }
}

impl Compared {
    /// The order by what a run keeps its best model by: right answers of a classifier, and for equally many of them as for text
    /// the loss.
    pub fn best_first(a: &Self, b: &Self, modality: Modality) -> Ordering {
        let by_loss = a.loss_mean.total_cmp(&b.loss_mean);
        match modality {
            Modality::Images => b.accuracy_mean.total_cmp(&a.accuracy_mean).then(by_loss),
            Modality::Text => by_loss,
        }
    }
}

/// The columns of the table, and the cells of every row.
pub fn cells(comparison: &Comparison) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let with_bleu = comparison.rows.iter().any(|row| row.bleu_mean.is_some());
    let mut header =
        vec!["recipe", "trainable parameters", "without head", "adapter bytes", "accuracy %", "loss"];
    header.extend(with_bleu.then_some("BLEU %"));
    header.push("seconds");
    let row = |row: &Compared| {
        let count = row.accuracies.len();
        let is_best = comparison.best == Some(row.recipe.as_str());
        let mut cells = vec![
            if is_best { format!("{} (best)", row.recipe) } else { row.recipe.clone() },
            row.trainable.to_string(),
            row.adapter_numbers.to_string(),
            row.adapter_bytes.to_string(),
            around(100.0 * row.accuracy_mean, 100.0 * row.accuracy_deviation, 1, count),
            around(row.loss_mean, row.loss_deviation, 4, count),
        ];
        if with_bleu {
            let [mean, deviation] = [row.bleu_mean, row.bleu_deviation].map(Option::unwrap_or_default);
            cells.push(around(100.0 * mean, 100.0 * deviation, 2, row.metrics.len()));
        }
        cells.push(format!("{:.1}", row.seconds_median));
        cells
    };
    let width = header.len();
    let diverged = |diverged: &Diverged| {
        let mut cells = vec![String::new(); width];
        cells[0].clone_from(&diverged.recipe);
        cells[LOSS] = "diverged".to_owned();
        cells
    };
    let rows = comparison.rows.iter().map(row).chain(comparison.diverged.iter().map(diverged));
    (header, rows.collect())
}

/// The column of the loss.
const LOSS: usize = 5;

/// A mean with its deviation, which one value does not have.
fn around(mean: f64, deviation: f64, decimals: usize, count: usize) -> String {
    if count < 2 {
        format!("{mean:.decimals$}")
    } else {
        format!("{mean:.decimals$} ± {deviation:.decimals$}")
    }
}

/// What stands below the table.
pub fn footer(comparison: &Comparison) -> String {
    let seeds =
        if comparison.seeds == 1 { "1 seed".to_owned() } else { format!("{} seeds", comparison.seeds) };
    format!("{seeds}, {}, {} threads", comparison.device, comparison.threads)
}

/// Prints the table.
///
/// # Errors
/// If stdout is closed.
pub fn show(comparison: &Comparison) -> Result<(), StdoutError> {
    let (header, rows) = cells(comparison);
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    print_line(&table.to_string())?;
    print_line(&footer(comparison))
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

    #[test]
    fn one_value_has_no_deviation() {
        assert_eq!(around(81.25, 0.0, 1, 1), "81.2");
        assert_eq!(around(81.25, 0.52, 1, 3), "81.2 ± 0.5");
    }
}
