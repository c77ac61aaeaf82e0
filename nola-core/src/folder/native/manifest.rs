//! `adapter_config.json` of the native format, and the check of its settings.

use std::path::Path;

use burn::module::Module;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::leaves::is_beside;
use super::{invalid, settings, sites_sha256};
use crate::Error;
use crate::adapted::{Adapted, TrainedState};
use crate::adapter::AdapterConfig;
use crate::basis::GENERATOR;
use crate::folder::edited::changed_setting;
use crate::folder::{BaseIdentity, CoefficientBits, Description, files, peft};
use crate::targets::{Pattern, Targets};
use crate::weight::Quantization;

/// Version of the folder's layout. Older ones are still read: version 1 had no `settings_check` and no
/// `base_tensors_sha256`, version 2 no `data`, and version 3 knew neither ragged coefficients nor kinds but NOLA and the head alone.
pub const FORMAT_VERSION: u32 = 4;

const OLDEST_VERSION: u32 = 1;
/// What stands for the key that is named after the adapter's kind.
const ADAPTER: &str = "adapter";
/// `peft_type` of a folder that holds a trained head alone.
pub(super) const PROBE: &str = "LINEAR_PROBE";
/// Hexadecimal digits that guard one setting: enough for a slip of the hand, which is all that can be told from here.
const CHECK_DIGITS: usize = 8;
/// Keys that decide nothing (the name of the base), or are hashes of something else.
const UNCHECKED: [&str; 3] = ["base_model_name_or_path", "model_sha256", "settings_check"];

/// `adapter_config.json`; [`Manifest::to_json`] and [`Manifest::from_json`] are how it is written and read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The kind of the adapter, such as `NOLA`, or `LINEAR_PROBE` for a trained head alone.
    pub peft_type: String,
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// See [`GENERATOR`].
    pub generator: String,
    /// Name of the base.
    pub base_model_name_or_path: String,
    /// SHA-256 of the base's `config.json`.
    pub base_config_sha256: String,
    /// SHA-256 over sampled bytes of the base's tensors.
    pub base_weights_sha256: String,
    /// SHA-256 over all bytes of the base's tensors; version 1 had none, and a base that was drawn has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_tensors_sha256: Option<String>,
    /// How the base's linear layers were quantised; absent if they were not, and in version 3 and before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_quantization: Option<Quantization>,
    /// Settings of the adapter, which stand under the name of its kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    adapter: Option<Map<String, Value>>,
    /// Chosen layers.
    pub target_modules: Pattern,
    /// Layers left out of them.
    pub exclude_modules: Pattern,
    /// Blocks to adapt; empty for all.
    pub layers_to_transform: Vec<usize>,
    /// Number of sites.
    pub sites: usize,
    /// SHA-256 of the ordered list of sites and their shapes.
    pub sites_sha256: String,
    /// Bits per stored coefficient.
    pub coefficient_bits: CoefficientBits,
    /// Parameters that were trained beside the adapters.
    pub modules_to_save: Vec<String>,
    /// Names of the classes, if the head is new.
    pub labels: Vec<String>,
    /// How the samples were written; see [`Description::data`].
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub data: Value,
    /// SHA-256 of `adapter_model.safetensors`.
    pub model_sha256: String,
    /// The first digits of the SHA-256 of every setting above; version 1 had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings_check: Option<String>,
}

impl Manifest {
    /// Settings of the adapters; none for a linear probe, or where they cannot be read.
    pub(in crate::folder) fn config(&self) -> Option<AdapterConfig> {
        settings::read(settings::kind_of(&self.peft_type)?, self.adapter.as_ref()?).ok()
    }

    /// The file's content.
    pub fn to_json(&self) -> Value {
        let Ok(Value::Object(written)) = serde_json::to_value(self) else { return Value::Null };
        let key = settings::kind_of(&self.peft_type).map_or(ADAPTER.to_owned(), settings::key_of);
        written
            .into_iter()
            .map(|(name, value)| (if name == ADAPTER { key.clone() } else { name }, value))
            .collect()
    }

