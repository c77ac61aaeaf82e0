//! The run folder: what a training run leaves behind.
//!
//! | name | holds |
//! |---|---|
//! | `recipe.toml` | the recipe with every default filled in; `train` with it and another `output.dir` repeats the run |
//! | `adapter/` | the adapter with the best validation accuracy (`model/` for a model trained in full) |
//! | `adapter-last/` | the adapter as the last step left it |
//! | `checkpoints/` | where the run stands, now and then: what `train --resume` goes on from; gone when the run is finished |
//! | `metrics.jsonl` | one JSON object for each optimizer step: loss, learning rate, scores |
//! | `samples.jsonl` | how the model completes the prompts of the recipe at each evaluation, if it has some |
//! | `tensorboard/` | both for TensorBoard, if the recipe wants it |
//! | `result.json` | what `--json` prints |
//! | `report.html`, `curves.svg`, `confusion.svg` | for people |

mod checkpoints;
mod claim;
mod earlier;
mod follow;
mod keep;
mod log;
mod logs;
mod made;
mod partial;
mod resume;
mod run_log;
mod samples;
mod setup;
mod tensorboard;
mod until;

use std::cell::{Cell, OnceCell};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use nola_core::folder;
use serde::{Deserialize, Serialize};

pub use crate::error::Occupied;
pub use checkpoints::is_resumable;
pub use claim::{CutOff, is_begun, whole};
pub use earlier::{Found, find, is_run_of, other_recipe};
pub use follow::{Continued, Followed, follow, for_ranks, go_on_with};
pub use keep::Keeping;
pub use log::{METRICS, StepLine, ValidationLine, logged_steps};
pub use made::Made;
pub use resume::InterruptedRun;
pub use samples::{SAMPLES, SampleLine, sample_lines};
pub use setup::compare_setup;

use crate::Error;
use crate::amounts::thousands;
use crate::baseline::BaselineScores;
use crate::data_counts::DataCounts;
use crate::data_files::HubData;
use crate::fit::{Fitted, Keeper, Resumed};
use crate::history::History;
use crate::memory::peak_bytes;
use crate::portion::Drawn;
use crate::progress::Target;
use crate::recipe::{CheckedRecipe, MethodRecipe};
use crate::report::{self, ResultRow, RunReport};
use crate::session::Base;
use crate::stop::Interrupt;
use crate::task::Task;
use crate::terminal::err_line;
use claim::Claim;
use keep::folder_bytes;
use logs::RunLogs;

/// The recipe of a run.
pub const RECIPE: &str = "recipe.toml";
/// The best adapter.
pub const ADAPTER: &str = "adapter";
/// The adapter as the last step left it.
pub const LAST_ADAPTER: &str = "adapter-last";
/// The best model, where all of it was trained.
pub const MODEL: &str = "model";
/// What the run came to.
pub const RESULT: &str = "result.json";

/// A folder that one run alone writes to.
#[derive(Debug)]
pub struct RunFolder {
    claim: Claim,
    /// Whether the best model so far lies there; else, a worse one or none.
    holds_best: Cell<bool>,
    /// What is noted of every step; nothing before the run begins.
    logs: RunLogs,
}

/// What a run held out of its training data, as its result says; none if it held out nothing or has no result.
pub fn held_out(folder: &Path) -> Option<Drawn> {
    let bytes = std::fs::read(folder.join(RESULT)).ok()?;
    serde_json::from_slice::<RunResult>(&bytes).ok()?.data.held_out
}

