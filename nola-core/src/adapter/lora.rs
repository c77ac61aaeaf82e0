//! LoRA: both low-rank factors are trained as they are. The baseline.
//!
//! # Source
//! Hu et al., *LoRA* (ICLR 2022); Kalajdzievski, *rsLoRA* (2023) for the other scale; Hayou, Ghosh,
//! Yu, *LoRA+* (ICML 2024) for the rate of B.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Dropout, Factor, MAX_RANK, Method, Plan, RateFactors, Weights, check_alpha, check_number,
    kaiming_uniform, normal,
};
use crate::Error;
use crate::basis::Stream;
use crate::by_pattern::{ByPattern, CompiledByPattern};
use crate::site::{Site, SiteKind};

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

impl LoraVariant {
    /// The alpha that gives a factor of 1.
    pub(super) fn unit_alpha(self, rank: usize) -> f64 {
        match self {
            Self::Plain => rank as f64,
            Self::RsLora => (rank as f64).sqrt(),
        }
    }

    /// Factor of an update.
    pub(super) fn scale(self, alpha: f64, rank: usize) -> f64 {
        alpha / self.unit_alpha(rank)
    }
}

/// LoRA: the two factors of low-rank updates, and the head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
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
    /// Ranks of some weights alone, under patterns (Python's regular expressions) of their names or ends of names; no weight
    /// may fit two.
    #[schemars(
        extend("additionalProperties" = { "type": "integer", "minimum": 1, "maximum": MAX_RANK }),
        extend("x-range" = "ranks of 1 to 65536", "x-default" = "`rank` for all"),
        example = std::collections::BTreeMap::from([("value", 32)])
    )]
    #[serde(skip_serializing_if = "ByPattern::is_empty")]
    pub rank_pattern: ByPattern<usize>,
    /// Values of `alpha` for some weights alone, likewise.
    #[schemars(
        extend("additionalProperties" = { "type": "number", "not": { "enum": [0] } }),
        extend("x-range" = "any numbers but 0", "x-default" = "`alpha` for all"),
        example = std::collections::BTreeMap::from([("blocks.0.*", 8.0)])
    )]
    #[serde(skip_serializing_if = "ByPattern::is_empty")]
    pub alpha_pattern: ByPattern<f64>,
    /// Share of the entries of an adapted linear layer's input that the update does not see in a training step; in evaluations
    /// and merged it sees all.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1), example = 0.1)]
    pub dropout: f64,
    /// What the learning rate of B is multiplied by: LoRA+, with 16 in its paper; 1 trains A and B alike, as those of embeddings
    /// always are.
    #[schemars(extend("exclusiveMinimum" = 0), example = 16.0)]
    pub lora_plus_ratio: f64,
    /// Seed of the factors' first values, and of dropout.
    #[schemars(example = 1)]
    pub seed: u64,
}

impl Default for LoraConfig {
    /// PEFT's defaults.
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: None,
            variant: LoraVariant::Plain,
            rank_pattern: ByPattern::default(),
            alpha_pattern: ByPattern::default(),
            dropout: 0.0,
            lora_plus_ratio: 1.0,
            seed: 0,
        }
    }
}

impl LoraConfig {
    /// Numerator of the update's factor.
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(self.variant.unit_alpha(self.rank))
    }

    /// Factor of the update where no pattern says otherwise.
    pub fn scale(&self) -> f64 {
        self.variant.scale(self.alpha(), self.rank)
    }

    /// A and B of a fresh adapter, whose product is zero.
    ///
    /// # Source
    /// `LoraLayer.reset_lora_parameters` of PEFT.
    fn first_factors(&self, site: &Site, rank: usize) -> (Vec<f32>, Vec<f32>) {
        let (of_a, of_b) = (site.d_in * rank, rank * site.d_out);
        match site.kind {
            SiteKind::Linear => (kaiming_uniform(self.seed, site, rank), vec![0.0; of_b]),
            SiteKind::Embedding => (vec![0.0; of_a], normal(self.seed, site, Stream::OffsetB, 1.0, of_b)),
        }
    }

    fn check_patterns(&self) -> Result<(), Error> {
        compiled(RANK_PATTERN, &self.rank_pattern)?;
        compiled(ALPHA_PATTERN, &self.alpha_pattern)?;
        for (_, &rank) in self.rank_pattern.entries() {
            check_number(RANK_PATTERN, rank, MAX_RANK)?;
        }
        match self.alpha_pattern.entries().find(|(_, alpha)| !(alpha.is_finite() && **alpha != 0.0)) {
            Some((_, alpha)) => {
                let value = alpha.to_string();
                Err(Error::BadSetting { field: ALPHA_PATTERN, value, cure: "use any number but 0" })
            }
            None => Ok(()),
        }
    }
}

