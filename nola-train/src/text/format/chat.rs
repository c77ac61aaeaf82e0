//! Conversations: OpenAI's `messages` and ShareGPT's `conversations`.

use serde_json::Value;

use super::fields::Fields;
use crate::text::{Message, Role, RowProblem};

/// Rows with `messages` of `role` and `content`.
pub fn openai(fields: &Fields, system: &str) -> Result<Vec<Message>, RowProblem> {
    let messages = fields.objects("messages")?;
    let message = |(index, fields): (usize, &Fields)| {
        let number = index + 1;
        check_supported(number, fields)?;
        Ok(Message { role: role(number, fields.text("role")?)?, content: content(fields)? })
    };
    let messages = messages.iter().enumerate().map(message).collect::<Result<_, _>>()?;
    finish(messages, system)
}

/// Rows with `conversations` of `from` and `value`, and perhaps a `system` beside them.
pub fn sharegpt(fields: &Fields, system: &str) -> Result<Vec<Message>, RowProblem> {
    let own = fields.text_or_empty("system")?;
    let messages = fields.objects("conversations")?;
    let message = |(index, fields): (usize, &Fields)| {
        let role = role(index + 1, fields.text("from")?)?;
        Ok(Message { role, content: fields.text("value")?.to_owned() })
    };
    let messages = messages.iter().enumerate().map(message).collect::<Result<_, _>>()?;
    finish(messages, if own.is_empty() { system } else { own })
}

fn role(message: usize, role: &str) -> Result<Role, RowProblem> {
    match role {
        "system" | "developer" => Ok(Role::System),
        "user" | "human" => Ok(Role::User),
        "assistant" | "gpt" | "chatgpt" | "bing" | "bard" => Ok(Role::Assistant),
        "tool" => Ok(Role::Tool),
        _ => Err(RowProblem::UnknownRole { message, role: role.to_owned() }),
    }
}

/// Text, or a list of parts that are all text.
fn content(fields: &Fields) -> Result<String, RowProblem> {
    if let Some(Value::Array(_)) = fields.0.get("content") {
        let parts = fields.objects("content")?;
        return parts.iter().map(|part| part.text("text")).collect();
    }
    Ok(fields.text("content")?.to_owned())
}

/// Fields that would change what is learned must not be passed over in silence.
fn check_supported(message: usize, fields: &Fields) -> Result<(), RowProblem> {
    let given = |field: &&str| fields.0.get(*field).is_some_and(|value| !value.is_null());
    if let Some(field) = ["tool_calls", "function_call"].into_iter().find(given) {
        return Err(RowProblem::Unsupported { message, field });
    }
    match fields.0.get("weight").and_then(Value::as_f64) {
        Some(weight) if weight != 1.0 => Err(RowProblem::Unsupported { message, field: "weight" }),
        Some(_) | None => Ok(()),
    }
}

/// Puts the system message in front where there is none, and requires an answer.
fn finish(mut messages: Vec<Message>, system: &str) -> Result<Vec<Message>, RowProblem> {
    if !messages.iter().any(|message| message.role == Role::Assistant) {
        return Err(RowProblem::NoAnswer);
    }
    if !system.is_empty() && messages[0].role != Role::System {
        messages.insert(0, Message { role: Role::System, content: system.to_owned() });
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::convert;
    use super::super::{Example, TextFormat};
    use super::*;

    fn messages(format: TextFormat, row: Value) -> Result<Vec<(Role, String)>, String> {
        let Example::Chat(messages) = convert(format, row)?.remove(0) else { panic!("no conversation") };
        Ok(messages.into_iter().map(|message| (message.role, message.content)).collect())
    }

    fn said(role: Role, content: &str) -> (Role, String) {
        (role, content.to_owned())
    }

    #[test]
    fn both_formats_give_the_same_conversation() {
        let chat = json!({"messages": [
            {"role": "user", "content": "Hi"}, {"role": "assistant", "content": [{"type": "text", "text": "Yo"}]},
        ]});
        let sharegpt =
            json!({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]});
        let expected = [said(Role::System, "be brief"), said(Role::User, "Hi"), said(Role::Assistant, "Yo")];
        assert_eq!(messages(TextFormat::Chat, chat).unwrap(), expected);
        assert_eq!(messages(TextFormat::ShareGpt, sharegpt).unwrap(), expected);
    }

    #[test]
    fn a_conversations_own_system_message_stays() {
        let chat = json!({"messages": [
            {"role": "system", "content": "own"}, {"role": "assistant", "content": "Yo"},
        ]});
        assert_eq!(messages(TextFormat::Chat, chat).unwrap()[0], said(Role::System, "own"));
        let sharegpt = json!({"system": "own", "conversations": [{"from": "gpt", "value": "Yo"}]});
        assert_eq!(messages(TextFormat::ShareGpt, sharegpt).unwrap()[0], said(Role::System, "own"));
    }

    #[test]
    fn an_unknown_speaker_is_named() {
        let row = json!({"conversations": [{"from": "gpt", "value": "a"}, {"from": "dog", "value": "b"}]});
        let message = messages(TextFormat::ShareGpt, row).unwrap_err();
        assert!(message.starts_with("message 2 is by `dog`; expected system, user"), "{message}");
    }

    #[test]
    fn a_conversation_without_an_answer_is_refused() {
        for row in [json!({"messages": []}), json!({"messages": [{"role": "user", "content": "Hi"}]})] {
            let message = messages(TextFormat::Chat, row).unwrap_err();
            assert_eq!(message, "the conversation has no message of the assistant");
        }
    }

    #[test]
    fn what_would_be_passed_over_is_refused() {
        for extra in [("weight", json!(0)), ("tool_calls", json!([]))] {
            let mut row = json!({"messages": [{"role": "assistant", "content": "Yo"}]});
            row["messages"][0][extra.0] = extra.1;
            let message = messages(TextFormat::Chat, row).unwrap_err();
            assert_eq!(message, format!("message 1 has `{}`, which is not supported", extra.0));
        }
    }
}
