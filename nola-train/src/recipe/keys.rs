//! Every key of a recipe, as the schema describes it.

use serde::Serialize;

use super::node::{Kind, Node, TAG};
use super::schema::schema;

/// A table of a recipe and its keys.
#[derive(Debug, Clone, Serialize)]
pub struct Section {
    /// Where it stands, such as `data.text`.
    pub path: String,
    /// The value of `kind` that it is for, if its keys depend on one.
    pub kind: Option<String>,
    /// What it is for.
    pub effect: String,
    /// Its keys, without the tables in it.
    pub keys: Vec<Key>,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Key {
    /// The whole key, such as `train.warmup`.
    pub path: String,
    /// What it does.
    pub effect: String,
    /// What can be written, in words.
    pub type_name: String,
    /// What is counted or measured.
    pub unit: Option<String>,
    /// What holds without it.
    pub default: KeyDefault,
    /// The values that are accepted, in words; absent where the type says it all.
    pub range: Option<String>,
    /// A value, as a recipe writes it.
    pub example: String,
    /// The texts it can be, each with what it means.
    pub choices: Vec<(String, String)>,
}

/// What holds without a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyDefault {
    /// This value, as a recipe writes it.
    Value(String),
    /// What these words say.
    Words(String),
    /// The key must be given.
    Required,
}

impl Key {
    fn new(path: String, node: Node, is_required: bool) -> Self {
        let default = match (node.default_words(), node.default()) {
            _ if is_required => KeyDefault::Required,
            (Some(words), _) => KeyDefault::Words(words.to_owned()),
            (None, Some(value)) => KeyDefault::Value(value),
            (None, None) => KeyDefault::Words("none".to_owned()),
        };
        let choices = node.choices().into_iter().map(|(name, meaning)| (name.to_owned(), meaning.to_owned()));
        Self {
            path,
            effect: node.effect().to_owned(),
            type_name: node.type_name(),
            unit: node.unit().map(str::to_owned),
            default,
            range: node.range(),
            example: node.example().unwrap_or_default(),
            choices: choices.collect(),
        }
    }

    /// Its last part.
    pub fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or(&self.path)
    }
}

/// Every section, in the order of the structs.
pub fn sections() -> Vec<Section> {
    let mut sections = Vec::new();
    collect(String::new(), None, Node::new(schema()), &mut sections);
    sections.retain(|section| !section.keys.is_empty());
    sections
}

/// The whole keys, such as `train.steps`, whose last part is `name`; with the kind they are for.
pub(super) fn named(name: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for section in sections() {
        for key in section.keys.iter().filter(|key| key.name() == name) {
            let text = match &section.kind {
                Some(kind) => format!("`{}` (with {TAG} = \"{kind}\")", key.path),
                None => format!("`{}`", key.path),
            };
            found.push(text);
        }
    }
    found
}

/// The keys that a method has, without the tables around them; none if there is no such method.
pub(super) fn of_method(kind: &str) -> Option<Vec<String>> {
    let method = Node::new(schema()).key("method")?;
    let (_, variant) = method.variants().find(|(name, _)| *name == kind)?;
    Some(variant.keys().map(|(name, _)| name.to_owned()).collect())
}

/// A key in a table.
pub(super) fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn collect(path: String, kind: Option<&str>, node: Node, sections: &mut Vec<Section>) {
    let at = sections.len();
    let mut keys = Vec::new();
    for (name, key) in node.keys() {
        let path = joined(&path, name);
        match key.kind() {
            Kind::Table => collect(path, kind, key, sections),
            Kind::Tagged => collect_tagged(path, key, sections),
            // It stands in the section before, with all that it can be.
            _ if kind.is_some() && name == TAG => {}
            Kind::Map
            | Kind::Whole
            | Kind::Number
            | Kind::Flag
            | Kind::Text
            | Kind::Choice
            | Kind::List
            | Kind::Either => {
                keys.push(Key::new(path, key, node.requires(name)));
            }
        }
    }
    let (kind, effect) = (kind.map(str::to_owned), node.effect().to_owned());
    sections.insert(at, Section { path, kind, effect, keys });
}

fn collect_tagged(path: String, node: Node, sections: &mut Vec<Section>) {
    let variants: Vec<(&str, Node)> = node.variants().collect();
    let name = |(name, _): &(&str, Node)| format!("\"{name}\"");
    let choices = variants.iter().map(|(name, variant)| ((*name).to_owned(), variant.effect().to_owned()));
    let key = Key {
        path: joined(&path, TAG),
        effect: node.effect().to_owned(),
        type_name: super::node::either(variants.iter().map(name)),
        unit: None,
        default: KeyDefault::Value(node.default_tag().unwrap_or_default()),
        range: None,
        example: format!("\"{}\"", variants[variants.len() / 2].0),
        choices: choices.collect(),
    };
    sections.push(Section {
        path: path.clone(),
        kind: None,
        effect: node.effect().to_owned(),
        keys: vec![key],
    });
    for (name, variant) in variants {
        collect(path.clone(), Some(name), variant, sections);
    }
}
