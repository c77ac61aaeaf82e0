//! The fields of a request, taken one by one; what is left over is refused by its name.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::errors::ApiError;

/// Fields that change no answer.
const HARMLESS: [&str; 8] = [
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
];

/// Fields that would change the answer, but for values that say nothing: a text that is this JSON.
const UNSUPPORTED: [(&str, &[&str]); 24] = [
    ("add_generation_prompt", &["true"]),
    ("audio", &[]),
    ("chat_template", &[]),
    ("chat_template_kwargs", &["{}"]),
    ("continue_final_message", &["false"]),
    ("documents", &["[]"]),
    ("echo", &["false"]),
    ("function_call", &["\"none\"", "\"auto\""]),
    ("functions", &["[]"]),
    ("ignore_eos", &["false"]),
    ("include_stop_str_in_output", &["false"]),
    ("logit_bias", &["{}"]),
    ("min_tokens", &["0"]),
    ("modalities", &["[]", "[\"text\"]"]),
    ("prediction", &[]),
    ("reasoning_effort", &["\"none\""]),
    ("response_format", &["{\"type\":\"text\"}"]),
    ("stop_token_ids", &["[]"]),
    ("suffix", &["\"\""]),
    ("tool_choice", &["\"none\"", "\"auto\""]),
    ("tools", &["[]"]),
    ("use_beam_search", &["false"]),
    ("verbosity", &["\"medium\""]),
    ("web_search_options", &[]),
];

/// The fields of a request; `null` is as good as absent.
#[derive(Debug)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// Reads a JSON object.
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let wrong = |problem: &str| {
            let status = axum::http::StatusCode::BAD_REQUEST;
            ApiError::new(status, "invalid_json", format!("the body is no JSON object: {problem}"))
        };
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| wrong(&nola_core::plain_words(&error.to_string())))?;
        match value {
            Value::Object(fields) => Ok(Self::of(fields)),
            other => Err(wrong(&format!("it is {}", kind(&other)))),
        }
    }

    pub(super) fn of(mut fields: Map<String, Value>) -> Self {
        fields.retain(|_, value| !value.is_null());
        Self(fields)
    }

    /// Any value.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    pub(super) fn take_text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(name, "a text", &other)),
        }
    }

    pub(super) fn take_flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(wrong_type(name, "true or false", &other)),
        }
    }

    pub(super) fn take_number(
        &mut self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| wrong_type(name, "a number", &value))?;
        if range.contains(&number) {
            return Ok(Some(number));
        }
        Err(out_of_range(name, &value, range.start(), range.end()))
    }

    /// A whole number, also one that is written as 3.0.
    pub(super) fn take_whole(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match whole(&value) {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            None if !value.is_number() => Err(wrong_type(name, "a whole number", &value)),
            None if value.as_f64().is_some_and(|number| number.fract() != 0.0) => {
                Err(wrong_type(name, "a whole number", &value))
            }
            Some(_) | None => Err(out_of_range(name, &value, range.start(), range.end())),
        }
    }

    /// The same, as a count.
    pub(super) fn take_count(
        &mut self,
        name: &str,
        range: RangeInclusive<u32>,
    ) -> Result<Option<usize>, ApiError> {
        let range = i64::from(*range.start())..=i64::from(*range.end());
        Ok(self.take_whole(name, range)?.and_then(|count| usize::try_from(count).ok()))
    }

    /// A table.
    pub(super) fn take_fields(&mut self, name: &str) -> Result<Option<Self>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Self::of(fields))),
            Some(other) => Err(wrong_type(name, "an object", &other)),
        }
    }

    /// A field that has to be there.
    pub(super) fn required<T>(name: &str, value: Option<T>) -> Result<T, ApiError> {
        let missing = || ApiError::field(name, "missing_required_parameter", format!("`{name}` is missing"));
        value.ok_or_else(missing)
    }

    /// Refuses what was not taken, unless it says nothing.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        for (name, value) in self.0 {
            if HARMLESS.contains(&name.as_str()) {
                continue;
            }
            let Some((_, neutral)) = UNSUPPORTED.iter().find(|(known, _)| *known == name) else {
                let message = format!("`{name}` is no field of this request; leave it out");
                return Err(ApiError::field(name, "unknown_parameter", message));
            };
            if !neutral.contains(&value.to_string().as_str()) {
                let message = format!("`{name}` is not supported; leave it out");
                return Err(ApiError::field(name, "unsupported_parameter", message));
            }
        }
        Ok(())
    }
}

