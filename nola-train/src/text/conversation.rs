//! Conversations of which some answers may not be learned.

use nola_models::chat::Conversation;

/// A conversation as a row has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dialogue {
    /// What its template is given.
    pub conversation: Conversation,
    /// The answers that the row takes out, with a weight of 0 for example: their places among the messages, from 0.
    pub left_out: Vec<usize>,
}

impl Dialogue {
    /// Whether the answer at `message` is learned.
    pub(super) fn is_learned(&self, message: usize) -> bool {
        !self.left_out.contains(&message)
    }

    /// Whether all answers are learned.
    pub(super) fn is_all_learned(&self) -> bool {
        self.left_out.is_empty()
    }

    /// Whether no answer is learned.
    pub(super) fn is_all_left_out(&self) -> bool {
        let mut messages = self.conversation.messages.iter().enumerate();
        !messages.any(|(index, message)| message.is_answer() && self.is_learned(index))
    }
}
