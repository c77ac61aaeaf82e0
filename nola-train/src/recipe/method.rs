//! `[method]`: what is trained.

use nola_core::adapter::{LoraVariant, Preset, Sharing};
use nola_core::basis::Law;
use serde::{Deserialize, Serialize};

use super::error::{Findings, Problem};

/// What is trained; `kind` chooses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum MethodRecipe {
    /// Coefficients that mix random matrices into low-rank updates, and the head.
    Nola(NolaRecipe),
    /// Low-rank updates, and the head.
    Lora(LoraRecipe),
    /// The head alone.
    Linear {},
    /// Every weight.
    Full {},
}

impl Default for MethodRecipe {
    fn default() -> Self {
        Self::Nola(NolaRecipe::default())
    }
}

/// NOLA on the chosen weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NolaRecipe {
    /// Rank of the update.
    pub rank: usize,
    /// Random matrices that are mixed into A, and so the coefficients of A in each weight.
    pub k: usize,
    /// The same for B; absent: as `k`.
    pub l: Option<usize>,
    /// Numerator of the update's factor `alpha / rank`; absent: what the preset says, see [`NolaRecipe::alpha`].
    pub alpha: Option<f64>,
    /// Which published setting decides offset and first coefficients.
    pub preset: Preset,
    /// Law of the random entries.
    pub basis: Law,
    /// Whether weights of one shape share one basis.
    pub sharing: Sharing,
    /// Seed of the basis; part of the adapter.
    pub seed: u64,
    /// Which weights are adapted.
    pub targets: TargetsRecipe,
    /// Weights among the targets that are left alone; names or suffixes.
    pub exclude: Vec<String>,
    /// Blocks that are adapted, counted from 0; empty: all.
    pub layers: Vec<usize>,
}

impl Default for NolaRecipe {
    fn default() -> Self {
        Self {
            rank: 4,
            k: 64,
            l: None,
            alpha: None,
            preset: Preset::Default,
            basis: Law::Uniform,
            sharing: Sharing::Separate,
            seed: 0,
            targets: TargetsRecipe::default(),
            exclude: Vec::new(),
            layers: Vec::new(),
        }
    }
}

impl NolaRecipe {
    /// Random matrices mixed into B.
    pub fn l(&self) -> usize {
        self.l.unwrap_or(self.k)
    }

    /// Numerator of the update's factor: the rank (a factor of 1) where the preset leaves it free, else 1.
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(match self.preset {
            Preset::Default | Preset::Code2024 => self.rank as f64,
            Preset::Paper2023 | Preset::Vit2024 => 1.0,
        })
    }
}

/// LoRA on the chosen weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraRecipe {
    /// Rank of the update.
    pub rank: usize,
    /// Numerator of the update's factor; absent: what gives a factor of 1.
    pub alpha: Option<f64>,
    /// The factor's denominator.
    pub variant: LoraVariant,
    /// Seed of A's first values.
    pub seed: u64,
    /// Which weights are adapted.
    pub targets: TargetsRecipe,
    /// Weights among the targets that are left alone; names or suffixes.
    pub exclude: Vec<String>,
    /// Blocks that are adapted, counted from 0; empty: all.
    pub layers: Vec<usize>,
}

impl Default for LoraRecipe {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: None,
            variant: LoraVariant::Plain,
            seed: 0,
            targets: TargetsRecipe::default(),
            exclude: Vec::new(),
            layers: Vec::new(),
        }
    }
}

impl LoraRecipe {
    /// Numerator of the update's factor.
    pub fn alpha(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha.unwrap_or(match self.variant {
            LoraVariant::Plain => rank,
            LoraVariant::RsLora => rank.sqrt(),
        })
    }
}

/// Which weights are adapted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a list of names, as [\"query\", \"value\"], one pattern, or \"all-linear\""
)]
pub enum TargetsRecipe {
    /// Names or suffixes of names.
    Names(Vec<String>),
    /// One regular expression for the whole name, or `all-linear`: every linear layer but the head.
    Pattern(String),
}

impl TargetsRecipe {
    /// The pattern that stands for every linear layer but the head.
    pub const ALL_LINEAR: &str = "all-linear";

    fn is_empty(&self) -> bool {
        match self {
            Self::Names(names) => names.is_empty(),
            Self::Pattern(pattern) => pattern.is_empty(),
        }
    }
}

impl Default for TargetsRecipe {
    fn default() -> Self {
        Self::Names(vec!["query".to_owned(), "value".to_owned()])
    }
}

impl MethodRecipe {
    /// The method's name in a recipe.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Nola(_) => "nola",
            Self::Lora(_) => "lora",
            Self::Linear {} => "linear",
            Self::Full {} => "full",
        }
    }

    pub(super) fn check(&self, findings: &mut Findings) {
        match self {
            Self::Nola(nola) => {
                check_rank(nola.rank, nola.alpha, &nola.targets, findings);
                findings.require("method.k", nola.k as f64, (1..=1 << 20).contains(&nola.k), "1 to 1048576");
                findings.require(
                    "method.l",
                    nola.l() as f64,
                    (1..=1 << 20).contains(&nola.l()),
                    "1 to 1048576",
                );
                if nola.preset == Preset::Vit2024 && nola.alpha.is_some_and(|alpha| alpha != 1.0) {
                    findings.add("method.alpha", Problem::NoEffect { because: "preset = \"vit-2024\"" });
                }
            }
            Self::Lora(lora) => check_rank(lora.rank, lora.alpha, &lora.targets, findings),
            Self::Linear {} | Self::Full {} => {}
        }
    }

    /// Fills in what follows from other values.
    pub(super) fn resolve(&mut self) {
        match self {
            Self::Nola(nola) => {
                nola.l = Some(nola.l());
                nola.alpha = Some(nola.alpha());
            }
            Self::Lora(lora) => lora.alpha = Some(lora.alpha()),
            Self::Linear {} | Self::Full {} => {}
        }
    }
}

fn check_rank(rank: usize, alpha: Option<f64>, targets: &TargetsRecipe, findings: &mut Findings) {
    findings.require("method.rank", rank as f64, (1..=1 << 16).contains(&rank), "1 to 65536");
    if let Some(alpha) = alpha {
        findings.require("method.alpha", alpha, alpha.is_finite() && alpha != 0.0, "finite and not 0");
    }
    if targets.is_empty() {
        findings.add(
            "method.targets",
            Problem::Missing { cure: "names as [\"query\", \"value\"], or \"all-linear\"" },
        );
    }
}
