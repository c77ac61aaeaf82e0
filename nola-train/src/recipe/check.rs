//! Compares what a recipe says with the schema; everything that is wrong is found at once.

use toml::{Table, Value};

use super::error::{Findings, Problem};
use super::keys;
use super::node::{Kind, Node, TAG};
use super::schema::schema;

/// Longest text that a message repeats, in characters.
const SHOWN: usize = 60;

/// Checks keys, types, choices and ranges.
pub(super) fn check(recipe: &Table, findings: &mut Findings) {
    check_table("", Node::new(schema()), recipe, findings);
}

fn check_table(path: &str, node: Node, table: &Table, findings: &mut Findings) {
    for (name, value) in table {
        let path = keys::joined(path, name);
        match node.key(name) {
            Some(key) => check_value(&path, key, value, findings),
            None => {
                let expected = node.keys().map(|(name, _)| name.to_owned()).collect();
                let elsewhere = keys::named(name);
                findings.add(path, Problem::UnknownKey { name: name.to_owned(), expected, elsewhere });
            }
        }
    }
    let missing = node.keys().filter(|(name, _)| node.requires(name) && !table.contains_key(*name));
    for (name, key) in missing {
        let path = keys::joined(path, name);
        match key.kind() {
            Kind::Table => check_table(&path, key, &Table::new(), findings),
            _ => findings.add(path, missing_key(name, key)),
        }
    }
}

fn missing_key(name: &str, key: Node) -> Problem {
    Problem::Missing { example: format!("{name} = {}", key.example().unwrap_or_default()) }
}

fn check_value(path: &str, node: Node, value: &Value, findings: &mut Findings) {
    if value.as_str() == Some("") && node.must_be_filled() {
        let name = path.rsplit('.').next().unwrap_or(path);
        return findings.add(path.to_owned(), missing_key(name, node));
    }
    match (node.kind(), value) {
        (Kind::Table, Value::Table(table)) => check_table(path, node, table, findings),
        (Kind::Tagged, Value::Table(table)) => check_tagged(path, node, table, findings),
        (Kind::Map, Value::Table(table)) => {
            for (name, value) in table {
                check_value(&keys::joined(path, name), node.values(), value, findings);
            }
        }
        (Kind::Whole, Value::Integer(number)) => check_number(path, node, *number as f64, value, findings),
        (Kind::Number, Value::Integer(number)) => check_number(path, node, *number as f64, value, findings),
        (Kind::Number, Value::Float(number)) => check_number(path, node, *number, value, findings),
        (Kind::Flag, Value::Boolean(_)) => {}
        (Kind::Text, Value::String(_)) => {}
        (Kind::Choice, Value::String(text)) => check_choice(path, node.choices(), text, findings),
        (Kind::List, Value::Array(values)) if node.length().is_none_or(|length| values.len() == length) => {
            for (index, value) in values.iter().enumerate() {
                check_value(&format!("{path}[{index}]"), node.items(), value, findings);
            }
        }
        (Kind::Either, _) => match node.alternatives().find(|one| is_alike(one.kind(), value)) {
            Some(alternative) => check_value(path, alternative, value, findings),
            None => findings.add(path.to_owned(), wrong_type(node, value)),
        },
        (
            Kind::Table
            | Kind::Tagged
            | Kind::Map
            | Kind::Whole
            | Kind::Number
            | Kind::Flag
            | Kind::Text
            | Kind::Choice
            | Kind::List,
            _,
        ) => findings.add(path.to_owned(), wrong_type(node, value)),
    }
}

/// Whether a value is of a kind, whatever it holds.
fn is_alike(kind: Kind, value: &Value) -> bool {
    match kind {
        Kind::Table | Kind::Tagged | Kind::Map => value.is_table(),
        Kind::Whole => value.is_integer(),
        Kind::Number => value.is_integer() || value.is_float(),
        Kind::Flag => value.is_bool(),
        Kind::Text | Kind::Choice => value.is_str(),
        Kind::List => value.is_array(),
        Kind::Either => true,
    }
}

/// A table whose keys depend on what its tag chooses.
fn check_tagged(path: &str, node: Node, table: &Table, findings: &mut Findings) {
    let tag = keys::joined(path, TAG);
    let names: Vec<(&str, &str)> = node.variants().map(|(name, variant)| (name, variant.effect())).collect();
    match table.get(TAG) {
        None => findings.add(tag, Problem::Missing { example: format!("{TAG} = \"{}\"", names[0].0) }),
        Some(Value::String(chosen)) => match node.variants().find(|(name, _)| name == chosen) {
            Some((_, variant)) => check_table(path, variant, table, findings),
            None => check_choice(&tag, names, chosen, findings),
        },
        Some(other) => {
            let expected = super::node::either(names.iter().map(|(name, _)| format!("\"{name}\"")));
            findings.add(tag, Problem::Type { found: shown(other), expected });
        }
    }
}

