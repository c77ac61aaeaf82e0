//! JSON that a model folder holds, read as Python reads it.

use std::borrow::Cow;

use nola_core::foreign_json;
use serde::de::DeserializeOwned;

/// What is wrong with a JSON text, and in which field; `.` for the whole text.
pub(crate) struct WrongJson {
    pub(crate) field: String,
    pub(crate) source: serde_json::Error,
}

/// Parses JSON; an error names the field.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, WrongJson> {
    parse_strictly(text).or_else(|wrong| match foreign_json::strict(text) {
        Cow::Borrowed(_) => Err(wrong),
        Cow::Owned(strict) => parse_strictly(&strict),
    })
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
    fn words_of_python_in_other_fields_are_kept() {
        let read: Value = parse(br#"{"limits": [0.0, Infinity], "size": 3}"#).ok().unwrap();
        assert_eq!((read["size"].as_u64(), read["limits"].as_array().map(Vec::len)), (Some(3), Some(2)));
    }
}
