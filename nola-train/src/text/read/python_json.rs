//! JSON as Python's `json` module writes it: with `NaN`, `Infinity` and `-Infinity`.

use std::borrow::Cow;

use serde_json::Value;

/// What Python writes for numbers that are not finite; the longer first.
const NOT_FINITE: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// The value that a text holds; numbers that are not finite are null, as pandas and JavaScript write them.
///
/// # Errors
/// What the parser says.
pub(super) fn parse(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text).or_else(|error| match with_nulls(text) {
        Cow::Borrowed(_) => Err(error),
        Cow::Owned(text) => serde_json::from_str(&text),
    })
}

/// The text with `null` in place of numbers that are not finite.
fn with_nulls(text: &str) -> Cow<'_, str> {
    let mut replaced = String::new();
    let (mut copied, mut at, mut in_string) = (0, 0, false);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'-' | b'I' | b'N' if !in_string => {
                if let Some(word) = NOT_FINITE.iter().find(|word| bytes[at..].starts_with(word.as_bytes())) {
                    replaced.push_str(&text[copied..at]);
                    // As long as the word, so that columns in messages stay right; `NaN` alone is shorter.
                    replaced.push_str(&format!("{:>width$}", "null", width = word.len()));
                    at += word.len() - 1;
                    copied = at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    replaced.push_str(&text[copied..]);
    Cow::Owned(replaced)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_that_are_not_finite_are_null() {
        for (text, expected) in [
            ("{\"a\": NaN}", json!({"a": null})),
            ("[NaN,Infinity,-Infinity]", json!([null, null, null])),
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
    fn of_two_fields_of_one_name_the_last_counts_as_in_python() {
        assert_eq!(parse("{\"a\": 1, \"b\": 2, \"a\": 3}").unwrap(), json!({"a": 3, "b": 2}));
    }

    #[test]
    fn everything_else_that_is_no_json_stays_an_error() {
        for text in [
            "nan",
            "{\"a\": NaNa}",
            "{\"a\": NaN",
            "{\"a\": \"NaN}",
            "+Infinity",
            "\"\\ud83d\"",
            "{'a': NaN}",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
