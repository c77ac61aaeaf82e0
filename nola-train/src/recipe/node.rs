//! What the schema says about one key.

use serde_json::{Map, Value};

/// The key that says which of several tables one is.
pub(super) const TAG: &str = "kind";

/// A part of the schema.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node<'a>(&'a Value);

/// What can be written for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Table,
    /// A table whose other keys depend on the key [`TAG`].
    Tagged,
    /// A table whose keys the user chooses.
    Map,
    Whole,
    Number,
    Flag,
    Text,
    Choice,
    List,
    /// One of several kinds.
    Either,
}

impl<'a> Node<'a> {
    pub(super) fn new(schema: &'a Value) -> Self {
        Self(schema)
    }

    pub(super) fn kind(self) -> Kind {
        let variants = self.list("oneOf");
        if variants.first().is_some_and(|variant| variant["type"] == "object") {
            return Kind::Tagged;
        }
        if !variants.is_empty() {
            return Kind::Choice;
        }
        match self.0["type"].as_str() {
            Some("object") if self.0["additionalProperties"].is_object() => Kind::Map,
            Some("object") => Kind::Table,
            Some("integer") => Kind::Whole,
            Some("number") => Kind::Number,
            Some("boolean") => Kind::Flag,
            Some("array") => Kind::List,
            Some("string") if self.0["enum"].is_array() => Kind::Choice,
            Some("string") => Kind::Text,
            Some(_) | None => Kind::Either,
        }
    }

    /// The keys of a table, in the order of their struct.
    pub(super) fn keys(self) -> impl Iterator<Item = (&'a str, Node<'a>)> {
        let keys = self.0["properties"].as_object().into_iter().flat_map(Map::iter);
        keys.map(|(name, schema)| (name.as_str(), Node(schema)))
    }

    pub(super) fn key(self, name: &str) -> Option<Node<'a>> {
        self.0["properties"].get(name).map(Node)
    }

    /// The tables that a tagged table can be, by the tag's value.
    pub(super) fn variants(self) -> impl Iterator<Item = (&'a str, Node<'a>)> {
        let tag = |variant: Node<'a>| variant.key(TAG)?.0["const"].as_str();
        self.list("oneOf").iter().filter_map(move |variant| Some((tag(Node(variant))?, Node(variant))))
    }

    /// What a choice offers, each with what it means.
    pub(super) fn choices(self) -> Vec<(&'a str, &'a str)> {
        let named = self.list("enum").iter().filter_map(|name| Some((name.as_str()?, "")));
        let described = self.list("oneOf").iter().filter_map(|choice| {
            let name = choice["const"].as_str().or_else(|| choice["enum"][0].as_str())?;
            Some((name, choice["description"].as_str().unwrap_or_default()))
        });
        named.chain(described).collect()
    }

    /// The kinds that an [`Kind::Either`] allows.
    pub(super) fn alternatives(self) -> impl Iterator<Item = Node<'a>> {
        self.list("anyOf").iter().map(Node)
    }

    /// What each value of a list is.
    pub(super) fn items(self) -> Node<'a> {
        Node(&self.0["items"])
    }

    /// What each value of a [`Kind::Map`] is.
    pub(super) fn values(self) -> Node<'a> {
        Node(&self.0["additionalProperties"])
    }

    /// Values of a list, if their number is fixed.
    pub(super) fn length(self) -> Option<usize> {
        self.0["minItems"].as_u64().and_then(|length| length.try_into().ok())
    }

    pub(super) fn requires(self, name: &str) -> bool {
        self.list("required").iter().any(|required| required == name)
    }

    /// Whether an empty text is as good as none.
    pub(super) fn must_be_filled(self) -> bool {
        self.0["minLength"] == 1
    }

    pub(super) fn effect(self) -> &'a str {
        self.0["description"].as_str().unwrap_or_default()
    }

    pub(super) fn unit(self) -> Option<&'a str> {
        self.0["x-unit"].as_str()
    }

    /// Whether a number may be written.
    pub(super) fn allows(self, value: f64) -> bool {
        let bound = |key: &str| self.0[key].as_f64();
        let among =
            |key: &Value| key.as_array().map(|list| list.iter().any(|one| one.as_f64() == Some(value)));
        value.is_finite()
            && bound("minimum").is_none_or(|least| value >= least)
            && bound("exclusiveMinimum").is_none_or(|least| value > least)
            && bound("maximum").is_none_or(|most| value <= most)
            && bound("exclusiveMaximum").is_none_or(|most| value < most)
            && among(&self.0["enum"]).unwrap_or(true)
            && !among(&self.0["not"]["enum"]).unwrap_or(false)
    }

    /// The values that may be written, in words.
    pub(super) fn range(self) -> Option<String> {
        if let Some(range) = self.0["x-range"].as_str() {
            return Some(range.to_owned());
        }
        if self.kind() == Kind::Whole && !self.list("enum").is_empty() {
            return Some(either(self.list("enum").iter().map(Value::to_string)));
        }
        let bound = |key: &str| self.0[key].as_f64();
        let least = bound("minimum").map(|least| format!("at least {least}"));
        let least = least.or(bound("exclusiveMinimum").map(|least| format!("above {least}")));
        let most = bound("maximum").map(|most| format!("at most {most}"));
        let most = most.or(bound("exclusiveMaximum").map(|most| format!("below {most}")));
        if let (Some(least), Some(most)) = (bound("minimum"), bound("maximum")) {
            return Some(format!("{least} to {most}"));
        }
        match (least, most) {
            (Some(least), Some(most)) => Some(format!("{least} and {most}")),
            (least, most) => least.or(most),
        }
    }

    /// The default as a recipe writes it.
    pub(super) fn default(self) -> Option<String> {
        self.0.get("default").map(as_toml)
    }

    /// The default where it follows from something else.
    pub(super) fn default_words(self) -> Option<&'a str> {
        self.0["x-default"].as_str()
    }

    /// Which of its variants a tagged table is by default.
    pub(super) fn default_tag(self) -> Option<String> {
        self.0["default"][TAG].as_str().map(|kind| format!("\"{kind}\""))
    }

    /// A value, as a recipe writes it.
    pub(super) fn example(self) -> Option<String> {
        self.0["examples"].get(0).map(as_toml)
    }

    /// What can be written, in words.
    pub(super) fn type_name(self) -> String {
        if let Some(name) = self.0["x-type"].as_str() {
            return name.to_owned();
        }
        match self.kind() {
            Kind::Table | Kind::Tagged => "a table".to_owned(),
            Kind::Map => format!("a table of {}", self.values().plural()),
            Kind::Whole => "a whole number".to_owned(),
            Kind::Number => "a number".to_owned(),
            Kind::Flag => "true or false".to_owned(),
            Kind::Text => "text".to_owned(),
            Kind::Choice => either(self.choices().iter().map(|(name, _)| format!("\"{name}\""))),
            Kind::List => {
                let values = self.items().plural();
                let count = self.length().map_or(String::new(), |count| format!("{count} "));
                format!("a list of {count}{values}")
            }
            Kind::Either => either(self.alternatives().map(Node::type_name)),
        }
    }

    fn plural(self) -> &'static str {
        match self.kind() {
            Kind::Whole => "whole numbers",
            Kind::Number => "numbers",
            Kind::Text | Kind::Choice => "texts",
            Kind::Table | Kind::Tagged | Kind::Map | Kind::Flag | Kind::List | Kind::Either => "values",
        }
    }

    fn list(self, key: &str) -> &'a [Value] {
        self.0[key].as_array().map_or(&[], Vec::as_slice)
    }
}

