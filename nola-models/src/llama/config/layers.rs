//! What the layers of a model do not share: which have a sliding window, and which are not rotated.

use serde_json::{Value, json};

use super::LlamaConfig;
use crate::Error;
use crate::fields::Fields;
use crate::llama::family::{Family, Windows};
use crate::rope::Rotary;

/// Where in a `config.json` the kind of each layer stands.
const LAYER_TYPES: &str = "layer_types";
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// Layers whose tokens see only themselves and those just before them.
#[derive(Debug, Clone, PartialEq)]
pub struct SlidingWindow {
    /// How many tokens are seen, the one that looks included.
    pub tokens: usize,
    /// Which layers, from 0.
    pub layers: Vec<usize>,
    /// Their rotary positions; in most models those of all layers.
    pub rotary: Rotary,
}

/// The sliding window of a model of `family`, of whose layers those in `unrotated` are not rotated, and those with a window by
/// `rotary`.
pub(super) fn sliding_window(
    fields: &Fields,
    family: &Family,
    n_layers: usize,
    unrotated: &[usize],
    rotary: Rotary,
) -> Result<Option<SlidingWindow>, Error> {
    let tokens = window(fields, family)?;
    let by_rule = match (tokens, family.windows) {
        (_, Windows::Pattern { absent }) => {
            let interval = fields.number("sliding_window_pattern", absent, 1..=1 << 16)?;
            (0..n_layers).filter(|layer| !(layer + 1).is_multiple_of(interval)).collect()
        }
        (None, _) | (Some(_), Windows::Never) => Vec::new(),
        (Some(_), Windows::Everywhere) => (0..n_layers).collect(),
        (Some(_), Windows::LateLayers) => {
            (fields.number("max_window_layers", 28, 0..=1 << 16)?..n_layers).collect()
        }
        (Some(_), Windows::UnrotatedLayers) => unrotated.to_vec(),
    };
    let is_free = match family.windows {
        Windows::Never | Windows::Everywhere => false,
        Windows::LateLayers | Windows::UnrotatedLayers => tokens.is_some(),
        Windows::Pattern { .. } => true,
    };
    let layers = match layer_types(fields, n_layers)? {
        Some(listed) if is_free => listed,
        Some(listed) if listed != by_rule => {
            let expected =
                format!("`{FULL}` and `{SLIDING}` as the other fields of a `{}` say", family.model_type);
            return Err(fields.wrong(LAYER_TYPES, &expected));
        }
        Some(_) | None => by_rule,
    };
    match tokens {
        _ if layers.is_empty() => Ok(None),
        Some(tokens) => Ok(Some(SlidingWindow { tokens, layers, rotary })),
        None => Err(fields.wrong("sliding_window", "a number of tokens, for the layers that have one")),
    }
}

/// Tokens of the window, if there is one.
fn window(fields: &Fields, family: &Family) -> Result<Option<usize>, Error> {
    let is_used = match family.windows {
        Windows::Never => false,
        Windows::Everywhere | Windows::Pattern { .. } => true,
        Windows::LateLayers | Windows::UnrotatedLayers => fields.flag("use_sliding_window", false)?,
    };
    match fields.json.get("sliding_window") {
        _ if !is_used => Ok(None),
        None => Ok(family.absent.window),
        Some(Value::Null) => Ok(None),
        Some(_) => fields.number("sliding_window", 1, 1..=1 << 24).map(Some),
    }
}

/// The layers that slide by `layer_types`, if it is there.
fn layer_types(fields: &Fields, n_layers: usize) -> Result<Option<Vec<usize>>, Error> {
    let Some(value) = fields.json.get(LAYER_TYPES).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let slides = |kind: &Value| match kind.as_str() {
        Some(FULL) => Some(false),
        Some(SLIDING) => Some(true),
        Some(_) | None => None,
    };
    let kinds: Option<Vec<bool>> = value.as_array().and_then(|kinds| kinds.iter().map(slides).collect());
    let kinds = kinds.filter(|kinds| kinds.len() == n_layers).ok_or_else(|| {
        fields.wrong(LAYER_TYPES, &format!("`{FULL}` or `{SLIDING}` for each of {n_layers} layers"))
    })?;
    Ok(Some((0..n_layers).filter(|&layer| kinds[layer]).collect()))
}

