//! `/v1/chat/completions`: a conversation is continued.

use axum::extract::{Request, State};
use axum::response::Response;
use nola_models::chat::{Conversation, Message};
use serde_json::{Map, Value};

use super::answers::Shape;
use super::body::MOST_TEXT_BYTES;
use super::errors::ApiError;
use super::fields::{Fields, wrong_type};
use super::sampling::{MOST_SCORES, Sampling};
use super::{App, Asked};
use crate::prompt::conversation_tokens;

/// Most messages of a conversation.
const MOST_MESSAGES: usize = 4096;

/// Answers a chat.
pub(super) async fn chat(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let text = app.text()?;
    let body = app.room.json(request, MOST_TEXT_BYTES).await?;
    let mut fields = Fields::parse(&body.bytes)?;
    let model = Fields::required("model", fields.take_text("model")?)?;
    let sampling = Sampling::take(&mut fields, &text.generation)?;
    let top_scores = scores(&mut fields)?;
    let messages = messages(Fields::required("messages", fields.take("messages"))?)?;
    fields.finish()?;
    let adapter = app.adapter(&model).await?;
    if text.encoder.chat.is_none() {
        let message =
            "the model has no chat template; use /v1/completions, or a model that was trained to chat";
        return Err(ApiError::field("model", "no_chat_template", message));
    }
    let data = adapter.as_ref().map_or(text.base_data.as_ref(), |adapter| adapter.data.as_ref());
    let system = data.map(|data| data.system.clone()).unwrap_or_default();
    let conversation = Conversation::new(with_system(messages, &system));
    let service = text.clone();
    let tokens = body.blocking(move || conversation_tokens(&conversation, &service.encoder)).await?;
    let tokens = tokens.map_err(|error| ApiError::of_prompt("messages", &error))?;
    app.answer(Asked { shape: Shape::Chat, model, adapter, sampling, top_scores }, vec![tokens]).await
}

/// How many of the likeliest tokens are returned beside each; none: no probability is.
fn scores(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let is_wanted = fields.take_flag("logprobs")?.unwrap_or(false);
    match fields.take_count("top_logprobs", 0..=MOST_SCORES)? {
        Some(1..) if !is_wanted => {
            Err(ApiError::value("top_logprobs", "`top_logprobs` needs `logprobs` to be true"))
        }
        top => Ok(is_wanted.then(|| top.unwrap_or(0))),
    }
}

/// The messages, with the system prompt that the adapter was trained with where they have none.
fn with_system(messages: Vec<Message>, system: &str) -> Vec<Message> {
    let has_one = messages.iter().any(|message| message.role() == "system");
    let system = (!has_one && !system.is_empty()).then(|| Message::new("system", system));
    system.into_iter().chain(messages).collect()
}

fn messages(value: Value) -> Result<Vec<Message>, ApiError> {
    let Value::Array(list) = value else { return Err(wrong_type("messages", "a list of messages", &value)) };
    if list.is_empty() || list.len() > MOST_MESSAGES {
        return Err(ApiError::value(
            "messages",
            format!("`messages` has 1 to {MOST_MESSAGES} messages, not {}", list.len()),
        ));
    }
    list.into_iter().enumerate().map(|(index, value)| message(index, value)).collect()
}

/// A message of text.
fn message(index: usize, value: Value) -> Result<Message, ApiError> {
    let at = format!("messages.{index}");
    let Value::Object(mut fields) = value else { return Err(wrong_type(&at, "an object", &value)) };
    fields.retain(|_, value| !value.is_null());
    let role = match fields.get("role") {
        // What newer interfaces call it.
        Some(Value::String(role)) if role == "developer" => "system".to_owned(),
        Some(Value::String(role)) => role.clone(),
        Some(other) => return Err(wrong_type(&format!("{at}.role"), "a text", other)),
        None => {
            return Err(ApiError::field(
                format!("{at}.role"),
                "missing_required_parameter",
                format!("`{at}.role` is missing"),
            ));
        }
    };
    if !["system", "user", "assistant"].contains(&role.as_str()) {
        let message = format!("`{at}.role` is `{role}`; it must be system, user or assistant");
        return Err(ApiError::value(format!("{at}.role"), message));
    }
    let unsupported = |name: &str| {
        ApiError::field(
            format!("{at}.{name}"),
            "unsupported_parameter",
            format!("`{at}.{name}` is not supported"),
        )
    };
    if let Some(name) = ["tool_calls", "function_call", "audio", "tool_call_id"]
        .iter()
        .find(|name| fields.contains_key(**name))
    {
        return Err(unsupported(name));
    }
    let content = content(&format!("{at}.content"), fields.remove("content"))?;
    fields.insert("role".to_owned(), role.into());
    fields.insert("content".to_owned(), content.into());
    Ok(Message::of_fields(fields))
}

