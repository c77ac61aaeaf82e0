//! The run folder: what a training run leaves behind.
//!
//! | name | holds |
//! |---|---|
//! | `recipe.toml` | the recipe with every default filled in; `train` with it and another `output.dir` repeats the run |
//! | `adapter/` | the adapter with the best validation accuracy (`model/` for a model trained in full) |
//! | `adapter-last/` | the adapter as the last step left it |
//! | `result.json` | what `--json` prints |
//! | `report.html`, `curves.svg`, `confusion.svg` | for people |

use std::path::{Path, PathBuf};

use nola_core::Adapted;
use nola_core::folder::{self, CoefficientBits, Description, peft};
use nola_models::StoredDtype;
use serde::Serialize;

use crate::Error;
use crate::base::Base;
use crate::fit::Fitted;
use crate::memory::peak_bytes;
use crate::progress::Target;
use crate::recipe::{CheckedRecipe, MethodRecipe};
use crate::report::{self, History, ResultRow, RunReport};
use crate::task::Task;

/// A folder that is empty and can be written.
#[derive(Debug)]
pub struct RunFolder {
    folder: PathBuf,
}

/// What a run came to; the JSON object of `train --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunResult {
    /// What was trained: `nola`, `lora`, `linear` or `full`.
    pub method: String,
    /// Trained numbers, head included.
    pub trainable: usize,
    /// Trained numbers of the adapters alone.
    pub adapter_numbers: usize,
    /// Bytes of the adapter folder, head included.
    pub adapter_bytes: u64,
    /// Share of validation pictures, or tokens, that the best adapter gets right, 0 to 1.
    pub accuracy: f64,
    /// Mean validation cross-entropy of the best adapter, in nats per picture or token.
    pub loss: f32,
    /// e to the loss, for text; absent for pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// Optimizer steps made.
    pub steps: usize,
    /// Optimizer steps after which the best adapter was found.
    pub best_step: usize,
    /// Seconds of training, evaluations included.
    pub seconds: f64,
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
}

impl RunFolder {
    /// Makes the folder of a run before anything is trained, so that a run is not lost for a folder it cannot write.
    ///
    /// # Errors
    /// If it holds something already, or cannot be written.
    pub fn create(folder: &Path) -> Result<Self, Error> {
        folder::new_folder(folder)?;
        let probe = folder.join(".write-test");
        let output = |source| Error::Output { path: folder.to_owned(), source };
        std::fs::write(&probe, b"").map_err(output)?;
        std::fs::remove_file(&probe).map_err(output)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// `name`, or the first of `name-2`, `name-3`, … that does not exist.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create_numbered(name: &Path) -> Result<Self, Error> {
        let numbered = |number: u32| name.with_file_name(format!("{}-{number}", file_name(name)));
        let free = std::iter::once(name.to_owned()).chain((2..).map(numbered)).find(|path| !path.exists());
        Self::create(&free.unwrap_or_else(|| name.to_owned()))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Writes a finished run, and returns what it came to.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save<T: Task>(
        &self,
        task: &T,
        recipe: &CheckedRecipe,
        fitted: &Fitted<T>,
        device: &str,
    ) -> Result<RunResult, Error> {
        let toml = recipe.resolved_toml();
        folder::write_atomically(&self.folder.join("recipe.toml"), toml.as_bytes())?;
        let (adapter, adapter_bytes) = self.save_models(task, recipe, fitted)?;
        let scores = T::scores(&fitted.evaluation);
        let mut result = RunResult {
            method: recipe.method.kind().to_owned(),
            trainable: fitted.trained.adapter + fitted.trained.other,
            adapter_numbers: fitted.trained.adapter,
            adapter_bytes,
            accuracy: scores.accuracy,
            loss: scores.loss,
            perplexity: match scores.target {
                Target::Picture => None,
                Target::Token => Some(scores.perplexity()),
            },
            steps: fitted.steps,
            best_step: fitted.best_step,
            seconds: fitted.seconds,
            device: device.to_owned(),
            peak_memory_bytes: peak_bytes(),
            run: self.folder.clone(),
            adapter,
            report: PathBuf::new(),
            interrupted: fitted.interrupted,
        };
        let rows = vec![result.row()];
        let histories = vec![fitted.history.clone()];
        result.report = self.save_report(&ReportParts { task, fitted, histories, device, toml, rows })?;
        let json = serde_json::to_vec_pretty(&result).expect("a result is made of numbers and text");
        folder::write_atomically(&self.folder.join("result.json"), &json)?;
        Ok(result)
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
            ("trained numbers of the adapters", parts.fitted.trained.adapter.to_string()),
            ("best after step", parts.fitted.best_step.to_string()),
        ];
        let facts = facts.map(|(name, value)| (name.to_owned(), value));
        let report = RunReport {
            title: format!("{} on {}", parts.fitted.history.name, details.subject),
            facts: facts.into_iter().chain(details.facts.clone()).collect(),
            recipe_toml: parts.toml.clone(),
            histories: parts.histories.clone(),
            details,
            rows: parts.rows.clone(),
        };
        Ok(report::write(&self.folder, &report)?.page)
    }

    fn save_models<T: Task>(
        &self,
        task: &T,
        recipe: &CheckedRecipe,
        fitted: &Fitted<T>,
    ) -> Result<(PathBuf, u64), Error> {
        let base = task.base();
        if recipe.method == (MethodRecipe::Full {}) {
            let folder = self.folder.join("model");
            base.save(&fitted.best.model, &folder, StoredDtype::F32)?;
            let bytes = folder_bytes(&folder)?;
            return Ok((folder, bytes));
        }
        let description = Description {
            base: base.identity().clone(),
            labels: T::Base::labels(&fitted.best.model).to_vec(),
            summary: T::scores(&fitted.evaluation).summary(),
        };
        let bits = CoefficientBits::try_from(recipe.output.coefficient_bits).unwrap_or_default();
        // What a failed run left last may be no numbers at all.
        if fitted.failure.is_none() {
            let last = Description { summary: "As the last step left it.".to_owned(), ..description.clone() };
            save_adapter(&self.folder.join("adapter-last"), base, &fitted.last, &last, bits)?;
        }
        let folder = self.folder.join("adapter");
        let bytes = save_adapter(&folder, base, &fitted.best, &description, bits)?;
        Ok((folder, bytes))
    }
}

/// Writes an adapter in the format of its method: LoRA as PEFT does, all else in our own.
///
/// # Errors
/// If the folder is not empty or cannot be written.
pub fn save_adapter<B: Base>(
    folder: &Path,
    base: &B,
    adapted: &Adapted<B::Model>,
    description: &Description,
    bits: CoefficientBits,
) -> Result<u64, Error> {
    let modules = |site: &str| base.foreign_module(site);
    Ok(match adapted.config().map(|config| config.kind()) {
        Some("lora") => {
            let generation = peft::Generation::default();
            peft::write(folder, adapted, &modules, generation, base.peft_task(), description)?
        }
        Some(_) | None => folder::write(folder, adapted, description, bits)?,
    })
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
            perplexity: self.perplexity,
            seconds: self.seconds,
        }
    }
}

fn folder_bytes(folder: &Path) -> Result<u64, Error> {
    let output = |source| Error::Output { path: folder.to_owned(), source };
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).map_err(output)? {
        bytes += entry.and_then(|entry| entry.metadata()).map_err(output)?.len();
    }
    Ok(bytes)
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or("run".to_owned(), |name| name.to_string_lossy().into_owned())
}
