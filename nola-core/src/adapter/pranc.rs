//! PRANC: all chosen weights are one linear combination of random weights; only its coefficients are trained.
//!
//! # Source
//! Nooralinejad, Abbasi, Koohpayegani, Pourahmadi Meibodi, Khan, Kolouri, Pirsiavash: *PRANC: Pseudo RAndom Networks for
//! Compacting deep models* (ICCV 2023).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    BaseGain, Coefficients, Count, Factor, LinearCombination, MAX_COEFFICIENTS, Matrices, Method, Owner,
    Plan, Weights, check_hashes, check_number,
};
use crate::Error;
use crate::basis::{Basis, Distribution, Generator, Stream};
use crate::philox::fnv1a_32;
use crate::site::Site;

/// What the linear combination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "lowercase")]
pub enum PrancMode {
    /// What is added to the base's weight.
    #[default]
    Delta,
    /// The weight itself, in place of the base's; biases stay.
    Replace,
}

/// Coefficients of all weights.
const ALPHA: &str = "alpha";

/// PRANC: one vector that combines random matrices into all chosen weights, and the head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PrancConfig {
    /// Random matrices of each weight that are combined, and so the trainable coefficients of all weights together.
    #[schemars(range(min = 1, max = MAX_COEFFICIENTS), example = 1024, extend("x-unit" = "matrices"))]
    pub k: usize,
    /// Whether the combination is added to the base's weights or takes their place.
    #[schemars(example = &"replace")]
    pub mode: PrancMode,
    /// Distribution of the random entries.
    #[schemars(example = &"sign")]
    pub basis: Distribution,
    /// Seed of the random matrices; part of the adapter.
    #[schemars(example = 1)]
    pub seed: u64,
}

impl Default for PrancConfig {
    fn default() -> Self {
        Self { k: 256, mode: PrancMode::Delta, basis: Distribution::Uniform, seed: 0 }
    }
}

impl PrancConfig {
    /// Coefficients of variance 1 give a weight with the variance of PyTorch's first weights, 1/(3·d_in).
    fn entry_scale(&self, site: &Site) -> f32 {
        let variance_ratio = match self.basis {
            Distribution::Uniform => 1.0,
            Distribution::Sign => 3.0,
        };
        (1.0 / (variance_ratio * (self.k * site.d_in) as f64).sqrt()) as f32
    }

    fn generator(&self, name: &str, stream: Stream) -> Generator {
        Generator { distribution: self.basis, seed: self.seed, site: fnv1a_32(name), stream }
    }

    /// Zero where the combination is added; of variance 1 where it is the weight.
    fn initial(&self) -> Vec<f32> {
        match self.mode {
            PrancMode::Delta => vec![0.0; self.k],
            PrancMode::Replace => {
                let drawn = Generator {
                    distribution: Distribution::Uniform,
                    ..self.generator(ALPHA, Stream::Coefficients)
                };
                drawn.values(0, self.k).into_iter().map(|u| 3.0_f32.sqrt() * u).collect()
            }
        }
    }

    fn plan_of(&self, site: &Site) -> Plan {
        let generator = self.generator(&site.weight_path(), Stream::Weight);
        let basis = Basis::generated(generator, self.k, [site.d_in, site.d_out], self.entry_scale(site));
        let combined = LinearCombination {
            name: ALPHA,
            matrices: Matrices::Random(basis),
            offset: None,
            initial: self.initial(),
        };
        let base = match self.mode {
            PrancMode::Delta => BaseGain::WHOLE,
            PrancMode::Replace => BaseGain { weight: 0.0, bias: 1.0 },
        };
        let coefficients = Coefficients { owner: Owner::AllSites, ..Coefficients::default() };
        let whole = Plan::low_rank(Factor::Identity, Factor::Combined(combined), site.d_in, 1.0);
        Plan { base, coefficients, ..whole }
    }
}

impl Method for PrancConfig {
    fn check(&self) -> Result<(), Error> {
        check_number("k", self.k, MAX_COEFFICIENTS)
    }

    fn resolve(&mut self) {}

    /// It has none; its size is compared with that of LoRA of rank 1.
    fn rank(&self) -> usize {
        1
    }

    /// It has none.
    fn set_rank(&mut self, _rank: usize) {}

    fn set_seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    fn learning_rate(&self) -> f64 {
        2e-2
    }

    fn coefficients(&self) -> Vec<(&'static str, Count)> {
        vec![(ALPHA, Count::Shared(self.k))]
    }

    fn unlike_lora(&self) -> Option<&'static str> {
        Some("its updates have full rank")
    }

    fn plan(&self, sites: &[Site], _weights: Weights) -> Result<Vec<Plan>, Error> {
        check_hashes(sites.iter().map(Site::weight_path).collect())?;
        Ok(sites.iter().map(|site| self.plan_of(site)).collect())
    }

    fn described(&self) -> String {
        let Self { k, mode, seed, .. } = self;
        format!("PRANC (Nooralinejad et al., ICCV 2023): k {k}, mode {mode:?}, seed {seed}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(path: &str, d_in: usize) -> Site {
        Site::linear(path, d_in, 64)
    }

    fn planned(config: &PrancConfig, sites: &[Site]) -> Vec<Plan> {
        config.plan(sites, &|_| Vec::new()).expect("a valid plan")
    }

    fn at_start(plan: &Plan) -> Vec<f32> {
        plan.b.initial().expect("a matrix")
    }

    #[test]
    fn a_replaced_weight_begins_with_the_variance_of_pytorchs() {
        for basis in [Distribution::Uniform, Distribution::Sign] {
            let config = PrancConfig { k: 300, mode: PrancMode::Replace, basis, ..PrancConfig::default() };
            let weight = at_start(&planned(&config, &[site("up", 96)])[0]);
            let squares = weight.iter().map(|&entry| f64::from(entry).powi(2)).sum::<f64>();
            let ratio = squares / weight.len() as f64 * 3.0 * 96.0;
            assert!((0.7..1.4).contains(&ratio), "{basis:?}: {ratio}");
        }
    }

    #[test]
    fn an_added_combination_begins_at_zero() {
        let plans = planned(&PrancConfig::default(), &[site("up", 24)]);
        assert!(at_start(&plans[0]).iter().all(|entry| *entry == 0.0));
        assert_eq!(plans[0].base, BaseGain::WHOLE);
    }

    #[test]
    fn a_site_trains_nothing_of_its_own() {
        let plans = planned(&PrancConfig::default(), &[site("up", 24)]);
        assert_eq!(plans[0].trainable_parameters(64), 0);
    }

    #[test]
    fn sites_of_one_shape_have_matrices_of_their_own() {
        let config = PrancConfig { mode: PrancMode::Replace, ..PrancConfig::default() };
        let plans = planned(&config, &[site("up", 24), site("down", 24)]);
        assert_ne!(at_start(&plans[0]), at_start(&plans[1]));
    }
}
