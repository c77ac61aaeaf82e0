//! A data set with all that turns it into samples.

use super::{ChatRender, Encode, TextFormat, TextSettings};
use crate::portion::DataSource;

/// A data set, and the model that is to learn from it.
#[derive(Clone, Copy)]
pub struct TextSource<'a> {
    /// A file or a folder of them, and which part is used.
    pub data: &'a DataSource,
    /// How its rows are written.
    pub format: TextFormat,
    /// How they become samples.
    pub settings: &'a TextSettings,
    /// The model's tokenizer.
    pub tokenizer: &'a dyn Encode,
    /// The chat template, if the model has one.
    pub chat: Option<&'a dyn ChatRender>,
    /// Rows of the model's embedding: tokens are below it.
    pub embeddings: usize,
    /// Positions of the model.
    pub context: usize,
}
