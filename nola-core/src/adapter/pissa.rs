//! PiSSA: LoRA that starts at each weight's largest singular values and vectors, which are taken out of the weight.
//!
//! # Source
//! Meng, Wang, Zhang: *PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models* (NeurIPS 2024);
//! `pissa_init` of PEFT.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::from_weight::Start;
use super::{FromWeightConfig, Method, Plan, Weights};
use crate::Error;
use crate::site::Site;

/// PiSSA: LoRA's two factors, which start at the largest singular values of each weight, and the head.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct PissaConfig(pub FromWeightConfig);

impl Method for PissaConfig {
    fn check(&self) -> Result<(), Error> {
        self.0.check()
    }

    fn resolve(&mut self) {
        self.0.resolve();
    }

    fn rank(&self) -> usize {
        self.0.rank
    }

    fn set_rank(&mut self, rank: usize) {
        self.0.rank = rank;
    }

    /// Nothing is drawn.
    fn set_seed(&mut self, _seed: u64) {}

    fn learning_rate(&self) -> f64 {
        5e-3
    }

    /// A and B are those of the decomposition, and their first product is taken away: a fresh adapter changes nothing.
    fn plan(&self, sites: &[Site], weights: Weights) -> Result<Vec<Plan>, Error> {
        self.0.plan(sites, weights, Start::Svd)
    }

    fn described(&self) -> String {
        format!("PiSSA, rank {}", self.rank())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::tests::{planned, weight};

    fn config(rank: usize, alpha: f64) -> PissaConfig {
        PissaConfig(FromWeightConfig { rank, alpha: Some(alpha), ..FromWeightConfig::default() })
    }

    #[test]
    fn a_site_trains_rank_times_both_widths() {
        let plan = planned(&config(3, 3.0), [24, 40]).expect("a valid plan");
        assert_eq!(plan.trainable_parameters(40), 3 * (24 + 40));
    }

    #[test]
    fn the_first_update_of_full_rank_is_the_weight_whatever_the_factor() {
        for alpha in [2.0, 5.0, -5.0] {
            let plan = planned(&config(5, alpha), [7, 5]).expect("a valid plan");
            let (a, b, scale) =
                (plan.a.initial().expect("a matrix"), plan.b.initial().expect("a matrix"), plan.scale as f32);
            for (n, expected) in weight([7, 5]).into_iter().enumerate() {
                let product: f32 = (0..5).map(|r| a[n / 5 * 5 + r] * b[r * 5 + n % 5]).sum();
                assert!((scale * product - expected).abs() < 1e-5, "alpha {alpha}: {product} {expected}");
            }
        }
    }
}
