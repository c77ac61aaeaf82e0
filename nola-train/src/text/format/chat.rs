//! Conversations: OpenAI's `messages` and ShareGPT's `conversations`.

use serde_json::{Map, Value};

use super::fields::Fields;
use crate::text::read::type_of;
use crate::text::{Conversation, Learned, Message, Role, RowProblem};

/// Marks that say whether an answer is learned.
const MARKS: [&str; 5] = ["weight", "train", "training", "loss", "loss_mask"];

/// Fields of a row besides its marks.
const FIELDS: [&str; 7] =
    ["messages", "conversations", "system", "functions", "tools", "documents", "chat_template_kwargs"];

/// All fields of a row that are looked at.
pub fn fields() -> impl Iterator<Item = &'static str> {
    FIELDS.into_iter().chain(MARKS)
}

/// Rows with `messages` of `role` and `content`.
pub fn openai(fields: &Fields, system: &str) -> Result<Conversation, RowProblem> {
    let messages = fields.objects("messages")?;
    let message = |(index, fields): (usize, &Fields)| {
        let number = index + 1;
        let role = role(number, fields.text("role")?)?;
        message(number, role, fields, content(fields)?, ["role", "content"])
    };
    let messages = messages.iter().enumerate().map(message).collect::<Result<_, _>>()?;
    finish(fields, messages, system)
}

