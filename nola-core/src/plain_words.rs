//! What a parser says about a file, without the words of the language that it is written in.

/// A message of serde in the words of JSON: `invalid type: string "x", expected usize` becomes `it is the text "x", expected
/// a whole number`. Other messages stay as they are.
pub fn plain_words(message: &str) -> String {
    let is_place = |place: &str| place.chars().all(|c| c.is_ascii_digit() || " column".contains(c));
    let place = message.rsplit_once(" at line ").filter(|(_, place)| is_place(place));
    match place {
        Some((problem, place)) => {
            format!("{} at line {place}", reworded(problem).unwrap_or_else(|| problem.to_owned()))
        }
        None => reworded(message).unwrap_or_else(|| message.to_owned()),
    }
}

/// The message in plain words, where there are any for it.
fn reworded(message: &str) -> Option<String> {
    if message.starts_with("data did not match any variant of untagged enum") {
        return Some("it has a form that is not known".to_owned());
    }
    if let Some(field) = message.strip_prefix("missing field ") {
        return Some(format!("{field} is missing"));
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        let (found, expected) = rest.split_once(", ")?;
        return Some(format!("it is {found}, which is not known; {expected}"));
    }
    let (found, expected) = message.rsplit_once(", expected ")?;
    let found = match found.split_once(' ')? {
        ("invalid", rest) => match rest.split_once(' ')? {
            ("type:" | "value:", found) => format!("it is {}", value(found)),
            ("length", length) => format!("it has {length} values"),
            _ => return None,
        },
        _ => return None,
    };
    Some(format!("{found}, expected {}", kind(expected)))
}

/// What was found.
fn value(found: &str) -> String {
    match found {
        "sequence" => return "a list".to_owned(),
        "map" => return "an object".to_owned(),
        "unit value" | "Option value" => return "null".to_owned(),
        "unit variant" | "newtype variant" | "tuple variant" | "struct variant" => {
            return "a name".to_owned();
        }
        _ => {}
    }
    if let Some(text) = found.strip_prefix("string ") {
        return format!("the text {text}");
    }
    let number = ["integer ", "floating point ", "boolean "].iter().find_map(|kind| found.strip_prefix(kind));
    number.unwrap_or(found).to_owned()
}

/// What was expected.
fn kind(expected: &str) -> String {
    let first = expected.split(' ').next().unwrap_or_default();
    let plain = match (expected, first) {
        ("a string" | "string" | "str" | "a borrowed string" | "string or map" | "variant identifier", _) => {
            "text"
        }
        ("a boolean", _) => "true or false",
        ("a sequence", _) | (_, "tuple") => "a list",
        ("a map" | "map", _) | (_, "struct" | "internally" | "adjacently") => "an object",
        ("unit", _) => "null",
        (_, "enum") => "text",
        (_, "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" | "isize") => {
            "a whole number"
        }
        (_, "f32" | "f64") => "a number",
        _ => {
            let list = ["an array of length ", "a tuple of size "].iter();
            let length = list.filter_map(|before| expected.strip_prefix(before)).next();
            return length.map_or(expected.to_owned(), |length| format!("a list of {length}"));
        }
    };
    plain.to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;
    use crate::basis::Distribution;

    /// The message about a value that is no `T`.
    fn message_of<T: DeserializeOwned>(value: &Value) -> Option<String> {
        serde_json::from_value::<T>(value.clone()).err().map(|error| plain_words(&error.to_string()))
    }

    #[test]
    fn no_word_of_rust_is_left() {
        let readers = [
            message_of::<usize>,
            message_of::<f64>,
            message_of::<String>,
            message_of::<bool>,
            message_of::<Vec<u32>>,
            message_of::<[f32; 2]>,
            message_of::<BTreeMap<String, u8>>,
            message_of::<Distribution>,
        ];
        let wrong =
            [json!("x"), json!(-1), json!(1.5), json!(true), json!(null), json!([1]), json!({"a": 300})];
        for (reader, value) in
            readers.iter().flat_map(|reader| wrong.iter().map(move |value| (reader, value)))
        {
            let Some(message) = reader(value) else { continue };
            for rust in
                ["usize", "u32", "u8", "f32", "f64", "invalid", "variant", "sequence", "map", "string"]
            {
                assert!(!message.contains(rust), "{value}: {message}");
            }
        }
        let untagged = "data did not match any variant of untagged enum ModelWrapper at line 1 column 9";
        assert_eq!(plain_words(untagged), "it has a form that is not known at line 1 column 9");
    }

    #[test]
    fn type_and_place_are_kept() {
        let message = "invalid type: string \"a at line 2, expected b\", expected usize at line 3 column 4";
        assert_eq!(
            plain_words(message),
            "it is the text \"a at line 2, expected b\", expected a whole number at line 3 column 4"
        );
        assert_eq!(
            plain_words("invalid length 3, expected an array of length 2"),
            "it has 3 values, expected a list of 2"
        );
        assert_eq!(plain_words("missing field `r`"), "`r` is missing");
        assert_eq!(
            plain_words("unknown variant `a`, expected `b` or `c`"),
            "it is `a`, which is not known; expected `b` or `c`"
        );
    }

    #[test]
    fn other_messages_stay() {
        for message in
            ["expected value at line 1 column 1", "No such file", "unknown field `a`, expected `b`"]
        {
            assert_eq!(plain_words(message), message);
        }
    }
}