/// What a run came to; the JSON object of `train --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// What was trained: `nola`, `lora`, `linear` or `full`.
    pub method: String,
    /// Trainable parameters, head included.
    pub trainable: usize,
    /// Trainable parameters of the adapters alone.
    pub adapter_numbers: usize,
    /// Bytes of the adapter folder, head included.
    pub adapter_bytes: u64,
    /// Share of validation images, or tokens, that the best adapter gets right, 0 to 1.
    pub accuracy: f64,
    /// Where that share lies with a confidence of 95 %; absent for text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_interval: Option<[f64; 2]>,
    /// Mean validation cross-entropy of the best adapter, in nats per image or token.
    pub loss: f32,
    /// e to the loss, for text; absent for images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// What it has to be better than.
    pub baseline: BaselineScores,
    /// What was learned from, and what was held out of it.
    #[serde(default)]
    pub data: DataCounts,
    /// Optimizer steps made.
    pub steps: usize,
    /// Optimizer steps after which the best adapter was found.
    pub best_step: usize,
    /// Seconds of training, evaluations included.
    pub seconds: f64,
    /// Processes that shared it; absent of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<usize>,
    /// The device.
    pub device: String,
    /// Largest resident memory of the process, in bytes.
    pub peak_memory_bytes: Option<u64>,
    /// The run folder.
    pub run: PathBuf,
    /// The adapter's folder, or the model's.
    pub adapter: PathBuf,
    /// The HTML report.
    pub report: PathBuf,
    /// Whether an interrupt ended the run.
    pub interrupted: bool,
    /// Which one; absent where none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interrupted_by: Option<Interrupt>,
    /// What else ended the run before its time; absent where nothing did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What of the data came from the hub; absent where nothing did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data_from_hub: Vec<HubData>,
    /// What makes the run doubtful; absent where nothing does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A run whose files are written.
pub struct Saved {
    /// What it came to.
    pub result: RunResult,
    /// What kept some of the files from being written.
    pub failure: Option<Error>,
}

impl RunFolder {
    /// Claims the folder of a run before anything is trained, so that a run is not lost for a folder it cannot write, or that
    /// another one writes to.
    ///
    /// # Errors
    /// If it holds something already, another run writes to it, or it cannot be written.
    pub fn create(folder: &Path) -> Result<Self, Error> {
        Ok(Self::claimed(Claim::of(folder)?))
    }

    /// Claims the folder of a run that ended before its time.
    ///
    /// # Errors
    /// If there is nothing to go on from, the run still goes on, or the folder cannot be written.
    pub fn resumed(folder: &Path) -> Result<Self, Error> {
        Ok(Self::claimed(Claim::resumed(folder)?))
    }

    fn claimed(claim: Claim) -> Self {
        let logs = RunLogs::of(claim.folder.clone());
        Self { claim, holds_best: Cell::new(false), logs }
    }

