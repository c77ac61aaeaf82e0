//! LoRA: both low-rank factors are trained as they are. The baseline.
//!
//! # Source
//! Hu et al., *LoRA* (ICLR 2022); Kalajdzievski, *rsLoRA* (2023) for the other scale.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Factor, MAX_RANK, Method, Plan, Weights, check_number, kaiming_uniform};
use crate::Error;
use crate::targets::Site;

/// How LoRA's update is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "lowercase")]
pub enum LoraVariant {
    /// alpha / rank.
    #[default]
    Plain,
    /// alpha / √rank.
    RsLora,
}

impl LoraVariant {
    /// The alpha that gives a factor of 1.
    pub(super) fn unit_alpha(self, rank: usize) -> f64 {
        match self {
            Self::Plain => rank as f64,
            Self::RsLora => (rank as f64).sqrt(),
        }
    }

    /// Factor of an update.
    pub(super) fn scale(self, alpha: f64, rank: usize) -> f64 {
        alpha / self.unit_alpha(rank)
    }
}

/// LoRA: the two factors of low-rank updates, and the head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
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

impl Default for LoraConfig {
    /// PEFT's defaults.
    fn default() -> Self {
        Self { rank: 8, alpha: None, variant: LoraVariant::Plain, seed: 0 }
    }
}

impl LoraConfig {
    /// Numerator of the update's factor.
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(self.variant.unit_alpha(self.rank))
    }

    /// Factor of the update.
    pub fn scale(&self) -> f64 {
        self.variant.scale(self.alpha(), self.rank)
    }
}

impl Method for LoraConfig {
    fn check(&self) -> Result<(), Error> {
        check_number("rank", self.rank, MAX_RANK)
    }

    fn resolve(&mut self) {
        self.alpha = Some(self.alpha());
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
        5e-3
    }

    fn coefficients(&self) -> Vec<(&'static str, usize)> {
        Vec::new()
    }

    /// A drawn, B zero: a fresh adapter changes nothing.
    fn plan(&self, sites: &[Site], _weights: Weights) -> Result<Vec<Plan>, Error> {
        let plan = |site: &Site| {
            let a = Factor::Learned(kaiming_uniform(self.seed, site, self.rank));
            let b = Factor::Learned(vec![0.0; self.rank * site.d_out]);
            Plan::low_rank(a, b, self.rank, self.scale())
        };
        Ok(sites.iter().map(plan).collect())
    }

    fn described(&self) -> String {
        format!("LoRA, rank {}", self.rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_trains_rank_times_both_widths() {
        let site = Site { path: "blocks.0.mlp.up".to_owned(), d_in: 24, d_out: 40 };
        let plans = LoraConfig { rank: 3, ..LoraConfig::default() }.plan(&[site], &|_| Vec::new());
        assert_eq!(plans.expect("a valid plan")[0].trainable_parameters(40), 3 * (24 + 40));
    }
}
