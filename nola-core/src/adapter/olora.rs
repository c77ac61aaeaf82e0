//! OLoRA: LoRA that starts at the first columns of each weight's QR decomposition, which are taken out of the weight.
//!
//! # Source
//! Büyükakyüz, *OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models* (2024); `olora_init` of PEFT.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::from_weight::Start;
use super::{FromWeightConfig, Method, Plan, Weights};
use crate::Error;
use crate::site::Site;

/// OLoRA: LoRA's two factors, which start at the QR decomposition of each weight, and the head.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct OloraConfig(pub FromWeightConfig);

impl Method for OloraConfig {
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
        1e-2
    }

    /// A and B are those of the decomposition, and their first product is taken away: a fresh adapter changes nothing.
    fn plan(&self, sites: &[Site], weights: Weights) -> Result<Vec<Plan>, Error> {
        self.0.plan(sites, weights, Start::Qr)
    }

    fn described(&self) -> String {
        format!("OLoRA, rank {}", self.rank())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::tests::{planned, weight};

    #[test]
    fn a_site_trains_rank_times_both_widths() {
        let config = OloraConfig(FromWeightConfig { rank: 3, ..FromWeightConfig::default() });
        assert_eq!(planned(&config, [24, 40]).expect("a valid plan").trainable_parameters(40), 3 * (24 + 40));
    }

    #[test]
    fn b_has_orthonormal_rows_and_the_first_inputs_are_reproduced_whatever_the_factor() {
        let config =
            OloraConfig(FromWeightConfig { rank: 3, alpha: Some(6.0), ..FromWeightConfig::default() });
        let plan = planned(&config, [7, 5]).expect("a valid plan");
        let (a, b) = (plan.a.initial().expect("a matrix"), plan.b.initial().expect("a matrix"));
        for (row, column) in [(0, 0), (1, 1), (2, 2), (0, 1), (1, 2)] {
            let dot: f32 = (0..5).map(|n| b[row * 5 + n] * b[column * 5 + n]).sum();
            assert!((dot - f32::from(u8::from(row == column))).abs() < 1e-6, "{row} {column}: {dot}");
        }
        let product =
            |row: usize, column: usize| (0..3).map(|r| a[row * 3 + r] * b[r * 5 + column]).sum::<f32>();
        let weight = weight([7, 5]);
        for (row, column) in (0..3).flat_map(|row| (0..5).map(move |column| (row, column))) {
            assert!((product(row, column) - weight[row * 5 + column]).abs() < 1e-6, "{row} {column}");
        }
    }
}
