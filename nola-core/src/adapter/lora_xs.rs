//! LoRA-XS: both low-rank factors are frozen singular vectors of the weight; only a small square matrix between them is trained.
//!
//! `ΔW = scale · (V·S) · core · Uᵀ`, where `U·S·Vᵀ` has the largest singular values of the transposed weight. The frozen factors
//! are computed again from the base when an adapter is loaded.
//!
//! # Source
//! Bałazy, Banaei, Aberer, Tabor: *LoRA-XS: Low-Rank Adaptation with Extremely Small Number of Parameters* (2024), and the
//! authors' release: the singular values stand on the side of the inputs, and their R is the transpose of our core.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    CommonFactors, Count, Factor, FrozenMatrix, LinearCombination, MAX_COEFFICIENTS, Matrices, Method, Plan,
    Weights, check_alpha, check_number, normal,
};
use crate::Error;
use crate::basis::Stream;
use crate::decomposition::Weight;
use crate::site::Site;

/// Largest rank: a site has its square in coefficients.
const MAX_RANK: usize = MAX_COEFFICIENTS.isqrt();
/// Name of the coefficients.
const CORE: &str = "core";
/// Standard deviation of their first values.
const SPREAD: f64 = 1e-5;

/// LoRA-XS: a square matrix between frozen singular vectors of each weight, and the head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoraXsConfig {
    /// Rank of the update, at most the smaller side of every adapted weight; its square is the number of trainable parameters in
    /// each weight.
    #[schemars(range(min = 1, max = MAX_RANK), example = 16)]
    pub rank: usize,
    /// Numerator of the update's factor `alpha / rank`.
    #[schemars(
        example = 16.0,
        extend("not" = { "enum": [0] }, "x-range" = "any number but 0", "x-default" = "as `rank`, for a factor of 1")
    )]
    pub alpha: Option<f64>,
    /// Seed of the first values of the trained matrices, which are nearly zero.
    #[schemars(example = 1)]
    pub seed: u64,
}

impl Default for LoraXsConfig {
    fn default() -> Self {
        Self { rank: 8, alpha: None, seed: 0 }
    }
}

impl LoraXsConfig {
    /// Numerator of the update's factor.
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(self.rank as f64)
    }

    /// Factor of the update.
    pub fn scale(&self) -> f64 {
        self.alpha() / self.rank as f64
    }

    /// N(0, SPREAD²).
    fn first_core(&self, site: &Site) -> Vec<f32> {
        normal(self.seed, site, Stream::Coefficients, SPREAD, self.rank.pow(2))
    }
}

impl Method for LoraXsConfig {
    fn check(&self) -> Result<(), Error> {
        check_number("rank", self.rank, MAX_RANK)?;
        check_alpha(self.alpha())
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

    fn coefficients(&self) -> Vec<(&'static str, Count)> {
        vec![(CORE, Count::InEachSite(self.rank.pow(2)))]
    }

    /// The singular vectors of every weight.
    fn common_factors(&self) -> Option<CommonFactors> {
        let key = format!("lora-xs of rank {}", self.rank);
        Some(CommonFactors { key, cores: CORE, scale: self.scale(), gains: None })
    }

    /// The core is nearly zero: a fresh adapter changes nearly nothing.
    fn plan(&self, sites: &[Site], weights: Weights) -> Result<Vec<Plan>, Error> {
        let plan = |site: &Site| {
            let weight = weights(site);
            let svd = Weight::new(&weight, site, self.rank)?.svd();
            let [a, b] = svd.factors(|singular| [singular, 1.0]);
            let a = FrozenMatrix::computed(a, [site.d_in, self.rank]);
            let frozen = FrozenMatrix::computed(b, [self.rank, site.d_out]);
            let b = LinearCombination {
                name: CORE,
                matrices: Matrices::Rows { rows: self.rank, frozen },
                offset: None,
                initial: self.first_core(site),
            };
            Ok(Plan::low_rank(Factor::Frozen(a), Factor::Combined(b), self.rank, self.scale()))
        };
        sites.iter().map(plan).collect()
    }

    fn described(&self) -> String {
        format!("LoRA-XS (Bałazy et al., 2024): rank {}, seed {}", self.rank, self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::tests::{planned, weight};

    #[test]
    fn a_site_trains_the_square_of_its_rank_whatever_its_shape() {
        let config = LoraXsConfig { rank: 3, ..LoraXsConfig::default() };
        for shape in [[24, 40], [40, 24], [7, 3]] {
            assert_eq!(planned(&config, shape).expect("a valid plan").trainable_parameters(shape[1]), 9);
        }
    }

    #[test]
    fn a_core_of_ones_on_its_diagonal_gives_the_weight_at_full_rank() {
        let plan =
            planned(&LoraXsConfig { rank: 5, ..LoraXsConfig::default() }, [7, 5]).expect("a valid plan");
        let Factor::Combined(b) = &plan.b else { panic!("B is combined") };
        let identity: Vec<f32> = (0..25).map(|n| f32::from(u8::from(n % 6 == 0))).collect();
        let (a, b) = (plan.a.initial().expect("a matrix"), b.expand(&identity));
        for (n, expected) in weight([7, 5]).into_iter().enumerate() {
            let product: f32 = (0..5).map(|r| a[n / 5 * 5 + r] * b[r * 5 + n % 5]).sum();
            assert!((product - expected).abs() < 1e-5, "{product} {expected}");
        }
    }

    #[test]
    fn the_first_core_has_the_published_spread() {
        let config = LoraXsConfig { rank: 40, ..LoraXsConfig::default() };
        let core = config.first_core(&Site::linear("x", 50, 50));
        let moment = |power| core.iter().map(|&v| (f64::from(v) / SPREAD).powi(power)).sum::<f64>() / 1600.0;
        assert!(moment(1).abs() < 0.1 && (moment(2) - 1.0).abs() < 0.15 && (moment(4) - 3.0).abs() < 0.7);
    }

    #[test]
    fn a_rank_above_a_side_of_a_weight_is_refused_with_site_and_shape() {
        let refused = planned(&LoraXsConfig { rank: 6, ..LoraXsConfig::default() }, [7, 5]);
        let error = refused.expect_err("5 singular values").to_string();
        for part in ["`blocks.0.mlp.up`", "rank 6", "7 x 5", "at most 5"] {
            assert!(error.contains(part), "no {part}: {error}");
        }
    }
}
