//! `adapter_config.json` as PEFT writes it: what of it decides the meaning of the tensors.

mod modules;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{LORA, VERA, kinds};
use crate::Error;
use crate::adapter::Start;
use crate::by_pattern::{ByPattern, CompiledByPattern};
use crate::foreign_json;
use crate::pattern::{PatternError, PythonPattern};
use crate::plain_words::plain_words;
pub(super) use modules::{Layer, Target};
use modules::{Layers, Modules, OneOrMany};

/// What PEFT takes where a key is absent.
const DEFAULT_RANK: usize = 8;
const DEFAULT_ALPHA: f64 = 8.0;
const DEFAULT_VERA_RANK: usize = 256;

/// What kind of adapter a folder holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    Lora,
    Vera(VeraSettings),
}

/// The settings of a VeRA's pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VeraSettings {
    /// What it is drawn from.
    pub key: u64,
    /// Whether the folder is meant to hold it.
    pub saves_pair: bool,
}

impl Form {
    pub(super) fn peft_type(&self) -> &'static str {
        match self {
            Self::Lora => LORA,
            Self::Vera(_) => VERA,
        }
    }
}

/// The settings of an adapter; its patterns are Python's.
#[derive(Debug, Clone)]
pub(super) struct PeftConfig {
    pub form: Form,
    rank: usize,
    alpha: f64,
    use_rslora: bool,
    /// Whether the columns of adapted weights have trained lengths.
    pub use_dora: bool,
    /// What was taken out of the base before training.
    pub start: Option<Start>,
    ranks: CompiledByPattern<usize>,
    alphas: CompiledByPattern<f64>,
    target_modules: Modules,
    exclude_modules: Modules,
    layers: Layers,
    modules_to_save: Vec<String>,
    saved: Vec<PythonPattern>,
    trainable_tokens: TrainableTokens,
    ensure_weight_tying: bool,
    /// What the adapter was made for, in PEFT's words.
    pub task_type: Option<String>,
}

/// Rows of embeddings that are trained.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum TrainableTokens {
    /// None.
    Absent,
    /// Of the token embedding.
    OfEmbedding(Vec<usize>),
    /// Of the modules whose names end so.
    ByName(BTreeMap<String, Vec<usize>>),
}

/// The file as it is written; PEFT ignores keys it does not know, and so do we.
#[derive(Debug, Deserialize)]
struct Written {
    #[serde(default)]
    peft_type: String,
    r: Option<usize>,
    projection_prng_key: Option<u64>,
    save_projection: Option<bool>,
    lora_alpha: Option<f64>,
    task_type: Option<String>,
    use_rslora: Option<bool>,
    use_dora: Option<bool>,
    #[serde(default)]
    init_lora_weights: Value,
    rank_pattern: Option<Map<String, Value>>,
    alpha_pattern: Option<Map<String, Value>>,
    target_modules: Option<OneOrMany<String>>,
    exclude_modules: Option<OneOrMany<String>>,
    layers_to_transform: Option<OneOrMany<usize>>,
    layers_pattern: Option<OneOrMany<String>>,
    modules_to_save: Option<Vec<String>>,
    trainable_token_indices: Option<TrainableTokens>,
    ensure_weight_tying: Option<bool>,
}

