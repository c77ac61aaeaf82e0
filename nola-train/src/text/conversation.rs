//! Conversations, and what a chat template makes of them.

use std::ops::Range;

use serde_json::{Map, Value};

/// A conversation with what its row says besides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conversation {
    /// The messages.
    pub messages: Vec<Message>,
    /// The tools that the assistant may call; null: none.
    pub tools: Value,
    /// Documents to answer from; null: none.
    pub documents: Value,
    /// Further variables of the chat template.
    pub variables: Map<String, Value>,
}

/// Fields of a message that say something, beside its words.
const TELLING: [&str; 7] =
    ["name", "reasoning", "reasoning_content", "refusal", "thinking", "tool_call_id", "tool_calls"];

impl Conversation {
    /// Length of its text.
    pub fn bytes(&self) -> usize {
        let messages = self.messages.iter().flat_map(|message| message.fields.values());
        messages.chain([&self.tools, &self.documents]).map(bytes).sum()
    }

    /// The fields of row and messages that say something and that a template must write, each once.
    pub(super) fn telling(&self) -> Vec<&str> {
        let of_row = [("tools", &self.tools), ("documents", &self.documents)];
        let of_row = of_row.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name);
        let is_there = |name: &&str| self.messages.iter().any(|message| message.fields.contains_key(*name));
        let of_messages = TELLING.into_iter().filter(is_there);
        of_row.chain(self.variables.keys().map(String::as_str)).chain(of_messages).collect()
    }

    /// Whether the answer at `message` is learned.
    pub(super) fn is_learned(&self, message: usize) -> bool {
        self.messages.get(message).is_some_and(|message| message.learned == Learned::Yes)
    }

    /// Whether all answers are learned.
    pub(super) fn is_all_learned(&self) -> bool {
        self.messages.iter().all(|message| message.learned == Learned::Yes)
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

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// All its fields as the chat template is given them, role and content included.
    pub fields: Map<String, Value>,
    /// Whether it is learned, if it is the assistant's.
    pub learned: Learned,
}

impl Message {
    /// A message of nothing but words.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        let fields = [("role", role.name().to_owned()), ("content", content.into())];
        let fields = fields.into_iter().map(|(key, value)| (key.to_owned(), Value::String(value)));
        Self { role, fields: fields.collect(), learned: Learned::Yes }
    }

    /// What is said; empty if it is no text.
    pub fn content(&self) -> &str {
        self.fields.get("content").and_then(Value::as_str).unwrap_or_default()
    }
}

/// Whether an answer is learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// It is.
    Yes,
    /// The row takes it out, with a weight of 0 for example.
    No,
}

/// What a chat template makes of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// What the assistant says in it.
    pub said: Vec<Said>,
    /// Who says what ends an answer.
    pub ended_by: EndedBy,
}

/// What the assistant says at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The message, counted from 0, if it is known.
    pub message: Option<usize>,
    /// Bytes of the text.
    pub bytes: Range<usize>,
}

/// Who says what ends an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// The template alone: what it does not mark is not learned.
    Template,
    /// The end token belongs to an answer, and is added to the last if it is not there.
    EndToken,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Nobody; it says how to answer.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// A program that the model called.
    Tool,
}

impl Role {
    /// What chat templates call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}
