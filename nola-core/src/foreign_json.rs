//! JSON that other programs wrote, read as Python reads it.
//!
//! Python writes `NaN`, `Infinity` and `-Infinity` as bare words and half a surrogate pair as an escape; neither is JSON.
//! Our own files hold neither and are read strictly.

use std::borrow::Cow;
use std::ops::Range;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// A configuration larger than this is refused, in bytes; the largest honest ones, with names of 22,000 classes, have 2 MB.
pub const MAX_CONFIG_BYTES: u64 = 8 << 20;

/// Words that Python writes for numbers which JSON does not have.
const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// What stands in strict JSON for what Python writes beyond it.
#[derive(Debug, Clone, Copy)]
pub struct Substitutes {
    /// The value for a number that is not finite, of which Python's word and the length in the text are given.
    pub number: fn(&str, usize) -> String,
    /// The escape for half a surrogate pair.
    pub half_pair: &'static str,
}

/// A number as transformers 5 writes it, and the character that stands for what cannot be read.
const TAGGED: Substitutes =
    Substitutes { number: |word, _| format!("{{\"__float__\": \"{word}\"}}"), half_pair: "\\ufffd" };

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
    rewritten(text, TAGGED)
}

/// The same text with other values in place of those that are no JSON; borrowed if it needs no change.
pub fn rewritten(text: &[u8], substitutes: Substitutes) -> Cow<'_, [u8]> {
    let mut made = Made { text, substitutes, bytes: Vec::new(), copied: 0 };
    let mut at = 0;
    while at < text.len() {
        at = match text[at] {
            b'"' => made.string_end(at + 1),
            b'-' | b'0'..=b'9' | b'I' | b'N' => made.number_end(at),
            _ => at + 1,
        };
    }
    made.finish()
}

/// A text in the making.
struct Made<'a> {
    text: &'a [u8],
    substitutes: Substitutes,
    bytes: Vec<u8>,
    /// So much of the text is in it already, or left out.
    copied: usize,
}

impl<'a> Made<'a> {
    /// Puts something else in place of a part of the text.
    fn replace(&mut self, part: Range<usize>, instead: &str) {
        self.bytes.extend_from_slice(&self.text[self.copied..part.start]);
        self.bytes.extend_from_slice(instead.as_bytes());
        self.copied = part.end;
    }

    /// Where the number or word ends that starts at `at`.
    fn number_end(&mut self, at: usize) -> usize {
        let (length, word) = number(&self.text[at..]);
        if let Some(word) = word {
            self.replace(at..at + length, &(self.substitutes.number)(word, length));
        }
        at + length
    }

    /// Where the string ends whose text starts at `at`; halves of surrogate pairs in it are replaced.
    fn string_end(&mut self, mut at: usize) -> usize {
        while at < self.text.len() {
            match self.text[at] {
                b'"' => return at + 1,
                b'\\' => match escape(&self.text[at..]) {
                    (0xd800..0xdc00, length)
                        if matches!(escape(&self.text[at + length..]), (0xdc00..0xe000, _)) =>
                    {
                        at += 2 * length;
                    }
                    (0xd800..0xe000, length) => {
                        self.replace(at..at + length, self.substitutes.half_pair);
                        at += length;
                    }
                    (_, length) => at += length,
                },
                _ => at += 1,
            }
        }
        self.text.len()
    }

    fn finish(mut self) -> Cow<'a, [u8]> {
        if self.copied == 0 {
            return Cow::Borrowed(self.text);
        }
        self.replace(self.text.len()..self.text.len(), "");
        Cow::Owned(self.bytes)
    }
}

/// Length of the number or word that `text` starts with, and Python's word for it if it is not finite.
fn number(text: &[u8]) -> (usize, Option<&'static str>) {
    if let Some(word) = WORDS.iter().find(|word| text.starts_with(word.as_bytes())) {
        return (word.len(), Some(word));
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
    (length, word)
}

/// A value as JSON for a message, with numbers that are not finite as they were written.
pub fn shown(value: &Value) -> String {
    let of = |text: String, word: &str| text.replace(&format!("{{\"__float__\":\"{word}\"}}"), word);
    WORDS.into_iter().fold(value.to_string(), of)
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
