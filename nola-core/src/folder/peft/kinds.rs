//! What PEFT's settings can ask for beyond a LoRA of the unchanged base, refused by the key.

use std::path::Path;

use serde_json::Value;

use super::TYPES;
use crate::Error;
use crate::adapter::Start;
use crate::foreign_json;

/// How an adapter that is not read becomes a model that is.
const MERGED: &str =
    "LORA and VERA; merge the adapter into its base with PEFT (`merge_and_unload`) and use that model";

/// Keys that change what is computed when they are set, and what is read instead.
///
/// Not among them: what acts in training alone (`velora_config`, `monteclora_config`, `lora_dropout`), what only tells
/// how numbers lie in memory (`fan_in_fan_out`, `megatron_config`), and what belongs to an initialisation.
const REFUSED: [(&str, &str); 8] = [
    (
        "lora_bias",
        "adapters without a bias on B; merge the adapter into its base with PEFT (`merge_and_unload`)",
    ),
    (
        "layer_replication",
        "adapters of a base that keeps its layers; merge it with PEFT (`merge_and_unload`)",
    ),
    ("alora_invocation_tokens", "adapters that act on every token; train it again without this key"),
    ("use_qalora", "adapters that take every input of a layer; merge it with PEFT (`merge_and_unload`)"),
    ("use_bdlora", "adapters with whole factors; merge it with PEFT (`merge_and_unload`)"),
    ("arrow_config", "single adapters; give the adapters that it chooses from one by one"),
    ("kasa_config", "adapters of the unchanged base; merge it with PEFT (`merge_and_unload`)"),
    ("target_parameters", "adapters of modules (`target_modules`); merge it with PEFT (`merge_and_unload`)"),
];

/// Flags of the form `use_…` that are read.
const KNOWN_USES: [&str; 2] = ["use_rslora", "use_dora"];

/// Initialisations that leave the base as it is.
const OF_UNCHANGED_BASE: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

/// Initialisations that change the base by what only the trainer knew, and that PEFT can convert.
const CONVERTIBLE: [&str; 2] = ["corda", "lora_ga"];

/// What PEFT took out of the base before it trained, by `init_lora_weights`; nothing if it left the base as it is.
pub(super) fn start(init: &Value) -> Option<Start> {
    let name = init.as_str()?.to_lowercase();
    let iterations = name.strip_prefix("pissa_niter_").map(str::parse::<usize>);
    match name.as_str() {
        "olora" => Some(Start::Qr),
        "pissa" => Some(Start::Svd),
        _ if matches!(iterations, Some(Ok(_))) => Some(Start::Svd),
        _ => None,
    }
}

/// Whether the settings in `file` are those of an adapter that this program computes.
pub(super) fn check(file: &Path, settings: &Value) -> Result<(), Error> {
    let refused = |field, found: &Value, supported| {
        let found = found.as_str().map_or_else(|| foreign_json::shown(found), str::to_owned);
        Err(Error::Unsupported { file: file.to_owned(), field, found, supported })
    };
    if TYPES.iter().all(|known| settings["peft_type"] != *known) {
        return refused("peft_type", &settings["peft_type"], MERGED);
    }
    if let Some((key, supported)) = REFUSED.into_iter().find(|(key, _)| is_set(&settings[key])) {
        return refused(key, &settings[key], supported);
    }
    if let Some(supported) = changes_base(&settings["init_lora_weights"]) {
        return refused("init_lora_weights", &settings["init_lora_weights"], supported);
    }
    if start(&settings["init_lora_weights"]).is_some() && is_set(&settings["use_dora"]) {
        let supported = "this start without `use_dora`; merge the adapter into its own base with PEFT (`merge_and_unload`)";
        return refused("init_lora_weights", &settings["init_lora_weights"], supported);
    }
    match unknown_use(settings) {
        Some((key, value)) => {
            let problem = format!(
                "`{key}` is `{value}`, which this program does not know; merge the adapter into its base with PEFT \
                 (`merge_and_unload`) and use that model"
            );
            Err(Error::Invalid { file: file.to_owned(), problems: vec![problem] })
        }
        None => Ok(()),
    }
}

/// What is read instead of an adapter with this `init_lora_weights`, if its base was changed, or may have been.
fn changes_base(init: &Value) -> Option<&'static str> {
    let name = match init {
        Value::Null | Value::Bool(_) => return None,
        Value::String(name) => name.to_lowercase(),
        Value::Number(_) | Value::Array(_) | Value::Object(_) => String::new(),
    };
    if OF_UNCHANGED_BASE.contains(&name.as_str()) || start(init).is_some() {
        return None;
    }
    if CONVERTIBLE.iter().any(|convertible| name.starts_with(convertible)) {
        return Some(
            "adapters of the unchanged base; let PEFT convert it with `path_initial_model_for_weight_conversion` of \
             `save_pretrained`",
        );
    }
    Some(
        "`true`, `false`, `gaussian`, `eva`, `orthogonal` and `mica`, which leave the base as it is, and `olora`, `pissa` and \
         `pissa_niter_` with a number; merge the adapter into its own base with PEFT (`merge_and_unload`) and use that model",
    )
}