/// `a, b or c`.
pub(super) fn either(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    let Some(last) = names.pop() else { return String::new() };
    if names.is_empty() { last } else { format!("{} or {last}", names.join(", ")) }
}

/// A value as TOML writes it.
fn as_toml(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("[{}]", values.iter().map(as_toml).collect::<Vec<_>>().join(", ")),
        Value::Object(table) => {
            let pairs: Vec<_> = table
                .iter()
                .map(|(key, value)| format!("{} = {}", key_as_toml(key), as_toml(value)))
                .collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

/// A key as TOML writes it.
fn key_as_toml(key: &str) -> String {
    let is_bare = key.chars().all(|sign| sign.is_ascii_alphanumeric() || matches!(sign, '_' | '-'));
    if is_bare && !key.is_empty() { key.to_owned() } else { Value::from(key).to_string() }
}

#[cfg(test)]
impl Node<'_> {
    /// Values just outside each stated bound, as a recipe writes them.
    pub(super) fn outside(self) -> Vec<String> {
        let step = if self.kind() == Kind::Whole { 1.0 } else { 1e-3 };
        let beside =
            [("minimum", -step), ("exclusiveMinimum", 0.0), ("maximum", step), ("exclusiveMaximum", 0.0)];
        let bounds = beside.iter().filter_map(|(key, step)| Some(self.0[*key].as_f64()? + step));
        let forbidden = self.0["not"]["enum"].as_array().into_iter().flatten().filter_map(Value::as_f64);
        let among = (self.kind() == Kind::Whole && !self.list("enum").is_empty()).then_some(5.0);
        bounds.chain(forbidden).chain(among).map(|value| value.to_string()).collect()
    }

    /// The values at its inclusive bounds, as a recipe writes them.
    pub(super) fn ends(self) -> Vec<String> {
        let bounds = ["minimum", "maximum"].iter().filter_map(|key| self.0[*key].as_f64());
        bounds.filter(|value| self.allows(*value)).map(|value| value.to_string()).collect()
    }

    pub(super) fn has_range_in_words(self) -> bool {
        self.0["x-range"].is_string()
    }
}