/// Keys of the tables by pattern, as recipes write them.
const RANK_PATTERN: &str = "rank_pattern";
const ALPHA_PATTERN: &str = "alpha_pattern";

/// The patterns of `field`, ready to be asked.
fn compiled<T: Copy>(field: &'static str, table: &ByPattern<T>) -> Result<CompiledByPattern<T>, Error> {
    table.compiled().map_err(|error| Error::BadSetting {
        field,
        value: error.to_string(),
        cure: "write its keys as Python's regular expressions",
    })
}

/// The value that `table` has for each of `sites`, if it has one.
///
/// # Errors
/// If one of its patterns fits no site, or a site fits two: TOML's tables have no order that could decide.
fn values<T: Copy>(
    field: &'static str,
    table: &ByPattern<T>,
    sites: &[Site],
) -> Result<Vec<Option<T>>, Error> {
    let patterns = compiled(field, table)?;
    let entries: Vec<(&str, T)> = table.entries().map(|(pattern, value)| (pattern, *value)).collect();
    let refused = |value: String, cure| Err(Error::BadSetting { field, value, cure });
    let places: Vec<Vec<usize>> =
        sites.iter().map(|site| patterns.places(&site.path)).collect::<Result<_, _>>()?;
    if let Some(place) =
        (0..entries.len()).find(|place| !places.iter().any(|of_site| of_site.contains(place)))
    {
        let cure = "no adapted weight has a name that fits it; correct or remove it";
        return refused(format!("`{}`", entries[place].0), cure);
    }
    if let Some((of_site, site)) = places.iter().zip(sites).find(|(of_site, _)| of_site.len() > 1) {
        let (first, second) = (entries[of_site[0]].0, entries[of_site[1]].0);
        let cure = "both fit one weight; write them so that each weight fits one";
        return refused(format!("`{first}` and `{second}` for {}", site.path), cure);
    }
    Ok(places.into_iter().map(|of_site| of_site.first().map(|&place| entries[place].1)).collect())
}

impl Method for LoraConfig {
    fn check(&self) -> Result<(), Error> {
        check_number("rank", self.rank, MAX_RANK)?;
        check_alpha(self.alpha())?;
        if !(self.lora_plus_ratio > 0.0 && self.lora_plus_ratio.is_finite()) {
            let value = self.lora_plus_ratio.to_string();
            return Err(Error::BadSetting { field: "lora_plus_ratio", value, cure: "use a number above 0" });
        }
        if !(0.0..1.0).contains(&self.dropout) {
            let value = self.dropout.to_string();
            return Err(Error::BadSetting {
                field: "dropout",
                value,
                cure: "use a number from 0 to below 1",
            });
        }
        self.check_patterns()
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
        1e-2
    }

    /// As PEFT's `create_loraplus_optimizer`, which counts what has one axis to B.
    fn rate_factors(&self) -> RateFactors {
        RateFactors { b: self.lora_plus_ratio, magnitude: self.lora_plus_ratio, ..RateFactors::ALIKE }
    }

    fn adapts_embeddings(&self) -> bool {
        true
    }

