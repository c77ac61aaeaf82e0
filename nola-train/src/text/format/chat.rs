//! Conversations: OpenAI's `messages` and ShareGPT's `conversations`.

mod marks;
mod message;

use nola_models::chat::{Conversation, Message};
use serde_json::{Map, Value};

use super::fields::Fields;
use super::{Converted, Example};
use crate::text::read::{foreign_in, json_in, type_of};
use crate::text::{ChatRender, Dialogue, Note, RowProblem};
use marks::Learned;
use message::Spoken;

/// What a format calls the fields of a conversation.
pub(super) struct Keys {
    /// The list of messages.
    messages: &'static str,
    /// Who speaks.
    role: &'static str,
    /// What is said.
    content: &'static str,
}

/// Rows with `messages` of `role` and `content`.
pub(super) const OPENAI: Keys = Keys { messages: "messages", role: "role", content: "content" };

/// Rows with `conversations` of `from` and `value`.
pub(super) const SHAREGPT: Keys = Keys { messages: "conversations", role: "from", content: "value" };

/// The conversation of a row; `system` is the system message of one that has none.
pub(super) fn conversation(
    row: &Fields,
    keys: &Keys,
    system: &str,
    chat: &dyn ChatRender,
) -> Result<Converted, RowProblem> {
    let messages = row.objects(keys.messages)?;
    let spoken = |(index, fields): (usize, &Fields)| message::spoken(index + 1, fields, keys, chat);
    let mut spoken = messages.iter().enumerate().map(spoken).collect::<Result<Vec<_>, _>>()?;
    if !spoken.iter().any(|spoken| spoken.message.is_answer()) {
        return Err(RowProblem::NoAnswer);
    }
    add_system(row, &mut spoken, system)?;
    let is_left_out = |spoken: &Spoken| spoken.message.is_answer() && spoken.learned == Learned::No;
    let left_out = spoken.iter().enumerate().filter(|(_, it)| is_left_out(it)).map(|(index, _)| index);
    let left_out = left_out.collect();
    let mut notes: Vec<(Note, String)> = spoken.iter().filter_map(|it| it.note.clone()).collect();
    notes.dedup();
    let conversation = Conversation {
        messages: spoken.into_iter().map(|it| it.message).collect(),
        tools: listed(row, "tools")?,
        documents: listed(row, "documents")?,
        variables: variables(row)?,
    };
    Ok(Converted { examples: vec![Example::Chat(Box::new(Dialogue { conversation, left_out }))], notes })
}

/// Puts the system message in front where there is none.
fn add_system(row: &Fields, spoken: &mut Vec<Spoken>, system: &str) -> Result<(), RowProblem> {
    let own = row.text_or_empty("system")?;
    let first = spoken.first().map(|first| &first.message);
    match first.filter(|first| ["system", "developer"].contains(&first.role())) {
        Some(first) if !own.is_empty() && first.text() != own => Err(RowProblem::TwoSystems),
        Some(_) => Ok(()),
        None => {
            let system = if own.is_empty() { system } else { own };
            if !system.is_empty() {
                spoken.insert(0, Spoken::learned(Message::new("system", system)));
            }
            Ok(())
        }
    }
}

/// A list that some data sets keep as JSON in a text; null if there is nothing in it.
fn listed(row: &Fields, field: &'static str) -> Result<Value, RowProblem> {
    let wrong = |found| RowProblem::WrongType { field: field.to_owned(), found, expected: "a list" };
    let list = match row.telling(field) {
        None => Value::Null,
        Some(Value::String(text)) => json_in(text).ok_or_else(|| wrong("text that is no JSON"))?,
        Some(value) => value.clone(),
    };
    check_json(field, &list)?;
    match list {
        Value::Array(values) if values.is_empty() => Ok(Value::Null),
        Value::Array(_) | Value::Null => Ok(list),
        other => Err(wrong(type_of(&other))),
    }
}

/// The further variables of the chat template.
fn variables(row: &Fields) -> Result<Map<String, Value>, RowProblem> {
    let field = "chat_template_kwargs";
    match row.telling(field) {
        None => Ok(Map::new()),
        Some(value @ Value::Object(variables)) => {
            check_json(field, value)?;
            Ok(variables.clone())
        }
        Some(other) => {
            let found = type_of(other);
            Err(RowProblem::WrongType { field: field.to_owned(), found, expected: "an object" })
        }
    }
}

