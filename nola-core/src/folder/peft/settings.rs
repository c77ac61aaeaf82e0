//! What of `adapter_config.json` decides the weights, kept beside the tensors so that a later edit is noticed.
//!
//! Folders that PEFT wrote have nothing to compare with and are read as they are.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::OurMetadata;
use crate::Error;
use crate::folder::edited::changed_setting;
use crate::plain_words::plain_words;

/// Keys that decide what the tensors mean; a key that is absent is the same as null.
const DECIDING: [&str; 20] = [
    "alora_invocation_tokens",
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "fan_in_fan_out",
    "init_lora_weights",
    "layer_replication",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_bias",
    "modules_to_save",
    "peft_type",
    "projection_prng_key",
    "r",
    "rank_pattern",
    "target_modules",
    "trainable_token_indices",
    "use_dora",
    "use_rslora",
];

/// The deciding settings of a configuration.
pub(super) fn of(config: &Value) -> BTreeMap<String, Value> {
    let value = |key: &&str| config.get(*key).filter(|value| !is_nothing(value)).cloned();
    DECIDING.iter().filter_map(|key| Some(((*key).to_owned(), value(key)?))).collect()
}

/// Refuses the configuration `text` of `file` if it is not the one that `ours` was written with.
pub(super) fn check(file: &Path, text: &[u8], ours: Option<&OurMetadata>) -> Result<(), Error> {
    let Some(ours) = ours else { return Ok(()) };
    let invalid = |problems| Error::Invalid { file: file.to_owned(), problems };
    let config =
        serde_json::from_slice(text).map_err(|error| invalid(vec![plain_words(&error.to_string())]))?;
    let problems = changed(&ours.settings, &config);
    if problems.is_empty() { Ok(()) } else { Err(invalid(problems)) }
}

/// One text for every setting of `config` that is not what was written; none if nothing is known of that.
fn changed(written: &BTreeMap<String, Value>, config: &Value) -> Vec<String> {
    if written.is_empty() {
        return Vec::new();
    }
    let found = of(config);
    let differs = |key: &&&str| !is_same(written.get(**key), found.get(**key));
    let text = |key: &&str| found.get(*key).map_or("absent".to_owned(), Value::to_string);
    DECIDING.iter().filter(differs).map(|key| changed_setting(key, &text(key))).collect()
}

/// What says no more than that a key is absent.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(inside) => inside.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) | Value::Array(_) => false,
    }
}

/// Whether two values mean the same: 2 and 2.0 do.
fn is_same(left: Option<&Value>, right: Option<&Value>) -> bool {
    match (left, right) {
        (Some(Value::Number(left)), Some(Value::Number(right))) => left.as_f64() == right.as_f64(),
        (left, right) => left == right,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config() -> Value {
        json!({
            "peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": false, "bias": "none",
            "target_modules": ["a.q", "a.v"], "rank_pattern": {}, "alpha_pattern": {"^a": 3.5},
            "base_model_name_or_path": "base", "inference_mode": true, "modules_to_save": null,
        })
    }

    #[test]
    fn every_deciding_setting_that_was_edited_is_named() {
        let edits = [
            ("r", json!(2)),
            ("lora_alpha", json!(16)),
            ("lora_alpha", json!(8.5)),
            ("use_rslora", json!(true)),
            ("use_dora", json!(true)),
            ("bias", json!("all")),
            ("target_modules", json!(["a.q"])),
            ("exclude_modules", json!(["a.v"])),
            ("rank_pattern", json!({"a.q": 2})),
            ("alpha_pattern", json!({})),
            ("layers_to_transform", json!([0])),
            ("modules_to_save", json!(["head"])),
            ("init_lora_weights", json!("pissa")),
        ];
        for (key, value) in edits {
            let mut edited = config();
            edited[key] = value;
            let problems = changed(&of(&config()), &edited);
            assert!(
                problems.len() == 1 && problems[0].starts_with(&format!("`{key}` is ")),
                "{key}: {problems:?}"
            );
        }
    }

    #[test]
    fn what_decides_nothing_may_be_edited() {
        let edits = [
            ("base_model_name_or_path", json!("elsewhere")),
            ("inference_mode", json!(false)),
            ("lora_alpha", json!(8.0)),
            ("use_dora", json!(false)),
            ("exclude_modules", Value::Null),
            ("peft_version", json!("0.21.2")),
        ];
        for (key, value) in edits {
            let mut edited = config();
            edited[key] = value;
            assert_eq!(changed(&of(&config()), &edited), Vec::<String>::new(), "{key}");
        }
    }

    #[test]
    fn a_folder_without_written_settings_is_read_as_it_is() {
        assert!(changed(&BTreeMap::new(), &config()).is_empty());
    }
}
