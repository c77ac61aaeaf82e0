//! `adapter_config.json`: what of it decides the meaning of the tensors, read and written.

use std::collections::BTreeSet;
use std::path::Path;

use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::fused::ModuleLora;
use super::{Layout, Task};
use crate::Error;

/// The keys that decide what the tensors mean; PEFT ignores keys it does not know, and so do we.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct PeftConfig {
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    pub task_type: Option<String>,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    lora_bias: bool,
    #[serde(default)]
    init_lora_weights: Value,
    #[serde(default)]
    layer_replication: Value,
    #[serde(default)]
    alora_invocation_tokens: Value,
    #[serde(default)]
    rank_pattern: Map<String, Value>,
    #[serde(default)]
    alpha_pattern: Map<String, Value>,
    #[serde(default)]
    target_modules: Value,
    #[serde(default)]
    exclude_modules: Value,
    #[serde(default)]
    layers_to_transform: Value,
}

impl PeftConfig {
    /// The settings in `bytes` of `file`, if they are those of a plain LoRA.
    pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let invalid = |error: serde_json::Error| Error::Invalid {
            file: file.to_owned(),
            problems: vec![error.to_string()],
        };
        let value: Value = serde_json::from_slice(bytes).map_err(invalid)?;
        // Other kinds have other keys, so the kind is told before a key is missed.
        if value["peft_type"] != "LORA" {
            let found = value["peft_type"].to_string().replace('"', "");
            let file = file.to_owned();
            return Err(Error::Unsupported { file, field: "peft_type", found, supported: "LORA" });
        }
        let config: Self = serde_json::from_value(value).map_err(invalid)?;
        match config.unsupported() {
            Some((field, found, supported)) => {
                Err(Error::Unsupported { file: file.to_owned(), field, found, supported })
            }
            None => Ok(config),
        }
    }

    /// The first key that makes this more than a plain LoRA of the unchanged base: its value, and what is plain.
    fn unsupported(&self) -> Option<(&'static str, String, &'static str)> {
        let flags = [
            ("use_dora", self.use_dora, "plain LoRA and rsLoRA"),
            ("lora_bias", self.lora_bias, "adapters without a bias on B"),
        ];
        if let Some((field, _, supported)) = flags.into_iter().find(|(_, is_set, _)| *is_set) {
            return Some((field, "true".to_owned(), supported));
        }
        let extensions = [
            ("layer_replication", &self.layer_replication, "adapters of a base that keeps its layers"),
            ("alora_invocation_tokens", &self.alora_invocation_tokens, "adapters that act on every token"),
        ];
        if let Some((field, value, supported)) = extensions.into_iter().find(|(_, value, _)| !value.is_null())
        {
            return Some((field, value.to_string(), supported));
        }
        let changes_base = ["olora", "pissa", "corda", "loftq", "eva"];
        let init = self.init_lora_weights.as_str()?;
        changes_base.iter().any(|name| init.starts_with(name)).then(|| {
            (
                "init_lora_weights",
                init.to_owned(),
                "adapters of the unchanged base; let PEFT convert it with `path_initial_model_for_weight_conversion`",
            )
        })
    }

    /// Width of the bottleneck of `module`.
    pub(super) fn rank(&self, module: &str) -> usize {
        pattern_value(&self.rank_pattern, module).map_or(self.r, |rank| rank as usize)
    }

    /// Factor of the update of `module`, which has this rank.
    pub(super) fn scale(&self, module: &str, rank: usize) -> f64 {
        let alpha = pattern_value(&self.alpha_pattern, module).unwrap_or(self.lora_alpha);
        if self.use_rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 }
    }

    /// Whether the configuration says that `module` is adapted.
    pub(super) fn targets(&self, module: &str) -> bool {
        let layers: Vec<usize> = match &self.layers_to_transform {
            Value::Array(layers) => layers.iter().filter_map(|n| Some(n.as_u64()? as usize)).collect(),
            Value::Number(layer) => layer.as_u64().map(|n| n as usize).into_iter().collect(),
            Value::Null | Value::Bool(_) | Value::String(_) | Value::Object(_) => Vec::new(),
        };
        let layer = module.split('.').find_map(|part| part.parse().ok());
        if !layers.is_empty() && !layer.is_some_and(|layer| layers.contains(&layer)) {
            return false;
        }
        names_module(&self.target_modules, module) && !names_module(&self.exclude_modules, module)
    }
}

