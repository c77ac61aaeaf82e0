//! `[method]`: what is trained.

use nola_core::adapter::{LoraVariant, Preset, Sharing};
use nola_core::basis::Distribution;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::{Findings, Problem};

/// What is trained; `kind` chooses the method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum MethodRecipe {
    /// NOLA: coefficients that combine random matrices into low-rank updates, and the head.
    Nola(NolaRecipe),
    /// LoRA: the two factors of low-rank updates, and the head.
    Lora(LoraRecipe),
    /// The head alone.
    Linear {},
    /// Every weight of the model.
    Full {},
}

impl Default for MethodRecipe {
    fn default() -> Self {
        Self::Nola(NolaRecipe::default())
    }
}

/// NOLA on the chosen weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NolaRecipe {
    /// Rank of the update; it costs no trainable parameter.
    #[schemars(range(min = 1, max = MAX_RANK), example = 8)]
    pub rank: usize,
    /// Random matrices that are combined into the factor A, and so the trainable coefficients of A in each weight.
    #[schemars(range(min = 1, max = MAX_COEFFICIENTS), example = 1024, extend("x-unit" = "matrices"))]
    pub k: usize,
    /// Random matrices that are combined into the factor B, and so the trainable coefficients of B in each weight.
    #[schemars(
        range(min = 1, max = MAX_COEFFICIENTS),
        example = 512,
        extend("x-unit" = "matrices", "x-default" = "as `k`")
    )]
    pub l: Option<usize>,
    /// Numerator of the update's factor `alpha / rank`.
    #[schemars(
        example = 4.0,
        extend(
            "not" = { "enum": [0] },
            "x-range" = "any number but 0",
            "x-default" = "as `rank`, for a factor of 1; 1 with the presets paper-2023 and vit-2024"
        )
    )]
    pub alpha: Option<f64>,
    /// Published setting that decides scale, offset and first coefficients.
    #[schemars(example = &"code-2024")]
    pub preset: Preset,
    /// Distribution of the random entries.
    #[schemars(example = &"sign")]
    pub basis: Distribution,
    /// Whether weights of one shape share one basis.
    #[schemars(example = &"shared")]
    pub sharing: Sharing,
    /// Seed of the basis; part of the adapter.
    #[schemars(example = 1)]
    pub seed: u64,
    /// Weights that are adapted: names or ends of names, one pattern (Python's regular expressions) for the whole name, or
    /// `all-linear` for every linear layer but the head.
    #[schemars(example = ["query", "value"])]
    pub targets: TargetsRecipe,
    /// Weights among the targets that are left alone; names or ends of names.
    #[schemars(example = ["blocks.0.attention.query"])]
    pub exclude: Vec<String>,
    /// Blocks that are adapted, counted from 0; an empty list adapts all.
    #[schemars(example = [0, 1, 2])]
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
            basis: Distribution::Uniform,
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoraRecipe {
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
    /// Weights that are adapted: names or ends of names, one pattern (Python's regular expressions) for the whole name, or
    /// `all-linear` for every linear layer but the head.
    #[schemars(example = ["query", "value"])]
    pub targets: TargetsRecipe,
    /// Weights among the targets that are left alone; names or ends of names.
    #[schemars(example = ["blocks.0.attention.query"])]
    pub exclude: Vec<String>,
    /// Blocks that are adapted, counted from 0; an empty list adapts all.
    #[schemars(example = [0, 1, 2])]
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

/// Largest rank, and largest number of coefficients of a factor; a larger number is a typo.
const MAX_RANK: usize = 1 << 16;
const MAX_COEFFICIENTS: usize = 1 << 20;

/// Which weights are adapted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(extend("x-type" = "a list of names, one pattern, or \"all-linear\""))]
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

    /// Learning rate where a recipe gives none: the best of a sweep over the shipped tasks (`benchmarks/choices.py`).
    pub fn default_learning_rate(&self) -> f64 {
        match self {
            Self::Nola(_) => 2e-2,
            Self::Lora(_) => 5e-3,
            Self::Linear {} => 1e-2,
            Self::Full {} => 1e-3,
        }
    }

    /// What depends on more than one key; ranges are checked as the schema states them.
    pub(super) fn check(&self, findings: &mut Findings) {
        match self {
            Self::Nola(nola) => {
                check_targets(&nola.targets, findings);
                if nola.preset == Preset::Vit2024 && nola.alpha.is_some_and(|alpha| alpha != 1.0) {
                    findings.add("method.alpha", Problem::NoEffect { because: "preset = \"vit-2024\"" });
                }
            }
            Self::Lora(lora) => check_targets(&lora.targets, findings),
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

fn check_targets(targets: &TargetsRecipe, findings: &mut Findings) {
    if targets.is_empty() {
        let example = "targets = [\"query\", \"value\"] or targets = \"all-linear\"".to_owned();
        findings.add("method.targets", Problem::Missing { example });
    }
}
