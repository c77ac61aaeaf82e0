//! LoRA whose first factors come from the weight itself: what OLoRA and PiSSA share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Factor, FrozenMatrix, LoraVariant, MAX_RANK, Plan, Weights, check_alpha, check_number};
use crate::Error;
use crate::decomposition::Weight;
use crate::site::Site;

/// Settings of a LoRA that starts at a part of each weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FromWeightConfig {
    /// Rank of the update; at most the smaller side of every adapted weight.
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
}

impl Default for FromWeightConfig {
    /// PEFT's defaults.
    fn default() -> Self {
        Self { rank: 8, alpha: None, variant: LoraVariant::Plain }
    }
}

impl FromWeightConfig {
    /// Numerator of the update's factor.
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(self.variant.unit_alpha(self.rank))
    }

    /// Factor of the update.
    pub fn scale(&self) -> f64 {
        self.variant.scale(self.alpha(), self.rank)
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        check_number("rank", self.rank, MAX_RANK)?;
        // Factors are divided by it.
        check_alpha(self.alpha())
    }

    pub(super) fn resolve(&mut self) {
        self.alpha = Some(self.alpha());
    }

    /// Plans that start at what `first` makes of each weight.
    pub(super) fn plan(&self, sites: &[Site], weights: Weights, first: Start) -> Result<Vec<Plan>, Error> {
        let plan = |site: &Site| {
            let weight = weights(site);
            let start = first.of(&Weight::new(&weight, site, self.rank)?, site, self.scale());
            let [a, b] = [0, 1].map(|n| Factor::Learned(start[n].values().to_vec()));
            Ok(Plan { start: Some(start), ..Plan::low_rank(a, b, self.rank, self.scale()) })
        };
        sites.iter().map(plan).collect()
    }
}

/// Which part of a weight an update starts at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// The first columns of Q and rows of R of its QR decomposition: OLoRA.
    Qr,
    /// Its largest singular values and their vectors, half of each on either side: PiSSA.
    Svd,
}

impl Start {
    /// A₀ `[d_in, rank]` and B₀ `[rank, d_out]` for an update with this factor.
    ///
    /// # Source
    /// `olora_init` and `pissa_init` of PEFT: OLoRA's factors are those of the decomposition, PiSSA's are divided by the update's
    /// factor.
    pub(crate) fn of(self, weight: &Weight, site: &Site, scale: f64) -> [FrozenMatrix; 2] {
        let [a, b] = match self {
            Self::Qr => weight.qr().factors(),
            Self::Svd => weight.svd().factors(|singular| {
                let root = (singular / scale.abs()).sqrt();
                [root * scale.signum(), root]
            }),
        };
        let rank = weight.rank();
        [FrozenMatrix::new(a, [site.d_in, rank]), FrozenMatrix::new(b, [rank, site.d_out])]
    }
}
