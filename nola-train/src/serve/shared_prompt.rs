//! A prompt that several texts begin with: it is read once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nola_models::{GROWTH_TOKENS, KeyValueCache};

/// What whoever reads a prompt first leaves for the other texts of it.
#[derive(Debug, Default)]
pub(super) struct SharedPrompt(Mutex<Option<ReadPrompt>>);

/// A prompt as the model read it.
#[derive(Debug, Clone)]
pub(super) struct ReadPrompt {
    pub cache: KeyValueCache,
    /// After its last token.
    pub logits: Vec<f32>,
}

impl SharedPrompt {
    /// Leaves it for the others, if there are any.
    pub(super) fn leave(self: &Arc<Self>, read: &ReadPrompt) {
        if Arc::strong_count(self) > 1 {
            *self.lock() = Some(read.clone());
        }
    }

    /// What somebody left.
    pub(super) fn left(&self) -> Option<ReadPrompt> {
        self.lock().clone()
    }

    /// Tokens of the cache that it takes beside those of texts.
    pub(super) fn tokens(&self) -> usize {
        let tokens = self.lock().as_ref().map_or(0, |read| read.cache.tokens());
        tokens.next_multiple_of(GROWTH_TOKENS)
    }

    /// Gives up what was left, for its room.
    pub(super) fn forget(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<ReadPrompt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_left_for_others_alone() {
        let read = ReadPrompt { cache: KeyValueCache::new(), logits: vec![1.0] };
        let prompt = Arc::new(SharedPrompt::default());
        prompt.leave(&read);
        assert!(prompt.left().is_none(), "nobody else wants it");
        let other = Arc::clone(&prompt);
        prompt.leave(&read);
        assert_eq!(other.left().map(|read| read.logits), Some(vec![1.0]));
        other.forget();
        assert!(prompt.left().is_none());
    }
}
