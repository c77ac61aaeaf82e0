//! A conversation as templates are given it: whole messages with all their keys.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value, json};

/// What thoughts are called, the first being what most templates read.
pub(super) const THOUGHTS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Role of the one whose words are learned.
const ASSISTANT: &str = "assistant";

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message(Map<String, Value>);

impl Message {
    /// A message of `role`: most templates know `system`, `user` and `assistant`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        let fields = [("role", role.into()), ("content", content.into())];
        Self(fields.into_iter().map(|(key, value)| (key.to_owned(), Value::String(value))).collect())
    }

    /// A message with whatever fields it has.
    pub fn of_fields(fields: Map<String, Value>) -> Self {
        Self(fields)
    }

    /// All its fields, role and content included.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Who speaks; empty if nobody is named.
    pub fn role(&self) -> &str {
        self.0.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether the assistant speaks.
    pub fn is_answer(&self) -> bool {
        self.role() == ASSISTANT
    }

    /// What is said, all its parts together; empty if none of them is text.
    pub fn text(&self) -> String {
        self.parts().iter().filter_map(text_of).collect()
    }

    /// The last part of what is said that has words; empty if there is none.
    pub fn last_words(&self) -> &str {
        let mut texts = self.parts().iter().rev().filter_map(text_of);
        texts.find(|text| !text.trim().is_empty()).unwrap_or_default()
    }

    /// The parts of a content that is a list; one that is not is its only part.
    pub(super) fn parts(&self) -> &[Value] {
        match self.0.get("content") {
            None => &[],
            Some(Value::Array(parts)) => parts,
            Some(content) => std::slice::from_ref(content),
        }
    }

    /// The same message with nothing but other words.
    pub(super) fn saying(&self, words: &str) -> Self {
        let content = match self.0.get("content") {
            Some(Value::Array(parts)) => {
                let mut part = parts.iter().find(|part| text_of(part).is_some()).cloned();
                if let Some(text) = part.as_mut().and_then(text_in) {
                    *text = words.to_owned();
                }
                Value::from(vec![part.unwrap_or_else(|| json!({"type": "text", "text": words}))])
            }
            Some(_) | None => Value::from(words),
        };
        self.with_content(content)
    }

    /// The same message with a mark behind the last of its words.
    pub(super) fn marked(&self, mark: char) -> Self {
        let mut content = self.0.get("content").cloned().unwrap_or_default();
        let parts = match &mut content {
            Value::Array(parts) => parts.as_mut_slice(),
            one => std::slice::from_mut(one),
        };
        let has_words = |part: &Value| text_of(part).is_some_and(|text| !text.trim().is_empty());
        let last = parts.iter().rposition(has_words);
        let last = last.or_else(|| parts.iter().rposition(|part| text_of(part).is_some()));
        if let Some(text) = last.and_then(|last| text_in(&mut parts[last])) {
            text.insert(text.trim_end().len(), mark);
        } else if let Value::Array(parts) = &mut content {
            parts.push(json!({"type": "text", "text": mark}));
        } else {
            return self.saying(&mark.to_string());
        }
        self.with_content(content)
    }

    fn with_content(&self, content: Value) -> Self {
        let mut fields = self.0.clone();
        fields.insert("content".to_owned(), content);
        Self(fields)
    }
}