/// The text of a content: a text, or parts of text.
fn content(at: &str, value: Option<Value>) -> Result<String, ApiError> {
    match value {
        None => Err(ApiError::field(at, "missing_required_parameter", format!("`{at}` is missing"))),
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(parts)) => parts
            .into_iter()
            .enumerate()
            .map(|(index, part)| part_of_text(&format!("{at}.{index}"), part))
            .collect(),
        Some(other) => Err(wrong_type(at, "a text, or a list of parts", &other)),
    }
}

fn part_of_text(at: &str, part: Value) -> Result<String, ApiError> {
    let Value::Object(mut fields): Value = part else { return Err(wrong_type(at, "an object", &part)) };
    let kind = fields.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    match text_of(&mut fields) {
        Some(text) if kind == "text" => Ok(text),
        Some(_) | None => {
            let message = format!(
                "`{at}` is no part of type `text` with a text; others, such as images, are not supported"
            );
            Err(ApiError::field(at, "unsupported_parameter", message))
        }
    }
}

fn text_of(fields: &mut Map<String, Value>) -> Option<String> {
    match fields.remove("text") {
        Some(Value::String(text)) => Some(text),
        Some(_) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn param(value: Value) -> String {
        let error = messages(value.clone()).expect_err(&value.to_string()).to_json();
        error["error"]["param"].as_str().expect("a field").to_owned()
    }

    #[test]
    fn contents_are_text_or_parts_of_it() {
        let list = json!([
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "me"},
            {"role": "assistant", "content": "c", "tool_calls": null},
        ]);
        let messages = messages(list).expect("usable");
        let read: Vec<(&str, String)> =
            messages.iter().map(|message| (message.role(), message.text())).collect();
        assert_eq!(
            read,
            [("system", "Be brief.".to_owned()), ("user", "ab".to_owned()), ("assistant", "c".to_owned())]
        );
    }

    #[test]
    fn what_is_wrong_with_a_message_is_named_by_its_place() {
        for (value, expected) in [
            (json!("hello"), "messages"),
            (json!([]), "messages"),
            (json!(["hello"]), "messages.0"),
            (json!([{"content": "a"}]), "messages.0.role"),
            (json!([{"role": "tool", "content": "a"}]), "messages.0.role"),
            (json!([{"role": "user"}]), "messages.0.content"),
            (json!([{"role": "user", "content": 3}]), "messages.0.content"),
            (
                json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
                "messages.0.content.0",
            ),
            (json!([{"role": "assistant", "content": "a", "tool_calls": [{}]}]), "messages.0.tool_calls"),
        ] {
            assert_eq!(param(value), expected);
        }
    }

    #[test]
    fn the_system_prompt_of_the_adapter_stands_where_none_is_given() {
        let roles = |messages: Vec<Message>| {
            messages.iter().map(|message| message.role().to_owned()).collect::<Vec<_>>()
        };
        let user = || Message::new("user", "a");
        assert_eq!(roles(with_system(vec![user()], "Be brief.")), ["system", "user"]);
        assert_eq!(roles(with_system(vec![user()], "")), ["user"]);
        let own = with_system(vec![Message::new("system", "mine"), user()], "Be brief.");
        assert_eq!(own[0].text(), "mine");
    }

    #[test]
    fn likeliest_tokens_need_probabilities() {
        let scores = |text: &str| scores(&mut Fields::parse(text.as_bytes()).expect("an object"));
        assert_eq!(scores("{}"), Ok(None));
        assert_eq!(scores(r#"{"logprobs": true}"#), Ok(Some(0)));
        assert_eq!(scores(r#"{"logprobs": true, "top_logprobs": 3}"#), Ok(Some(3)));
        assert!(scores(r#"{"top_logprobs": 3}"#).is_err());
        assert_eq!(scores(r#"{"top_logprobs": 0}"#), Ok(None));
    }
}
