//! The engine: one thread that completes texts of many adapters in one batch, which texts join and leave between tokens.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use burn::tensor::{Device, Int, Tensor, TensorData};
use nola_core::{RowAdapters, Segment, with_row_adapters};
use nola_models::generate::{GrowingText, Prompt};
use nola_models::{AttentionMask, CausalLm, GROWTH_TOKENS, KeyValueCache, ModelInfo, caught};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::request::{Event, Rejection, TextRequest};
use super::row::{Growth, Row};
use super::update_cache::UpdateCache;
use super::waiting::{Counts, Mode, Queue, Waiting};
use crate::session::TextBase;

/// What an engine may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// Most texts in the batch.
    pub most_running: usize,
    /// Most texts that wait for a place in it.
    pub most_waiting: usize,
    /// Tokens of a prompt that are read at a time, so that a long one does not hold up other texts.
    pub chunk_tokens: usize,
    /// Bytes of keys and values of all running texts.
    pub cache_bytes: u64,
    /// Bytes of the matrices of adapters.
    pub adapter_bytes: u64,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            most_running: 32,
            most_waiting: 1024,
            chunk_tokens: 256,
            cache_bytes: 2 << 30,
            adapter_bytes: 1 << 30,
        }
    }
}

/// Completes texts; clones are doors to the same engine.
#[derive(Debug, Clone)]
pub struct Engine {
    queue: Arc<Queue>,
    info: ModelInfo,
    thread: Arc<std::sync::Mutex<Option<JoinHandle<()>>>>,
}

impl Engine {
    /// Starts an engine for `base` and its adapters.
    pub fn start(base: &TextBase, device: &Device, options: EngineOptions) -> Self {
        let is_wanted = |path: &str| path.ends_with(".weight");
        let (model, rows) = with_row_adapters(base.model.clone(), &is_wanted);
        let info = model.info();
        let limit = options.cache_bytes / bytes_of_token(&model, device).max(1);
        let limit = (usize::try_from(limit).unwrap_or(usize::MAX) / GROWTH_TOKENS).max(1) * GROWTH_TOKENS;
        let queue = Arc::new(Queue::new(options.most_waiting, limit));
        let updates = UpdateCache::new(base.clone(), device.clone(), rows.clone(), options.adapter_bytes);
        let (device, shared) = (device.clone(), Arc::clone(&queue));
        let batch = Batch {
            model,
            rows,
            device,
            options,
            queue: shared,
            updates,
            running: Vec::new(),
            next_prompt: 0,
        };
        let thread = std::thread::Builder::new().name("engine".to_owned()).spawn(move || batch.run());
        let thread = thread.expect("the system starts a thread");
        Self { queue, info, thread: Arc::new(std::sync::Mutex::new(Some(thread))) }
    }

    /// Takes texts, all or none; each has a receiver of its own, and ends when that is dropped.
    ///
    /// # Errors
    /// If one of them is not usable or too long, or too many are waiting.
    pub fn submit(&self, requests: Vec<TextRequest>) -> Result<Vec<UnboundedReceiver<Event>>, Rejection> {
        let limit = self.queue.lock().counts.cache_limit_tokens;
        let (mut texts, mut receivers) = (Vec::new(), Vec::new());
        for request in requests {
            let prompt = Prompt { row: 0, tokens: request.prompt.clone() };
            let (tokens, vocabulary) = (self.info.max_tokens, self.info.vocab_size);
            let generation = request.generation.clone();
            let text = GrowingText::new(&prompt, request.sequence, generation, tokens, vocabulary)?;
            if text.most_tokens() > limit {
                return Err(Rejection::TooLong { tokens: text.most_tokens(), limit });
            }
            let (events, receiver) = unbounded_channel();
            texts.push(Waiting { request, text, events });
            receivers.push(receiver);
        }
        self.queue.push(texts)?;
        Ok(receivers)
    }

    /// What it did so far, and is doing.
    pub fn counts(&self) -> Counts {
        self.queue.lock().counts
    }

