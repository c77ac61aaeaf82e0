//! The JSON schema of recipes, made from the comments and attributes of their structs: what is checked, documented and
//! completed is read from it.
//!
//! Beside the words of JSON Schema a key has `x-unit`, `x-default` (where the default follows from something else),
//! `x-range` (where bounds alone do not say it) and `x-type`.

use std::sync::LazyLock;

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use serde_json::{Map, Value, json};

use super::Recipe;
use super::node::TAG;

/// The schema in the draft that editors of TOML understand, without references.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Recipe>();
    Tidy.transform(&mut schema);
    let (draft, table) = (schema.remove("$schema"), schema.to_value());
    let mut whole = json!({ "$schema": draft, "title": "A recipe of nola-train" });
    for (name, value) in table.as_object().into_iter().flatten().filter(|(name, _)| *name != "title") {
        whole[name] = value.clone();
    }
    whole
});

/// The schema of recipes.
pub fn schema() -> &'static Value {
    &SCHEMA
}

/// The schema as a file.
pub fn schema_text() -> String {
    serde_json::to_string_pretty(schema()).expect("a schema is JSON") + "\n"
}

/// Leaves out what TOML does not have, and what only Rust knows.
#[derive(Debug, Clone)]
struct Tidy;

impl Transform for Tidy {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        without_null(schema);
        let Some(object) = schema.as_object_mut() else { return };
        object.remove("format");
        shorten_default(object);
        let required = object.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        let properties = object.get_mut("properties").and_then(Value::as_object_mut);
        for (name, property) in properties.into_iter().flatten() {
            if let Some(property) = property.as_object_mut() {
                let stands_for_another =
                    required.iter().any(|key| key == name.as_str()) || property.contains_key("x-default");
                if stands_for_another {
                    property.remove("default");
                }
            }
        }
        if let Some(Value::String(text)) = object.get_mut("description") {
            *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        }
    }
}

/// Tables have the defaults of their keys; one that is chosen by a key keeps that.
fn shorten_default(object: &mut Map<String, Value>) {
    let Some(default) = object.get("default") else { return };
    let tag = default.get(TAG).cloned();
    if default.is_null() || default.is_object() {
        object.remove("default");
    }
    if let Some(tag) = tag {
        object.insert("default".to_owned(), json!({ TAG: tag }));
    }
}

/// An absent key is no `null` in TOML.
fn without_null(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else { return };
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = &types[..] {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    for key in ["anyOf", "oneOf"] {
        let Some(Value::Array(choices)) = object.get_mut(key) else { continue };
        choices.retain(|choice| choice["type"] != "null");
        if let [Value::Object(only)] = &choices[..] {
            let only = only.clone();
            object.remove(key);
            for (name, value) in only {
                object.entry(name).or_insert(value);
            }
        }
    }
}
