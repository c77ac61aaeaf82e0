//! JSON that other programs wrote, read as Python reads it.
//!
//! Python writes `NaN`, `Infinity` and `-Infinity` as bare words and half a surrogate pair as an escape; neither is JSON.
//! Our own files hold neither and are read strictly.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// A configuration larger than this is refused, in bytes; the largest honest ones, with names of 22,000 classes, have 2 MB.
pub const MAX_CONFIG_BYTES: u64 = 8 << 20;

/// Words that Python writes for numbers which JSON does not have.
const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Parses `text`.
///
/// A number that is not finite becomes `{"__float__": "Infinity"}`, which is how transformers 5 writes it: kept where
/// nobody asks for it, and a wrong type where a number is needed. Half a surrogate pair becomes U+FFFD.
///
/// # Errors
/// If it is no JSON even so, or not that of a `T`.
pub fn from_slice<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    match serde_json::from_slice(text) {
        Ok(parsed) => Ok(parsed),
        Err(error) => match strict(text) {
            Cow::Borrowed(_) => Err(error),
            Cow::Owned(strict) => serde_json::from_slice(&strict),
        },
    }
}

/// The same text as strict JSON; borrowed if it needs no change.
pub fn strict(text: &[u8]) -> Cow<'_, [u8]> {
    let mut made: Vec<u8> = Vec::new();
    let mut copied = 0;
    let mut at = 0;
    while at < text.len() {
        let (length, instead) = match text[at] {
            b'"' => (1, None),
            b'-' | b'0'..=b'9' | b'I' | b'N' => number(&text[at..]),
            _ => (1, None),
        };
        if let Some(instead) = instead {
            made.extend_from_slice(&text[copied..at]);
            made.extend_from_slice(instead.as_bytes());
            copied = at + length;
        }
        let is_string = text[at] == b'"';
        at += length;
        if is_string {
            at = string_end(text, at, &mut copied, &mut made);
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    made.extend_from_slice(&text[copied..]);
    Cow::Owned(made)
}

/// Length of the number or word that `text` starts with, and what stands for it if it is not finite.
fn number(text: &[u8]) -> (usize, Option<String>) {
    if let Some(word) = WORDS.iter().find(|word| text.starts_with(word.as_bytes())) {
        return (word.len(), Some(tagged(word)));
    }
    let part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    let length = text.iter().take_while(|byte| part(byte)).count().max(1);
    let value = std::str::from_utf8(&text[..length]).ok().and_then(|text| text.parse::<f64>().ok());
    // Python reads 1e999 as infinity.
    let word = match value {
        Some(f64::INFINITY) => Some("Infinity"),
        Some(f64::NEG_INFINITY) => Some("-Infinity"),
        Some(_) | None => None,
    };
    (length, word.map(tagged))
}

/// A value as JSON for a message, with numbers that are not finite as they were written.
pub fn shown(value: &Value) -> String {
    let of = |text: String, word: &str| text.replace(&format!("{{\"__float__\":\"{word}\"}}"), word);
    WORDS.into_iter().fold(value.to_string(), of)
}

fn tagged(word: &str) -> String {
    format!("{{\"__float__\": \"{word}\"}}")
}

/// Where the string ends whose text starts at `at`; halves of surrogate pairs in it are replaced.
fn string_end(text: &[u8], mut at: usize, copied: &mut usize, made: &mut Vec<u8>) -> usize {
    while at < text.len() {
        match text[at] {
            b'"' => return at + 1,
            b'\\' => match escape(&text[at..]) {
                (0xd800..0xdc00, length) if matches!(escape(&text[at + length..]), (0xdc00..0xe000, _)) => {
                    at += 2 * length;
                }
                (0xd800..0xe000, length) => {
                    made.extend_from_slice(&text[*copied..at]);
                    made.extend_from_slice(b"\\ufffd");
                    at += length;
                    *copied = at;
                }
                (_, length) => at += length,
            },
            _ => at += 1,
        }
    }
    text.len()
}

/// The code unit of the escape `\uXXXX` that `text` starts with (0 for any other) and its length.
fn escape(text: &[u8]) -> (u32, usize) {
    let digits = text.strip_prefix(b"\\u").and_then(|rest| rest.get(..4));
    let unit = digits.and_then(|digits| std::str::from_utf8(digits).ok());
    match unit.and_then(|digits| u32::from_str_radix(digits, 16).ok()) {
        Some(unit) => (unit, 6),
        None => (0, 2),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Value {
        from_slice(text.as_bytes()).unwrap()
    }

    #[test]
    fn bare_words_of_python_are_read_wherever_a_value_may_stand() {
        let infinity = json!({"__float__": "Infinity"});
        assert_eq!(read("Infinity"), infinity);
        assert_eq!(read(r#"{"a":[0.0, Infinity],"b" : NaN }"#)["a"], json!([0.0, infinity]));
        assert_eq!(read(r#"{"a": -Infinity, "b": 1}"#)["a"]["__float__"], "-Infinity");
        assert_eq!(read("[NaN,NaN]")[1]["__float__"], "NaN");
        assert_eq!(read("[1e999, -1e999, 1e5]")[0], infinity);
    }

    #[test]
    fn a_word_inside_of_a_string_stays() {
        let text = r#"{"NaN": "-Infinity \" NaN", "b": NaN}"#;
        assert_eq!(read(text)["NaN"], "-Infinity \" NaN");
    }

    #[test]
    fn half_a_surrogate_pair_becomes_the_replacement_character() {
        assert_eq!(read(r#""\ud83d\ude42""#), "🙂");
        assert_eq!(
            read(r#"["\ud83d", "a\udc00b", "\ud83d\ud83d\ude42", "\ud83dx"]"#),
            json!(["\u{fffd}", "a\u{fffd}b", "\u{fffd}🙂", "\u{fffd}x",])
        );
        assert_eq!(read(r#"["\\ud83d", NaN]"#)[0], "\\ud83d");
    }

    #[test]
    fn strict_json_is_not_copied() {
        let text = br#"{"a": [1, -2.5e3, true, null, "NaN", "\u00e9"], "b": {}}"#;
        assert!(matches!(strict(text), Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_no_json_to_python_either_stays_an_error() {
        for text in
            ["", "{", "nan", "infinity", "[Nan]", "{\"a\": +1}", "\u{feff}{}", "\"\\ud83", "[NaN", "-"]
        {
            assert!(from_slice::<Value>(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_number_that_is_not_finite_is_of_the_wrong_type_where_a_number_is_needed() {
        assert!(from_slice::<f64>(b"NaN").is_err());
    }

    #[test]
    fn a_message_shows_a_number_as_it_was_written() {
        for text in ["NaN", "-Infinity", r#"{"a":[Infinity,1],"b":"NaN"}"#] {
            assert_eq!(shown(&read(text)), text);
        }
    }

    #[test]
    fn keys_keep_their_order() {
        let read: serde_json::Map<String, Value> = from_slice(br#"{"b": NaN, "a": 1, "c": 2}"#).unwrap();
        assert_eq!(read.keys().collect::<Vec<_>>(), ["b", "a", "c"]);
    }
}
