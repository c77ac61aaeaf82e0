//! The names of the layouts that rows of text have.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the rows of a data set are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TextFormat {
    /// Documents: plain text, or a column of them.
    Text,
    /// A column with prompts and one with what follows them.
    PromptCompletion,
    /// A prompt and a completion of one's own with the columns of the row in them: `text.template` and `text.completion`.
    Template,
    /// `instruction`, `input`, `output`, in Stanford Alpaca's prompt.
    Alpaca,
    /// `conversations` of `from` and `value`.
    #[serde(rename = "sharegpt")]
    ShareGpt,
    /// `messages` of `role` and `content`.
    Chat,
    /// The E2E NLG Challenge: lines `context||completion`, or columns `mr` and `ref`.
    E2e,
    /// DART's published JSON.
    Dart,
    /// WebNLG's published JSON.
    #[serde(rename = "webnlg")]
    WebNlg,
}

impl TextFormat {
    /// Whether its rows are conversations, which a chat template turns into text.
    pub fn is_conversation(self) -> bool {
        match self {
            Self::ShareGpt | Self::Chat => true,
            Self::Text
            | Self::PromptCompletion
            | Self::Template
            | Self::Alpaca
            | Self::E2e
            | Self::Dart
            | Self::WebNlg => false,
        }
    }
}

impl fmt::Display for TextFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::PromptCompletion => "prompt-completion",
            Self::Template => "template",
            Self::Alpaca => "alpaca",
            Self::ShareGpt => "sharegpt",
            Self::Chat => "chat",
            Self::E2e => "e2e",
            Self::Dart => "dart",
            Self::WebNlg => "webnlg",
        })
    }
}
