//! The settings of an adapter as the folder has them: under the name of their kind, with PEFT's names where there are any.

use serde_json::{Map, Value};

use crate::adapter::AdapterConfig;
use crate::folder::peft;
use crate::plain_words::plain_words;

/// Our name of a setting, and the folder's.
const NAMES: [(&str, &str); 2] = [("rank", "r"), ("alpha", "lora_alpha")];
/// In decimal digits: JSON readers round large numbers.
const SEED: &str = "seed";
/// The key of a recipe that says which adapter it is; the folder says it by `peft_type`.
const KIND: &str = "kind";

/// Settings as they are written; every one is filled in.
pub(super) fn written(config: &AdapterConfig) -> Map<String, Value> {
    let mut config = config.clone();
    config.method_mut().resolve();
    let settings = serde_json::to_value(&config).unwrap_or_default();
    let settings = settings.as_object().into_iter().flatten().filter(|(name, _)| *name != KIND);
    let written = settings.map(|(name, value)| match name.as_str() {
        SEED => (name.clone(), Value::String(value.to_string())),
        name => (
            NAMES.iter().find(|(ours, _)| *ours == name).map_or(name, |(_, theirs)| theirs).into(),
            value.clone(),
        ),
    });
    written.collect()
}

/// The adapter of `kind` with settings from a folder.
///
/// # Errors
/// What is wrong with them, in words.
pub(super) fn read(kind: &str, settings: &Map<String, Value>) -> Result<AdapterConfig, String> {
    let mut read = Map::from_iter([(KIND.to_owned(), Value::from(kind))]);
    for (name, value) in settings {
        let (name, value) = match (name.as_str(), value) {
            (SEED, Value::String(digits)) => (SEED, digits.parse::<u64>().map_or(value.clone(), Value::from)),
            (name, value) => (
                NAMES.iter().find(|(_, theirs)| *theirs == name).map_or(name, |(ours, _)| ours),
                value.clone(),
            ),
        };
        read.insert(name.to_owned(), value);
    }
    serde_json::from_value(read.into()).map_err(|error| {
        let problem = in_the_folders_names(&plain_words(&error.to_string()));
        format!("`{}`: {problem}", key_of(kind))
    })
}

/// A message that names settings as we do, with the names that the folder has for them.
pub(super) fn in_the_folders_names(message: &str) -> String {
    let renamed = |text: String, (ours, theirs): &(&str, &str)| {
        text.replace(&format!("`{ours}`"), &format!("`{theirs}`"))
    };
    NAMES.iter().fold(message.to_owned(), renamed)
}

/// The settings that a folder holds, each written as this program writes it: 2 as 2.0, where it is no whole number.
///
/// # Errors
/// As [`read`].
pub(super) fn normal(kind: &str, settings: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let written = written(&read(kind, settings)?);
    let same = |(name, value): (&String, &Value)| (name.clone(), written.get(name).unwrap_or(value).clone());
    Ok(settings.iter().map(same).collect())
}

/// The key that holds the settings of `kind`.
pub(super) fn key_of(kind: &str) -> String {
    kind.replace('-', "_")
}

/// The value of `peft_type` for `kind`: none that PEFT would take for a folder of its own.
pub(super) fn peft_type_of(kind: &str) -> String {
    let name = key_of(kind).to_uppercase();
    if peft::TYPES.contains(&name.as_str()) { format!("NATIVE_{name}") } else { name }
}

/// The kind that a value of `peft_type` stands for.
pub(super) fn kind_of(peft_type: &str) -> Option<&'static str> {
    AdapterConfig::KINDS.iter().copied().find(|kind| peft_type_of(kind) == peft_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_adapter_comes_back_from_its_settings() {
        for mut config in AdapterConfig::every() {
            config.method_mut().set_seed(u64::MAX);
            config.method_mut().resolve();
            assert_eq!(read(config.kind(), &written(&config)), Ok(config));
        }
    }

    #[test]
    fn a_setting_of_another_type_is_told_in_plain_words() {
        let mut settings = written(&AdapterConfig::default());
        settings["k"] = "many".into();
        let problem = read("nola", &settings).expect_err("it is refused");
        assert_eq!(problem, "`nola`: it is the text \"many\", expected a whole number");
    }

    #[test]
    fn a_setting_that_does_not_exist_is_told_beside_those_of_the_folder() {
        for config in AdapterConfig::every() {
            let mut settings = written(&config);
            settings.insert("r_alpha".to_owned(), 1.into());
            let problem = read(config.kind(), &settings).expect_err("no such setting");
            assert!(problem.contains("unknown field `r_alpha`"), "{problem}");
            for name in ["kind", "rank", "alpha"] {
                assert!(!problem.contains(&format!("`{name}`")), "{}: {problem}", config.kind());
            }
        }
    }

    #[test]
    fn every_adapter_has_a_name_in_folders() {
        for kind in AdapterConfig::KINDS {
            assert_eq!(kind_of(&peft_type_of(kind)), Some(*kind));
        }
    }
}
