//! Text: from files to batches of tokens in host memory.
//!
//! A file gives rows, a [`TextFormat`] says what a model is to learn of each, a tokenizer turns that into a [`Sample`],
//! and [`TextData`] puts samples together in [`TokenBatch`]es. What belongs to a model, its tokenizer and its chat
//! template, comes in through [`Encode`] and [`ChatRender`].

mod bad_row;
mod batch;
mod beginning;
mod cache;
mod choice;
mod collect;
mod error;
mod format;
mod maker;
mod order;
mod pack;
mod prepare;
mod preview;
mod read;
mod references;
mod report;
mod sample;
mod settings;

use std::ops::Range;

pub use bad_row::{BAD_ROWS_LISTED, BadRow, Place, RowProblem, Spot};
pub use batch::{NO_TARGET, TokenBatch};
pub use beginning::{Beginning, End, encode_end};
pub use choice::{Choice, Question, choices, questions};
pub use error::TextError;
pub use format::{Example, Joint, Pair, Part, TextFormat};
pub use order::LengthGroups;
pub use prepare::{CacheUse, TextData, TextSource};
pub use preview::{Paint, preview};
pub use read::{FileKind, MAX_ROW_BYTES};
pub use references::{References, references};
pub use report::TextReport;
pub use sample::{Sample, prompt_ids};
pub use settings::{Columns, Loss, OnBadRow, OnLong, Packing, TextSettings};

/// A tokenizer.
pub trait Encode: Sync {
    /// The tokens of a text; nothing is put before or after it.
    ///
    /// # Errors
    /// What the tokenizer said.
    fn encode(&self, text: &str) -> Result<Vec<u32>, String>;

    /// The same, with the bytes of the text that each token stands for.
    ///
    /// # Errors
    /// What the tokenizer said.
    fn encode_with_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), String>;

    /// The token that the tokenizer puts before every text: LLaMA's `<s>`; GPT-2 has none.
    fn bos(&self) -> Option<u32>;

    /// The token that ends a text.
    fn eos(&self) -> Option<u32>;

    /// Number of tokens, added ones included.
    fn vocab_size(&self) -> usize;

    /// A text that differs between tokenizers that encode differently.
    fn fingerprint(&self) -> String;
}

/// A chat template.
pub trait ChatRender: Sync {
    /// The conversation as one text, and the bytes in it that the assistant says: its words, and what the model must
    /// say to end its turn, if that is something else than the tokenizer's end token.
    ///
    /// # Errors
    /// What the template said.
    fn render(&self, messages: &[Message]) -> Result<(String, Vec<Range<usize>>), String>;

    /// A text that differs between templates that render differently.
    fn fingerprint(&self) -> String;
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
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

#[cfg(test)]
mod fake;
