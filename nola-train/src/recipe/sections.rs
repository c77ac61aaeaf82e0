//! `[train]` as a recipe checks it, and `[output]`.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::{Findings, Problem};
use crate::settings::{MAX_SAMPLES, OnNonFinite, OptimizerKind, Period, TrainSettings};

impl TrainSettings {
    /// What depends on more than one key; ranges are checked as the schema states them.
    pub(super) fn check(&self, findings: &mut Findings) {
        let micro_batch = self.micro_batch();
        if micro_batch > 0 && !self.batch.is_multiple_of(micro_batch) {
            let problem =
                Problem::NotADivisor { value: micro_batch, whole_key: "train.batch", whole: self.batch };
            findings.add("train.micro_batch", problem);
        }
        if self.shards() > self.batch {
            let (found, range) = (self.shards().to_string(), "1 to 4096, at most `batch`".to_owned());
            findings.add("train.shards", Problem::NotAllowed { found, range });
        }
        if self.exchange_every > 1 && self.on_non_finite == OnNonFinite::Skip {
            let range = "1 with on_non_finite = \"skip\": all shards skip a step or none does".to_owned();
            let found = self.exchange_every.to_string();
            findings.add("train.exchange_every", Problem::NotAllowed { found, range });
        }
        if self.min_learning_rate > self.learning_rate {
            let (found, range) = (self.min_learning_rate.to_string(), "at most the learning rate".to_owned());
            findings.add("train.min_learning_rate", Problem::NotAllowed { found, range });
        }
        if self.momentum != 0.0 && self.optimizer != OptimizerKind::Sgd {
            findings.add("train.momentum", Problem::NoEffect { because: "an optimizer other than \"sgd\"" });
        }
        if self.early_stop > 0 && self.evaluate_every == Period::NEVER {
            findings.add("train.early_stop", Problem::NoEffect { because: "evaluate_every = 0" });
        }
    }

    /// Fills in what follows from other values.
    pub(super) fn resolve(&mut self) {
        self.micro_batch = Some(self.micro_batch());
        self.head_learning_rate = Some(self.head_learning_rate());
        self.weight_decay = Some(self.weight_decay());
    }
}

/// Where the result goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OutputRecipe {
    /// Folder of the run.
    #[schemars(
        example = &"runs/first",
        extend("x-unit" = "folder", "x-default" = "`runs/` and the recipe's name without `.toml`")
    )]
    pub dir: PathBuf,
    /// Size of a stored coefficient: 8 bits score as 32 do on the shipped tasks, 4 bits do not everywhere.
    #[schemars(example = 16, extend("enum" = [32, 16, 8, 4, 3, 2], "x-unit" = "bits"))]
    pub coefficient_bits: u8,
    /// Whether `tensorboard/` in the folder of the run holds losses, learning rate, gradient norm, scores and `samples` for
    /// TensorBoard; `tensorboard --logdir runs` shows them.
    #[schemars(example = true)]
    pub tensorboard: bool,
}

impl Default for OutputRecipe {
    fn default() -> Self {
        Self { dir: PathBuf::new(), coefficient_bits: 8, tensorboard: false }
    }
}

impl OutputRecipe {
    /// Names an unnamed folder after the recipe.
    pub(super) fn name_after(&mut self, recipe: &Path) {
        if self.dir.as_os_str().is_empty() {
            self.dir = Path::new("runs").join(recipe.file_stem().unwrap_or("run".as_ref()));
        }
    }

    pub(super) fn check(&self, findings: &mut Findings) {
        if self.dir.as_os_str().is_empty() {
            findings.add("output.dir", Problem::Missing { example: "dir = \"runs/first\"".to_owned() });
        }
    }
}

/// Prompts that the model completes before training and at each evaluation, for people to see what it learns; text only. They
/// change nothing of what is learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SamplesRecipe {
    /// The prompts, each written like a row of `data.format`, as `generate` does; of a `data.text.template` each is the text of
    /// its only column, and with several columns the whole prompt.
    #[schemars(example = ["name[Blue Spice], area[riverside]"], extend("x-unit" = "prompts"))]
    pub prompts: Vec<String>,
    /// Most tokens that are added to each, the likeliest ones.
    #[schemars(range(min = 1, max = MAX_SAMPLES), example = 32, extend("x-unit" = "tokens"))]
    pub max_new_tokens: usize,
}

impl Default for SamplesRecipe {
    fn default() -> Self {
        Self { prompts: Vec::new(), max_new_tokens: 64 }
    }
}
