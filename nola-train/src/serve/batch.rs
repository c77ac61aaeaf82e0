//! The batch: what the engine's thread does in each turn.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Weak};

use burn::tensor::{Device, Int, Tensor, TensorData};
use nola_core::{RowAdapters, Segment, on_compute_thread};
use nola_models::{AttentionMask, CausalLm, KeyValueCache, caught};

use super::ServedAdapter;
use super::engine_options::EngineOptions;
use super::request::Event;
use super::row::{Growth, Row};
use super::shared_prompt::SharedPrompt;
use super::update_cache::{Found, UpdateCache};
use super::waiting::{Made, Mode, Queue, Waiting};

/// What the engine's thread owns.
pub(super) struct Batch {
    model: CausalLm,
    rows: RowAdapters,
    device: Device,
    options: EngineOptions,
    queue: Arc<Queue>,
    updates: UpdateCache,
    /// Makes what the cache does not have.
    maker: Sender<Arc<ServedAdapter>>,
    running: Vec<Row>,
    /// Texts with a place in the batch whose adapters' matrices are being made.
    loading: Vec<Waiting>,
    /// Prompts that were read and are kept for other texts of them.
    prompts: Vec<Weak<SharedPrompt>>,
    /// Which of the texts whose prompts are not read yet is next.
    next_prompt: usize,
}

/// Whether a turn did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Busy,
    Idle,
}