/// The layers that are not rotated.
pub(super) fn unrotated(fields: &Fields, family: &Family, n_layers: usize) -> Result<Vec<usize>, Error> {
    let (field, Some(interval)) = ("no_rope_layers", family.rope_interval) else { return Ok(Vec::new()) };
    let Some(value) = fields.json.get(field).filter(|value| !value.is_null()) else {
        let interval = fields.number("no_rope_layer_interval", interval, 1..=1 << 16)?;
        return Ok((0..n_layers).filter(|layer| (layer + 1).is_multiple_of(interval)).collect());
    };
    let rotates = |value: &Value| match value.as_u64() {
        Some(0) => Some(false),
        Some(1) => Some(true),
        Some(_) | None => value.as_bool(),
    };
    let rotates: Option<Vec<bool>> = value.as_array().and_then(|layers| layers.iter().map(rotates).collect());
    let rotates = rotates
        .filter(|layers| layers.len() >= n_layers)
        .ok_or_else(|| fields.wrong(field, &format!("1 (rotated) or 0 for each of {n_layers} layers")))?;
    Ok((0..n_layers).filter(|&layer| !rotates[layer]).collect())
}

/// Writes both into a configuration.
pub(super) fn write_to(config: &LlamaConfig, json: &mut Value) {
    let window = config.sliding_window.as_ref();
    let slides = |layer: usize| window.is_some_and(|window| window.layers.contains(&layer));
    let tokens = json!(window.map(|window| window.tokens));
    let layers = || 0..config.n_layers;
    let kinds = || layers().map(|layer| if slides(layer) { SLIDING } else { FULL }).collect::<Value>();
    match config.family.windows {
        Windows::Never => {}
        Windows::Everywhere => json["sliding_window"] = tokens,
        Windows::Pattern { .. } => {
            json["sliding_window"] = tokens;
            json[LAYER_TYPES] = kinds();
        }
        Windows::LateLayers | Windows::UnrotatedLayers => {
            json["use_sliding_window"] = window.is_some().into();
            json["sliding_window"] = tokens;
            json[LAYER_TYPES] = kinds();
        }
    }
    if config.family.windows == Windows::LateLayers {
        json["max_window_layers"] = layers().find(|&layer| slides(layer)).unwrap_or(config.n_layers).into();
    }
    if config.family.rope_interval.is_some() {
        let rotates = |layer| u8::from(!config.unrotated_layers.contains(&layer));
        json["no_rope_layers"] = layers().map(rotates).collect();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::architectures::Architecture;

    fn read(json: &Value) -> Result<LlamaConfig, Error> {
        let file = Path::new("config.json");
        match Architecture::of(json, file)? {
            Architecture::Llama(family) => LlamaConfig::from_json(json, file, family),
            Architecture::Gpt2 => panic!("no LLaMA"),
        }
    }

    /// A configuration of four layers, with `more`.
    fn of(model_type: &str, more: Value) -> Value {
        let mut json = json!({"model_type": model_type, "num_hidden_layers": 4});
        for (key, value) in more.as_object().expect("an object") {
            json[key] = value.clone();
        }
        json
    }

    /// Tokens and layers of the window; none if there is none.
    fn window_of(model_type: &str, more: Value) -> Option<(usize, Vec<usize>)> {
        let config = read(&of(model_type, more)).expect("it is one");
        config.sliding_window.map(|window| (window.tokens, window.layers))
    }

    fn error(model_type: &str, more: Value) -> String {
        read(&of(model_type, more)).expect_err("it cannot be").to_string()
    }

    #[test]
    fn a_mistral_has_its_window_in_every_layer_unless_it_is_null() {
        assert_eq!(window_of("mistral", json!({"sliding_window": 5})), Some((5, vec![0, 1, 2, 3])));
        assert_eq!(window_of("mistral", json!({"sliding_window": null})), None);
        assert_eq!(window_of("mistral", json!({})), Some((4096, vec![0, 1, 2, 3])));
        assert_eq!(window_of("phi3", json!({})), None);
        assert_eq!(window_of("llama", json!({"sliding_window": 5})), None);
    }

    #[test]
    fn a_qwen_has_its_window_in_the_late_layers_if_it_is_switched_on() {
        let fields =
            |used: bool| json!({"use_sliding_window": used, "sliding_window": 5, "max_window_layers": 3});
        for model_type in ["qwen2", "qwen3"] {
            assert_eq!(window_of(model_type, fields(false)), None);
            assert_eq!(window_of(model_type, fields(true)), Some((5, vec![3])));
            let mut named = fields(true);
            named["layer_types"] = json!([SLIDING, FULL, SLIDING, FULL]);
            assert_eq!(window_of(model_type, named), Some((5, vec![0, 2])));
        }
    }

    #[test]
    fn a_gemma_3_has_its_window_in_all_but_every_sixth_layer_unless_it_says_otherwise() {
        let window = |more| window_of("gemma3_text", more);
        assert_eq!(window(json!({})), Some((4096, vec![0, 1, 2, 3])));
        let pattern = json!({"sliding_window_pattern": 2, "sliding_window": 5});
        assert_eq!(window(pattern), Some((5, vec![0, 2])));
        let named = json!({"layer_types": [FULL, FULL, SLIDING, FULL]});
        assert_eq!(window(named), Some((4096, vec![2])));
        assert_eq!(window(json!({"sliding_window_pattern": 1, "sliding_window": null})), None);
        assert_eq!(window_of("gemma2", json!({})), Some((4096, vec![0, 2])));
        assert!(error("gemma3_text", json!({"sliding_window": null})).contains("`sliding_window`"));
    }

    #[test]
    fn every_fourth_layer_of_a_smollm3_is_not_rotated_unless_a_list_says_otherwise() {
        let unrotated = |more| read(&of("smollm3", more)).expect("it is one").unrotated_layers;
        assert_eq!(unrotated(json!({})), [3]);
        assert_eq!(unrotated(json!({"no_rope_layer_interval": 2})), [1, 3]);
        assert_eq!(unrotated(json!({"no_rope_layers": [0, 1, 1, 1]})), [0]);
        let windowed = json!({"use_sliding_window": true, "sliding_window": 5});
        assert_eq!(window_of("smollm3", windowed), Some((5, vec![3])));
    }

    #[test]
    fn kinds_of_layers_that_the_other_fields_do_not_allow_are_refused() {
        let sliding = json!({"layer_types": [FULL, FULL, FULL, SLIDING]});
        for model_type in ["llama", "mistral", "qwen2", "smollm3"] {
            let message = error(model_type, sliding.clone());
            assert!(message.contains("`layer_types`") && message.contains(model_type), "{message}");
        }
    }

    #[test]
    fn a_list_of_another_length_or_kind_is_refused_by_name() {
        for (model_type, field, list) in [
            ("qwen2", "layer_types", json!([FULL])),
            ("qwen3", "layer_types", json!([FULL, FULL, FULL, "linear_attention"])),
            ("smollm3", "no_rope_layers", json!([1, 0])),
            ("smollm3", "no_rope_layers", json!([1, 0, 2, 1])),
        ] {
            let message = error(model_type, json!({field: list}));
            assert!(message.contains(&format!("`{field}`")), "{message}");
        }
        assert!(error("mistral", json!({"sliding_window": 0})).contains("`sliding_window`"));
    }

    #[test]
    fn what_is_written_is_read_back_by_its_family() {
        let on = json!({"use_sliding_window": true, "sliding_window": 5, "max_window_layers": 1});
        for (model_type, more) in [
            ("mistral", json!({"sliding_window": 5})),
            ("mistral", json!({"sliding_window": null})),
            ("phi3", json!({"sliding_window": 2047})),
            ("qwen2", on.clone()),
            ("qwen2", json!({})),
            ("qwen3", json!({"attention_bias": true})),
            ("qwen3", on.clone()),
            ("smollm3", json!({"no_rope_layers": [1, 0, 1, 0], "mlp_bias": true})),
            ("smollm3", on),
            ("gemma", json!({"head_dim": 6, "attention_bias": true})),
            ("gemma2", json!({"attn_logit_softcapping": 20.0, "final_logit_softcapping": null})),
            ("gemma3_text", json!({"sliding_window_pattern": 2, "query_pre_attn_scalar": 12})),
            (
                "gemma3_text",
                json!({"rope_local_base_freq": 5e3, "rope_scaling": {"type": "linear", "factor": 8}}),
            ),
        ] {
            let config = read(&of(model_type, more)).expect("it is one");
            assert_eq!(read(&config.to_json()).expect("our own file"), config, "{model_type}");
        }
    }
}