fn check_choice(path: &str, choices: Vec<(&str, &str)>, text: &str, findings: &mut Findings) {
    if choices.iter().any(|(name, _)| *name == text) {
        return;
    }
    let expected = choices.iter().map(|(name, _)| (*name).to_owned()).collect();
    findings.add(path.to_owned(), Problem::UnknownChoice { value: shortened(text), expected });
}

fn check_number(path: &str, node: Node, number: f64, value: &Value, findings: &mut Findings) {
    if node.allows(number) {
        return;
    }
    let range = node.range().filter(|_| number.is_finite()).unwrap_or_else(|| "a finite number".to_owned());
    findings.add(path.to_owned(), Problem::NotAllowed { found: shown(value), range });
}

fn wrong_type(node: Node, value: &Value) -> Problem {
    let found = match value {
        Value::Array(values) if node.kind() == Kind::List => format!("a list of {}", values.len()),
        other => shown(other),
    };
    Problem::Type { found, expected: node.type_name() }
}

/// A value as a message names it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the text \"{}\"", shortened(text)),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        Value::Datetime(time) => format!("the date {time}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    }
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    text.chars().take(SHOWN).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::recipe::Recipe;
    use crate::settings::DataFormat;

    /// What is wrong with a key that has this value, in a recipe where it may stand.
    fn finding(path: &str, kind: Option<&str>, value: &str) -> Option<String> {
        let mut sets = vec![
            "model.path=base".to_owned(),
            "data.train=train".to_owned(),
            "train.optimizer=sgd".to_owned(),
        ];
        sets.extend(kind.map(|kind| format!("method.kind={kind}")));
        if path != "data.validation_split" {
            sets.push("data.validation=val".to_owned());
        }
        if path.starts_with("data.text.") || path.starts_with("samples.") {
            sets.push(format!("data.format={}", DataFormat::ALL[7].0));
        }
        let table = path.rsplit_once('.').map_or("", |(table, _)| table);
        match table {
            "data.augment.resized_crop" => sets.push(format!("{table}.scale=[0.5, 1.0]")),
            "data.augment.blur" => sets.push(format!("{table}.sigma=[0.5, 1.0]")),
            _ => {}
        }
        sets.push(format!("{path}={value}"));
        let error = Recipe::from_text("", Path::new("my.toml"), &sets).err()?.to_string();
        error.lines().find(|line| line.contains(&format!("`{path}"))).map(str::to_owned)
    }

    /// Every key with a node of the schema, and the kind it is for.
    fn nodes() -> Vec<(String, Option<String>, Node<'static>)> {
        let mut found = Vec::new();
        for section in keys::sections() {
            for key in section.keys.iter().filter(|key| key.name() != TAG) {
                let mut node = Node::new(schema());
                for part in key.path.split('.') {
                    let variant = section.kind.as_deref().and_then(|kind| {
                        node.variants().find(|(name, _)| *name == kind).map(|(_, variant)| variant)
                    });
                    node = variant.unwrap_or(node).key(part).expect("a key of the schema");
                }
                found.push((key.path.clone(), section.kind.clone(), node));
            }
        }
        found
    }

    #[test]
    fn every_key_takes_its_example() {
        for (path, kind, node) in nodes() {
            let example = node.example().expect("every key has an example");
            if kind.as_deref() == Some("pc-lora")
                && ["method.bias", "method.modules_to_save"].contains(&path.as_str())
            {
                // Nothing is trained beside layers that are compared with those of the base.
                assert!(finding(&path, kind.as_deref(), &example).is_some(), "{path} = {example}");
                continue;
            }
            assert_eq!(finding(&path, kind.as_deref(), &example), None, "{path} = {example}");
        }
    }

    #[test]
    fn a_value_outside_a_stated_range_is_refused_with_that_range() {
        let mut tried = 0;
        for (path, kind, node) in nodes() {
            let (number, wrap): (Node, fn(String) -> String) = match node.kind() {
                Kind::List if node.length() == Some(2) => {
                    (node.items(), |value| format!("[{value}, {value}]"))
                }
                Kind::List => (node.items(), |value| format!("[{value}]")),
                _ => (node, |value| value),
            };
            for outside in number.outside() {
                let error = finding(&path, kind.as_deref(), &wrap(outside.clone()));
                let error = error.unwrap_or_else(|| panic!("{path} = {outside} is accepted"));
                let range = number.range().expect("a range");
                let agree = error.contains("it must be ") && error.ends_with(&range);
                assert!(agree, "{error}, but stated is {range}");
                tried += 1;
            }
        }
        assert!(tried > 40, "{tried}");
    }

    #[test]
    fn the_ends_of_a_stated_range_are_accepted() {
        for (path, kind, node) in nodes() {
            if ["train.micro_batch", "train.shards"].contains(&path.as_str()) {
                continue; // It depends on `train.batch`.
            }
            for end in node.ends() {
                assert_eq!(finding(&path, kind.as_deref(), &end), None, "{path} = {end}");
            }
        }
    }

    #[test]
    fn ranges_in_words_hold() {
        let outside = [
            ("train.micro_batch", "5"),
            ("train.shards", "65"),
            ("train.min_learning_rate", "0.5"),
            ("train.betas", "[0.9, 1.0]"),
            ("train.save_every", "\"10x\""),
            ("method.alpha", "0"),
            ("method.rank_pattern", "{ value = 0 }"),
            ("method.alpha_pattern", "{ value = 0 }"),
            ("method.d_initial", "0"),
            ("data.augment.resized_crop.scale", "[0.9, 0.2]"),
            ("data.augment.resized_crop.ratio", "[2.0, 0.5]"),
            ("data.augment.blur.sigma", "[2.0, 0.1]"),
            ("data.text.max_tokens", "1048577"),
            ("data.train", "[{ path = \"a\", weight = 1000.5 }]"),
        ];
        for (path, value) in outside {
            let kind = match path {
                "method.d_initial" => Some("vera"),
                _ => path.starts_with("method.").then_some("lora"),
            };
            assert!(finding(path, kind, value).is_some(), "{path} = {value} is accepted");
        }
        for (path, ..) in nodes().into_iter().filter(|(_, _, node)| node.has_range_in_words()) {
            assert!(
                outside.iter().any(|(known, _)| *known == path),
                "{path} has a range in words; add it above"
            );
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused() {
        for value in ["nan", "inf", "-inf"] {
            let error = finding("train.learning_rate", None, value).expect("it is refused");
            assert!(error.ends_with("it must be a finite number"), "{error}");
        }
    }

    #[test]
    fn all_wrong_types_are_listed_at_once_and_without_words_of_rust() {
        let text = "[model]\npath = 3\n[data]\ntrain = \"a\"\nvalidation = 7\ncache_mib = 1.5\n\
                    [data.text]\ngroup_by_length = \"yes\"\n[method]\nkind = \"nola\"\nrank = \"4\"\ntargets = [1]\n\
                    [train]\nsteps = \"many\"\nbetas = [0.9]\nseed = 2024-01-01\nbtach = 4\nshots = 3\n";
        let error = Recipe::from_text(text, Path::new("my.toml"), &[]).unwrap_err().to_string();
        let expected = [
            "my.toml:2: `model.path` is 3; expected text",
            "my.toml:5: `data.validation` is 7; expected text or a list of texts",
            "my.toml:6: `data.cache_mib` is 1.5; expected a whole number",
            "my.toml:8: `data.text.group_by_length` is the text \"yes\"; expected true or false",
            "my.toml:11: `method.rank` is the text \"4\"; expected a whole number",
            "my.toml:12: `method.targets[0]` is 1; expected text",
            "my.toml:14: `train.steps` is the text \"many\"; expected a whole number",
            "my.toml:15: `train.betas` is a list of 1; expected a list of 2 numbers",
            "my.toml:16: `train.seed` is the date 2024-01-01; expected a whole number",
            "my.toml:17: unknown key `train.btach`; did you mean `batch`?",
            "my.toml:18: unknown key `train.shots`; there is `data.shots`",
        ];
        for (line, expected) in error.lines().zip(expected) {
            assert!(line.starts_with(expected), "{line}\ninstead of {expected}");
        }
        assert_eq!(error.lines().count(), expected.len(), "{error}");
        for word in ["usize", "f64", "u64", "i64", "string", "invalid type", "sequence", "struct", "enum"] {
            assert!(!error.contains(word), "{word} in {error}");
        }
    }

    #[test]
    fn a_key_of_another_method_names_that_method() {
        let error = finding("method.variant", Some("nola"), "rslora").expect("NOLA has no variant");
        assert!(error.contains("there is `method.variant` (with kind = \"lora\")"), "{error}");
    }

    #[test]
    fn a_method_without_a_kind_says_what_to_write() {
        let text = "[model]\npath = \"a\"\n[data]\ntrain = \"b\"\nvalidation = \"c\"\n[method]\nrank = 3\n";
        let error = Recipe::from_text(text, Path::new("my.toml"), &[]).unwrap_err().to_string();
        assert_eq!(error, "my.toml:6: `method.kind` is missing; write it, as in kind = \"nola\"");
    }
}
