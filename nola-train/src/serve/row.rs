//! A text in the batch.

use std::collections::HashMap;
use std::sync::Arc;

use nola_core::Updates;
use nola_models::KeyValueCache;
use nola_models::generate::{GenerateError, GrowingText, log_probabilities};
use tokio::sync::mpsc::UnboundedSender;

use super::request::{Event, NewToken, TextRequest, TokenScore};

/// A text in the batch: what was read of it, and what of it is still to be read.
#[derive(Debug)]
pub(super) struct Row {
    pub text: GrowingText,
    pub cache: KeyValueCache,
    pub updates: Option<Arc<Updates>>,
    /// Generation of the adapter; 0 for the base. Rows of one adapter stand side by side.
    pub generation: u64,
    /// Tokens of the cache that are kept for it.
    pub reserved: usize,
    request: TextRequest,
    events: UnboundedSender<Event>,
    /// How often each token was made.
    made: HashMap<u32, u32>,
}

/// What became of a text with its last token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Growth {
    GoesOn,
    Finished,
    Failed,
    Cancelled,
}

impl Row {
    pub(super) fn new(
        request: TextRequest,
        text: GrowingText,
        updates: Option<Arc<Updates>>,
        reserved: usize,
        events: UnboundedSender<Event>,
    ) -> Self {
        let generation = request.adapter.as_ref().map_or(0, |adapter| adapter.generation);
        let (cache, made) = (KeyValueCache::new(), HashMap::new());
        Self { text, cache, updates, generation, reserved, request, events, made }
    }

    /// Tokens that the model has not read yet.
    pub(super) fn unread(&self) -> &[u32] {
        &self.text.tokens()[self.cache.tokens()..]
    }

    /// Whether nobody waits for it any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.events.is_closed()
    }

    /// Adds the next token by the logits after the last one, and tells of it.
    pub(super) fn grow(&mut self, mut logits: Vec<f32>) -> Growth {
        match self.chosen(&mut logits) {
            Ok(token) => self.tell(Event::Token(token)),
            Err(error) => {
                self.tell(Event::Failed(error.to_string()));
                return Growth::Failed;
            }
        }
        match self.text.finish() {
            Some(finish) => {
                self.tell(Event::Finished(finish));
                Growth::Finished
            }
            None if self.is_cancelled() => Growth::Cancelled,
            None => Growth::GoesOn,
        }
    }

    pub(super) fn tell(&self, event: Event) {
        // A receiver that is gone is seen before the next token.
        let _ = self.events.send(event);
    }

    fn chosen(&mut self, logits: &mut [f32]) -> Result<NewToken, GenerateError> {
        let new_tokens = self.text.added().len();
        let scores = self.request.top_scores.map(|_| log_probabilities(logits, new_tokens)).transpose()?;
        self.penalize(logits);
        let token = self.text.choose(logits)?;
        *self.made.entry(token).or_default() += 1;
        let told = |logs: Vec<f32>| (logs[token as usize], self.likeliest(&logs));
        Ok(NewToken { token, scores: scores.map(told) })
    }

    /// # Source
    /// "Frequency and presence penalties" of OpenAI's API reference.
    fn penalize(&self, logits: &mut [f32]) {
        for (&token, &times) in &self.made {
            let (each, any) = (self.request.frequency_penalty, self.request.presence_penalty);
            logits[token as usize] -= (f64::from(times) * each + any) as f32;
        }
    }

    fn likeliest(&self, logs: &[f32]) -> Vec<TokenScore> {
        let count = self.request.top_scores.unwrap_or(0).min(logs.len());
        let mut order: Vec<u32> = (0..logs.len() as u32).collect();
        let by_score = |one: &u32, other: &u32| logs[*other as usize].total_cmp(&logs[*one as usize]);
        if count > 0 && count < order.len() {
            order.select_nth_unstable_by(count - 1, by_score);
        }
        order.truncate(count);
        order.sort_by(by_score);
        let score = |token: u32| TokenScore { token, log_probability: logs[token as usize] };
        order.into_iter().map(score).collect()
    }
}