/// Whether a list of names or a regular expression of PEFT's covers `module`.
fn names_module(names: &Value, module: &str) -> bool {
    match names {
        Value::Array(names) => (names.iter().filter_map(Value::as_str))
            .any(|name| module == name || module.ends_with(&format!(".{name}"))),
        Value::String(pattern) => {
            Regex::new(&format!("^(?:{pattern})$")).is_ok_and(|regex| regex.is_match(module))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
}

/// PEFT tries the keys of a pattern in order as `(.*\.)?(KEY)$`; the first hit wins.
fn pattern_value(patterns: &Map<String, Value>, module: &str) -> Option<f64> {
    let hit = |key: &&String| {
        Regex::new(&format!("^(?:.*\\.)?(?:{key})$")).is_ok_and(|regex| regex.is_match(module))
    };
    patterns.keys().find(hit).and_then(|key| patterns[key].as_f64())
}

/// What a written configuration says beside the LoRAs.
pub(super) struct About<'a> {
    pub base_name: &'a str,
    pub task: Task,
    /// Whether biases of adapted modules are in the folder.
    pub trains_biases: bool,
    /// Modules that are in the folder as they are.
    pub modules_to_save: &'a BTreeSet<String>,
}

/// The configuration of a folder with these LoRAs.
pub(super) fn written(loras: &[ModuleLora], about: &About) -> Value {
    let alpha = |lora: &ModuleLora| alpha_for(lora.scale, lora.rank);
    let (common_rank, common_alpha) = loras.first().map_or((1, 1.0), |lora| (lora.rank, alpha(lora)));
    let mut rank_pattern = Map::new();
    let mut alpha_pattern = Map::new();
    for lora in loras {
        let key = format!("^{}", regex::escape(&lora.name));
        if lora.rank != common_rank {
            rank_pattern.insert(key.clone(), lora.rank.into());
        }
        if alpha(lora) != common_alpha {
            alpha_pattern.insert(key, number(alpha(lora)));
        }
    }
    json!({
        "peft_type": "LORA",
        "base_model_name_or_path": about.base_name,
        "task_type": match about.task {
            Task::ImageClassification => Value::Null,
            Task::CausalLanguageModel => "CAUSAL_LM".into(),
        },
        "inference_mode": true,
        "r": common_rank,
        "lora_alpha": number(common_alpha),
        "lora_dropout": 0.0,
        "use_rslora": false,
        "use_dora": false,
        "fan_in_fan_out": loras.iter().any(|lora| lora.layout == Layout::Conv1d),
        "bias": if about.trains_biases { "lora_only" } else { "none" },
        "init_lora_weights": true,
        "target_modules": loras.iter().map(|lora| lora.name.as_str()).collect::<Vec<_>>(),
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
        "modules_to_save":
            if about.modules_to_save.is_empty() { Value::Null } else { json!(about.modules_to_save) },
    })
}

/// The `lora_alpha` with which PEFT's alpha / rank is `scale`: to the last bit, where a float can do that.
///
/// rsLoRA's scale is written so too; its flag would add a rounding and save nothing.
fn alpha_for(scale: f64, rank: usize) -> f64 {
    let rank = rank as f64;
    let alpha = scale * rank;
    let neighbours = [alpha, alpha.round(), alpha.next_down(), alpha.next_up()];
    neighbours.into_iter().find(|alpha| alpha / rank == scale).unwrap_or(alpha)
}

/// A whole number as one: PEFT declares `lora_alpha` so, though it computes with any.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 { Value::from(value as i64) } else { Value::from(value) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_pattern_that_fits_wins() {
        let patterns = json!({"q_proj": 4, "layers.1.*": 2});
        let patterns = patterns.as_object().expect("an object");
        assert_eq!(pattern_value(patterns, "model.layers.1.q_proj"), Some(4.0));
        assert_eq!(pattern_value(patterns, "model.layers.1.v_proj"), Some(2.0));
        assert_eq!(pattern_value(patterns, "model.layers.0.v_proj"), None);
    }

    #[test]
    fn a_fraction_that_ought_to_be_whole_is_written_whole() {
        assert_eq!(alpha_for(8.0 / 6.0, 6), 8.0);
        assert_eq!(number(alpha_for(2.0, 16)), json!(32));
    }

    proptest! {
        #[test]
        fn alpha_over_rank_is_the_scale_to_one_rounding(alpha in 0.01_f64..512.0, rank in 1_usize..400) {
            for scale in [alpha / rank as f64, alpha.round() / rank as f64, alpha / (rank as f64).sqrt()] {
                let back = alpha_for(scale, rank) / rank as f64;
                prop_assert!((back - scale).abs() <= f64::EPSILON * scale, "{scale} came back as {back}");
            }
        }

        #[test]
        fn the_scale_of_a_plain_lora_comes_back_to_the_bit(alpha in 1_u16..512, rank in 1_usize..400) {
            let scale = f64::from(alpha) / rank as f64;
            prop_assert_eq!(alpha_for(scale, rank) / rank as f64, scale);
        }
    }

    fn refused(key: &str, value: Value) -> String {
        let mut config = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "task_type": null});
        config[key] = value;
        let parsed = PeftConfig::parse(Path::new("adapter_config.json"), config.to_string().as_bytes());
        parsed.map_or_else(|error| error.to_string(), |_| "read".to_owned())
    }

    #[test]
    fn a_lora_that_repeats_layers_of_its_base_is_refused_by_the_key() {
        assert!(refused("layer_replication", json!([[0, 4]])).contains("`layer_replication` is `[[0,4]]`"));
        assert_eq!(refused("layer_replication", Value::Null), "read");
    }

    #[test]
    fn a_lora_that_waits_for_invocation_tokens_is_refused_by_the_key() {
        assert!(
            refused("alora_invocation_tokens", json!([5])).contains("`alora_invocation_tokens` is `[5]`")
        );
    }
}