    /// One factor drawn, the other zero: a fresh adapter changes nothing.
    fn plan(&self, sites: &[Site], _weights: Weights) -> Result<Vec<Plan>, Error> {
        let ranks = values(RANK_PATTERN, &self.rank_pattern, sites)?;
        let alphas = values(ALPHA_PATTERN, &self.alpha_pattern, sites)?;
        let dropout = (self.dropout > 0.0).then_some(Dropout { rate: self.dropout, seed: self.seed });
        let plan = |((site, rank), alpha): ((&Site, Option<usize>), Option<f64>)| {
            let (rank, alpha) = (rank.unwrap_or(self.rank), alpha.unwrap_or_else(|| self.alpha()));
            let (a, b) = self.first_factors(site, rank);
            let plan =
                Plan::low_rank(Factor::Learned(a), Factor::Learned(b), rank, self.variant.scale(alpha, rank));
            match site.kind {
                SiteKind::Linear => Plan { dropout, ..plan },
                // Numbers of rows go in, of which PEFT drops none either.
                SiteKind::Embedding => plan,
            }
        };
        Ok(sites.iter().zip(ranks).zip(alphas).map(plan).collect())
    }

    fn described(&self) -> String {
        format!("LoRA, rank {}", self.rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_trains_rank_times_both_widths() {
        let site = Site::linear("blocks.0.mlp.up", 24, 40);
        let plans = LoraConfig { rank: 3, ..LoraConfig::default() }.plan(&[site], &|_| Vec::new());
        assert_eq!(plans.expect("a valid plan")[0].trainable_parameters(40), 3 * (24 + 40));
    }

    fn sites() -> [Site; 2] {
        ["blocks.0.mlp.up", "blocks.1.mlp.up"].map(|path| Site::linear(path, 6, 4))
    }

    #[test]
    fn an_embedding_starts_at_a_zero_a_and_a_normal_b() {
        let site = [Site::embedding("tokens", 50, 400)];
        let lora = LoraConfig { rank: 4, dropout: 0.1, ..LoraConfig::default() };
        let plan = lora.plan(&site, &|_| Vec::new()).expect("a valid plan").remove(0);
        let [a, b] = [&plan.a, &plan.b].map(|factor| factor.initial().expect("a learned factor"));
        assert_eq!(a, vec![0.0; 50 * 4]);
        assert_eq!((b.len(), plan.dropout), (4 * 400, None));
        let (mean, square) = b.iter().fold((0.0, 0.0), |(mean, square), entry| {
            (mean + entry / 1600.0, square + entry * entry / 1600.0)
        });
        assert!(mean.abs() < 0.1 && (square - 1.0).abs() < 0.15, "{mean} and {square}");
    }

    #[test]
    fn a_pattern_gives_its_sites_a_rank_and_an_alpha_of_their_own() {
        let lora = LoraConfig {
            rank: 2,
            alpha: Some(6.0),
            rank_pattern: ByPattern::from_iter([("^blocks.1.*".to_owned(), 3)]),
            alpha_pattern: ByPattern::from_iter([(r"0\.mlp\.up".to_owned(), 1.0)]),
            ..LoraConfig::default()
        };
        let plans = lora.plan(&sites(), &|_| Vec::new()).expect("a valid plan");
        assert_eq!([(plans[0].rank, plans[0].scale), (plans[1].rank, plans[1].scale)], [(2, 0.5), (3, 2.0)]);
    }

    #[test]
    fn patterns_that_fit_no_site_or_the_same_one_are_refused_by_their_texts() {
        let ranks = |pattern: &str| LoraConfig {
            rank_pattern: ByPattern::from_iter([(pattern.to_owned(), 3)]),
            ..LoraConfig::default()
        };
        let error = ranks("qurey").plan(&sites(), &|_| Vec::new()).expect_err("a slip").to_string();
        assert!(error.contains("`rank_pattern`") && error.contains("`qurey`"), "{error}");
        let twice = LoraConfig {
            rank_pattern: ByPattern::from_iter([("up".to_owned(), 3), ("blocks.1.*".to_owned(), 5)]),
            ..LoraConfig::default()
        };
        let error = twice.plan(&sites(), &|_| Vec::new()).expect_err("two ranks for one site").to_string();
        assert!(error.contains("`up` and `blocks.1.*` for blocks.1.mlp.up"), "{error}");
        let error = ranks("(up").check().expect_err("no pattern").to_string();
        assert!(error.contains("`rank_pattern`") && error.contains("(up"), "{error}");
    }
}
