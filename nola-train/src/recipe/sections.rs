//! `[train]` and `[output]`.

use std::path::{Path, PathBuf};

use nola_core::AdapterConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::MAX_SAMPLES;
use super::error::{Findings, Problem};
use super::method::MethodRecipe;
use super::save_every::{SaveEvery, WrittenDistance};

/// How it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainRecipe {
    /// Length of the run; `epochs` says the same in another way.
    #[schemars(range(min = 1, max = 1_000_000_000), example = 300, extend("x-unit" = "optimizer steps"))]
    pub steps: usize,
    /// Passes over the training data, in place of `steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        range(max = 1_000_000),
        example = 3,
        extend("exclusiveMinimum" = 0, "x-unit" = "passes over the data", "x-default" = "what `steps` says")
    )]
    pub epochs: Option<f64>,
    /// Samples of an optimizer step.
    #[schemars(range(min = 1, max = MAX_SAMPLES), example = 16, extend("x-unit" = "samples"))]
    pub batch: usize,
    /// Samples of a forward and backward pass: a step makes as many passes as it needs, which saves memory.
    #[schemars(
        range(min = 1, max = MAX_SAMPLES),
        example = 4,
        extend("x-unit" = "samples", "x-default" = "as `batch`", "x-range" = "a divisor of `batch`")
    )]
    pub micro_batch: Option<usize>,
    /// What turns gradients into updates.
    #[schemars(example = &"adam")]
    pub optimizer: Optimizer,
    /// Learning rate after the warm-up.
    #[schemars(
        example = 5e-3,
        extend("exclusiveMinimum" = 0, "x-default" = learning_rates())
    )]
    pub learning_rate: f64,
    /// Learning rate of the head after the warm-up.
    #[schemars(example = 1e-3, extend("exclusiveMinimum" = 0, "x-default" = "as `learning_rate`"))]
    pub head_learning_rate: Option<f64>,
    /// Weight decay: the part of a weight that a step takes away, times the learning rate.
    #[schemars(
        range(min = 0.0),
        example = 0.05,
        extend("x-default" = "torch's: 0.01 with adamw, 0 with adam and sgd")
    )]
    pub weight_decay: Option<f64>,
    /// Decay of Adam's running means of the gradient and of its square.
    #[schemars(
        example = [0.9, 0.95],
        extend("items" = { "type": "number", "minimum": 0, "exclusiveMaximum": 1 }, "x-range" = "each at least 0 and below 1")
    )]
    pub betas: [f64; 2],
    /// Number added to Adam's denominator.
    #[schemars(example = 1e-6, extend("exclusiveMinimum" = 0))]
    pub eps: f64,
    /// Momentum of the optimizer `sgd`.
    #[schemars(range(min = 0.0), example = 0.9, extend("exclusiveMaximum" = 1))]
    pub momentum: f64,
    /// How the learning rate changes after the warm-up.
    #[schemars(example = &"linear")]
    pub schedule: ScheduleKind,
    /// Length of the warm-up: steps in which the learning rate rises from 0 to its full value.
    #[schemars(example = 100, extend("x-unit" = "optimizer steps"))]
    pub warmup: usize,
    /// Learning rate at which `schedule` ends.
    #[schemars(range(min = 0.0), example = 1e-5, extend("x-range" = "0 to `learning_rate`"))]
    pub min_learning_rate: f64,
    /// Largest 2-norm of all gradients together; larger ones are scaled down to it.
    #[schemars(example = 1.0, extend("exclusiveMinimum" = 0, "x-default" = "not limited"))]
    pub clip_norm: Option<f64>,
    /// Probability that is spread over all classes in the target distribution.
    #[schemars(range(min = 0.0), example = 0.1, extend("exclusiveMaximum" = 1, "x-unit" = "probability"))]
    pub label_smoothing: f64,
    /// Whether the backward pass recomputes the inside of every block instead of keeping it: a third more work, for a
    /// memory in which one block's activations take the place of all blocks'.
    #[schemars(example = true)]
    pub gradient_checkpointing: bool,
    /// What becomes of a step whose loss or gradient is not finite.
    #[schemars(example = &"skip")]
    pub on_non_finite: OnNonFinite,
    /// Steps in a row that `on_non_finite = "skip"` leaves out; one more ends the run.
    #[schemars(range(min = 1, max = 1_000_000), example = 3, extend("x-unit" = "optimizer steps"))]
    pub max_skipped: usize,
    /// Distance between evaluations; 0 evaluates only at the end.
    #[schemars(example = 50, extend("x-unit" = "optimizer steps"))]
    pub evaluate_every: Period,
    /// Evaluations in a row without a better accuracy after which the run ends; 0 never ends it early.
    #[schemars(example = 5, extend("x-unit" = "evaluations"))]
    pub early_stop: usize,
    /// Distance between checkpoints, from which `train --resume` goes on: optimizer steps, or a time such as "10m"; 0 saves none
    /// but at an interrupt.
    #[schemars(
        with = "WrittenDistance",
        example = 100,
        extend("x-range" = "steps, or a time in h, m or s", "x-unit" = "optimizer steps, or a time")
    )]
    pub save_every: SaveEvery,
    /// Checkpoints that are kept, the newest ones; each holds three times the trained parameters, and the best of them once more.
    #[schemars(range(min = 1, max = 1000), example = 3, extend("x-unit" = "checkpoints"))]
    pub keep_checkpoints: usize,
    /// Seed of the order of samples, of augmentation and of new weights.
    #[schemars(example = 1)]
    pub seed: u64,
}

