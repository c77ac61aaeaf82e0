//! A vocabulary as it is read from one of the kinds of files.

use std::path::PathBuf;

use super::settings::{Listed, Named};

/// What a reader of a vocabulary gives.
pub(super) struct Vocabulary {
    pub(super) file: PathBuf,
    pub(super) inner: tokenizers::Tokenizer,
    /// Special tokens where no file names them.
    pub(super) defaults: Vec<Named>,
    pub(super) listed: Vec<Listed>,
    pub(super) origin: Origin,
    /// What to tell of how it was read.
    pub(super) notes: Vec<String>,
}

/// What a tokenizer was made from.
#[derive(Clone, Copy)]
pub(super) enum Origin {
    /// A `tokenizer.json`, which says everything.
    Ready,
    /// Files of a vocabulary, which settings complete.
    Parts,
}
