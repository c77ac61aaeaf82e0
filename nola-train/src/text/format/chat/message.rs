//! One message of a row as its chat template is given it.

use nola_models::chat::Message;
use serde_json::{Map, Value, json};

use super::super::fields::Fields;
use super::super::unused::MARKS;
use super::marks::{Learned, learned};
use super::{Keys, check_json};
use crate::text::read::{foreign_in, json_in, type_of};
use crate::text::{ChatRender, Note, RowProblem};

/// What an answer may have instead of words.
const INSTEAD_OF_WORDS: [&str; 4] = ["tool_calls", "reasoning_content", "thinking", "reasoning"];

/// A message, and what its row says of it.
pub(super) struct Spoken {
    pub message: Message,
    pub learned: Learned,
    /// What of it is not as it stands in the row.
    pub note: Option<(Note, String)>,
}

impl Spoken {
    /// A message of which nothing is to be said.
    pub fn learned(message: Message) -> Self {
        Self { message, learned: Learned::Yes, note: None }
    }
}

/// The message `number`, counted from 1.
pub(super) fn spoken(
    number: usize,
    given: &Fields,
    keys: &Keys,
    chat: &dyn ChatRender,
) -> Result<Spoken, RowProblem> {
    check_calls(number, given)?;
    let name = given.text(keys.role)?;
    let Some(role) = role(name, chat) else {
        return Err(RowProblem::UnknownRole { message: number, role: name.to_owned() });
    };
    let learned = learned(number, role, given)?;
    let mut fields = handed_on(given, keys, chat)?;
    fields.insert("role".to_owned(), role.into());
    let mut note = (name == "developer" && role == "system").then(|| (Note::AsSystem, name.to_owned()));
    if name == "function_call" {
        let text = given.text(keys.content)?;
        match calls(text).filter(|_| chat.mentions("tool_calls")) {
            Some(calls) => {
                fields.extend([("content".to_owned(), "".into()), ("tool_calls".to_owned(), calls)])
            }
            None => note = Some((Note::AsText, name.to_owned())),
        }
    }
    Ok(Spoken { message: Message::of_fields(fields), learned, note })
}

/// What chat templates call a role; `None` if it is not known.
fn role<'a>(role: &'a str, chat: &dyn ChatRender) -> Option<&'a str> {
    match role {
        "system" | "user" | "assistant" | "tool" => Some(role),
        "human" => Some("user"),
        "gpt" | "chatgpt" | "bing" | "bard" | "model" | "function_call" => Some("assistant"),
        "developer" if !chat.mentions(role) => Some("system"),
        "observation" if !chat.mentions(role) || chat.mentions("tool") => Some("tool"),
        other => chat.mentions(other).then_some(other),
    }
}

/// The fields of a message in their order; what is null, and an empty list of calls, is as if it was not there.
fn handed_on(given: &Fields, keys: &Keys, chat: &dyn ChatRender) -> Result<Map<String, Value>, RowProblem> {
    let mut fields = Map::new();
    for (key, value) in given.0 {
        let is_empty_list = key == "tool_calls" && value.as_array().is_some_and(Vec::is_empty);
        if key == keys.role {
            fields.insert("role".to_owned(), Value::Null);
        } else if key == keys.content {
            fields.extend(content(given, keys)?.map(|content| ("content".to_owned(), content)));
        } else if foreign_in(value).is_some() && !chat.mentions(key) {
            // It cannot be written, and the template does not want to.
            fields.insert(key.clone(), type_of(value).into());
        } else if !value.is_null() && !is_empty_list && !MARKS.contains(&key.as_str()) {
            check_json(key, value)?;
            fields.entry(key).or_insert_with(|| value.clone());
        }
    }
    if !given.0.contains_key(keys.content) {
        content(given, keys)?;
    }
    Ok(fields)
}

/// Text, or a list of parts, each text or an object; none where a message has something else to say.
fn content(fields: &Fields, keys: &Keys) -> Result<Option<Value>, RowProblem> {
    let field = keys.content;
    match fields.0.get(field) {
        Some(list @ Value::Array(parts)) => {
            let is_part = |part: &&Value| part.is_string() || part.is_object();
            if let Some(other) = parts.iter().find(|part| !is_part(part)) {
                let (found, expected) = (type_of(other), "a list of text and of objects with a `type`");
                return Err(RowProblem::WrongType { field: field.to_owned(), found, expected });
            }
            check_json(field, list)?;
            Ok(Some(list.clone()))
        }
        None | Some(Value::Null) if INSTEAD_OF_WORDS.iter().any(|it| fields.telling(it).is_some()) => {
            Ok(None)
        }
        None | Some(_) => Ok(Some(fields.text(field)?.into())),
    }
}