/// The optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// Adam with decoupled weight decay.
    #[serde(rename = "adamw")]
    AdamW,
    /// Adam; weight decay is added to the gradient.
    Adam,
    /// Stochastic gradient descent with momentum.
    Sgd,
}

/// What becomes of a step whose loss or gradient is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnNonFinite {
    /// It ends the run and is named with its samples; losses are read every 200 ms, so that the device is not waited for.
    Stop,
    /// It changes nothing of the model and is named with its samples; the loop waits for the device in every step to know.
    Skip,
}

/// Course of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// It falls to `min_learning_rate` along half a cosine.
    Cosine,
    /// It falls to `min_learning_rate` in a straight line.
    Linear,
    /// It stays as it is.
    Constant,
}

/// The default of every method, in words.
fn learning_rates() -> String {
    let adapters = AdapterConfig::every().into_iter().map(MethodRecipe::from);
    let methods = adapters.chain([MethodRecipe::Linear, MethodRecipe::Full]);
    let rates: Vec<String> =
        methods.map(|method| format!("{:e} for {}", method.default_learning_rate(), method.kind())).collect();
    rates.join(", ")
}

impl Default for TrainRecipe {
    /// torch's defaults where torch has one.
    fn default() -> Self {
        Self {
            steps: 1000,
            epochs: None,
            batch: 64,
            micro_batch: None,
            optimizer: Optimizer::AdamW,
            learning_rate: 1e-3,
            head_learning_rate: None,
            weight_decay: None,
            betas: [0.9, 0.999],
            eps: 1e-8,
            momentum: 0.0,
            schedule: ScheduleKind::Cosine,
            warmup: 0,
            min_learning_rate: 0.0,
            clip_norm: None,
            label_smoothing: 0.0,
            gradient_checkpointing: false,
            on_non_finite: OnNonFinite::Stop,
            max_skipped: 10,
            evaluate_every: Period(100),
            early_stop: 0,
            save_every: SaveEvery::default(),
            keep_checkpoints: 2,
            seed: 0,
        }
    }
}

impl TrainRecipe {
    /// Samples of a pass.
    pub fn micro_batch(&self) -> usize {
        self.micro_batch.unwrap_or(self.batch)
    }

    /// Learning rate of the head after the warm-up.
    pub fn head_learning_rate(&self) -> f64 {
        self.head_learning_rate.unwrap_or(self.learning_rate)
    }

    /// Weight decay per step and unit of learning rate.
    pub fn weight_decay(&self) -> f64 {
        self.weight_decay.unwrap_or(match self.optimizer {
            Optimizer::AdamW => 1e-2,
            Optimizer::Adam | Optimizer::Sgd => 0.0,
        })
    }

    /// What depends on more than one key; ranges are checked as the schema states them.
    pub(super) fn check(&self, findings: &mut Findings) {
        let micro_batch = self.micro_batch();
        if micro_batch > 0 && !self.batch.is_multiple_of(micro_batch) {
            let problem =
                Problem::NotADivisor { value: micro_batch, whole_key: "train.batch", whole: self.batch };
            findings.add("train.micro_batch", problem);
        }
        if self.min_learning_rate > self.learning_rate {
            let (found, range) = (self.min_learning_rate.to_string(), "at most the learning rate".to_owned());
            findings.add("train.min_learning_rate", Problem::NotAllowed { found, range });
        }
        if self.momentum != 0.0 && self.optimizer != Optimizer::Sgd {
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

/// A number of optimizer steps after which something is due again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Period(pub usize);

impl Period {
    /// Never due.
    pub const NEVER: Self = Self(0);

    /// Whether it is due after `step` optimizer steps.
    pub fn is_due(self, step: usize) -> bool {
        self.0 > 0 && step > 0 && step.is_multiple_of(self.0)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_due_at_its_multiples_and_never_at_the_start() {
        let due: Vec<usize> = (0..=9).filter(|&step| Period(3).is_due(step)).collect();
        assert_eq!(due, [3, 6, 9]);
        assert!(!Period::NEVER.is_due(0) && !Period::NEVER.is_due(5));
    }

    #[test]
    fn weight_decay_defaults_are_those_of_torch() {
        let of = |optimizer| TrainRecipe { optimizer, ..TrainRecipe::default() }.weight_decay();
        assert_eq!(of(Optimizer::AdamW), 0.01);
        assert_eq!(of(Optimizer::Adam), 0.0);
        assert_eq!(of(Optimizer::Sgd), 0.0);
    }
}