impl Batch {
    pub(super) fn new(
        model: CausalLm,
        rows: RowAdapters,
        device: Device,
        options: EngineOptions,
        queue: Arc<Queue>,
        maker: Sender<Arc<ServedAdapter>>,
    ) -> Self {
        let updates = UpdateCache::new(options.adapter_bytes);
        let (running, loading, prompts) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            model,
            rows,
            device,
            options,
            queue,
            updates,
            maker,
            running,
            loading,
            prompts,
            next_prompt: 0,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let turn = match caught(|| self.turn()) {
                Ok(turn) => turn,
                Err(problem) => return self.fail(&problem),
            };
            let has_texts = self.len() > 0;
            match turn {
                Turn::Busy => {}
                Turn::Idle if has_texts => self.queue.pause(),
                Turn::Idle => {
                    if !self.queue.wait() {
                        return;
                    }
                }
            }
        }
    }

    /// Texts with a place in it.
    fn len(&self) -> usize {
        self.running.len() + self.loading.len()
    }

    /// Takes texts in, reads a part of one prompt, and makes one token of each text that is read.
    fn turn(&mut self) -> Turn {
        if self.queue.lock().mode == Mode::Cut {
            self.end_all(&Event::Cut);
            return Turn::Idle;
        }
        self.drop_cancelled();
        let done = [self.take_made(), self.admit(), self.take_prompts(), self.read_prompt(), self.step()];
        // Else the last pass would hold on to its adapters.
        self.rows.choose(Vec::new());
        self.updates.trim();
        self.count();
        if done.contains(&Turn::Busy) { Turn::Busy } else { Turn::Idle }
    }

    /// Drops the texts whose receivers are gone, those that wait too.
    fn drop_cancelled(&mut self) {
        let before = self.len();
        self.running.retain(|row| !row.is_cancelled());
        self.loading.retain(|waiting| !waiting.events.is_closed());
        let mut state = self.queue.lock();
        let waiting = state.waiting.len();
        state.waiting.retain(|waiting| !waiting.events.is_closed());
        state.counts.waiting = state.waiting.len();
        state.counts.cancelled += (before - self.len() + waiting - state.waiting.len()) as u64;
    }

    /// Begins the texts whose adapters' matrices were made meanwhile.
    fn take_made(&mut self) -> Turn {
        let made = std::mem::take(&mut self.queue.lock().made);
        let turn = if made.is_empty() { Turn::Idle } else { Turn::Busy };
        for Made { generation, updates } in made {
            self.updates.put(generation, &updates);
            let (ready, others): (Vec<Waiting>, Vec<Waiting>) =
                self.loading.drain(..).partition(|waiting| waiting.generation() == generation);
            self.loading = others;
            for waiting in ready {
                match &updates {
                    Ok(updates) => self.running.push(Row::new(waiting, Some(Arc::clone(updates)))),
                    Err(problem) => self.refuse(&waiting, problem),
                }
            }
        }
        turn
    }

    fn refuse(&self, waiting: &Waiting, problem: &str) {
        waiting.send(Event::Failed(problem.to_owned()));
        self.queue.lock().counts.failed += 1;
    }

    /// Takes waiting texts in while there is room: first those whose adapters have the fewest texts in the batch.
    fn admit(&mut self) -> Turn {
        let mut turn = Turn::Idle;
        while self.len() < self.options.most_running {
            let Some(waiting) = self.next_waiting() else { break };
            turn = Turn::Busy;
            if waiting.events.is_closed() {
                self.queue.lock().counts.cancelled += 1;
                continue;
            }
            let Some(adapter) = waiting.request.adapter.clone() else {
                self.running.push(Row::new(waiting, None));
                continue;
            };
            match self.updates.get(adapter.generation) {
                Found::Ready(updates) => self.running.push(Row::new(waiting, Some(updates))),
                Found::Impossible(problem) => self.refuse(&waiting, &problem),
                Found::InTheMaking => self.loading.push(waiting),
                Found::Absent => {
                    self.maker.send(adapter).expect("its thread runs as long as this one");
                    self.loading.push(waiting);
                }
            }
        }
        turn
    }

    fn next_waiting(&self) -> Option<Waiting> {
        let mut held: HashMap<u64, usize> = HashMap::new();
        let generations = self.running.iter().map(|row| row.generation);
        let generations = generations.chain(self.loading.iter().map(Waiting::generation));
        generations.for_each(|generation| *held.entry(generation).or_default() += 1);
        let mut state = self.queue.lock();
        let of = |waiting: &Waiting| held.get(&waiting.generation()).copied().unwrap_or(0);
        let (place, _) =
            state.waiting.iter().enumerate().min_by_key(|(place, waiting)| (of(waiting), *place))?;
        // One that does not fit waits, and so do those behind it, or it would wait for ever.
        let room =
            state.counts.cache_limit_tokens.checked_sub(self.reserved() + state.waiting[place].reserved())?;
        if room < self.of_prompts() {
            self.kept_prompts().for_each(|prompt| prompt.forget());
        }
        let waiting = state.waiting.remove(place);
        state.counts.waiting = state.waiting.len();
        waiting
    }

    /// Tokens of the cache that texts of the batch may come to need.
    fn reserved(&self) -> usize {
        let running = self.running.iter().map(|row| row.reserved);
        running.chain(self.loading.iter().map(Waiting::reserved)).sum()
    }

    fn kept_prompts(&self) -> impl Iterator<Item = Arc<SharedPrompt>> {
        self.prompts.iter().filter_map(Weak::upgrade)
    }

    /// Tokens of the cache in prompts that are kept.
    fn of_prompts(&self) -> usize {
        self.kept_prompts().map(|prompt| prompt.tokens()).sum()
    }

    /// Gives texts the prompts that others of the same have read.
    fn take_prompts(&mut self) -> Turn {
        let taken: Vec<Option<Growth>> = self.running.iter_mut().map(Row::take_prompt).collect();
        let grown: Vec<Growth> = taken.iter().map(|growth| growth.unwrap_or(Growth::GoesOn)).collect();
        let count = taken.iter().flatten().count();
        self.prompts.retain(|prompt| prompt.strong_count() > 0);
        self.queue.lock().counts.new_tokens += count as u64;
        self.keep(&grown);
        if count > 0 { Turn::Busy } else { Turn::Idle }
    }

    /// Reads a part of the prompt of one text, in turn; the last part gives its first token.
    fn read_prompt(&mut self) -> Turn {
        let unread = self.readers();
        let Some(&place) = unread.get(self.next_prompt % unread.len().max(1)) else { return Turn::Idle };
        self.next_prompt = self.next_prompt.wrapping_add(1);
        let unread = self.running[place].unread().len();
        let count = unread.min(self.options.chunk_tokens);
        let is_last = count == unread;
        let hidden = self.extended(place, count);
        let row = &mut self.running[place];
        let growth = match is_last {
            true => {
                let is_known =
                    |prompt: &Arc<_>| self.prompts.iter().any(|known| known.as_ptr() == Arc::as_ptr(prompt));
                let new = row.prompt.as_ref().filter(|prompt| !is_known(prompt)).map(Arc::downgrade);
                self.prompts.extend(new);
                let logits = logits(&self.model, hidden.narrow(1, count - 1, 1)).pop();
                row.finish_prompt(logits.expect("one row"))
            }
            false => Growth::GoesOn,
        };
        let mut state = self.queue.lock();
        state.counts.prompt_tokens += count as u64;
        state.counts.new_tokens += u64::from(is_last);
        growth.count(&mut state.counts);
        if growth != Growth::GoesOn {
            self.running.remove(place);
        }
        Turn::Busy
    }

    /// Reads so many tokens of the text at `place`, under its own adapter alone.
    ///
    /// # Shapes
    /// - output: `[1, count, width]`
    fn extended(&mut self, place: usize, count: usize) -> Tensor<3> {
        let row = &mut self.running[place];
        let part: Vec<i64> = row.unread().iter().take(count).map(|&token| token.into()).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(part, [1, count]), &self.device);
        let mask = AttentionMask::following(&ids, &row.cache);
        self.rows.choose(vec![(1, row.updates.clone())]);
        let (model, cache) = (&self.model, &mut row.cache);
        on_compute_thread(&self.device, || model.extend(ids, &mask, cache))
    }

    /// One more token of each text of which all has to be read again, since it outgrows the frequencies of its rope.
    fn step_outgrown(&mut self) {
        let mut grown = vec![Growth::GoesOn; self.running.len()];
        for (place, growth) in grown.iter_mut().enumerate() {
            let row = &self.running[place];
            if row.unread().len() == 1 && row.has_room() && self.model.is_outgrown(&row.cache, 1) {
                let hidden = self.extended(place, 1);
                let logits = logits(&self.model, hidden).pop().expect("one row");
                *growth = self.running[place].grow(logits);
                self.queue.lock().counts.new_tokens += 1;
            }
        }
        self.keep(&grown);
    }

    /// The rows whose prompts are to be read; of those with one prompt, the one that is farthest.
    fn readers(&self) -> Vec<usize> {
        let mut unread: Vec<usize> =
            (0..self.running.len()).filter(|&place| self.running[place].unread().len() > 1).collect();
        unread.sort_by_key(|&place| self.running[place].unread().len());
        let mut known = HashSet::new();
        unread.retain(|&place| match &self.running[place].prompt {
            Some(prompt) => known.insert(Arc::as_ptr(prompt)),
            None => true,
        });
        unread.sort_unstable();
        unread
    }

    /// One more token of each text that is read up to its last token, and that somebody takes.
    fn step(&mut self) -> Turn {
        self.step_outgrown();
        // Rows of one adapter side by side; what cannot go on is behind them.
        self.running.sort_by_cached_key(|row| (row.unread().len() > 1 || !row.has_room(), row.place()));
        let goes_on = |row: &&Row| row.unread().len() == 1 && row.has_room();
        let ready = self.running.iter().take_while(goes_on).count();
        if ready == 0 {
            return Turn::Idle;
        }
        let rows = &mut self.running[..ready];
        let tokens: Vec<i64> = rows.iter().map(|row| row.unread()[0].into()).collect();
        self.rows.choose(segments(rows));
        let ids = Tensor::<2, Int>::from_data(TensorData::new(tokens, [ready, 1]), &self.device);
        let mut caches: Vec<&mut KeyValueCache> = rows.iter_mut().map(|row| &mut row.cache).collect();
        let model = &self.model;
        let hidden = on_compute_thread(&self.device, || model.advance(ids, &mut caches));
        let all = logits(model, hidden);
        let grown: Vec<Growth> = rows.iter_mut().zip(all).map(|(row, logits)| row.grow(logits)).collect();
        let mut state = self.queue.lock();
        state.counts.steps += 1;
        state.counts.new_tokens += ready as u64;
        drop(state);
        self.keep(&grown);
        Turn::Busy
    }

    /// Keeps the rows that go on, and those behind the last that is spoken of.
    fn keep(&mut self, grown: &[Growth]) {
        let mut of_row = grown.iter();
        self.running.retain(|_| of_row.next().is_none_or(|growth| *growth == Growth::GoesOn));
        let mut state = self.queue.lock();
        grown.iter().for_each(|growth| growth.count(&mut state.counts));
    }

    fn count(&self) {
        let mut state = self.queue.lock();
        state.counts.running = self.len();
        state.counts.cache_tokens = self.reserved() + self.of_prompts();
        state.counts.adapters_ready = self.updates.len();
        state.counts.adapter_bytes = self.updates.bytes();
        state.counts.adapters_made = self.updates.made();
        state.counts.adapters_found = self.updates.found();
    }

    /// Tells all texts that the model failed.
    fn fail(&mut self, problem: &str) {
        self.queue.lock().mode = Mode::Broken(problem.to_owned());
        self.end_all(&Event::Failed(format!("the model failed: {problem}")));
    }

    /// Ends all texts with this event.
    fn end_all(&mut self, event: &Event) {
        let mut state = self.queue.lock();
        let waiting = state.waiting.drain(..).chain(self.loading.drain(..));
        waiting.for_each(|waiting| waiting.send(event.clone()));
        self.running.drain(..).for_each(|row| row.send(event.clone()));
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
    let logits = on_compute_thread(&hidden.device(), || model.logits(hidden));
    let [_, _, vocabulary] = logits.dims();
    let values: Vec<f32> = logits.into_data_as::<f32>().try_into_vec().expect("the type was asked for");
    values.chunks(vocabulary).map(<[f32]>::to_vec).collect()
}
