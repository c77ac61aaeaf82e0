//! Values that JSON has no type for, among values that are JSON.
//!
//! They are no trouble in a column that is not used; where text is wanted, the message says what there is instead.

use std::borrow::Cow;

use nola_core::foreign_json::{self, Substitutes};
use serde_json::{Map, Value};

/// The name of the only field of an object that stands for a foreign value; no data set names a field so.
const MARK: &str = "\0foreign";

/// Stands for half a surrogate pair until its text is set aside; Unicode keeps it for the use of programs.
const HALF_PAIR: char = '\u{fdd4}';

/// A number that is not finite is null, as pandas and JavaScript write it; as wide, so that columns in messages stay right.
const SUBSTITUTES: Substitutes =
    Substitutes { number: |_, width| format!("{:>width$}", "null"), half_pair: "\\ufdd4" };

/// What a value is that JSON has no type for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    /// Bytes that are not UTF-8.
    Bytes,
    /// A decimal number.
    Decimal,
    /// A date.
    Date,
    /// A time of day.
    Time,
    /// A point in time.
    Timestamp,
    /// Text that Python can hold and no tokenizer takes.
    HalfPair,
}

impl Foreign {
    const ALL: [Self; 6] =
        [Self::Bytes, Self::Decimal, Self::Date, Self::Time, Self::Timestamp, Self::HalfPair];

    /// What messages call it.
    pub fn description(self) -> &'static str {
        match self {
            Self::Bytes => "bytes that are not UTF-8 text",
            Self::Decimal => "a decimal number",
            Self::Date => "a date",
            Self::Time => "a time of day",
            Self::Timestamp => "a timestamp",
            Self::HalfPair => "text with half of a surrogate pair (such as \\ud83d alone)",
        }
    }

    /// What stands for it.
    pub fn value(self) -> Value {
        Value::Object(Map::from_iter([(MARK.to_owned(), self.description().into())]))
    }
}

/// What an object stands for, if it stands for a foreign value.
pub(super) fn kind_of(fields: &Map<String, Value>) -> Option<Foreign> {
    let description = fields.get(MARK)?.as_str()?;
    Foreign::ALL.into_iter().find(|kind| kind.description() == description)
}

/// The first foreign value in a value.
pub(super) fn within(value: &Value) -> Option<Foreign> {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        Value::Array(values) => values.iter().find_map(within),
        Value::Object(fields) => kind_of(fields).or_else(|| fields.values().find_map(within)),
    }
}

/// The value of a JSON text as Python reads it: with `NaN` and `Infinity`, which are null here, and halves of surrogate pairs.
///
/// # Errors
/// What the parser says.
pub(super) fn parse(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text).or_else(|error| match foreign_json::rewritten(text.as_bytes(), SUBSTITUTES) {
        Cow::Borrowed(_) => Err(error),
        Cow::Owned(strict) => {
            let mut value = serde_json::from_slice(&strict)?;
            set_halves_aside(&mut value);
            Ok(value)
        }
    })
}

/// Makes foreign what holds half a surrogate pair.
fn set_halves_aside(value: &mut Value) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::String(text) if text.contains(HALF_PAIR) => *value = Foreign::HalfPair.value(),
        Value::String(_) => {}
        Value::Array(values) => values.iter_mut().for_each(set_halves_aside),
        Value::Object(fields) => fields.values_mut().for_each(set_halves_aside),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::type_of;
    use super::*;

    #[test]
    fn numbers_that_are_not_finite_are_null() {
        for (text, expected) in [
            ("{\"a\": NaN}", json!({"a": null})),
            ("[NaN,Infinity,-Infinity]", json!([null, null, null])),
            ("[1e999, -1e999, 1e5]", json!([null, null, 1e5])),
            (
                "{\"NaN\": \"-Infinity \\\"NaN\", \"b\": -Infinity}",
                json!({"NaN": "-Infinity \"NaN", "b": null}),
            ),
            ("NaN", json!(null)),
            ("{\"a\": -1, \"b\": \"\\\\\", \"c\": NaN}", json!({"a": -1, "b": "\\", "c": null})),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_text_with_half_a_surrogate_pair_is_foreign_and_the_others_stay() {
        for half in ["\\ud83d", "a\\udc00b", "\\ud83d\\ud83d\\ude42"] {
            let value = parse(&format!("{{\"a\": [\"{half}\", \"\\ud83d\\ude42\"], \"b\": \"c\"}}")).unwrap();
            assert_eq!((&value["a"][1], &value["b"]), (&json!("🙂"), &json!("c")));
            assert_eq!(type_of(&value["a"][0]), Foreign::HalfPair.description());
            assert_eq!(within(&value), Some(Foreign::HalfPair));
        }
        assert_eq!(within(&parse("{\"a\": \"\\ufffd\"}").unwrap()), None);
    }

    #[test]
    fn of_two_fields_of_one_name_the_last_counts_as_in_python() {
        assert_eq!(parse("{\"a\": 1, \"b\": 2, \"a\": 3}").unwrap(), json!({"a": 3, "b": 2}));
    }

    #[test]
    fn everything_else_that_is_no_json_stays_an_error() {
        for text in ["nan", "{\"a\": NaNa}", "{\"a\": NaN", "{\"a\": \"NaN}", "+Infinity", "{'a': NaN}"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_kind_is_told_by_its_name_and_objects_are_objects() {
        for kind in Foreign::ALL {
            assert_eq!(type_of(&kind.value()), kind.description());
        }
        assert_eq!(type_of(&serde_json::json!({"a": 1})), "an object");
    }
}
