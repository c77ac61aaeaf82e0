//! How a model is trained: the settings of the loop, of its optimizer and of its schedule.

use nola_core::AdapterConfig;
use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::period::Period;
use super::save_every::{SaveEvery, WrittenDistance};

/// More samples than any step or class has; a larger number is a typo.
pub(crate) const MAX_SAMPLES: usize = 1 << 20;

/// More parts than a step is ever cut into.
const MAX_SHARDS: usize = 1 << 12;

/// Learning rate of a head alone, where no other is given.
pub(crate) const LINEAR_LEARNING_RATE: f64 = 1e-2;
/// Learning rate of a whole model, where no other is given.
pub(crate) const FULL_LEARNING_RATE: f64 = 1e-3;

/// How it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSettings {
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
    /// Parts that the samples of a step are cut into, in order: each is computed by one process, whose gradient is then added in
    /// the order of parts. So the number of parts decides what a run computes, to the bit, and the number of processes that share
    /// them only how fast.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        range(min = 1, max = MAX_SHARDS),
        example = 4,
        extend("x-unit" = "parts of a step", "x-default" = "the number of processes that `mpirun` or `srun` started", "x-range" = "1 to 4096, at most `batch`")
    )]
    pub shards: Option<usize>,
    /// Optimizer steps from one exchange to the next: with more than 1 every part of `shards` makes its own steps meanwhile, and
    /// then trained values and moments are averaged. For networks that are slower than a step.
    #[serde(skip_serializing_if = "is_every_step")]
    #[schemars(
        range(min = 1, max = 1_000_000),
        example = 8,
        extend("x-unit" = "optimizer steps", "x-default" = "1")
    )]
    pub exchange_every: usize,
    /// What turns gradients into updates.
    #[schemars(example = &"adam")]
    pub optimizer: OptimizerKind,
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
pub enum OptimizerKind {
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

/// Whether ranks exchange gradients in every step, which is not worth a word in a recipe.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_every_step(exchange_every: &usize) -> bool {
    *exchange_every == 1
}

/// The default of every method, in words.
fn learning_rates() -> String {
    let adapters =
        AdapterConfig::every().into_iter().map(|config| (config.method().learning_rate(), config.kind()));
    let methods = adapters.chain([(LINEAR_LEARNING_RATE, "linear"), (FULL_LEARNING_RATE, "full")]);
    let rates: Vec<String> = methods.map(|(rate, kind)| format!("{rate:e} for {kind}")).collect();
    rates.join(", ")
}

impl Default for TrainSettings {
    /// torch's defaults where torch has one.
    fn default() -> Self {
        Self {
            steps: 1000,
            epochs: None,
            batch: 64,
            micro_batch: None,
            shards: None,
            exchange_every: 1,
            optimizer: OptimizerKind::AdamW,
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

impl TrainSettings {
    /// Samples of a pass.
    pub fn micro_batch(&self) -> usize {
        self.micro_batch.unwrap_or(self.batch)
    }

    /// Parts that the samples of a step are cut into.
    pub fn shards(&self) -> usize {
        self.shards.unwrap_or(1)
    }

    /// Which of a step's samples a shard holds.
    pub fn samples_of_shard(&self, shard: usize) -> Range<usize> {
        self.batch * shard / self.shards()..self.batch * (shard + 1) / self.shards()
    }

    /// Samples of the largest pass: a shard may have fewer than `micro_batch` wants.
    pub fn largest_pass(&self) -> usize {
        self.micro_batch().min(self.batch.div_ceil(self.shards()))
    }

    /// Whether shards make steps of their own between two exchanges.
    pub fn has_local_steps(&self) -> bool {
        self.exchange_every > 1 && self.shards() > 1
    }

    /// Whether shards that make steps of their own have one model again after `step` optimizer steps: every so many, and
    /// where the model is evaluated.
    pub fn exchanges_after(&self, step: usize) -> bool {
        Period(self.exchange_every).is_due(step) || self.evaluate_every.is_due(step) || step == self.steps
    }

    /// Learning rate of the head after the warm-up.
    pub fn head_learning_rate(&self) -> f64 {
        self.head_learning_rate.unwrap_or(self.learning_rate)
    }

    /// Weight decay per step and unit of learning rate.
    pub fn weight_decay(&self) -> f64 {
        self.weight_decay.unwrap_or(match self.optimizer {
            OptimizerKind::AdamW => 1e-2,
            OptimizerKind::Adam | OptimizerKind::Sgd => 0.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_hold_every_sample_once_and_none_is_empty() {
        for (batch, shards) in [(7, 3), (4, 4), (64, 5), (1, 1)] {
            let train = TrainSettings { batch, shards: Some(shards), ..TrainSettings::default() };
            let ranges: Vec<_> = (0..shards).map(|shard| train.samples_of_shard(shard)).collect();
            assert!(ranges.iter().all(|range| !range.is_empty()), "{ranges:?}");
            assert!(ranges.into_iter().flatten().eq(0..batch));
        }
    }

    #[test]
    fn shards_have_one_model_wherever_it_is_looked_at() {
        let train = TrainSettings {
            steps: 11,
            shards: Some(2),
            exchange_every: 4,
            evaluate_every: Period(6),
            ..TrainSettings::default()
        };
        let common: Vec<usize> = (1..=11).filter(|&step| train.exchanges_after(step)).collect();
        assert_eq!(common, [4, 6, 8, 11]);
    }

    #[test]
    fn weight_decay_defaults_are_those_of_torch() {
        let of = |optimizer| TrainSettings { optimizer, ..TrainSettings::default() }.weight_decay();
        assert_eq!(of(OptimizerKind::AdamW), 0.01);
        assert_eq!(of(OptimizerKind::Adam), 0.0);
        assert_eq!(of(OptimizerKind::Sgd), 0.0);
    }
}
