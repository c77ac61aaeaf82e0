//! JSON as Python writes it, which is how templates show tools to a model.

use std::fmt::Write;

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Error, State, Value};

use super::guard::{invalid, pay, pay_bytes};
use super::methods::options;
use super::print;

/// The widest step of an indented text.
const MAX_INDENT: i64 = 100;

/// The `tojson` filter of Hugging Face's templates: Python's `json.dumps` with `ensure_ascii=False`.
///
/// Unlike Jinja's own it escapes nothing for HTML.
pub(super) fn tojson(state: &State, value: &Value, given: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let [ascii, indent, separators, sorted] =
        options(&given.into_values(), ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let indent = step(indent)?;
    let [item, key] = match separators {
        None => [if indent.is_some() { "," } else { ", " }, ": "].map(str::to_string),
        Some(two) => {
            let two: Vec<String> = two.try_iter()?.map(|text| text.to_string()).collect();
            two.try_into().map_err(|_| invalid("separators are two: between values, and behind a key"))?
        }
    };
    let [is_ascii, is_sorted] = [ascii, sorted].map(|option| option.is_some_and(|option| option.is_true()));
    pay(state, value)?;
    let mut python = Python { state, indent, item, key, is_ascii, is_sorted, out: String::new() };
    python.value(value, 0)?;
    pay_bytes(state, python.out.len() as u64)?;
    Ok(python.out)
}

/// What a line is indented with per level; `None` for one line.
fn step(indent: Option<Value>) -> Result<Option<String>, Error> {
    let Some(indent) = indent else { return Ok(None) };
    if let Some(text) = indent.as_str().filter(|text| text.len() as i64 <= MAX_INDENT) {
        return Ok(Some(text.to_owned()));
    }
    match indent.as_i64() {
        Some(spaces) if spaces <= MAX_INDENT => Ok(Some(" ".repeat(spaces.max(0) as usize))),
        Some(_) | None => Err(invalid(format!("tojson indents by at most {MAX_INDENT} spaces a level"))),
    }
}

/// How Python's `json.dumps` sets out a value.
struct Python<'a> {
    state: &'a State<'a, 'a>,
    indent: Option<String>,
    /// Between two values.
    item: String,
    /// Between a key and its value.
    key: String,
    /// Whether other characters than ASCII are escaped.
    is_ascii: bool,
    is_sorted: bool,
    out: String,
}

