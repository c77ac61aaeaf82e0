//! `[train]` and `[output]`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{Findings, Problem};
use super::{MAX_SAMPLES, require_path};

/// `[train]`: the optimisation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainRecipe {
    /// Optimizer steps.
    pub steps: usize,
    /// Passes over the training data, in place of `steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Samples of an optimizer step.
    pub batch: usize,
    /// Samples of a pass; divides `batch`; absent: all of them.
    pub micro_batch: Option<usize>,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Learning rate after the warm-up.
    pub learning_rate: f64,
    /// The same for the head; absent: as `learning_rate`.
    pub head_learning_rate: Option<f64>,
    /// Weight decay per step and unit of learning rate; absent: torch's, 0.01 for AdamW and 0 for the others.
    pub weight_decay: Option<f64>,
    /// Decay of Adam's running means of the gradient and of its square.
    pub betas: [f64; 2],
    /// Added to Adam's denominator.
    pub eps: f64,
    /// Momentum of SGD.
    pub momentum: f64,
    /// Course of the learning rate after the warm-up.
    pub schedule: ScheduleKind,
    /// Optimizer steps from 0 to the full learning rate.
    pub warmup: usize,
    /// Learning rate at which the course ends.
    pub min_learning_rate: f64,
    /// Largest 2-norm of all gradients together; absent: not limited.
    pub clip_norm: Option<f64>,
    /// Probability spread over all classes in the target distribution.
    pub label_smoothing: f64,
    /// Whether the backward pass makes the inside of every block again instead of keeping it: a third more work, for a
    /// memory in which one block's activations take the place of all blocks'.
    pub gradient_checkpointing: bool,
    /// Optimizer steps between evaluations; 0: only at the end.
    pub evaluate_every: Period,
    /// Evaluations without a better accuracy after which the run ends; 0: never.
    pub early_stop: usize,
    /// Seed of the order of samples, of augmentation and of new weights.
    pub seed: u64,
}

/// The optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// Course of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Half a cosine.
    Cosine,
    /// A straight line.
    Linear,
    /// No change.
    Constant,
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
            evaluate_every: Period(100),
            early_stop: 0,
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

    pub(super) fn check(&self, findings: &mut Findings) {
        let allowed = (1..=1_000_000_000).contains(&self.steps);
        findings.require("train.steps", self.steps as f64, allowed, "1 to 1000000000");
        if let Some(epochs) = self.epochs {
            let allowed = epochs > 0.0 && epochs <= 1e6;
            findings.require("train.epochs", epochs, allowed, "above 0 and at most 1000000");
        }
        self.check_batches(findings);
        self.check_rates(findings);
        let [first, second] = self.betas;
        for beta in [first, second] {
            findings.require("train.betas", beta, (0.0..1.0).contains(&beta), "at least 0 and below 1");
        }
        findings.require("train.eps", self.eps, self.eps > 0.0 && self.eps.is_finite(), "above 0");
        findings.require(
            "train.momentum",
            self.momentum,
            (0.0..1.0).contains(&self.momentum),
            "at least 0 and below 1",
        );
        let smoothing = self.label_smoothing;
        findings.require(
            "train.label_smoothing",
            smoothing,
            (0.0..1.0).contains(&smoothing),
            "at least 0 and below 1",
        );
        if self.momentum != 0.0 && self.optimizer != Optimizer::Sgd {
            findings.add("train.momentum", Problem::NoEffect { because: "an optimizer other than \"sgd\"" });
        }
        if self.early_stop > 0 && self.evaluate_every == Period::NEVER {
            findings.add("train.early_stop", Problem::NoEffect { because: "evaluate_every = 0" });
        }
    }

    fn check_batches(&self, findings: &mut Findings) {
        let allowed = (1..=MAX_SAMPLES).contains(&self.batch);
        findings.require("train.batch", self.batch as f64, allowed, "1 to 1048576");
        let micro_batch = self.micro_batch();
        if self.batch > 0 && (micro_batch == 0 || !self.batch.is_multiple_of(micro_batch)) {
            let problem =
                Problem::NotADivisor { value: micro_batch, whole_key: "train.batch", whole: self.batch };
            findings.add("train.micro_batch", problem);
        }
    }

    fn check_rates(&self, findings: &mut Findings) {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let rate = self.learning_rate;
        let head_rate = self.head_learning_rate();
        findings.require("train.learning_rate", rate, positive(rate), "above 0");
        findings.require("train.head_learning_rate", head_rate, positive(head_rate), "above 0");
        let least = self.min_learning_rate;
        let range = "at least 0 and at most the learning rate";
        findings.require("train.min_learning_rate", least, (0.0..=rate).contains(&least), range);
        let decay = self.weight_decay();
        findings.require("train.weight_decay", decay, decay >= 0.0 && decay.is_finite(), "at least 0");
        if let Some(norm) = self.clip_norm {
            findings.require("train.clip_norm", norm, positive(norm), "above 0");
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// `[output]`: where the result goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutputRecipe {
    /// Folder of the run; absent: `runs/` and the recipe's name.
    pub dir: PathBuf,
    /// Bits of a stored coefficient: 32, 16, 8 or 4.
    pub coefficient_bits: u8,
}

impl Default for OutputRecipe {
    fn default() -> Self {
        Self { dir: PathBuf::new(), coefficient_bits: 32 }
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
        require_path("output.dir", &self.dir, "the folder of the run", findings);
        let bits = self.coefficient_bits;
        findings.require(
            "output.coefficient_bits",
            bits.into(),
            [32, 16, 8, 4].contains(&bits),
            "32, 16, 8 or 4",
        );
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