/// The text that a part is or holds; what is no text to read, such as thoughts, is none.
fn text_of(part: &Value) -> Option<&str> {
    match part {
        Value::String(text) => Some(text),
        Value::Object(fields) if is_text(fields) => fields.get("text")?.as_str(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The same, to be changed.
fn text_in(part: &mut Value) -> Option<&mut String> {
    text_of(part)?;
    match part {
        Value::String(text) => Some(text),
        Value::Object(fields) => match fields.get_mut("text")? {
            Value::String(text) => Some(text),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
    }
}

/// Whether a part is of text: `text`, as OpenAI's older interface calls it, `input_text`, `output_text`, or not said.
fn is_text(part: &Map<String, Value>) -> bool {
    part.get("type").is_none_or(|kind| kind.as_str().is_some_and(|kind| kind.ends_with("text")))
}

/// As templates are given it: thoughts are there under each name that templates read.
///
/// # Source
/// `_alias_reasoning_fields` of transformers 5.
impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let thoughts = THOUGHTS.into_iter().find_map(|name| self.0.get(name).filter(|it| !it.is_null()));
        let mut map = serializer.serialize_map(None)?;
        let missing = |name: &&str| thoughts.is_some() && self.0.get(*name).is_none();
        if Some("thinking").filter(missing).is_some() {
            map.serialize_entry("thinking", &thoughts)?;
        }
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        if Some(THOUGHTS[0]).filter(missing).is_some() {
            map.serialize_entry(THOUGHTS[0], &thoughts)?;
        }
        map.end()
    }
}

/// A conversation, and what else its template is given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conversation {
    /// The messages.
    pub messages: Vec<Message>,
    /// The tools that the assistant may call; null: none.
    pub tools: Value,
    /// Documents to answer from; null: none.
    pub documents: Value,
    /// Further variables of the template.
    pub variables: Map<String, Value>,
}

impl Conversation {
    /// Messages alone.
    pub fn new(messages: Vec<Message>) -> Self {
        Self { messages, ..Self::default() }
    }

    /// Length of its text, in bytes.
    pub fn bytes(&self) -> usize {
        let messages = self.messages.iter().flat_map(|message| message.0.values());
        messages.chain([&self.tools, &self.documents]).map(bytes).sum()
    }

    /// Its first messages.
    pub(super) fn first(&self, messages: usize) -> Self {
        Self { messages: self.messages[..messages].to_vec(), ..self.clone() }
    }

    /// The same with another message in place of one.
    pub(super) fn with(&self, index: usize, message: Message) -> Self {
        let mut other = self.clone();
        other.messages[index] = message;
        other
    }
}

/// The text in a value, in bytes.
fn bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(bytes).sum(),
        Value::Object(fields) => fields.iter().map(|(key, value)| key.len() + bytes(value)).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saying(content: Value) -> Message {
        Message::of_fields(Map::from_iter([("content".to_owned(), content)]))
    }

    fn content(message: &Message) -> &Value {
        &message.0["content"]
    }

    #[test]
    fn a_mark_is_behind_the_last_words_of_a_text_or_a_list() {
        let image = json!({"type": "image", "url": "a.png"});
        let thoughts = json!({"type": "reasoning", "text": "hm"});
        let text = |text: &str| json!({"type": "text", "text": text});
        for (original, marked) in [
            (json!("a b \n"), json!("a b| \n")),
            (json!(""), json!("|")),
            (json!(null), json!("|")),
            (json!([text("a"), text("b "), text(" ")]), json!([text("a"), text("b| "), text(" ")])),
            (json!([text("a"), image, thoughts]), json!([text("a|"), image, thoughts])),
            (json!(["a", {"text": "b"}]), json!(["a", {"text": "b|"}])),
            (json!([text("")]), json!([text("|")])),
            (json!([image]), json!([image, text("|")])),
            (json!([]), json!([text("|")])),
        ] {
            assert_eq!(content(&saying(original).marked('|')), &marked);
        }
    }

    #[test]
    fn other_words_have_the_form_of_those_there_were() {
        let part = json!({"type": "text", "text": "a", "cache": null});
        for (original, other) in [
            (json!("a"), json!("x")),
            (json!(null), json!("x")),
            (json!([{"type": "image"}, part, part]), json!([{"type": "text", "text": "x", "cache": null}])),
            (json!(["a", "b"]), json!(["x"])),
            (json!([{"type": "image"}]), json!([{"type": "text", "text": "x"}])),
        ] {
            assert_eq!(content(&saying(original).saying("x")), &other);
        }
    }

    #[test]
    fn the_words_of_a_list_are_those_of_its_texts() {
        let message = saying(json!([{"type": "text", "text": "a "}, {"type": "image"}, "b", " "]));
        assert_eq!((message.text().as_str(), message.last_words()), ("a b ", "b"));
        assert_eq!((saying(json!([])).text().as_str(), saying(json!(3)).last_words()), ("", ""));
    }

    #[test]
    fn thoughts_are_there_under_each_name_in_the_order_of_transformers() {
        let written = |fields: Value| {
            serde_json::to_string(&Message::of_fields(fields.as_object().unwrap().clone())).unwrap()
        };
        assert_eq!(
            written(json!({"role": "r", "reasoning": "a"})),
            r#"{"thinking":"a","role":"r","reasoning":"a","reasoning_content":"a"}"#
        );
        assert_eq!(
            written(json!({"role": "r", "thinking": "a"})),
            r#"{"role":"r","thinking":"a","reasoning_content":"a"}"#
        );
        let both = r#"{"reasoning_content":"b","thinking":"a"}"#;
        assert_eq!(written(json!({"reasoning_content": "b", "thinking": "a"})), both);
        assert_eq!(written(json!({"role": "r"})), r#"{"role":"r"}"#);
    }
}