impl PeftConfig {
    /// The settings in `bytes` of `file`, if they are those of an adapter that this program computes.
    pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let invalid = |problem: String| Error::Invalid { file: file.to_owned(), problems: vec![problem] };
        let value: Value =
            foreign_json::from_slice(bytes).map_err(|error| invalid(plain_words(&error.to_string())))?;
        // Other kinds have other keys, so the kind is checked before any key.
        kinds::check(file, &value)?;
        let written = Written::read(value).map_err(invalid)?;
        Self::of(written).map_err(invalid)
    }

    fn of(written: Written) -> Result<Self, String> {
        let modules_to_save = written.modules_to_save.unwrap_or_default();
        let in_saved = |name: &String| PythonPattern::at_start(&format!("(^|.*\\.){name}($|\\..*)"));
        let field = |field: &'static str| move |error: PatternError| format!("`{field}`: {error}");
        let as_rank = |value: &Value| value.as_u64().map(|rank| rank as usize);
        let (form, default_rank) = if written.peft_type == VERA {
            let key = written.projection_prng_key.unwrap_or_default();
            let settings = VeraSettings { key, saves_pair: written.save_projection.unwrap_or(true) };
            (Form::Vera(settings), DEFAULT_VERA_RANK)
        } else {
            (Form::Lora, DEFAULT_RANK)
        };
        Ok(Self {
            form,
            rank: written.r.unwrap_or(default_rank),
            alpha: written.lora_alpha.unwrap_or(DEFAULT_ALPHA),
            use_rslora: written.use_rslora.unwrap_or_default(),
            use_dora: written.use_dora.unwrap_or_default(),
            start: kinds::start(&written.init_lora_weights),
            ranks: by_pattern("rank_pattern", written.rank_pattern, as_rank)?,
            alphas: by_pattern("alpha_pattern", written.alpha_pattern, Value::as_f64)?,
            layers: Layers::of(written.layers_to_transform, written.layers_pattern)
                .map_err(field("layers_pattern"))?,
            target_modules: Modules::targets(written.target_modules).map_err(field("target_modules"))?,
            exclude_modules: Modules::of(written.exclude_modules).map_err(field("exclude_modules"))?,
            saved: modules_to_save
                .iter()
                .map(in_saved)
                .collect::<Result<_, _>>()
                .map_err(field("modules_to_save"))?,
            modules_to_save,
            trainable_tokens: written.trainable_token_indices.unwrap_or(TrainableTokens::Absent),
            ensure_weight_tying: written.ensure_weight_tying.unwrap_or_default(),
            task_type: written.task_type,
        })
    }

    /// Width of the bottleneck of `module`.
    pub(super) fn rank(&self, module: &str) -> Result<usize, PatternError> {
        Ok(self.ranks.first_fit(module)?.unwrap_or(self.rank))
    }

    /// Factor of the update of `module`, which has this rank.
    pub(super) fn scale(&self, module: &str, rank: usize) -> Result<f64, PatternError> {
        let alpha = self.alphas.first_fit(module)?.unwrap_or(self.alpha);
        Ok(if self.use_rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 })
    }

    /// Whether the configuration says that `module` has a LoRA.
    pub(super) fn targets(&self, module: &Target) -> Result<bool, PatternError> {
        let name = module.name;
        if self.exclude_modules.names(name)? {
            return Ok(false);
        }
        // PEFT leaves alone what is saved whole, and all that lies in it.
        for pattern in &self.saved {
            if pattern.fits(name)? {
                return Ok(false);
            }
        }
        match &self.target_modules {
            Modules::None => Ok(false),
            Modules::AllLinear => Ok(match module.layer {
                Layer::Linear => true,
                // Where the task is named so, PEFT saves the head whole.
                Layer::Classifier => self.task_type.as_deref() != Some("SEQ_CLS"),
                Layer::OutputEmbedding | Layer::Other => false,
            }),
            Modules::Names(names) if names.iter().any(|target| target == name) => Ok(true),
            named @ (Modules::Names(_) | Modules::Pattern(_)) => {
                Ok(named.names(name)? && self.layers.contain(name)?)
            }
        }
    }

    /// Whether a LoRA of an embedding is also one of the head that is the same matrix, and the other way round.
    pub(super) fn ties_loras(&self) -> bool {
        self.ensure_weight_tying
    }

    /// Whether any module is meant to have a LoRA.
    pub(super) fn has_targets(&self) -> bool {
        match &self.target_modules {
            Modules::None => false,
            Modules::AllLinear | Modules::Pattern(_) => true,
            Modules::Names(names) => !names.is_empty(),
        }
    }

    /// Whether a whole copy of `module` belongs to the adapter: it, or one that holds it, has a name that ends so.
    pub(super) fn saves(&self, module: &str) -> bool {
        let ends = module.match_indices('.').map(|(end, _)| end).chain([module.len()]);
        ends.into_iter().any(|end| self.modules_to_save.iter().any(|name| module[..end].ends_with(name)))
    }

    /// Whether rows of an embedding belong to the adapter.
    pub(super) fn trains_tokens(&self) -> bool {
        self.trainable_tokens != TrainableTokens::Absent
    }

    /// Which rows of `module` are trained, if some are.
    pub(super) fn trained_rows(&self, module: &str) -> Option<&[usize]> {
        match &self.trainable_tokens {
            TrainableTokens::Absent => None,
            TrainableTokens::OfEmbedding(rows) => Some(rows),
            TrainableTokens::ByName(names) => {
                names.iter().find(|(name, _)| module.ends_with(*name)).map(|(_, rows)| rows.as_slice())
            }
        }
    }
}

