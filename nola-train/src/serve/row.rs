//! A text in the batch.

use std::collections::HashMap;
use std::sync::Arc;

use nola_core::Updates;
use nola_models::KeyValueCache;
use nola_models::generate::{GenerateError, GrowingText, log_probabilities};
use tokio::sync::mpsc::Sender;

use super::request::{Event, NewToken, TextRequest, TokenScore};
use super::shared_prompt::{ReadPrompt, SharedPrompt};
use super::waiting::{Counts, Waiting};

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
    /// What it shares with other texts of its prompt, until the prompt is read.
    pub prompt: Option<Arc<SharedPrompt>>,
    request: TextRequest,
    events: Sender<Event>,
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

impl Growth {
    pub(super) fn count(self, counts: &mut Counts) {
        match self {
            Self::GoesOn => {}
            Self::Finished => counts.finished += 1,
            Self::Failed => counts.failed += 1,
            Self::Cancelled => counts.cancelled += 1,
        }
    }
}

impl Row {
    /// A text with the matrices of its adapter.
    pub(super) fn new(waiting: Waiting, updates: Option<Arc<Updates>>) -> Self {
        let (generation, reserved) = (waiting.generation(), waiting.reserved());
        let Waiting { request, text, events, prompt } = waiting;
        let (cache, made) = (KeyValueCache::new(), HashMap::new());
        Self { text, cache, updates, generation, reserved, prompt, request, events, made }
    }

    /// Tokens that the model has not read yet.
    pub(super) fn unread(&self) -> &[u32] {
        &self.text.tokens()[self.cache.tokens()..]
    }

    /// Whether nobody waits for it any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.events.is_closed()
    }

    /// Whether there is room for a token and for the end of the text: else whoever asked for it does not take what is there.
    pub(super) fn has_room(&self) -> bool {
        self.events.capacity() >= 2
    }

    /// What stands side by side in a batch: rows of adapters with factors in common, and those of one adapter.
    pub(super) fn place(&self) -> (usize, u64) {
        let shared = self.updates.as_ref().and_then(|updates| updates.shared());
        (shared.map_or(0, |factors| Arc::as_ptr(factors).addr()), self.generation)
    }

    /// Takes the prompt that another text has read, if one has, and adds the first token.
    pub(super) fn take_prompt(&mut self) -> Option<Growth> {
        let ReadPrompt { cache, logits } = self.prompt.as_ref()?.left()?;
        self.prompt = None;
        self.cache = cache;
        Some(self.grow(logits))
    }

    /// Adds the first token, and leaves the prompt that was read for others.
    pub(super) fn finish_prompt(&mut self, logits: Vec<f32>) -> Growth {
        if let Some(prompt) = self.prompt.take() {
            let read = ReadPrompt { cache: self.cache.clone(), logits: logits.clone() };
            prompt.leave(&read);
        }
        self.grow(logits)
    }

    /// Adds the next token by the logits after the last one, and sends it.
    pub(super) fn grow(&mut self, mut logits: Vec<f32>) -> Growth {
        match self.chosen(&mut logits) {
            Ok(token) => self.send(Event::Token(token)),
            Err(error) => {
                self.send(Event::Failed(error.to_string()));
                return Growth::Failed;
            }
        }
        match self.text.finish() {
            Some(finish) => {
                self.send(Event::Finished(finish));
                Growth::Finished
            }
            None if self.is_cancelled() => Growth::Cancelled,
            None => Growth::GoesOn,
        }
    }

    pub(super) fn send(&self, event: Event) {
        // There is room for it; a receiver that is gone is seen before the next token.
        let _ = self.events.try_send(event);
    }

    fn chosen(&mut self, logits: &mut [f32]) -> Result<NewToken, GenerateError> {
        let new_tokens = self.text.added().len();
        let scores = self.request.top_scores.map(|_| log_probabilities(logits, new_tokens)).transpose()?;
        self.penalize(logits);
        let token = self.text.choose(logits)?;
        *self.made.entry(token).or_default() += 1;
        let scored = |logs: Vec<f32>| (logs[token as usize], self.likeliest(&logs));
        Ok(NewToken { token, scores: scores.map(scored) })
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
