//! `[method]`: what is trained.
//!
//! The settings of an adapter are those of its own type in nola-core; a recipe adds which weights it is attached to.

use std::borrow::Cow;

use nola_core::{AdapterConfig, Error as AdapterError};
use nola_models::FewBits;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use toml::Table;

use super::error::{Findings, Problem};
use super::node::TAG;
use crate::settings::{FULL_LEARNING_RATE, LINEAR_LEARNING_RATE};

/// What is trained; `kind` chooses the method.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a recipe has one")]
pub enum MethodRecipe {
    /// An adapter on the chosen weights, and the head.
    Adapter(AdapterRecipe),
    /// The head alone.
    Linear,
    /// Every weight of the model.
    Full,
}

/// An adapter and the weights it is attached to.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct AdapterRecipe {
    /// Its kind and settings.
    #[serde(flatten)]
    pub config: AdapterConfig,
    /// The weights.
    #[serde(flatten)]
    pub weights: ChosenWeights,
}

/// The keys that say which weights an adapter is attached to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ChosenWeights {
    /// Weights that are adapted: names or ends of names, one pattern (Python's regular expressions) for the whole name, or
    /// `all-linear` for every linear layer but the head. LoRA also adapts embeddings that are named: `tokens`, and `positions`
    /// of GPT-2.
    #[schemars(example = ["query", "value"])]
    pub targets: TargetsRecipe,
    /// Weights among the targets that are left alone; names or ends of names.
    #[schemars(example = ["blocks.0.attention.query"])]
    pub exclude: Vec<String>,
    /// Blocks that are adapted, counted from 0; an empty list adapts all.
    #[schemars(example = [0, 1, 2])]
    pub layers: Vec<usize>,
    /// Biases of the base that are trained beside the adapter.
    #[schemars(example = &"lora_only")]
    pub bias: TrainedBiases,
    /// Modules of the base that are trained as a whole beside the adapter, such as norms; names or ends of names. The head of
    /// a classifier is trained without being named.
    #[schemars(example = ["norm"])]
    pub modules_to_save: Vec<String>,
}

/// Which biases of the base are trained; PEFT's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrainedBiases {
    /// None of them.
    #[default]
    None,
    /// Every bias of the model, those of its norms too.
    All,
    /// Those of the adapted layers.
    LoraOnly,
}

impl ChosenWeights {
    /// Its keys in a recipe.
    const KEYS: [&str; 5] = ["targets", "exclude", "layers", "bias", "modules_to_save"];
}

/// The methods without an adapter.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum Alone {
    /// The head alone.
    Linear {},
    /// Every weight of the model.
    Full {},
}

impl Default for MethodRecipe {
    fn default() -> Self {
        Self::Adapter(AdapterRecipe::default())
    }
}

impl<C: Into<AdapterConfig>> From<C> for MethodRecipe {
    fn from(config: C) -> Self {
        Self::Adapter(AdapterRecipe { config: config.into(), weights: ChosenWeights::default() })
    }
}

impl Serialize for MethodRecipe {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Adapter(adapter) => adapter.serialize(serializer),
            Self::Linear => Alone::Linear {}.serialize(serializer),
            Self::Full => Alone::Full {}.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for MethodRecipe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = Table::deserialize(deserializer)?;
        let is_adapter = table.get(TAG).and_then(toml::Value::as_str).is_some_and(is_adapter);
        if !is_adapter {
            return Ok(match Alone::deserialize(table).map_err(D::Error::custom)? {
                Alone::Linear {} => Self::Linear,
                Alone::Full {} => Self::Full,
            });
        }
        let is_of_weights = |(key, _): &(String, toml::Value)| ChosenWeights::KEYS.contains(&key.as_str());
        let (weights, settings): (Vec<_>, Vec<_>) = table.into_iter().partition(is_of_weights);
        let weights = ChosenWeights::deserialize(Table::from_iter(weights)).map_err(D::Error::custom)?;
        let config = AdapterConfig::deserialize(Table::from_iter(settings)).map_err(D::Error::custom)?;
        Ok(Self::Adapter(AdapterRecipe { config, weights }))
    }
}

fn is_adapter(kind: &str) -> bool {
    AdapterConfig::KINDS.contains(&kind)
}

/// The kinds of adapters, each with its settings and the keys of the weights, and the methods without one.
impl JsonSchema for MethodRecipe {
    fn schema_name() -> Cow<'static, str> {
        "MethodRecipe".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let variants = |schema: Schema| match schema.get("oneOf") {
            Some(Value::Array(variants)) => variants.clone(),
            Some(_) | None => Vec::new(),
        };
        let weights = ChosenWeights::json_schema(generator);
        let keys = weights.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        let mut all = variants(AdapterConfig::json_schema(generator));
        for variant in &mut all {
            if let Some(properties) = variant["properties"].as_object_mut() {
                properties.extend(keys.clone());
            }
        }
        all.extend(variants(Alone::json_schema(generator)));
        schemars::json_schema!({ "description": "What is trained; `kind` chooses the method.", "oneOf": all })
    }
}

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
            Self::Adapter(adapter) => adapter.config.kind(),
            Self::Linear => "linear",
            Self::Full => "full",
        }
    }

    /// Its adapter, if it has one.
    pub fn adapter(&self) -> Option<&AdapterRecipe> {
        match self {
            Self::Adapter(adapter) => Some(adapter),
            Self::Linear | Self::Full => None,
        }
    }

    /// What becomes of weights that a GGUF file stores in few bits: where all are trained, they must be dense.
    pub(super) fn few_bits(&self) -> FewBits {
        match self {
            Self::Full => FewBits::Dense,
            Self::Adapter(_) | Self::Linear => FewBits::Kept,
        }
    }

    /// Learning rate where a recipe gives none: chosen on small models, see "Learning rates" in `benchmarks/README.md`.
    pub fn default_learning_rate(&self) -> f64 {
        match self {
            Self::Adapter(adapter) => adapter.config.method().learning_rate(),
            Self::Linear => LINEAR_LEARNING_RATE,
            Self::Full => FULL_LEARNING_RATE,
        }
    }

    /// Takes another seed, where random numbers are drawn.
    pub fn set_seed(&mut self, seed: u64) {
        match self {
            Self::Adapter(adapter) => adapter.config.method_mut().set_seed(seed),
            Self::Linear | Self::Full => {}
        }
    }

    /// What depends on more than one key; ranges are checked as the schema states them.
    pub(super) fn check(&self, findings: &mut Findings) {
        let Self::Adapter(AdapterRecipe { config, weights }) = self else { return };
        if weights.targets.is_empty() {
            let example = "targets = [\"query\", \"value\"] or targets = \"all-linear\"".to_owned();
            findings.add("method.targets", Problem::Missing { example });
        }
        if let Err(AdapterError::BadSetting { field, value, cure }) = config.method().check() {
            findings
                .add(format!("method.{field}"), Problem::Unusable { found: value, cure: cure.to_owned() });
        }
    }

    /// Fills in what follows from other values.
    pub(super) fn resolve(&mut self) {
        match self {
            Self::Adapter(adapter) => adapter.config.method_mut().resolve(),
            Self::Linear | Self::Full => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_setting_of_an_adapter_is_called_like_a_choice_of_weights() {
        for config in AdapterConfig::every() {
            let settings = serde_json::to_value(&config).expect("JSON");
            let settings = settings.as_object().expect("a table");
            let twice = ChosenWeights::KEYS.into_iter().find(|key| settings.contains_key(*key));
            assert_eq!(twice, None, "{}", config.kind());
        }
    }
}