impl Python<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value)?,
            ValueKind::String => self.string(value.as_str().unwrap_or_default())?,
            ValueKind::Map => self.object(value, depth)?,
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.checked().collect::<Result<_, _>>()?;
                self.parts(["[", "]"], depth, items, |json, item| json.value(&item, depth + 1))?;
            }
            _ => return Err(invalid(format!("{} cannot be written as JSON", print::type_name(value)))),
        }
        Ok(())
    }

    fn number(&mut self, value: &Value) -> Result<(), Error> {
        if value.is_integer() {
            write!(self.out, "{value}")?;
            return Ok(());
        }
        self.out.push_str(match print::float(value).as_str() {
            "nan" => "NaN",
            "inf" => "Infinity",
            "-inf" => "-Infinity",
            number => number,
        });
        Ok(())
    }

    fn object(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let pairs = value.as_object().and_then(|map| map.try_iter_pairs()).into_iter().flatten();
        let mut pairs: Vec<(String, Value)> =
            pairs.map(|(key, value)| Ok((key_text(&key)?, value))).collect::<Result<_, Error>>()?;
        if self.is_sorted {
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
        }
        self.parts(["{", "}"], depth, pairs, |json, (key, value)| {
            json.string(&key)?;
            json.out.push_str(&json.key.clone());
            json.value(&value, depth + 1)
        })
    }

    fn parts<T>(
        &mut self,
        [open, close]: [&str; 2],
        depth: usize,
        parts: Vec<T>,
        write: impl Fn(&mut Self, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push_str(open);
        let is_empty = parts.is_empty();
        for (index, part) in parts.into_iter().enumerate() {
            if index > 0 {
                self.out.push_str(&self.item.clone());
            }
            self.new_line(depth + 1)?;
            write(self, part)?;
        }
        if !is_empty {
            self.new_line(depth)?;
        }
        self.out.push_str(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) -> Result<(), Error> {
        if let Some(indent) = &self.indent {
            let spaces = indent.repeat(depth);
            pay_bytes(self.state, self.out.len().min(1) as u64 * spaces.len() as u64)?;
            self.out.push('\n');
            self.out.push_str(&spaces);
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        self.out.push('"');
        for char in text.chars() {
            match char {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                char if char < ' ' || self.is_ascii && (!char.is_ascii() || char == '\u{7f}') => {
                    for unit in char.encode_utf16(&mut [0; 2]) {
                        write!(self.out, "\\u{unit:04x}")?;
                    }
                }
                char => self.out.push(char),
            }
        }
        self.out.push('"');
        Ok(())
    }
}

/// A key as text, as Python writes keys of other types.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number if key.is_integer() => Ok(key.to_string()),
        ValueKind::Number => Ok(print::float(key)),
        _ => Err(invalid(format!("a key of JSON is text, not {}", print::type_name(key)))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::environment::tests::with;
    use serde_json::json;

    /// What `{{ value|tojson(options) }}` gives for one value.
    fn written(options: &str) -> Result<String, String> {
        let value = json!({"value": {"b": [1, {"x": "<é🙂>"}], "a": {}, "l": []}});
        with(&format!("{{{{ value|tojson({options}) }}}}"), &value)
    }

    #[test]
    fn json_is_that_of_python() {
        for (options, expected) in [
            ("", r#"{"b": [1, {"x": "<é🙂>"}], "a": {}, "l": []}"#),
            ("separators=(',', ':')", r#"{"b":[1,{"x":"<é🙂>"}],"a":{},"l":[]}"#),
            ("sort_keys=true", r#"{"a": {}, "b": [1, {"x": "<é🙂>"}], "l": []}"#),
            ("ensure_ascii=true", r#"{"b": [1, {"x": "<\u00e9\ud83d\ude42>"}], "a": {}, "l": []}"#),
            ("true, none", r#"{"b": [1, {"x": "<\u00e9\ud83d\ude42>"}], "a": {}, "l": []}"#),
            ("indent=0", "{\n\"b\": [\n1,\n{\n\"x\": \"<é🙂>\"\n}\n],\n\"a\": {},\n\"l\": []\n}"),
            (
                "indent=2",
                "{\n  \"b\": [\n    1,\n    {\n      \"x\": \"<é🙂>\"\n    }\n  ],\n  \"a\": {},\n  \"l\": []\n}",
            ),
            (
                "indent='-'",
                "{\n-\"b\": [\n--1,\n--{\n---\"x\": \"<é🙂>\"\n--}\n-],\n-\"a\": {},\n-\"l\": []\n}",
            ),
        ] {
            assert_eq!(written(options).as_deref(), Ok(expected), "{options}");
        }
    }

    #[test]
    fn values_and_keys_of_all_kinds_are_those_of_python() {
        let text =
            with(r#"{{ [1.0, x, none, true, (1, 2), "a\"\n\u007f"]|tojson }}"#, &json!({"x": 1e16})).unwrap();
        assert_eq!(text, "[1.0, 1e+16, null, true, [1, 2], \"a\\\"\\n\u{7f}\"]");
        let text = with("{{ {'a': 1, 2: 3, none: 5, 1.5: 6}|tojson }}", &json!({})).unwrap();
        assert_eq!(text, r#"{"a": 1, "2": 3, "null": 5, "1.5": 6}"#);
        assert!(with("{{ nope|tojson }}", &json!({})).is_err());
    }

    #[test]
    fn an_indent_that_nobody_wants_is_refused() {
        for indent in ["101", "65536", "10 ** 12"] {
            let message = written(&format!("indent={indent}")).unwrap_err();
            assert!(message.contains("at most 100 spaces"), "{message}");
        }
        assert!(written("indent=100").is_ok());
    }
}
