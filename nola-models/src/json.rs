//! JSON that a model folder holds, read as Python reads it.

use std::borrow::Cow;

use nola_core::foreign_json::{self, MAX_CONFIG_BYTES};
use serde::de::{DeserializeOwned, Error};

/// Values that a text may hold: a value of two bytes takes a hundred in memory. A configuration with a thousand classes has
/// 2,000; the largest vocabularies have 2.5 million values with their merges, in 35 MB.
const MAX_CONFIG_VALUES: usize = 1_000_000;
const MAX_VOCABULARY_VALUES: usize = 6_000_000;

/// What is wrong with a JSON text, and in which field; `.` for the whole text.
pub(crate) struct WrongJson {
    pub(crate) field: String,
    pub(crate) source: serde_json::Error,
}

/// Parses JSON; an error names the field.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, WrongJson> {
    let is_config = text.len() as u64 <= MAX_CONFIG_BYTES;
    let limit = if is_config { MAX_CONFIG_VALUES } else { MAX_VOCABULARY_VALUES };
    if commas(text) >= limit {
        let source = serde_json::Error::custom(format!("more than {limit} values, which no honest file has"));
        return Err(WrongJson { field: ".".to_string(), source });
    }
    parse_strictly(text).or_else(|wrong| match foreign_json::strict(text) {
        Cow::Borrowed(_) => Err(wrong),
        Cow::Owned(strict) => parse_strictly(&strict),
    })
}

/// Commas between values.
fn commas(text: &[u8]) -> usize {
    let (mut commas, mut in_string, mut is_escaped) = (0, false, false);
    for byte in text {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = in_string,
            b'"' => in_string = !in_string,
            b',' if !in_string => commas += 1,
            _ => {}
        }
    }
    commas
}

fn parse_strictly<T: DeserializeOwned>(text: &[u8]) -> Result<T, WrongJson> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let parsed = serde_path_to_error::deserialize(&mut reader)
        .map_err(|error| WrongJson { field: error.path().to_string(), source: error.into_inner() })?;
    reader.end().map_err(|source| WrongJson { field: ".".to_string(), source })?;
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    #[test]
    fn a_wrong_value_is_named_with_its_field_with_and_without_words_of_python() {
        for text in [r#"{"a": 1, "b": -1}"#, r#"{"a": 1, "b": NaN}"#] {
            let wrong = parse::<BTreeMap<String, u32>>(text.as_bytes()).err().unwrap();
            assert_eq!(wrong.field, "b", "{text}");
        }
    }

    #[test]
    fn a_text_of_too_many_values_is_refused_unread() {
        let list = |values: usize| format!("[{}1]", "1,".repeat(values - 1));
        let message = |text: &str| parse::<Value>(text.as_bytes()).err().unwrap().source.to_string();
        assert!(message(&list(MAX_CONFIG_VALUES + 1)).contains("more than 1000000 values"));
        assert!(message(&list(MAX_VOCABULARY_VALUES + 1)).contains("more than 6000000 values"));
        assert!(parse::<Value>(list(MAX_CONFIG_VALUES).as_bytes()).is_ok());
        assert_eq!(commas(br#"{"a,\",": [1, 2], "b\\": ","}"#), 2);
    }

    #[test]
    fn words_of_python_in_other_fields_are_kept() {
        let read: Value = parse(br#"{"limits": [0.0, Infinity], "size": 3}"#).ok().unwrap();
        assert_eq!((read["size"].as_u64(), read["limits"].as_array().map(Vec::len)), (Some(3), Some(2)));
    }
}