/// A whole number, also one that is written as 3.0.
pub(super) fn whole(value: &Value) -> Option<i64> {
    let exact = |number: f64| (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64);
    value.as_i64().or_else(|| exact(value.as_f64()?))
}

pub(super) fn wrong_type(name: &str, expected: &str, found: &Value) -> ApiError {
    ApiError::field(name, "invalid_type", format!("`{name}` is {}; it must be {expected}", kind(found)))
}

fn out_of_range(
    name: &str,
    found: &Value,
    least: &impl std::fmt::Display,
    most: &impl std::fmt::Display,
) -> ApiError {
    ApiError::value(name, format!("`{name}` is {found}; it must be from {least} to {most}"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::parse(text.as_bytes()).expect("an object")
    }

    /// Code and field of an error.
    fn error_of<T: std::fmt::Debug>(result: Result<T, ApiError>) -> (String, String) {
        let error = result.expect_err("it is refused").to_json();
        let text = |key: &str| error["error"][key].as_str().unwrap_or_default().to_owned();
        (text("code"), text("param"))
    }

    fn pair(code: &str, param: &str) -> (String, String) {
        (code.to_owned(), param.to_owned())
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "[]", "3", "{", "{\"a\": }", "\u{fffd}"] {
            assert_eq!(error_of(Fields::parse(text.as_bytes())), pair("invalid_json", ""), "{text}");
        }
    }

    #[test]
    fn a_field_of_another_type_is_named() {
        assert_eq!(error_of(fields(r#"{"a": 3}"#).take_text("a")), pair("invalid_type", "a"));
        assert_eq!(error_of(fields(r#"{"a": 1}"#).take_flag("a")), pair("invalid_type", "a"));
        assert_eq!(error_of(fields(r#"{"a": "1"}"#).take_number("a", 0.0..=2.0)), pair("invalid_type", "a"));
        assert_eq!(error_of(fields(r#"{"a": 1.5}"#).take_whole("a", 0..=2)), pair("invalid_type", "a"));
        assert_eq!(error_of(fields(r#"{"a": true}"#).take_whole("a", 0..=2)), pair("invalid_type", "a"));
        assert_eq!(error_of(fields(r#"{"a": []}"#).take_fields("a").map(|_| ())), pair("invalid_type", "a"));
    }

    #[test]
    fn numbers_have_bounds() {
        assert_eq!(fields(r#"{"a": 2}"#).take_number("a", 0.0..=2.0), Ok(Some(2.0)));
        assert_eq!(error_of(fields(r#"{"a": 2.1}"#).take_number("a", 0.0..=2.0)), pair("invalid_value", "a"));
        assert_eq!(fields(r#"{"a": 3.0}"#).take_count("a", 1..=5), Ok(Some(3)));
        for text in [r#"{"a": -1}"#, r#"{"a": 6}"#, r#"{"a": 1e300}"#, r#"{"a": 18446744073709551615}"#] {
            assert_eq!(error_of(fields(text).take_count("a", 1..=5)), pair("invalid_value", "a"), "{text}");
        }
    }

    #[test]
    fn null_is_as_good_as_absent() {
        assert_eq!(fields(r#"{"a": null}"#).take_text("a"), Ok(None));
        assert_eq!(fields(r#"{"tools": null, "nonsense": null}"#).finish(), Ok(()));
    }

    #[test]
    fn what_says_nothing_is_accepted() {
        let text = r#"{"user": "me", "metadata": {"a": "b"}, "tools": [], "logit_bias": {}, "response_format": {"type": "text"},
            "echo": false, "suffix": "", "tool_choice": "none"}"#;
        assert_eq!(fields(text).finish(), Ok(()));
    }

    #[test]
    fn what_would_change_the_answer_is_refused_by_its_name() {
        for (name, value) in [
            ("tools", r#"[{"type": "function"}]"#),
            ("response_format", r#"{"type": "json_object"}"#),
            ("logit_bias", r#"{"50256": -100}"#),
            ("suffix", "\"x\""),
            ("echo", "true"),
        ] {
            let error = error_of(fields(&format!("{{\"{name}\": {value}}}")).finish());
            assert_eq!(error, pair("unsupported_parameter", name));
        }
        assert_eq!(
            error_of(fields(r#"{"temprature": 1}"#).finish()),
            pair("unknown_parameter", "temprature")
        );
    }
}