/// Rows with `conversations` of `from` and `value`, and perhaps a `system` beside them.
pub fn sharegpt(fields: &Fields, system: &str) -> Result<Conversation, RowProblem> {
    let messages = fields.objects("conversations")?;
    let message = |(index, fields): (usize, &Fields)| {
        let number = index + 1;
        let role = role(number, fields.text("from")?)?;
        let content = Some(Value::from(fields.text("value")?));
        message(number, role, fields, content, ["from", "value"])
    };
    let messages = messages.iter().enumerate().map(message).collect::<Result<_, _>>()?;
    finish(fields, messages, system)
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

/// A message with all its fields; what is null, and an empty list of calls, is as if it was not there.
fn message(
    number: usize,
    role: Role,
    given: &Fields,
    content: Option<Value>,
    renamed: [&str; 2],
) -> Result<Message, RowProblem> {
    if let Some(found) = given.telling("function_call") {
        let (found, cure) = (found.to_string(), "write it as `tool_calls`");
        return Err(RowProblem::Unsupported { message: number, field: "function_call", found, cure });
    }
    let learned = learned(number, role, given)?;
    let mut fields = Map::from_iter([("role".to_owned(), Value::from(role.name()))]);
    fields.extend(content.map(|content| ("content".to_owned(), content)));
    let is_kept = |key: &str, value: &Value| {
        let is_empty_list = key == "tool_calls" && value.as_array().is_some_and(Vec::is_empty);
        !value.is_null() && !is_empty_list && !renamed.contains(&key) && !MARKS.contains(&key)
    };
    for (key, value) in given.0.iter().filter(|(key, value)| is_kept(key, value)) {
        fields.entry(key).or_insert_with(|| value.clone());
    }
    Ok(Message { role, fields, learned })
}

/// Text, or a list of parts that are all text; a message that only calls tools may have none.
fn content(fields: &Fields) -> Result<Option<Value>, RowProblem> {
    match fields.0.get("content") {
        Some(Value::Array(_)) => {
            let parts = fields.objects("content")?;
            let text: Result<String, _> = parts.iter().map(|part| part.text("text")).collect();
            Ok(Some(Value::from(text?)))
        }
        None | Some(Value::Null) if fields.telling("tool_calls").is_some() => {
            Ok(fields.0.get("content").cloned())
        }
        None | Some(_) => Ok(Some(Value::from(fields.text("content")?))),
    }
}

/// Whether a mark says that an answer is learned; absent if it says neither.
fn learns(mark: &Value) -> Option<bool> {
    match mark {
        Value::Bool(wanted) => Some(*wanted),
        _ => mark.as_f64().filter(|weight| [0.0, 1.0].contains(weight)).map(|weight| weight == 1.0),
    }
}

/// What the marks of a message say.
fn learned(number: usize, role: Role, fields: &Fields) -> Result<Learned, RowProblem> {
    let mut learned = Learned::Yes;
    for field in MARKS {
        let Some(found) = fields.0.get(field).filter(|value| !value.is_null()) else { continue };
        let wanted = learns(found);
        let unsupported =
            |cure| RowProblem::Unsupported { message: number, field, found: found.to_string(), cure };
        let wanted =
            wanted.ok_or_else(|| unsupported("an answer is learned or not: 1 or 0, true or false"))?;
        // A weight of 1 is what every message has.
        if wanted && role != Role::Assistant && field != "weight" {
            return Err(unsupported(
                "only answers of the assistant are learned; data.text.loss = \"all\" learns all words",
            ));
        }
        if !wanted {
            learned = Learned::No;
        }
    }
    Ok(learned)
}

/// Puts the system message in front where there is none, requires an answer, and adds what the row says besides.
fn finish(row: &Fields, mut messages: Vec<Message>, system: &str) -> Result<Conversation, RowProblem> {
    if row.telling("functions").is_some() {
        let cure = "write each as `tools`: {\"type\": \"function\", \"function\": ...}";
        return Err(RowProblem::UnsupportedField { field: "functions", cure });
    }
    let is_off =
        |field: &&str| row.0.get(*field).is_some_and(|mark| !mark.is_null() && learns(mark) != Some(true));
    if let Some(field) = MARKS.into_iter().find(is_off) {
        let cure = "mark each answer that is not to be learned, or leave the row out";
        return Err(RowProblem::UnsupportedField { field, cure });
    }
    if !messages.iter().any(|message| message.role == Role::Assistant) {
        return Err(RowProblem::NoAnswer);
    }
    let own = row.text_or_empty("system")?;
    let first = messages.first().filter(|message| message.role == Role::System).map(Message::content);
    match first {
        Some(first) if !own.is_empty() && first != own => return Err(RowProblem::TwoSystems),
        Some(_) => {}
        None => {
            let system = if own.is_empty() { system } else { own };
            if !system.is_empty() {
                messages.insert(0, Message::new(Role::System, system));
            }
        }
    }
    Ok(Conversation {
        messages,
        tools: listed(row, "tools")?,
        documents: listed(row, "documents")?,
        variables: variables(row)?,
    })
}

/// A list that some data sets keep as JSON in a text; null if there is nothing in it.
fn listed(row: &Fields, field: &'static str) -> Result<Value, RowProblem> {
    let wrong = |found| RowProblem::WrongType { field: field.to_owned(), found, expected: "a list" };
    let list = match row.telling(field) {
        None => Value::Null,
        Some(Value::String(text)) => serde_json::from_str(text).map_err(|_| wrong("text that is no JSON"))?,
        Some(value) => value.clone(),
    };
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
        Some(Value::Object(variables)) => Ok(variables.clone()),
        Some(other) => {
            let found = type_of(other);
            Err(RowProblem::WrongType { field: field.to_owned(), found, expected: "an object" })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::convert;
    use super::super::{Example, TextFormat};
    use super::*;

    fn messages(format: TextFormat, row: Value) -> Result<Vec<(Role, String)>, String> {
        let messages = conversation(format, row)?.messages;
        Ok(messages.into_iter().map(|message| (message.role, message.content().to_owned())).collect())
    }

    fn conversation(format: TextFormat, row: Value) -> Result<Conversation, String> {
        let Example::Chat(conversation) = convert(format, row)?.remove(0) else { panic!("no conversation") };
        Ok(conversation)
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

    /// A question and an answer with further fields in both formats.
    fn answers(extra: &Value) -> [(TextFormat, Value); 2] {
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
    fn a_message_keeps_all_its_fields() {
        let call = json!([{"type": "function", "function": {"name": "tide", "arguments": {"at": 3}}}]);
        for extra in [
            json!({"reasoning_content": "the moon"}),
            json!({"thinking": "a", "reasoning": "b", "name": "bot"}),
            json!({"tool_calls": call, "tool_call_id": "7"}),
        ] {
            for (format, row) in answers(&extra) {
                let answer = conversation(format, row).unwrap().messages.remove(2);
                let mut wanted = json!({"role": "assistant", "content": "Yo"});
                wanted.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
                assert_eq!((Value::Object(answer.fields), answer.learned), (wanted, Learned::Yes));
            }
        }
    }

    #[test]
    fn what_is_null_or_an_empty_list_of_calls_is_as_if_it_was_not_there() {
        for extra in [
            json!({"tool_calls": []}),
            json!({"tool_calls": null, "name": null, "weight": null, "train": null, "function_call": null}),
        ] {
            for (format, row) in answers(&extra) {
                let answer = conversation(format, row).unwrap().messages.remove(2);
                assert_eq!(answer, Message::new(Role::Assistant, "Yo"));
            }
        }
    }

    #[test]
    fn a_marked_answer_is_not_learned() {
        let learned = |extra: Value| {
            answers(&extra).map(|(format, row)| conversation(format, row).map(|it| it.messages[2].learned))
        };
        for extra in [
            json!({"weight": 0}),
            json!({"weight": 0.0}),
            json!({"train": false}),
            json!({"training": false}),
        ] {
            assert_eq!(learned(extra), [Ok(Learned::No), Ok(Learned::No)]);
        }
        for extra in [json!({"weight": 1}), json!({"train": true}), json!({"training": true, "weight": 1.0})]
        {
            assert_eq!(learned(extra), [Ok(Learned::Yes), Ok(Learned::Yes)]);
        }
        for extra in [json!({"weight": 0.5}), json!({"weight": "0"}), json!({"train": 2})] {
            let field = extra.as_object().unwrap().keys().next().unwrap().clone();
            for message in learned(extra).map(Result::unwrap_err) {
                assert!(message.starts_with(&format!("message 2 has `{field}` = ")), "{message}");
            }
        }
    }

    #[test]
    fn a_question_that_is_to_be_learned_is_refused() {
        let row = json!({"messages": [
            {"role": "user", "content": "Hi", "train": true}, {"role": "assistant", "content": "Yo"},
        ]});
        let message = messages(TextFormat::Chat, row).unwrap_err();
        assert!(message.starts_with("message 1 has `train` = true, which is not supported"), "{message}");
    }

    #[test]
    fn what_the_row_says_besides_goes_to_the_template() {
        let tools = json!([{"type": "function", "function": {"name": "tide"}}]);
        for (format, mut row) in answers(&json!({})) {
            row["tools"] = tools.clone();
            row["documents"] = json!([{"title": "a", "text": "b"}]);
            row["chat_template_kwargs"] = json!({"enable_thinking": false});
            let found = conversation(format, row.clone()).unwrap();
            assert_eq!((&found.tools, &found.documents), (&tools, &row["documents"]));
            assert_eq!(Value::Object(found.variables), row["chat_template_kwargs"]);
            row["tools"] = json!(tools.to_string());
            assert_eq!(conversation(format, row).unwrap().tools, tools);
        }
        for nothing in [json!([]), json!(null), json!(""), json!("[]")] {
            let [(format, mut row), _] = answers(&json!({}));
            row["tools"] = nothing;
            assert_eq!(conversation(format, row).unwrap().tools, Value::Null);
        }
    }

    #[test]
    fn what_is_not_carried_out_is_refused_by_name() {
        for (format, mut row) in answers(&json!({})) {
            row["functions"] = json!([{"name": "tide"}]);
            let message = messages(format, row.clone()).unwrap_err();
            assert!(message.starts_with("the row has `functions`, which is not supported"), "{message}");
            row["functions"] = json!([]);
            row["tools"] = json!({"name": "tide"});
            assert_eq!(messages(format, row).unwrap_err(), "`tools` is an object; expected a list");
        }
        let [(format, row), _] = answers(&json!({"function_call": {"name": "tide"}}));
        assert!(messages(format, row).unwrap_err().starts_with("message 2 has `function_call`"));
    }

    #[test]
    fn two_system_messages_that_differ_are_refused() {
        let row = |own: &str| {
            json!({"system": "own", "messages": [
                {"role": "system", "content": own}, {"role": "assistant", "content": "Yo"},
            ]})
        };
        assert_eq!(messages(TextFormat::Chat, row("own")).unwrap()[0], said(Role::System, "own"));
        let message = messages(TextFormat::Chat, row("other")).unwrap_err();
        assert!(message.starts_with("`system` is not the system message"), "{message}");
    }

    #[test]
    fn an_answer_that_only_calls_tools_needs_no_words() {
        let row = |content: Value, calls: Value| {
            let answer = json!({"role": "assistant", "content": content, "tool_calls": calls});
            conversation(TextFormat::Chat, json!({"messages": [answer]}))
        };
        assert!(row(json!(null), json!([{"function": {"name": "tide"}}])).is_ok());
        assert_eq!(row(json!(null), json!([])).unwrap_err(), "`content` is null; expected text");
    }
}