/// Refuses the call of OpenAI's first interface, which templates do not know.
fn check_calls(number: usize, given: &Fields) -> Result<(), RowProblem> {
    match given.telling("function_call") {
        None => Ok(()),
        Some(found) => {
            let (found, cure) = (found.to_string(), "write it as `tool_calls`");
            Err(RowProblem::Unsupported { message: number, field: "function_call", found, cure })
        }
    }
}

/// Calls of tools that are written as JSON of `name` and `arguments`, one or a list, as templates are given them.
fn calls(text: &str) -> Option<Value> {
    let calls = match json_in(text).filter(|value| foreign_in(value).is_none())? {
        Value::Array(calls) => calls,
        call => vec![call],
    };
    let call = |call: Value| {
        let (name, arguments) = (call.get("name")?.as_str()?, call.get("arguments")?);
        Some(json!({"type": "function", "function": {"name": name, "arguments": arguments}}))
    };
    let calls: Option<Vec<Value>> = calls.into_iter().map(call).collect();
    calls.filter(|calls| !calls.is_empty()).map(Value::from)
}

#[cfg(test)]
mod tests {
    use nola_models::chat::{Conversation, Rendered};

    use super::super::super::tests::converted_for;
    use super::super::super::{Converted, Example, TextFormat};
    use super::super::tests::{answers, dialogue};
    use super::*;

