//! DoRA: LoRA, and the length of every column of the updated weight is trained beside its direction.
//!
//! `W' = m ⊙ (W + scale·A·B) / ‖W + scale·A·B‖`, with a length m and a norm for each output. The norm is constant for the
//! gradient, as in the paper's section 4.3 and in PEFT.
//!
//! # Source
//! Liu et al., *DoRA* (ICML 2024).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LoraConfig, Magnitude, Method, Plan, RateFactors, Weights};
use crate::Error;
use crate::site::Site;

/// DoRA: LoRA's two factors and the length of each column, and the head; its settings are LoRA's.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct DoraConfig(pub LoraConfig);

impl Method for DoraConfig {
    fn check(&self) -> Result<(), Error> {
        self.0.check()
    }

    fn resolve(&mut self) {
        self.0.resolve();
    }

    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn set_rank(&mut self, rank: usize) {
        self.0.set_rank(rank);
    }

    fn set_seed(&mut self, seed: u64) {
        self.0.set_seed(seed);
    }

    fn learning_rate(&self) -> f64 {
        self.0.learning_rate()
    }

    fn rate_factors(&self) -> RateFactors {
        self.0.rate_factors()
    }

    /// As LoRA, and every column as long as the base's: a fresh adapter changes nothing.
    fn plan(&self, sites: &[Site], weights: Weights) -> Result<Vec<Plan>, Error> {
        let plans = self.0.plan(sites, weights)?.into_iter();
        Ok(plans.map(|plan| Plan { magnitude: Magnitude::OfBase, ..plan }).collect())
    }

    fn described(&self) -> String {
        format!("DoRA, rank {}", self.rank())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_trains_a_length_for_each_output_beside_loras_factors() {
        let site = Site::linear("blocks.0.mlp.up", 24, 40);
        let plans =
            DoraConfig(LoraConfig { rank: 3, ..LoraConfig::default() }).plan(&[site], &|_| Vec::new());
        assert_eq!(plans.expect("a valid plan")[0].trainable_parameters(40), 3 * (24 + 40) + 40);
    }
}
