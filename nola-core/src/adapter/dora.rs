//! DoRA: LoRA, and the length of every column of the updated weight is trained beside its direction.
//!
//! `W' = m ⊙ (W + scale·A·B) / ‖W + scale·A·B‖`, with a length m and a norm for each output. The norm is constant for the
//! gradient, as in the paper's section 4.3 and in PEFT.
//!
//! # Source
//! Liu et al., *DoRA* (ICML 2024).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Factor, LoraVariant, MAX_RANK, Magnitude, Method, Plan, Weights, check_number, kaiming_uniform};
use crate::Error;
use crate::adapter::LoraConfig;
use crate::targets::Site;

/// DoRA: LoRA's two factors and the length of each column, and the head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DoraConfig {
    /// Rank of the update.
    #[schemars(range(min = 1, max = MAX_RANK), example = 16)]
    pub rank: usize,
    /// Numerator of the update's factor, which `variant` computes.
    #[schemars(
        example = 16.0,
        extend("not" = { "enum": [0] }, "x-range" = "any number but 0", "x-default" = "what gives a factor of 1")
    )]
    pub alpha: Option<f64>,
    /// How the update's factor is computed.
    #[schemars(example = &"rslora")]
    pub variant: LoraVariant,
    /// Seed of A's first values.
    #[schemars(example = 1)]
    pub seed: u64,
}

impl Default for DoraConfig {
    fn default() -> Self {
        let LoraConfig { rank, alpha, variant, seed } = LoraConfig::default();
        Self { rank, alpha, variant, seed }
    }
}

impl DoraConfig {
    /// LoRA with the same factors.
    fn lora(&self) -> LoraConfig {
        let Self { rank, alpha, variant, seed } = *self;
        LoraConfig { rank, alpha, variant, seed }
    }
}

impl Method for DoraConfig {
    fn check(&self) -> Result<(), Error> {
        check_number("rank", self.rank, MAX_RANK)
    }

    fn resolve(&mut self) {
        self.alpha = Some(self.lora().alpha());
    }

    fn rank(&self) -> usize {
        self.rank
    }

    fn set_rank(&mut self, rank: usize) {
        self.rank = rank;
    }

    fn set_seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    fn learning_rate(&self) -> f64 {
        self.lora().learning_rate()
    }

    fn coefficients(&self) -> Vec<(&'static str, usize)> {
        Vec::new()
    }

    /// As LoRA, and every column as long as the base's: a fresh adapter changes nothing.
    fn plan(&self, sites: &[Site], _weights: Weights) -> Result<Vec<Plan>, Error> {
        let scale = self.lora().scale();
        let plan = |site: &Site| {
            let a = Factor::Learned(kaiming_uniform(self.seed, site, self.rank));
            let b = Factor::Learned(vec![0.0; self.rank * site.d_out]);
            Plan { magnitude: Magnitude::OfBase, ..Plan::low_rank(a, b, self.rank, scale) }
        };
        Ok(sites.iter().map(plan).collect())
    }

    fn described(&self) -> String {
        format!("DoRA, rank {}", self.rank)
    }
}
