//! GGUF files: a whole model in one.

use super::input::in_folder;
use super::{checkpoint, tokenizer};

const FILE: &str = "model.gguf";

/// Configuration, tokenizer and weights of one file.
pub fn model(bytes: &[u8]) {
    in_folder(&[(FILE, Some(bytes))], |folder| {
        let file = folder.join(FILE);
        checkpoint::open(&file, bytes);
        tokenizer::open(&file, bytes);
    });
}