    /// What a file says.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn from_json(value: Value) -> Result<Self, String> {
        let kind = value["peft_type"].as_str().and_then(settings::kind_of);
        let key = kind.map(settings::key_of);
        let Value::Object(read) = value else { return Err("this is no table of keys".to_owned()) };
        if read.contains_key(ADAPTER) {
            return Err(format!("unknown field `{ADAPTER}`"));
        }
        let rename = |(name, value): (String, Value)| {
            (if Some(&name) == key.as_ref() { ADAPTER.to_owned() } else { name }, value)
        };
        let read: Value = read.into_iter().map(rename).collect();
        let mut manifest: Self = serde_json::from_value(read).map_err(|error| error.to_string())?;
        match (kind, &mut manifest.adapter) {
            (Some(kind), Some(found)) => *found = settings::normal(kind, found)?,
            (Some(kind), None) => return Err(format!("`{}` must hold the settings", settings::key_of(kind))),
            (None, _) => {}
        }
        Ok(manifest)
    }

    /// The base it was trained on.
    pub fn base(&self) -> BaseIdentity {
        BaseIdentity {
            name: self.base_model_name_or_path.clone(),
            config_sha256: self.base_config_sha256.clone(),
            weights_sha256: self.base_weights_sha256.clone(),
            tensors_sha256: self.base_tensors_sha256.clone(),
            quantization: self.base_quantization,
        }
    }

    pub(in crate::folder) fn targets(&self) -> Targets {
        Targets {
            modules: self.target_modules.clone(),
            exclude: self.exclude_modules.clone(),
            layers: self.layers_to_transform.clone(),
        }
    }

    /// Every setting that decides what the adapter computes, with its value as JSON.
    fn settings(&self) -> Vec<(String, String)> {
        let value = self.to_json();
        let mut settings = Vec::new();
        for (key, value) in value.as_object().into_iter().flatten() {
            match value {
                _ if UNCHECKED.contains(&key.as_str()) => {}
                Value::Object(inside) => {
                    settings.extend(inside.iter().map(|(inner, v)| (format!("{key}.{inner}"), canonical(v))));
                }
                value => settings.push((key.clone(), value.to_string())),
            }
        }
        settings
    }

    /// One text for every setting that is another one in `other`.
    pub fn settings_unlike(&self, other: &Self) -> Vec<String> {
        let others = other.settings();
        let changed = self.settings().into_iter().filter(|setting| !others.contains(setting));
        changed.map(|(key, value)| changed_setting(&key, &value)).collect()
    }

    /// What `settings_check` has to be.
    fn check_of_settings(&self) -> String {
        let digits =
            |(key, value)| files::sha256_hex(format!("{key}={value}").as_bytes())[..CHECK_DIGITS].to_owned();
        self.settings().into_iter().map(digits).collect()
    }

    /// One text for every setting that is not what was written, as far as the folder can tell.
    fn changed_settings(&self) -> Vec<String> {
        let Some(stored) = &self.settings_check else { return Vec::new() };
        let (settings, expected) = (self.settings(), self.check_of_settings());
        if stored.len() != expected.len() || !stored.is_ascii() {
            return vec![
                "`settings_check` is for another number of settings; restore the file from its source"
                    .to_owned(),
            ];
        }
        let differs = |index: usize| {
            let digits = index * CHECK_DIGITS..(index + 1) * CHECK_DIGITS;
            stored[digits.clone()] != expected[digits]
        };
        let changed = settings.into_iter().enumerate().filter(|(index, _)| differs(*index));
        changed.map(|(_, (key, value))| changed_setting(&key, &value)).collect()
    }
}

/// A value as text, whatever the order of its keys.
fn canonical(value: &Value) -> String {
    let mut value = value.clone();
    value.sort_all_objects();
    value.to_string()
}