/// A flag of a later PEFT that is set: it would change what is computed.
fn unknown_use(settings: &Value) -> Option<(&String, &Value)> {
    let is_unknown = |key: &str| key.starts_with("use_") && !KNOWN_USES.contains(&key);
    settings.as_object()?.iter().find(|(key, value)| is_unknown(key) && is_set(value))
}

/// Whether Python takes a setting for true.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(key: &str, value: Value) -> Result<(), String> {
        let mut settings = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8});
        settings[key] = value;
        check(Path::new("adapter_config.json"), &settings).map_err(|error| error.to_string())
    }

    #[test]
    fn what_leaves_the_base_as_it_is_is_read() {
        for init in [json!(true), json!(false), json!(null)] {
            assert_eq!(checked("init_lora_weights", init), Ok(()));
        }
        for init in ["gaussian", "Gaussian", "eva", "orthogonal", "mica"] {
            assert_eq!(checked("init_lora_weights", json!(init)), Ok(()), "{init}");
        }
    }

    #[test]
    fn what_is_taken_out_of_the_base_again_is_read() {
        for init in ["pissa", "pissa_niter_16", "olora", "OLoRA"] {
            assert_eq!(checked("init_lora_weights", json!(init)), Ok(()), "{init}");
            let settings = json!({"peft_type": "LORA", "init_lora_weights": init, "use_dora": true});
            let refused = check(Path::new("adapter_config.json"), &settings).expect_err("both").to_string();
            assert!(refused.contains(&format!("`init_lora_weights` is `{init}`")), "{refused}");
        }
    }

    #[test]
    fn what_changes_the_base_is_refused_with_a_cure() {
        for init in ["corda", "lora_ga"] {
            let error = checked("init_lora_weights", json!(init)).expect_err(init);
            assert!(error.contains(&format!("`init_lora_weights` is `{init}`")), "{error}");
            assert!(error.contains("path_initial_model_for_weight_conversion"), "{error}");
        }
        for init in ["loftq", "some_later_init", "true", "pissa_niter_many", "pissa_next"] {
            let error = checked("init_lora_weights", json!(init)).expect_err(init);
            assert!(error.contains("`init_lora_weights`") && error.contains("merge_and_unload"), "{error}");
        }
    }

    #[test]
    fn a_setting_that_changes_what_is_computed_is_refused_by_its_key() {
        let settings = [
            ("lora_bias", json!(true)),
            ("layer_replication", json!([[0, 4]])),
            ("alora_invocation_tokens", json!([5])),
            ("use_qalora", json!(true)),
            ("use_bdlora", json!({"nblocks": 2})),
            ("arrow_config", json!({"top_k": 3})),
            ("kasa_config", json!({"beta": 0.1})),
            ("target_parameters", json!(["experts.gate_up_proj"])),
            ("use_something_new", json!(true)),
        ];
        for (key, value) in settings {
            let error = checked(key, value.clone()).expect_err(key);
            assert!(error.contains(&format!("`{key}` is `{value}`")), "{error}");
        }
    }

    #[test]
    fn a_setting_that_is_off_is_no_reason_to_refuse() {
        for key in ["use_dora", "lora_bias", "use_qalora", "use_bdlora", "use_something_new"] {
            assert_eq!(checked(key, json!(false)), Ok(()), "{key}");
            assert_eq!(checked(key, json!(null)), Ok(()), "{key}");
        }
        for key in ["layer_replication", "alora_invocation_tokens", "target_parameters"] {
            assert_eq!(checked(key, json!([])), Ok(()), "{key}");
        }
    }

    #[test]
    fn what_acts_in_training_alone_is_read() {
        for (key, value) in [
            ("lora_dropout", json!(0.1)),
            ("velora_config", json!({"num_groups": 4})),
            ("monteclora_config", json!({"num_samples": 8})),
            ("eva_config", json!({"rho": 2.0})),
            ("loftq_config", json!({"loftq_bits": 4})),
            ("fan_in_fan_out", json!(true)),
            ("use_rslora", json!(true)),
        ] {
            assert_eq!(checked(key, value), Ok(()), "{key}");
        }
    }

    #[test]
    fn another_method_is_refused_by_its_name_with_the_cure() {
        for kind in ["IA3", "LOHA", "LOKR", "RANDLORA", "ADALORA", "TRAINABLE_TOKENS"] {
            let error = checked("peft_type", json!(kind)).expect_err(kind);
            assert!(error.contains(&format!("`peft_type` is `{kind}`")), "{error}");
            assert!(error.contains("merge_and_unload"), "{error}");
        }
    }
}
