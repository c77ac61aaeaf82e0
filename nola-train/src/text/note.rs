//! Why something of a row is not learned from as it stands there.

use serde::{Deserialize, Serialize};

/// Why something of a row is not learned from as it stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// A field that the format does not read.
    Unused,
    /// A field, a role or a part of a message that the chat template does not read.
    Unread,
    /// A role that the chat template does not mention.
    AsSystem,
    /// A call of a tool, which the chat template has no place for.
    AsText,
}

impl Note {
    /// The reason, in words that follow the names.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Unused => "not used",
            Self::Unread => "not read by the chat template",
            Self::AsSystem => "written as `system`, since the chat template does not mention it",
            Self::AsText => "written as plain text, since the chat template does not mention `tool_calls`",
        }
    }
}