/// The configuration of `adapted`, whose weights file is `weights`.
pub(super) fn written_manifest<M: Module>(
    adapted: &Adapted<M>,
    state: &TrainedState,
    description: &Description,
    bits: CoefficientBits,
    weights: &[u8],
) -> Manifest {
    let targets = adapted.targets();
    let mut manifest = Manifest {
        peft_type: adapted.config().map_or(PROBE.to_owned(), |config| settings::peft_type_of(config.kind())),
        format_version: FORMAT_VERSION,
        generator: GENERATOR.to_owned(),
        base_model_name_or_path: description.base.name.clone(),
        base_config_sha256: description.base.config_sha256.clone(),
        base_weights_sha256: description.base.weights_sha256.clone(),
        base_tensors_sha256: description.base.tensors_sha256.clone(),
        base_quantization: description.base.quantization,
        adapter: adapted.config().map(settings::written),
        target_modules: targets.modules.clone(),
        exclude_modules: targets.exclude.clone(),
        layers_to_transform: targets.layers.clone(),
        sites: adapted.sites().len(),
        sites_sha256: sites_sha256(adapted.sites()),
        coefficient_bits: bits,
        modules_to_save: state.keys().filter(|name| is_beside(adapted, name)).cloned().collect(),
        labels: description.labels.clone(),
        data: description.data.clone(),
        model_sha256: files::sha256_hex(weights),
        settings_check: None,
    };
    manifest.settings_check = Some(manifest.check_of_settings());
    manifest
}

/// Reads the configuration; its settings must be those that were written.
pub(super) fn read_manifest(file: &Path) -> Result<Manifest, Error> {
    let value: serde_json::Value =
        serde_json::from_slice(&files::read_config(file)?).map_err(|error| invalid(file, error))?;
    let text = |key: &str| value.get(key).map_or("absent".to_owned(), |v| v.to_string().replace('"', ""));
    let unsupported = |field, supported| {
        Err(Error::Unsupported { file: file.to_owned(), field, found: text(field), supported })
    };
    match text("peft_type").as_str() {
        PROBE => {}
        found if peft::TYPES.contains(&found) => {
            return unsupported("peft_type", "PEFT's own kinds through its reader; use `folder::peft::read`");
        }
        found if settings::kind_of(found).is_some() => {}
        _ => {
            return unsupported(
                "peft_type",
                "adapters of its own, LORA and VERA; PEFT can merge others into their base (`merge_and_unload`)",
            );
        }
    }
    let is_known = |version: u32| text("format_version") == version.to_string();
    if !(OLDEST_VERSION..=FORMAT_VERSION).any(is_known) {
        return unsupported("format_version", "versions 1 to 4; update nola-train for newer ones");
    }
    if text("generator") != GENERATOR {
        return unsupported("generator", GENERATOR);
    }
    let manifest = Manifest::from_json(value).map_err(|problem| invalid(file, problem))?;
    check_settings(file, &manifest)?;
    if let Some(config) = manifest.config() {
        let wrong = |error: Error| invalid(file, settings::in_the_folders_names(&error.to_string()));
        config.method().check().map_err(wrong)?;
    }
    Ok(manifest)
}

