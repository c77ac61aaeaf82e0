//! LoRA: both low-rank factors are trained as they are. The baseline.
//!
//! # Source
//! Hu et al., *LoRA* (ICLR 2022); Kalajdzievski, *rsLoRA* (2023) for the other scale.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Factor, MAX_RANK, Plan, check_number, kaiming_uniform};
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

/// Settings of LoRA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Width of the bottleneck.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// How the update is scaled.
    pub variant: LoraVariant,
    /// Seed of the initial A.
    pub seed: u64,
}

impl Default for LoraConfig {
    /// PEFT's defaults.
    fn default() -> Self {
        Self { rank: 8, alpha: 8.0, variant: LoraVariant::Plain, seed: 0 }
    }
}

impl LoraConfig {
    /// Factor of the update.
    pub fn scale(&self) -> f64 {
        match self.variant {
            LoraVariant::Plain => self.alpha / self.rank as f64,
            LoraVariant::RsLora => self.alpha / (self.rank as f64).sqrt(),
        }
    }

    /// A drawn, B zero: a fresh adapter changes nothing.
    pub(super) fn plan(&self, sites: &[Site]) -> Result<Vec<Plan>, Error> {
        check_number("rank", self.rank, MAX_RANK)?;
        let plan = |site: &Site| Plan {
            a: Factor::Learned(kaiming_uniform(self.seed, site, self.rank)),
            b: Factor::Learned(vec![0.0; self.rank * site.d_out]),
            rank: self.rank,
            scale: self.scale(),
        };
        Ok(sites.iter().map(plan).collect())
    }
}
