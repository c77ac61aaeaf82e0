//! Tokens with their probabilities, as completions and chats tell them.

use nola_models::tokenizer::{DecodeSpecials, TextStream, Tokenizer};
use serde_json::{Map, Value, json};

use super::errors::ApiError;
use crate::serve::TokenScore;

/// A token that was made, beside those that could have been.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ScoredToken {
    pub text: String,
    pub log_probability: f32,
    /// The likeliest tokens, the likeliest first.
    pub likeliest: Vec<(String, f32)>,
    /// Where it begins in the text, in bytes and in characters.
    pub start: usize,
    pub offset: usize,
}

/// A token behind another, with its probability and those of the likeliest ones.
pub(super) fn scored(
    tokenizer: &Tokenizer,
    before: Option<u32>,
    token: u32,
    (log_probability, likeliest): &(f32, Vec<TokenScore>),
    start: usize,
    offset: usize,
) -> Result<ScoredToken, ApiError> {
    let text = |token| text_of(tokenizer, before, token);
    let likely = |score: &TokenScore| Ok((text(score.token)?, score.log_probability));
    let likeliest = likeliest.iter().map(likely).collect::<Result<_, ApiError>>()?;
    Ok(ScoredToken { text: text(token)?, log_probability: *log_probability, likeliest, start, offset })
}

/// The text of a token behind another one, which tells whether it begins with a space.
fn text_of(tokenizer: &Tokenizer, before: Option<u32>, token: u32) -> Result<String, ApiError> {
    let mut stream = TextStream::new(tokenizer, before.as_slice(), DecodeSpecials::Keep);
    let text =
        stream.push(token).and_then(|text| text.map_or_else(|| stream.finish(), |text| Ok(Some(text))));
    Ok(text.map_err(|error| ApiError::failed(error.to_string()))?.unwrap_or_default())
}

/// `logprobs` of a completion.
pub(super) fn of_completion(tokens: &[ScoredToken]) -> Value {
    let likeliest = |token: &ScoredToken| -> Value {
        // The token itself is always among them.
        let own = (token.text.clone(), token.log_probability);
        let all = token.likeliest.iter().cloned().chain([own]);
        Value::Object(all.map(|(text, log)| (text, number(log))).collect::<Map<_, _>>())
    };
    json!({
        "tokens": tokens.iter().map(|token| token.text.as_str()).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| number(token.log_probability)).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(likeliest).collect::<Vec<_>>(),
        "text_offset": tokens.iter().map(|token| token.offset).collect::<Vec<_>>(),
    })
}

/// `logprobs` of a chat.
pub(super) fn of_chat(tokens: &[ScoredToken]) -> Value {
    let entry = |text: &str, log: f32| json!({"token": text, "logprob": number(log), "bytes": bytes(text)});
    let token = |token: &ScoredToken| {
        let mut scored = entry(&token.text, token.log_probability);
        scored["top_logprobs"] = token.likeliest.iter().map(|(text, log)| entry(text, *log)).collect();
        scored
    };
    json!({"content": tokens.iter().map(token).collect::<Vec<_>>(), "refusal": null})
}

/// JSON has no infinity: what cannot come is as good as this.
fn number(log: f32) -> Value {
    Value::from(f64::from(log).max(-9999.0))
}

/// The bytes of a token; none for a part of a character, whose bytes are not told by its text.
fn bytes(text: &str) -> Value {
    if text.contains(char::REPLACEMENT_CHARACTER) { Value::Null } else { json!(text.as_bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str, log: f32, likeliest: &[(&str, f32)]) -> ScoredToken {
        let likeliest = likeliest.iter().map(|(text, log)| ((*text).to_owned(), *log)).collect();
        ScoredToken { text: text.to_owned(), log_probability: log, likeliest, start: 0, offset: 2 }
    }

    #[test]
    fn a_completion_lists_its_tokens_side_by_side() {
        let logprobs = of_completion(&[token(" a", -0.5, &[(" b", -0.25)])]);
        let expected = json!({
            "tokens": [" a"], "token_logprobs": [-0.5], "top_logprobs": [{" b": -0.25, " a": -0.5}], "text_offset": [2],
        });
        assert_eq!(logprobs, expected);
    }

    #[test]
    fn a_chat_lists_its_tokens_with_their_bytes() {
        let logprobs = of_chat(&[token("é", -0.5, &[("\u{fffd}", f32::NEG_INFINITY)])]);
        let expected = json!({"refusal": null, "content": [{
            "token": "é", "logprob": -0.5, "bytes": [195, 169],
            "top_logprobs": [{"token": "\u{fffd}", "logprob": -9999.0, "bytes": null}],
        }]});
        assert_eq!(logprobs, expected);
    }
}