/// The settings must be those that were written; version 1 cannot tell.
fn check_settings(file: &Path, manifest: &Manifest) -> Result<(), Error> {
    let mut problems = manifest.changed_settings();
    if manifest.format_version > OLDEST_VERSION && manifest.settings_check.is_none() {
        problems.push("`settings_check` is missing; restore the file from its source".to_owned());
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Invalid { file: file.to_owned(), problems }) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn unchecked() -> Value {
        json!({
            "peft_type": "NOLA", "format_version": 1, "generator": GENERATOR, "base_model_name_or_path": "base",
            "base_config_sha256": "c", "base_weights_sha256": "w",
            "nola": {
                "r": 2, "k": 32, "l": 16, "lora_alpha": 2.0, "preset": "default", "basis": "uniform",
                "sharing": "separate", "seed": "18446744073709551615",
            },
            "target_modules": "all-linear", "exclude_modules": ["head"], "layers_to_transform": [], "sites": 36,
            "sites_sha256": "s", "data": {"format": "text", "max_tokens": 64}, "coefficient_bits": 8, "modules_to_save": ["head.bias"], "labels": ["a", "b"],
            "model_sha256": "m",
        })
    }

    fn checked() -> Value {
        let mut manifest = Manifest::from_json(unchecked()).expect("every key is known");
        manifest.format_version = FORMAT_VERSION;
        manifest.settings_check = Some(manifest.check_of_settings());
        manifest.to_json()
    }

    fn read(config: &Value) -> Result<Manifest, String> {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let file = scratch.path().join("adapter_config.json");
        std::fs::write(&file, config.to_string()).expect("a written file");
        read_manifest(&file).map_err(|error| error.to_string())
    }

    #[test]
    fn what_was_written_is_read() {
        let config = read(&checked()).expect("nothing was edited").config();
        let Some(AdapterConfig::Nola(nola)) = config else { panic!("it is NOLA") };
        assert_eq!((nola.rank, nola.seed), (2, u64::MAX));
        read(&unchecked()).expect("version 1 had no check");
    }

    #[test]
    fn every_setting_that_was_edited_is_named_with_the_cure() {
        let edits = [
            ("/nola/r", "nola.r", json!(4)),
            ("/nola/k", "nola.k", json!(33)),
            ("/nola/l", "nola.l", json!(32)),
            ("/nola/lora_alpha", "nola.lora_alpha", json!(4.0)),
            ("/nola/lora_alpha", "nola.lora_alpha", json!(2.000001)),
            ("/nola/preset", "nola.preset", json!("paper-2023")),
            ("/nola/preset", "nola.preset", json!("vit-2024")),
            ("/nola/basis", "nola.basis", json!("sign")),
            ("/nola/sharing", "nola.sharing", json!("shared")),
            ("/nola/seed", "nola.seed", json!("18446744073709551614")),
            ("/target_modules", "target_modules", json!(["query"])),
            ("/exclude_modules", "exclude_modules", json!([])),
            ("/layers_to_transform", "layers_to_transform", json!([1])),
            ("/sites", "sites", json!(35)),
            ("/sites_sha256", "sites_sha256", json!("t")),
            ("/coefficient_bits", "coefficient_bits", json!(16)),
            ("/modules_to_save", "modules_to_save", json!([])),
            ("/labels", "labels", json!(["b", "a"])),
            ("/data/format", "data.format", json!("alpaca")),
            ("/base_config_sha256", "base_config_sha256", json!("d")),
            ("/base_weights_sha256", "base_weights_sha256", json!("x")),
            ("/format_version", "format_version", json!(1)),
        ];
        for (place, key, value) in edits {
            let mut edited = checked();
            *edited.pointer_mut(place).expect("the key is there") = value;
            let error = read(&edited).expect_err("it was edited");
            assert!(
                error.contains(&format!("`{key}` is ")) && error.contains("set it back"),
                "{key}: {error}"
            );
            assert_eq!(error.matches("not what the adapter was trained with").count(), 1, "{error}");
        }
    }

    #[test]
    fn a_setting_that_was_taken_out_is_noticed() {
        let mut edited = checked();
        edited["base_tensors_sha256"] = json!("t");
        assert!(read(&edited).expect_err("one is new").contains("another number of settings"));
        edited = checked();
        edited.as_object_mut().expect("an object").remove("settings_check");
        assert!(read(&edited).expect_err("the check is gone").contains("`settings_check` is missing"));
    }

    #[test]
    fn what_decides_nothing_may_be_edited() {
        let mut edited = checked();
        edited["base_model_name_or_path"] = json!("elsewhere/base");
        read(&edited).expect("the name is for people");
        let spaced = serde_json::to_string_pretty(&checked()).expect("JSON").replace("2.0", "2");
        read(&serde_json::from_str(&spaced).expect("JSON")).expect("the same settings, written otherwise");
    }

    #[test]
    fn a_version_that_is_not_known_is_refused_by_name() {
        for version in [0, FORMAT_VERSION + 1] {
            let mut newer = checked();
            newer["format_version"] = json!(version);
            let error = read(&newer).expect_err("no such version");
            assert!(error.contains("`format_version`") && error.contains("versions 1 to 4"), "{error}");
        }
    }
}
