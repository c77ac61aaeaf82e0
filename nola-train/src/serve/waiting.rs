//! Texts that wait for a place in the batch, and what is counted.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nola_models::generate::GrowingText;
use serde::Serialize;
use tokio::sync::mpsc::UnboundedSender;

use super::request::{Event, Rejection, TextRequest};
use super::row::Growth;

/// A text that was taken, but not begun.
#[derive(Debug)]
pub(super) struct Waiting {
    pub request: TextRequest,
    pub text: GrowingText,
    pub events: UnboundedSender<Event>,
}

impl Waiting {
    /// Generation of its adapter; 0 for the base.
    pub(super) fn generation(&self) -> u64 {
        self.request.adapter.as_ref().map_or(0, |adapter| adapter.generation)
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
    /// Tokens of the cache that are in use or kept free for running texts.
    pub cache_tokens: usize,
    /// Tokens that the cache can hold.
    pub cache_limit_tokens: usize,
}

impl Counts {
    pub(super) fn count(&mut self, growth: Growth) {
        match growth {
            Growth::GoesOn => {}
            Growth::Finished => self.finished += 1,
            Growth::Failed => self.failed += 1,
            Growth::Cancelled => self.cancelled += 1,
        }
    }
}

/// Whether texts are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    Open,
    /// Those that are there are completed.
    Closing,
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
}

impl Queue {
    pub(super) fn new(most: usize, cache_limit_tokens: usize) -> Self {
        let counts = Counts { cache_limit_tokens, ..Counts::default() };
        let state = State { waiting: VecDeque::new(), counts, mode: Mode::Open };
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
            Mode::Closing => return Err(Rejection::Closing),
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

    /// Waits until there is something to do; false if there never will be.
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
}
