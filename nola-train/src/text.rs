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
mod conversation;
mod error;
mod file_kind;
mod format;
mod note;
mod order;
mod pack;
mod prepare;
mod preview;
mod read;
mod references;
mod report;
mod sample;
mod sample_builder;
mod settings;
mod template;
mod text_format;
mod text_source;
mod unknown;

use std::ops::Range;

use nola_models::chat::{Conversation, Rendered};

pub use bad_row::{BadRow, BadRows, Origin, Place, RowLocation, RowProblem};
pub use batch::{NO_TARGET, TokenBatch};
pub use beginning::{Beginning, End, encode_end};
pub use choice::{Choice, Question, choices, questions};
pub use conversation::Dialogue;
pub use error::TextError;
pub use file_kind::FileKind;
pub use format::{Example, Pair, Part, Separator};
pub use note::Note;
pub use order::LengthGroups;
pub use prepare::{CacheUse, TextData};
pub use preview::{Paint, preview};
pub use read::MAX_ROW_BYTES;
pub use references::{References, references};
pub use report::TextReport;
pub use sample::{Sample, prompt_ids};
pub use settings::{Columns, Loss, OnBadRow, OnLong, Packing, TextSettings};
pub use template::PromptTemplate;
pub use text_format::TextFormat;
pub use text_source::TextSource;
pub use unknown::Unknown;

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

    /// The token that the tokenizer puts behind every text, if it does.
    fn closing(&self) -> Option<u32> {
        None
    }

    /// The token that stands for what the vocabulary lacks, with its name; none if there is none.
    fn unknown(&self) -> Option<(u32, String)> {
        None
    }

    /// The tokens that end a text; where one is to be written, it is the first.
    fn ends(&self) -> &[u32];

    /// The token that is written at the end of a text.
    fn eos(&self) -> Option<u32> {
        self.ends().first().copied()
    }

    /// Number of tokens, added ones included.
    fn vocab_size(&self) -> usize;

    /// A text that differs between tokenizers that encode differently.
    fn fingerprint(&self) -> String;
}

/// A chat template.
pub trait ChatRender: Sync {
    /// The conversation as one text.
    ///
    /// # Errors
    /// What the template said.
    fn text(&self, conversation: &Conversation) -> Result<String, String>;

    /// The conversation as one text, and what of it the assistant says: its words, and what the template ends its turn with.
    ///
    /// # Errors
    /// What the template said.
    fn render(&self, conversation: &Conversation) -> Result<Rendered, String>;

    /// Whether the template mentions a word, such as the name of a field or a role.
    fn mentions(&self, word: &str) -> bool;

    /// The names of what a conversation says and the template, which made `text` of it, does not read.
    fn unread(&self, conversation: &Conversation, text: &str) -> Vec<String>;

    /// A text that differs between templates that render differently.
    fn fingerprint(&self) -> String;
}

#[cfg(test)]
mod fake;