impl Written {
    fn read(value: Value) -> Result<Self, String> {
        let written: Self = serde_path_to_error::deserialize(&value).map_err(|error| {
            let path = error.path().to_string();
            let found = value.get(&path).map(foreign_json::shown).unwrap_or_default();
            format!("`{path}` is `{found}`: {}", plain_words(&error.inner().to_string()))
        })?;
        let has_layers = match &written.layers_to_transform {
            None => false,
            Some(OneOrMany::One(_)) => true,
            Some(OneOrMany::Many(layers)) => !layers.is_empty(),
        };
        if has_layers && matches!(written.target_modules, Some(OneOrMany::One(_))) {
            return Err(
                "`layers_to_transform` stands beside a pattern in `target_modules`, which PEFT does not \
                        take; write the layers into the pattern"
                    .to_owned(),
            );
        }
        Ok(written)
    }
}

/// The values of `field` with compiled keys, in their order.
fn by_pattern<T: Copy>(
    field: &'static str,
    written: Option<Map<String, Value>>,
    value: impl Fn(&Value) -> Option<T>,
) -> Result<CompiledByPattern<T>, String> {
    let entry = |(key, written): (String, Value)| {
        let shown = || foreign_json::shown(&written);
        let value = value(&written)
            .ok_or_else(|| format!("`{field}`: `{key}` is `{}`; expected a number", shown()))?;
        Ok((key, value))
    };
    let table: ByPattern<T> =
        written.unwrap_or_default().into_iter().map(entry).collect::<Result<_, String>>()?;
    table.compiled().map_err(|error| format!("`{field}`: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    pub(super) const Q: &str = "model.layers.1.self_attn.q_proj";
    pub(super) const V: &str = "model.layers.1.self_attn.v_proj";
    pub(super) const UP: &str = "transformer.h.0.mlp.c_fc";

    pub(super) fn parsed(settings: &Value) -> Result<PeftConfig, String> {
        let mut config = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8});
        config.as_object_mut().expect("an object").extend(settings.as_object().expect("an object").clone());
        let bytes = config.to_string().into_bytes();
        PeftConfig::parse(Path::new("adapter_config.json"), &bytes).map_err(|error| error.to_string())
    }

    pub(super) fn config(settings: Value) -> PeftConfig {
        parsed(&settings).unwrap_or_else(|error| panic!("{settings}: {error}"))
    }

    #[test]
    fn the_first_pattern_that_fits_decides_the_rank() {
        let config = config(json!({"rank_pattern": {"q_proj": 6, "layers.1.*": 2}}));
        let rank = |name| config.rank(name).expect("patterns that end");
        assert_eq!([rank(Q), rank(V), rank("model.layers.0.self_attn.v_proj")], [6, 2, 4]);
    }

    #[test]
    fn a_key_of_a_pattern_is_python_s() {
        for (key, hits_q, hits_v) in [
            (r"(?!v_)\w+_proj", true, false),
            (r".*(?<=attn)\.v_proj", false, true),
            ("^model.layers.1.self_attn.q_proj", true, false),
            ("q_proj|v_proj", true, true),
            ("proj", false, false),
            (r"(?P<part>q|v)_proj", true, true),
            // The first group is that of PEFT's own prefix.
            (r"q_proj\1", false, false),
        ] {
            let config = config(json!({"rank_pattern": {key: 2}, "alpha_pattern": {key: 75}}));
            for (name, hits) in [(Q, hits_q), (V, hits_v)] {
                let rank = config.rank(name).expect("it ends");
                assert_eq!(rank, if hits { 2 } else { 4 }, "{key} on {name}");
                let alpha = if hits { 75.0 } else { 8.0 };
                assert_eq!(config.scale(name, rank), Ok(alpha / rank as f64), "{key} on {name}");
            }
        }
    }

    #[test]
    fn what_is_absent_has_peft_s_default() {
        let bytes = br#"{"peft_type": "LORA", "rank_pattern": null, "bias": "all"}"#;
        let config = PeftConfig::parse(Path::new("adapter_config.json"), bytes).expect("a LoRA");
        assert_eq!((config.rank(Q), config.scale(Q, 8)), (Ok(8), Ok(1.0)));
    }

    #[test]
    fn a_pattern_that_does_not_compile_is_an_error_that_names_its_key() {
        for (key, value) in [
            ("target_modules", json!(".*(q_proj")),
            ("exclude_modules", json!("*q_proj")),
            ("rank_pattern", json!({"[q": 2})),
            ("alpha_pattern", json!({"(?<q": 2})),
            ("modules_to_save", json!(["head("])),
        ] {
            let error = parsed(&json!({key: value})).expect_err(key);
            assert!(
                error.contains(&format!("`{key}`")) && error.contains("no regular expression"),
                "{error}"
            );
        }
        let layers = json!({"target_modules": ["q"], "layers_to_transform": [1], "layers_pattern": ["h["]});
        assert!(parsed(&layers).expect_err("a class that stays open").contains("`layers_pattern`"));
    }

    #[test]
    fn a_pattern_without_end_is_an_error_and_no_miss() {
        let name = format!("model.{}", "a".repeat(60));
        let config = config(json!({"rank_pattern": {r"(?=(?:a+)+(b)\3)a+": 2}}));
        assert!(config.rank(&name).is_err());
    }

    #[test]
    fn a_value_of_another_type_is_named() {
        for (key, value) in [
            ("r", json!("4")),
            ("rank_pattern", json!({"q_proj": "4"})),
            ("target_modules", json!(7)),
            ("layers_to_transform", json!(["1"])),
            ("trainable_token_indices", json!("wte")),
        ] {
            let error = parsed(&json!({key: value})).expect_err(key);
            assert!(error.contains(&format!("`{key}`")), "{error}");
        }
        for key in ["lora_alpha", "r", "use_rslora"] {
            let error = parsed(&json!({key: {"__float__": "NaN"}})).expect_err(key);
            assert!(error.contains(&format!("`{key}` is `NaN`")), "{error}");
        }
    }

    #[test]
    fn a_module_is_saved_if_its_name_or_that_of_one_around_it_ends_so() {
        let config = config(json!({"modules_to_save": ["norm", "layers.0", "lm_head"]}));
        for name in ["model.norm", "model.layers.3.input_layernorm", "model.layers.0.mlp.up_proj", "lm_head"]
        {
            assert!(config.saves(name), "{name}");
        }
        assert!(!config.saves(Q) && !config.saves("model.embed_tokens"));
    }

    #[test]
    fn trained_rows_belong_to_the_embedding_or_to_modules_by_name() {
        let rows = |settings: Value, name: &str| config(settings).trained_rows(name).map(<[usize]>::to_vec);
        assert_eq!(rows(json!({}), "model.embed_tokens"), None);
        assert_eq!(rows(json!({"trainable_token_indices": [3, 9]}), "transformer.wte"), Some(vec![3, 9]));
        let by_name = || json!({"trainable_token_indices": {"embed_tokens": [1], "lm_head": [2, 4]}});
        assert_eq!(rows(by_name(), "model.embed_tokens"), Some(vec![1]));
        assert_eq!(rows(by_name(), "lm_head"), Some(vec![2, 4]));
        assert_eq!(rows(by_name(), "transformer.wte"), None);
    }
}
