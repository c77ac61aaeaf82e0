//! A conversation as templates are given it: whole messages with all their keys.

use serde::Serialize;
use serde_json::{Map, Value};

/// What thoughts are called, the first being what most templates read.
pub(super) const THOUGHTS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Message(Map<String, Value>);

impl Message {
    /// A message of `role`: most templates know `system`, `user` and `assistant`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        let fields = [("role", role.into()), ("content", content.into())];
        Self(fields.into_iter().map(|(key, value)| (key.to_owned(), Value::String(value))).collect())
    }

    /// A message with whatever fields it has; thoughts are there under each name that templates read.
    ///
    /// # Source
    /// `_alias_reasoning_fields` of transformers 5.
    pub fn of_fields(mut fields: Map<String, Value>) -> Self {
        let thoughts = THOUGHTS.into_iter().find_map(|name| fields.get(name).filter(|it| !it.is_null()));
        if let Some(thoughts) = thoughts.cloned() {
            fields.entry("thinking").or_insert(thoughts.clone());
            fields.insert("reasoning_content".to_owned(), thoughts);
        }
        Self(fields)
    }

    /// Who speaks; empty if nobody is named.
    pub fn role(&self) -> &str {
        self.0.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    /// What is said; empty if it is no text.
    pub fn content(&self) -> &str {
        self.0.get("content").and_then(Value::as_str).unwrap_or_default()
    }

    /// The same message with other words.
    pub(super) fn saying(&self, content: String) -> Self {
        let mut fields = self.0.clone();
        fields.insert("content".to_owned(), Value::String(content));
        Self(fields)
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

    /// Its first messages.
    pub(super) fn first(&self, messages: usize) -> Self {
        Self { messages: self.messages[..messages].to_vec(), ..self.clone() }
    }

    /// The same with other words in one message.
    pub(super) fn with(&self, message: usize, content: String) -> Self {
        let mut other = self.clone();
        other.messages[message] = other.messages[message].saying(content);
        other
    }
}