    /// Why it answers no more, if the model failed.
    pub fn problem(&self) -> Option<String> {
        match &self.queue.lock().mode {
            Mode::Broken(problem) => Some(problem.clone()),
            Mode::Open | Mode::Closing => None,
        }
    }

    /// Takes no more texts.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Waits until all texts that were taken have ended; to be called after [`Engine::close`].
    pub fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of the model was told to each text.
            let _ = thread.join();
        }
    }
}

/// Bytes of keys and values that a token takes.
fn bytes_of_token(model: &CausalLm, device: &Device) -> u64 {
    let mut cache = KeyValueCache::new();
    let ids = Tensor::from_data(TensorData::new(vec![0_i64], [1, 1]), device);
    let _ = model.extend(ids.clone(), &AttentionMask::causal(&ids), &mut cache);
    (cache.bytes() / GROWTH_TOKENS) as u64
}

/// What the engine's thread owns.
struct Batch {
    model: CausalLm,
    rows: RowAdapters,
    device: Device,
    options: EngineOptions,
    queue: Arc<Queue>,
    updates: UpdateCache,
    running: Vec<Row>,
    /// Which of the texts whose prompts are not read yet is next.
    next_prompt: usize,
}

impl Batch {
    fn run(mut self) {
        while !self.running.is_empty() || self.queue.wait() {
            if let Err(problem) = caught(|| self.turn()) {
                self.fail(&problem);
                return;
            }
        }
    }

    /// Takes texts in, reads a part of one prompt, and makes one token of each text that is read.
    fn turn(&mut self) {
        self.drop_cancelled();
        self.admit();
        self.read_prompt();
        self.step();
        // Else the last pass would hold on to its adapters.
        self.rows.choose(Vec::new());
        self.updates.trim();
        self.count();
    }

    /// Drops the texts whose receivers are gone, those that wait too.
    fn drop_cancelled(&mut self) {
        let before = self.running.len();
        self.running.retain(|row| !row.is_cancelled());
        let mut state = self.queue.lock();
        let waiting = state.waiting.len();
        state.waiting.retain(|waiting| !waiting.events.is_closed());
        state.counts.waiting = state.waiting.len();
        state.counts.cancelled += (before - self.running.len() + waiting - state.waiting.len()) as u64;
    }

    /// Takes waiting texts in while there is room: first those whose adapters have the fewest texts in the batch.
    fn admit(&mut self) {
        while self.running.len() < self.options.most_running {
            let Some(Waiting { request, text, events }) = self.next_waiting() else { return };
            if events.is_closed() {
                self.queue.lock().counts.cancelled += 1;
                continue;
            }
            let reserved = text.most_tokens().next_multiple_of(GROWTH_TOKENS);
            let updates = request.adapter.as_ref().map(|adapter| self.updates.get(adapter)).transpose();
            match updates {
                Ok(updates) => self.running.push(Row::new(request, text, updates, reserved, events)),
                Err(problem) => {
                    let _ = events.send(Event::Failed(problem));
                    self.queue.lock().counts.failed += 1;
                }
            }
        }
    }

    fn next_waiting(&self) -> Option<Waiting> {
        let mut running: HashMap<u64, usize> = HashMap::new();
        self.running.iter().for_each(|row| *running.entry(row.generation).or_default() += 1);
        let mut state = self.queue.lock();
        let of = |waiting: &Waiting| running.get(&waiting.generation()).copied().unwrap_or(0);
        let (place, _) =
            state.waiting.iter().enumerate().min_by_key(|(place, waiting)| (of(waiting), *place))?;
        // One that does not fit waits, and so do those behind it, or it would wait for ever.
        let tokens = state.waiting[place].text.most_tokens().next_multiple_of(GROWTH_TOKENS);
        if self.reserved() + tokens > state.counts.cache_limit_tokens {
            return None;
        }
        let waiting = state.waiting.remove(place);
        state.counts.waiting = state.waiting.len();
        waiting
    }

    /// Tokens of the cache that running texts may come to need.
    fn reserved(&self) -> usize {
        self.running.iter().map(|row| row.reserved).sum()
    }

