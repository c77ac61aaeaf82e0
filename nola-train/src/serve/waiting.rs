//! Texts that wait for a place in the batch, and what is counted.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nola_core::Updates;
use nola_models::GROWTH_TOKENS;
use nola_models::generate::GrowingText;
use serde::Serialize;
use tokio::sync::mpsc::Sender;

use super::request::{Event, Rejection, TextRequest};
use super::shared_prompt::SharedPrompt;

/// How often is looked whether texts that nobody reads can go on.
const PAUSE: Duration = Duration::from_millis(10);

/// A text that was taken, but not begun.
#[derive(Debug)]
pub(super) struct Waiting {
    pub request: TextRequest,
    pub text: GrowingText,
    pub events: Sender<Event>,
    /// What it shares with other texts of its prompt, if there are such.
    pub prompt: Option<Arc<SharedPrompt>>,
}

/// Matrices of an adapter that were made, or why that cannot be.
#[derive(Debug)]
pub(super) struct Made {
    pub generation: u64,
    pub updates: Result<Arc<Updates>, String>,
}

impl Waiting {
    /// Generation of its adapter; 0 for the base.
    pub(super) fn generation(&self) -> u64 {
        self.request.adapter.as_ref().map_or(0, |adapter| adapter.generation)
    }

    /// Tokens of the cache that it may come to need.
    pub(super) fn reserved(&self) -> usize {
        self.text.most_tokens().next_multiple_of(GROWTH_TOKENS)
    }

    /// Sends an event to whoever waits for the text.
    pub(super) fn send(&self, event: Event) {
        // Nobody may be waiting any more.
        let _ = self.events.try_send(event);
    }
}

/// What an engine did so far, and what it is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Texts that wait.
    pub waiting: usize,
    /// Texts in the batch.
    pub running: usize,
    /// Texts that ended as they were to.
    pub finished: u64,
    /// Texts whose receiver went away.
    pub cancelled: u64,
    /// Texts that failed.
    pub failed: u64,
    /// Tokens of prompts that were read.
    pub prompt_tokens: u64,
    /// Tokens that were made.
    pub new_tokens: u64,
    /// Passes in which every running text got a token.
    pub steps: u64,
    /// Adapters whose matrices are made.
    pub adapters_ready: usize,
    /// Bytes of these matrices.
    pub adapter_bytes: u64,
    /// How often matrices were made.
    pub adapters_made: u64,
    /// How often they were there already, or being made, when a text was taken into the batch.
    pub adapters_found: u64,
    /// Tokens of the cache that are in use or kept free for running texts.
    pub cache_tokens: usize,
    /// Tokens that the cache can hold.
    pub cache_limit_tokens: usize,
}

/// Whether texts are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    Open,
    /// Those that are there are completed.
    Closing,
    /// Those that are there are given up.
    Cut,
    /// The model failed.
    Broken(String),
}

/// What callers and the engine's thread share.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    most: usize,
}

#[derive(Debug)]
pub(super) struct State {
    pub waiting: VecDeque<Waiting>,
    pub counts: Counts,
    pub mode: Mode,
    /// For the engine's thread.
    pub made: Vec<Made>,
}

impl Queue {
    pub(super) fn new(most: usize, cache_limit_tokens: usize) -> Self {
        let counts = Counts { cache_limit_tokens, ..Counts::default() };
        let state = State { waiting: VecDeque::new(), counts, mode: Mode::Open, made: Vec::new() };
        Self { state: Mutex::new(state), changed: Condvar::new(), most }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all of `texts`, or none.
    pub(super) fn push(&self, texts: Vec<Waiting>) -> Result<(), Rejection> {
        let mut state = self.lock();
        match &state.mode {
            Mode::Open => {}
            Mode::Closing | Mode::Cut => return Err(Rejection::Closing),
            Mode::Broken(problem) => return Err(Rejection::Broken(problem.clone())),
        }
        let waiting = state.waiting.len();
        if waiting + texts.len() > self.most {
            return Err(Rejection::Busy { waiting, seconds: 1 });
        }
        state.waiting.extend(texts);
        state.counts.waiting = state.waiting.len();
        self.changed.notify_all();
        Ok(())
    }

    /// Takes no more texts; those that are there are completed.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        if state.mode == Mode::Open {
            state.mode = Mode::Closing;
        }
        self.changed.notify_all();
    }

    /// Gives up all texts.
    pub(super) fn cut(&self) {
        let mut state = self.lock();
        if matches!(state.mode, Mode::Open | Mode::Closing) {
            state.mode = Mode::Cut;
        }
        self.changed.notify_all();
    }

    /// Hands matrices to the engine's thread.
    pub(super) fn give(&self, made: Made) {
        self.lock().made.push(made);
        self.changed.notify_all();
    }

    /// Waits until there is something to do, while no text is in the batch; false if there never will be.
    pub(super) fn wait(&self) -> bool {
        let mut state = self.lock();
        loop {
            if !state.waiting.is_empty() {
                return true;
            }
            if state.mode != Mode::Open {
                return false;
            }
            let waited = self.changed.wait_timeout(state, Duration::from_secs(60));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits a moment, or until matrices are made: all texts of the batch wait for those, or for whoever asked for them.
    pub(super) fn pause(&self) {
        let state = self.lock();
        if state.made.is_empty() && state.mode != Mode::Cut {
            drop(self.changed.wait_timeout(state, PAUSE));
        }
    }
}