    /// A template that mentions these words.
    struct Mentions(&'static [&'static str]);

    impl ChatRender for Mentions {
        fn text(&self, _: &Conversation) -> Result<String, String> {
            Err("not rendered".to_owned())
        }

        fn render(&self, _: &Conversation) -> Result<Rendered, String> {
            Err("not rendered".to_owned())
        }

        fn mentions(&self, word: &str) -> bool {
            self.0.contains(&word)
        }

        fn unread(&self, _: &Conversation, _: &str) -> Vec<String> {
            Vec::new()
        }

        fn fingerprint(&self) -> String {
            String::new()
        }
    }

    /// The answer of a row and what is noted, for a template that mentions these words.
    fn answer(
        words: &'static [&'static str],
        message: Value,
    ) -> Result<(Value, Vec<(Note, String)>), String> {
        let row = json!({"conversations": [message, {"from": "gpt", "value": "end"}]});
        let Converted { mut examples, notes } = converted_for(&Mentions(words), TextFormat::ShareGpt, row)?;
        let Example::Chat(dialogue) = examples.remove(0) else { panic!("no conversation") };
        let mut messages = dialogue.conversation.messages;
        let at = messages.len() - 2;
        Ok((Value::Object(messages.remove(at).fields().clone()), notes))
    }

    /// The answer of such a row.
    fn read(format: TextFormat, row: Value) -> Result<Value, String> {
        let mut messages = dialogue(format, row)?.conversation.messages;
        Ok(Value::Object(messages.pop().unwrap().fields().clone()))
    }

    #[test]
    fn a_message_keeps_all_its_fields_in_their_order() {
        let call = json!([{"type": "function", "function": {"name": "tide", "arguments": {"at": 3}}}]);
        for extra in [
            json!({"reasoning_content": "the moon"}),
            json!({"thinking": "a", "reasoning": "b", "name": "bot"}),
            json!({"tool_calls": call, "tool_call_id": "7"}),
        ] {
            for (format, row) in answers(&extra) {
                let mut wanted = json!({"role": "assistant", "content": "Yo"});
                wanted.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
                assert_eq!(read(format, row).unwrap().to_string(), wanted.to_string());
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
                assert_eq!(read(format, row).unwrap(), json!({"role": "assistant", "content": "Yo"}));
            }
        }
    }

    #[test]
    fn a_list_of_parts_stays_a_list() {
        for parts in [
            json!([{"type": "text", "text": "Yo"}, {"type": "text", "text": "!"}]),
            json!([{"type": "image", "url": "a.png"}, {"type": "reasoning", "reasoning": "hm"}, "Yo"]),
            json!([]),
        ] {
            let row = json!({"messages": [{"role": "assistant", "content": parts}]});
            assert_eq!(read(TextFormat::Chat, row).unwrap()["content"], parts);
        }
        let row = json!({"messages": [{"role": "assistant", "content": ["a", 3]}]});
        let message = read(TextFormat::Chat, row).unwrap_err();
        assert_eq!(message, "`content` is a number; expected a list of text and of objects with a `type`");
    }

    #[test]
    fn an_answer_that_only_calls_tools_or_thinks_needs_no_words() {
        let row = |extra: Value| {
            let mut answer = json!({"role": "assistant", "content": null});
            answer.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            read(TextFormat::Chat, json!({"messages": [answer]}))
        };
        let found = row(json!({"tool_calls": [{"function": {"name": "tide"}}]})).unwrap();
        assert!(found.get("content").is_none());
        assert!(row(json!({"reasoning_content": "hm"})).is_ok());
        assert_eq!(row(json!({"tool_calls": []})).unwrap_err(), "`content` is null; expected text");
        let absent = json!({"messages": [{"role": "assistant"}]});
        assert!(read(TextFormat::Chat, absent).unwrap_err().starts_with("no field `content`"));
    }

    #[test]
    fn the_call_of_openais_first_interface_is_refused() {
        let [(format, row), _] = answers(&json!({"function_call": {"name": "tide"}}));
        assert!(read(format, row).unwrap_err().starts_with("message 2 has `function_call`"));
    }

    #[test]
    fn an_unknown_speaker_is_named() {
        let message = answer(&[], json!({"from": "dog", "value": "b"})).unwrap_err();
        assert!(message.starts_with("message 1 is by `dog`; expected system, developer, user"), "{message}");
        assert_eq!(answer(&["dog"], json!({"from": "dog", "value": "b"})).unwrap().0["role"], "dog");
    }

    #[test]
    fn a_role_has_the_name_that_the_template_knows() {
        let role =
            |words, from: &str| answer(words, json!({"from": from, "value": "a"})).unwrap().0["role"].clone();
        for (words, from, expected) in [
            (&[][..], "human", "user"),
            (&[], "model", "assistant"),
            (&["model"], "model", "assistant"),
            (&[], "developer", "system"),
            (&["developer"], "developer", "developer"),
            (&[], "observation", "tool"),
            (&["observation"], "observation", "observation"),
            (&["observation", "tool"], "observation", "tool"),
            (&["ipython"], "ipython", "ipython"),
        ] {
            assert_eq!(role(words, from), expected, "{from}");
        }
        let (_, notes) = answer(&[], json!({"from": "developer", "value": "a"})).unwrap();
        assert_eq!(notes, [(Note::AsSystem, "developer".to_owned())]);
        assert_eq!(answer(&["developer"], json!({"from": "developer", "value": "a"})).unwrap().1, []);
    }

    #[test]
    fn a_call_that_is_written_as_json_is_a_call() {
        let tide = json!({"name": "tide", "arguments": {"at": 3}});
        let call = json!({"type": "function", "function": tide});
        for (value, calls) in [(json!(tide), json!([call])), (json!([tide, tide]), json!([call, call]))] {
            let message = json!({"from": "function_call", "value": value.to_string()});
            let (found, notes) = answer(&["tool_calls"], message.clone()).unwrap();
            assert_eq!(found, json!({"role": "assistant", "content": "", "tool_calls": calls}));
            assert_eq!(notes, []);
            let (found, notes) = answer(&[], message).unwrap();
            assert_eq!(found, json!({"role": "assistant", "content": value.to_string()}));
            assert_eq!(notes, [(Note::AsText, "function_call".to_owned())]);
        }
        for text in ["tide(3)", "[]", "{\"name\": 3, \"arguments\": {}}", "{\"arguments\": {}}"] {
            let message = json!({"from": "function_call", "value": text});
            assert_eq!(answer(&["tool_calls"], message).unwrap().0["content"], text);
        }
    }

    #[test]
    fn what_python_can_hold_and_a_template_cannot_matters_only_where_it_is_read() {
        let half = json_in("\"\\ud800\"").unwrap();
        let row = |key: &str| json!({"from": "human", "value": "a", key: half});
        assert!(answer(&[], row("id")).is_ok());
        let message = answer(&["name"], row("name")).unwrap_err();
        assert!(message.starts_with("`name` is text with half of a surrogate pair"), "{message}");
        let message = answer(&[], json!({"from": "human", "value": half})).unwrap_err();
        assert!(message.ends_with("expected text"), "{message}");
    }
}