    /// Claims a folder around several runs: `name`, or the first of `name-2`, `name-3`, … that does not exist, or whose runs
    /// were left before they were all made, as `is_left` knows.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn around_runs(name: &Path, is_left: impl Fn(&Path) -> bool) -> Result<Self, Error> {
        let numbered = |number: u32| name.with_file_name(format!("{}-{number}", file_name(name)));
        let names = std::iter::once(name.to_owned()).chain((2..).map(numbered));
        for folder in names {
            let is_new = !folder.exists();
            if !is_new && !is_left(&folder) {
                continue;
            }
            match Claim::around_runs(&folder).map(Self::claimed) {
                // Somebody else was faster.
                Err(Error::Occupied { .. }) => {}
                // Somebody else made the rest before the folder was claimed.
                Ok(_) if !is_new && !is_left(&folder) => {}
                other => return other,
            }
        }
        unreachable!("numbers do not end")
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.claim.folder
    }

    /// Writes the recipe, so that whatever the run leaves can be put to use.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn begin(&self, recipe: &CheckedRecipe) -> Result<(), Error> {
        self.write_recipe(recipe)?;
        self.logs.begin(recipe)
    }

    /// The same for a run that goes on.
    fn go_on(&self, recipe: &CheckedRecipe, from: &Resumed) -> Result<(), Error> {
        self.write_recipe(recipe)?;
        self.logs.go_on(recipe, from)
    }

    /// Sees to it that the folder is there before something is written to it: what was learned is worth more than the folder
    /// that somebody removed.
    ///
    /// # Errors
    /// If another run has it now, or it cannot be written.
    fn hold(&self, recipe: &CheckedRecipe) -> Result<(), Error> {
        self.claim.renew()?;
        if self.path().join(RECIPE).exists() {
            return Ok(());
        }
        let folder = self.path().display();
        err_line(&format!(
            "warning: {folder} was removed while the run went on; it is made again, without what it held"
        ));
        self.holds_best.set(false);
        self.write_recipe(recipe)?;
        self.logs.begin(recipe)
    }

    fn write_recipe(&self, recipe: &CheckedRecipe) -> Result<(), Error> {
        let written = folder::write_atomically(&self.path().join(RECIPE), recipe.resolved_toml().as_bytes());
        written.map_err(|error| Error::from(error).about_output())
    }

    /// Keeps the models of a run while it goes on, on a device that results call so.
    pub fn keeper<'a, T: Task>(
        &'a self,
        task: &'a T,
        recipe: &'a CheckedRecipe,
        device: &'a str,
    ) -> Keeping<'a, T> {
        Keeping { folder: self, task, recipe, device, origin: OnceCell::new() }
    }

    /// Writes a finished run, and returns what it came to. What was learned is written first, and an error in what follows
    /// keeps nothing else from being written.
    ///
    /// # Errors
    /// If there is no model that was kept.
    pub fn save<T: Task>(
        &self,
        task: &T,
        recipe: &CheckedRecipe,
        fitted: &Fitted<T>,
        device: &str,
    ) -> Result<Saved, Error> {
        let keeping = self.keeper(task, recipe, device);
        let mut failures = Failures::default();
        self.hold(recipe)?;
        failures.take(self.save_models(&keeping, fitted));
        if !keeping.place().is_dir() {
            return Err(failures.first.unwrap_or_else(|| Error::Output {
                path: keeping.place(),
                source: ErrorKind::NotFound.into(),
            }));
        }
        let result = self.result(&keeping, fitted, device)?;
        // A result stands for a finished run, and its scores for the model that lies there.
        if self.holds_best.get() {
            failures.take(self.save_result(&result));
        }
        let rows = vec![result.row()];
        let (histories, toml) = (vec![fitted.history.clone()], recipe.resolved_toml());
        let report = self.save_report(&ReportParts { task, fitted, histories, device, toml, rows });
        failures.take(report.map(drop));
        failures.take(self.logs.sync());
        if fitted.interrupted.is_none() && fitted.failure.is_none() && failures.first.is_none() {
            failures.take(checkpoints::remove_all(self.path()));
        }
        Ok(Saved { result, failure: failures.first })
    }

    fn save_result(&self, result: &RunResult) -> Result<(), Error> {
        let json = serde_json::to_vec_pretty(result).expect("a result is made of numbers and text");
        let written = folder::write_atomically(&self.path().join(RESULT), &json);
        written.map_err(|error| Error::from(error).about_output())
    }

    fn result<T: Task>(
        &self,
        keeping: &Keeping<T>,
        fitted: &Fitted<T>,
        device: &str,
    ) -> Result<RunResult, Error> {
        let scores = T::scores(&fitted.evaluation);
        let adapter = keeping.place();
        Ok(RunResult {
            method: keeping.recipe.method.kind().to_owned(),
            trainable: fitted.trained.adapter + fitted.trained.other,
            adapter_numbers: fitted.trained.adapter,
            adapter_bytes: folder_bytes(&adapter)?,
            accuracy: scores.accuracy,
            accuracy_interval: scores.interval(),
            baseline: fitted.history.baseline.to_json(),
            data: keeping.task.counts().clone(),
            loss: scores.loss,
            perplexity: match scores.target {
                Target::Image => None,
                Target::Token => Some(scores.perplexity()),
            },
            steps: fitted.steps,
            best_step: fitted.best_step,
            seconds: fitted.seconds,
            ranks: Some(fitted.ranks).filter(|ranks| *ranks > 1),
            device: device.to_owned(),
            peak_memory_bytes: peak_bytes(),
            run: self.path().to_owned(),
            adapter,
            report: self.path().join(report::PAGE),
            interrupted: fitted.interrupted.is_some(),
            interrupted_by: fitted.interrupted,
            failure: fitted.failure.as_ref().map(Error::to_string),
            data_from_hub: keeping.task.sources().to_vec(),
            warnings: fitted.warnings.clone(),
        })
    }

    /// Writes the report of a run, whose table may hold other runs too.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save_report<T: Task>(&self, parts: &ReportParts<T>) -> Result<PathBuf, Error> {
        let details = parts.task.details(&parts.fitted.best.model, &parts.fitted.evaluation)?;
        let facts = [
            ("base", parts.task.base().identity().name.clone()),
            ("device", parts.device.to_owned()),
            ("trainable parameters of the adapters", thousands(parts.fitted.trained.adapter as u64)),
            ("kept step", thousands(parts.fitted.best_step as u64)),
        ];
        let facts = facts.map(|(name, value)| (name.to_owned(), value)).into_iter();
        let report = RunReport {
            title: format!("{} on {}", parts.fitted.history.name, details.about),
            facts: facts.chain(parts.task.counts().report_lines()).chain(details.facts.clone()).collect(),
            warnings: parts.fitted.warnings.clone(),
            scores: T::scores(&parts.fitted.evaluation),
            recipe_toml: parts.toml.clone(),
            histories: parts.histories.clone(),
            samples: samples::shown_samples(&sample_lines(self.path())),
            details,
            rows: parts.rows.clone(),
        };
        Ok(report::write(self.path(), &report)?.page)
    }

    fn save_models<T: Task>(&self, keeping: &Keeping<T>, fitted: &Fitted<T>) -> Result<(), Error> {
        // With fewer bits it was scored once more, and the folder says so.
        if !self.holds_best.get() || fitted.is_rounded {
            keeping.keep_best(&fitted.unrounded, &fitted.evaluation)?;
        }
        let is_spoilt = fitted.failure.as_ref().is_some_and(Error::spoils_training);
        if is_spoilt || keeping.recipe.method == MethodRecipe::Full {
            return Ok(());
        }
        let (last, of_best) = (&fitted.last, fitted.last.base_gain());
        fitted.base_gain_of_last.into_iter().for_each(|gain| last.set_base_gain(gain));
        let kept = keeping.keep_last(last, &self.path().join(LAST_ADAPTER));
        of_best.into_iter().for_each(|gain| last.set_base_gain(gain));
        kept
    }
}

/// The first of several errors.
#[derive(Default)]
struct Failures {
    first: Option<Error>,
}

impl Failures {
    fn take(&mut self, result: Result<(), Error>) {
        self.first = self.first.take().or(result.err());
    }
}

/// What a report is made of.
pub struct ReportParts<'a, T: Task> {
    /// Base and data.
    pub task: &'a T,
    /// The fit that is shown in detail.
    pub fitted: &'a Fitted<T>,
    /// Courses of all runs in the table.
    pub histories: Vec<History>,
    /// The device.
    pub device: &'a str,
    /// The resolved recipe.
    pub toml: String,
    /// The table.
    pub rows: Vec<ResultRow>,
}

impl RunResult {
    /// The run as a line of a table.
    pub fn row(&self) -> ResultRow {
        ResultRow {
            method: self.method.clone(),
            trainable: self.trainable,
            adapter_bytes: self.adapter_bytes,
            accuracy: self.accuracy,
            accuracy_interval: self.accuracy_interval,
            perplexity: self.perplexity,
            seconds: self.seconds,
        }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or("run".to_owned(), |name| name.to_string_lossy().into_owned())
}