/// Requires a value that a chat template can be given.
fn check_json(field: &str, value: &Value) -> Result<(), RowProblem> {
    match foreign_in(value) {
        None => Ok(()),
        Some(found) => {
            let expected = "text, numbers, lists and objects alone";
            Err(RowProblem::WrongType { field: field.to_owned(), found, expected })
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::super::TextFormat;
    use super::super::tests::convert;
    use super::*;

    fn messages(format: TextFormat, row: Value) -> Result<Vec<(String, String)>, String> {
        let messages = dialogue(format, row)?.conversation.messages;
        Ok(messages.into_iter().map(|message| (message.role().to_owned(), message.text())).collect())
    }

    pub fn dialogue(format: TextFormat, row: Value) -> Result<Dialogue, String> {
        let Example::Chat(dialogue) = convert(format, row)?.remove(0) else { panic!("no conversation") };
        Ok(*dialogue)
    }

    fn role_and_text(role: &str, content: &str) -> (String, String) {
        (role.to_owned(), content.to_owned())
    }

    /// A question and an answer with further fields in both formats.
    pub fn answers(extra: &Value) -> [(TextFormat, Value); 2] {
        let with = |mut answer: Value| {
            answer.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            answer
        };
        let chat = json!({"messages": [
            {"role": "user", "content": "Hi"}, with(json!({"role": "assistant", "content": "Yo"})),
        ]});
        let sharegpt = json!({"conversations": [
            {"from": "human", "value": "Hi"}, with(json!({"from": "gpt", "value": "Yo"})),
        ]});
        [(TextFormat::Chat, chat), (TextFormat::ShareGpt, sharegpt)]
    }

    #[test]
    fn both_formats_give_the_same_conversation() {
        for (format, row) in answers(&json!({})) {
            let expected = [
                role_and_text("system", "be brief"),
                role_and_text("user", "Hi"),
                role_and_text("assistant", "Yo"),
            ];
            assert_eq!(messages(format, row).unwrap(), expected);
        }
    }

    #[test]
    fn a_conversations_own_system_message_stays() {
        for role in ["system", "developer"] {
            let chat = json!({"messages": [
                {"role": role, "content": "own"}, {"role": "assistant", "content": "Yo"},
            ]});
            assert_eq!(messages(TextFormat::Chat, chat).unwrap()[0], role_and_text("system", "own"));
        }
        let sharegpt = json!({"system": "own", "conversations": [{"from": "gpt", "value": "Yo"}]});
        assert_eq!(messages(TextFormat::ShareGpt, sharegpt).unwrap()[0], role_and_text("system", "own"));
    }

    #[test]
    fn a_conversation_without_an_answer_is_refused() {
        for row in [json!({"messages": []}), json!({"messages": [{"role": "user", "content": "Hi"}]})] {
            let message = messages(TextFormat::Chat, row).unwrap_err();
            assert_eq!(message, "the conversation has no message of the assistant");
        }
    }

    #[test]
    fn what_the_row_says_besides_goes_to_the_template() {
        let tools = json!([{"type": "function", "function": {"name": "tide"}}]);
        for (format, mut row) in answers(&json!({})) {
            row["tools"] = tools.clone();
            row["documents"] = json!([{"title": "a", "text": "b"}]);
            row["chat_template_kwargs"] = json!({"enable_thinking": false});
            let found = dialogue(format, row.clone()).unwrap().conversation;
            assert_eq!((&found.tools, &found.documents), (&tools, &row["documents"]));
            assert_eq!(Value::Object(found.variables), row["chat_template_kwargs"]);
            row["tools"] = json!(tools.to_string());
            assert_eq!(dialogue(format, row).unwrap().conversation.tools, tools);
        }
        for nothing in [json!([]), json!(null), json!(""), json!("[]")] {
            let [(format, mut row), _] = answers(&json!({}));
            row["tools"] = nothing;
            assert_eq!(dialogue(format, row).unwrap().conversation.tools, Value::Null);
        }
    }

    #[test]
    fn tools_that_are_no_list_or_hold_no_text_are_refused() {
        for (format, mut row) in answers(&json!({})) {
            row["tools"] = json!({"name": "tide"});
            assert_eq!(messages(format, row.clone()).unwrap_err(), "`tools` is an object; expected a list");
            row["tools"] = json!("[{\"name\": \"\\ud83d\"}]");
            let message = messages(format, row).unwrap_err();
            assert!(message.starts_with("`tools` is text with half of a surrogate pair"), "{message}");
        }
    }

    #[test]
    fn two_system_messages_that_differ_are_refused() {
        let row = |own: Value| {
            json!({"system": "own", "messages": [
                {"role": "system", "content": own}, {"role": "assistant", "content": "Yo"},
            ]})
        };
        for own in [json!("own"), json!([{"type": "text", "text": "own"}])] {
            assert_eq!(messages(TextFormat::Chat, row(own)).unwrap()[0], role_and_text("system", "own"));
        }
        let message = messages(TextFormat::Chat, row(json!("other"))).unwrap_err();
        assert!(message.starts_with("`system` is not the system message"), "{message}");
    }
}
