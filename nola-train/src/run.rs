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
use nola_models::vit::peft_names;
use nola_models::{StoredDtype, Vit};
use serde::Serialize;

use crate::Error;
use crate::base::Base;
use crate::fit::{Fitted, Splits};
use crate::memory::peak_bytes;
use crate::recipe::{CheckedRecipe, MethodRecipe};
use crate::report::{self, History, Misclassified, ResultRow, RunReport};

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
    /// Share of validation pictures recognised by the best adapter, 0 to 1.
    pub accuracy: f64,
    /// Mean validation cross-entropy of the best adapter, in nats.
    pub loss: f32,
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
    pub fn save(
        &self,
        base: &Base,
        splits: &Splits,
        recipe: &CheckedRecipe,
        fitted: &Fitted,
        device: &str,
    ) -> Result<RunResult, Error> {
        let toml = recipe.resolved_toml();
        folder::write_atomically(&self.folder.join("recipe.toml"), toml.as_bytes())?;
        let (adapter, adapter_bytes) = self.save_models(base, recipe, fitted)?;
        let mut result = RunResult {
            method: recipe.method.kind().to_owned(),
            trainable: fitted.trained.adapter + fitted.trained.other,
            adapter_numbers: fitted.trained.adapter,
            adapter_bytes,
            accuracy: fitted.evaluation.scores.accuracy,
            loss: fitted.evaluation.scores.loss,
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
        result.report =
            self.save_report(&ReportParts { base, splits, fitted, histories, device, toml, rows })?;
        let json = serde_json::to_vec_pretty(&result).expect("a result is made of numbers and text");
        folder::write_atomically(&self.folder.join("result.json"), &json)?;
        Ok(result)
    }

    /// Writes the report of a run, whose table may hold other runs too.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save_report(&self, parts: &ReportParts) -> Result<PathBuf, Error> {
        let classes = parts.splits.validation.classes().to_vec();
        let facts = [
            ("base", parts.base.identity.name.clone()),
            ("device", parts.device.to_owned()),
            ("training pictures", parts.splits.train.len().to_string()),
            ("validation pictures", parts.splits.validation.len().to_string()),
            ("trained numbers of the adapters", parts.fitted.trained.adapter.to_string()),
            ("best after step", parts.fitted.best_step.to_string()),
        ];
        let report = RunReport {
            title: format!("{} on {} classes", parts.fitted.history.name, classes.len()),
            facts: facts.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            recipe_toml: parts.toml.clone(),
            histories: parts.histories.clone(),
            classes,
            confusion: parts.fitted.evaluation.confusion.clone(),
            misclassified: misclassified(parts.splits, parts.fitted)?,
            rows: parts.rows.clone(),
        };
        Ok(report::write(&self.folder, &report)?.page)
    }

    fn save_models(
        &self,
        base: &Base,
        recipe: &CheckedRecipe,
        fitted: &Fitted,
    ) -> Result<(PathBuf, u64), Error> {
        if recipe.method == (MethodRecipe::Full {}) {
            let folder = self.folder.join("model");
            fitted.best.model.save(&folder, &base.preprocessor, StoredDtype::F32)?;
            let bytes = folder_bytes(&folder)?;
            return Ok((folder, bytes));
        }
        let scores = fitted.evaluation.scores;
        let description = Description {
            base: base.identity.clone(),
            labels: fitted.best.model.config().labels.clone(),
            summary: format!("Validation accuracy {:.2} %.", 100.0 * scores.accuracy),
        };
        let bits = CoefficientBits::try_from(recipe.output.coefficient_bits).unwrap_or_default();
        // What a failed run left last may be no numbers at all.
        if fitted.failure.is_none() {
            let last = Description { summary: "As the last step left it.".to_owned(), ..description.clone() };
            save_adapter(&self.folder.join("adapter-last"), &fitted.last, &last, bits)?;
        }
        let folder = self.folder.join("adapter");
        let bytes = save_adapter(&folder, &fitted.best, &description, bits)?;
        Ok((folder, bytes))
    }
}

/// Writes an adapter in the format of its method: LoRA as PEFT does, all else in our own.
///
/// # Errors
/// If the folder is not empty or cannot be written.
pub fn save_adapter(
    folder: &Path,
    adapted: &Adapted<Vit>,
    description: &Description,
    bits: CoefficientBits,
) -> Result<u64, Error> {
    Ok(match adapted.config().map(|config| config.kind()) {
        Some("lora") => peft::write(folder, adapted, &peft_names, peft::Generation::default(), description)?,
        Some(_) | None => folder::write(folder, adapted, description, bits)?,
    })
}

/// What a report is made of.
pub struct ReportParts<'a> {
    /// The base.
    pub base: &'a Base,
    /// The pictures.
    pub splits: &'a Splits,
    /// The fit that is shown in detail.
    pub fitted: &'a Fitted,
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
            seconds: self.seconds,
        }
    }
}

/// The most confident mistakes, as many as the report shows: pictures can be large.
fn misclassified(splits: &Splits, fitted: &Fitted) -> Result<Vec<Misclassified>, Error> {
    let predictions = fitted.evaluation.predictions.iter().enumerate();
    let mut wrong: Vec<_> = predictions.filter(|(_, p)| p.label != p.predicted).collect();
    wrong.sort_by(|(_, a), (_, b)| b.probability.total_cmp(&a.probability));
    wrong.truncate(report::MISTAKES);
    (wrong.into_iter())
        .map(|(index, prediction)| {
            Ok(Misclassified {
                image: splits.validation.image(index)?,
                label: prediction.label,
                predicted: prediction.predicted,
                probability: prediction.probability,
                name: splits.validation.name(index),
            })
        })
        .collect()
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
