//! ALoRA: LoRA whose ranks move during training from weights where they matter little to weights where they matter more.
//!
//! `y = x·W + x·A·G·B` with gates G of 0 and 1 that nobody trains. After a first phase, and then again and again, every
//! rank is scored on one batch of the validation data; the lowest lose their gates, and as many new ranks begin where
//! none was lost. The budget is the sum of the ranks at the start. What is left at the end is a LoRA of several ranks.
//!
//! # Source
//! Liu, Lyn, Zhu, Tian, Graham: *ALoRA: Allocating Low-Rank Adaptation for Fine-tuning Large Language Models* (NAACL 2024).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Factor, MAX_RANK, Method, Plan, RankMoves, Weights, check_number, kaiming_uniform};
use crate::Error;
use crate::site::Site;

/// Most rounds; each scores every rank twice.
const MAX_ROUNDS: usize = 1000;

/// ALoRA: the factors of low-rank updates whose ranks move between weights, and the head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AloraConfig {
    /// Rank of each update at the start; the budget is their sum.
    #[schemars(range(min = 1, max = MAX_RANK), example = 8)]
    pub rank: usize,
    /// How often ranks move.
    #[schemars(range(min = 0, max = MAX_ROUNDS), example = 4)]
    pub rounds: usize,
    /// Ranks that are taken away in each round, for each adapted weight on average.
    #[schemars(extend("exclusiveMinimum" = 0), example = 0.5)]
    pub prune: f64,
    /// Share of the run's optimizer steps before the first round.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1), example = 0.3)]
    pub first_phase: f64,
    /// Share of the run's optimizer steps between two rounds.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1), example = 0.1)]
    pub phase: f64,
    /// Seed of A's first values, those of new ranks too.
    #[schemars(example = 1)]
    pub seed: u64,
}

impl Default for AloraConfig {
    /// The paper's for ten passes over the data: a first one, then eight quarters of one.
    fn default() -> Self {
        Self { rank: 8, rounds: 8, prune: 1.0, first_phase: 0.1, phase: 0.025, seed: 0 }
    }
}

impl AloraConfig {
    fn moves(&self) -> RankMoves {
        let Self { rounds, first_phase, phase, prune: per_weight, seed, .. } = *self;
        RankMoves { rounds, first_phase, phase, per_weight, seed }
    }
}

impl Method for AloraConfig {
    fn check(&self) -> Result<(), Error> {
        check_number("rank", self.rank, MAX_RANK)?;
        if self.rounds > MAX_ROUNDS {
            let cure = "use less; each round scores every rank twice";
            return Err(Error::BadSetting { field: "rounds", value: self.rounds.to_string(), cure });
        }
        let refused =
            |field, value: f64, cure| Err(Error::BadSetting { field, value: value.to_string(), cure });
        if !(self.prune > 0.0 && self.prune.is_finite()) {
            return refused("prune", self.prune, "use a number above 0");
        }
        if self.prune >= self.rank as f64 {
            return refused("prune", self.prune, "a round would leave no rank: use less than `rank`");
        }
        for (field, share) in [("first_phase", self.first_phase), ("phase", self.phase)] {
            if !(share > 0.0 && share < 1.0) {
                return refused(field, share, "use a share of the run between 0 and 1");
            }
        }
        Ok(())
    }

    fn resolve(&mut self) {}

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
        2e-2
    }

    fn rank_moves(&self) -> Option<RankMoves> {
        Some(self.moves())
    }

    fn check_run(&self, steps: usize) -> Result<(), Error> {
        self.moves().check_run(steps)
    }

    /// As LoRA with a factor of 1, and room for new ranks in every round.
    fn plan(&self, sites: &[Site], _weights: Weights) -> Result<Vec<Plan>, Error> {
        let plan = |site: &Site| {
            let a = Factor::Learned(kaiming_uniform(self.seed, site, self.rank));
            let b = Factor::Learned(vec![0.0; self.rank * site.d_out]);
            Plan { further_pairs: self.rounds, ..Plan::low_rank(a, b, self.rank, 1.0) }
        };
        Ok(sites.iter().map(plan).collect())
    }

    fn described(&self) -> String {
        format!("ALoRA, {} ranks a weight at the start", self.rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_trains_rank_times_both_widths_at_the_start() {
        let site = Site::linear("blocks.0.mlp.up", 24, 40);
        let plans = AloraConfig { rank: 3, ..AloraConfig::default() }.plan(&[site], &|_| Vec::new());
        assert_eq!(plans.expect("a valid plan")[0].trainable_parameters(40), 3 * (24 + 40));
    }

    #[test]
    fn settings_that_leave_no_rank_or_are_no_share_are_refused_with_a_cure() {
        let with = |change: fn(&mut AloraConfig)| {
            let mut config = AloraConfig::default();
            change(&mut config);
            config.check().expect_err("it cannot be meant").to_string()
        };
        assert!(with(|config| config.prune = 8.0).contains("use less than `rank`"));
        assert!(with(|config| config.first_phase = 1.0).contains("`first_phase`"));
        assert!(with(|config| config.prune = f64::NAN).contains("`prune`"));
    }
}