    /// Reads a part of the prompt of one text, in turn; the last part gives its first token.
    fn read_prompt(&mut self) {
        let unread: Vec<usize> =
            (0..self.running.len()).filter(|&place| self.running[place].unread().len() > 1).collect();
        let Some(&place) = unread.get(self.next_prompt % unread.len().max(1)) else { return };
        self.next_prompt = self.next_prompt.wrapping_add(1);
        let row = &mut self.running[place];
        let part: Vec<i64> =
            row.unread().iter().take(self.options.chunk_tokens).map(|&token| token.into()).collect();
        let count = part.len();
        let is_last = count == row.unread().len();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(part, [1, count]), &self.device);
        let mask = AttentionMask::following(&ids, &row.cache);
        self.rows.choose(vec![(1, row.updates.clone())]);
        let hidden = self.model.extend(ids, &mask, &mut row.cache);
        let growth = match is_last {
            true => row.grow(logits(&self.model, hidden.narrow(1, count - 1, 1)).pop().expect("one row")),
            false => Growth::GoesOn,
        };
        let mut state = self.queue.lock();
        state.counts.prompt_tokens += count as u64;
        state.counts.new_tokens += u64::from(is_last);
        state.counts.count(growth);
        if growth != Growth::GoesOn {
            self.running.remove(place);
        }
    }

    /// One more token of each text that is read up to its last token.
    fn step(&mut self) {
        // Rows of one adapter side by side; prompts that are not read yet behind them.
        self.running.sort_by_key(|row| (row.unread().len() > 1, row.generation));
        let ready = self.running.partition_point(|row| row.unread().len() == 1);
        if ready == 0 {
            return;
        }
        let rows = &mut self.running[..ready];
        let tokens: Vec<i64> = rows.iter().map(|row| row.unread()[0].into()).collect();
        self.rows.choose(segments(rows));
        let ids = Tensor::<2, Int>::from_data(TensorData::new(tokens, [ready, 1]), &self.device);
        let mut caches: Vec<&mut KeyValueCache> = rows.iter_mut().map(|row| &mut row.cache).collect();
        let hidden = self.model.advance(ids, &mut caches);
        let all = logits(&self.model, hidden);
        let grown: Vec<Growth> = rows.iter_mut().zip(all).map(|(row, logits)| row.grow(logits)).collect();
        let mut of_row = grown.iter();
        self.running.retain(|_| of_row.next().is_none_or(|growth| *growth == Growth::GoesOn));
        let mut state = self.queue.lock();
        state.counts.steps += 1;
        state.counts.new_tokens += ready as u64;
        grown.into_iter().for_each(|growth| state.counts.count(growth));
    }

    fn count(&self) {
        let mut state = self.queue.lock();
        state.counts.running = self.running.len();
        state.counts.cache_tokens = self.reserved();
        state.counts.adapters_ready = self.updates.len();
        state.counts.adapter_bytes = self.updates.bytes();
        state.counts.adapters_made = self.updates.misses();
    }

    /// Tells all texts that the model failed.
    fn fail(&mut self, problem: &str) {
        let event = || Event::Failed(format!("the model failed: {problem}"));
        self.running.drain(..).for_each(|row| row.tell(event()));
        let mut state = self.queue.lock();
        state.mode = Mode::Broken(problem.to_owned());
        for waiting in std::mem::take(&mut state.waiting) {
            let _ = waiting.events.send(event());
        }
        state.counts.waiting = 0;
        state.counts.running = 0;
    }
}

/// The adapters of rows that stand in order.
fn segments(rows: &[Row]) -> Vec<Segment> {
    let groups = rows.chunk_by(|one, other| one.generation == other.generation);
    groups.map(|group| (group.len(), group[0].updates.clone())).collect()
}

/// Logits after the last token of each row.
///
/// # Shapes
/// - `hidden`: `[rows, 1, d_model]`
fn logits(model: &CausalLm, hidden: Tensor<3>) -> Vec<Vec<f32>> {
    let logits = model.logits(hidden);
    let [_, _, vocabulary] = logits.dims();
    let values: Vec<f32> = logits.into_data_as::<f32>().try_into_vec().expect("the type was asked for");
    values.chunks(vocabulary).map(<[f32]>::to_vec).collect()
}
