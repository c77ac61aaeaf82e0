//! The engine: one thread that completes texts of many adapters in one batch, which texts join and leave between tokens.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use burn::tensor::{Device, Int, Tensor, TensorData};
use nola_core::with_row_adapters;
use nola_models::generate::{GrowingText, Prompt};
use nola_models::{AttentionMask, CausalLm, GROWTH_TOKENS, KeyValueCache, ModelInfo};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::batch::Batch;
use super::engine_options::EngineOptions;
use super::request::{Event, Rejection, TextRequest};
use super::shared_prompt::SharedPrompt;
use super::update_maker::UpdateMaker;
use super::waiting::{Counts, Mode, Queue, Waiting};
use crate::session::TextBase;

/// Events of a text that wait for whoever asked; a text with more of them rests.
const MOST_EVENTS: usize = 64;

/// Completes texts; clones are doors to the same engine.
#[derive(Debug, Clone)]
pub struct Engine {
    queue: Arc<Queue>,
    info: ModelInfo,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
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
        let maker = UpdateMaker::new(base.clone(), device.clone(), rows.clone());
        let maker = maker.start(Arc::clone(&queue));
        let batch = Batch::new(model, rows, device.clone(), options, Arc::clone(&queue), maker);
        let thread = std::thread::Builder::new().name("engine".to_owned()).spawn(move || batch.run());
        let thread = thread.expect("the system starts a thread");
        Self { queue, info, thread: Arc::new(Mutex::new(Some(thread))) }
    }

    /// Takes texts, all or none; each has a receiver of its own, and ends when that is dropped. Texts side by side with one adapter
    /// and one prompt read it once.
    ///
    /// # Errors
    /// If one of them is not usable or too long, or too many are waiting.
    pub fn submit(&self, requests: Vec<TextRequest>) -> Result<Vec<Receiver<Event>>, Rejection> {
        let prompts = shared_prompts(&requests);
        let (mut texts, mut receivers) = (Vec::new(), Vec::new());
        for (request, prompt) in requests.into_iter().zip(prompts) {
            let text = self.text(&request)?;
            let (events, receiver): (Sender<Event>, _) = channel(MOST_EVENTS);
            texts.push(Waiting { request, text, events, prompt });
            receivers.push(receiver);
        }
        self.queue.push(texts)?;
        Ok(receivers)
    }

    fn text(&self, request: &TextRequest) -> Result<GrowingText, Rejection> {
        let limit = self.queue.lock().counts.cache_limit_tokens;
        let prompt = Prompt { row: 0, tokens: request.prompt.clone() };
        let (tokens, vocabulary) = (self.info.max_tokens, self.info.vocab_size);
        let generation = request.generation.clone();
        let text = GrowingText::new(&prompt, request.sequence, generation, tokens, vocabulary)?;
        if text.most_tokens() > limit {
            return Err(Rejection::TooLong { tokens: text.most_tokens(), limit });
        }
        Ok(text)
    }

    /// What it did so far, and is doing.
    pub fn counts(&self) -> Counts {
        self.queue.lock().counts
    }

    /// Why it answers no more, if the model failed.
    pub fn problem(&self) -> Option<String> {
        match &self.queue.lock().mode {
            Mode::Broken(problem) => Some(problem.clone()),
            Mode::Open | Mode::Closing | Mode::Cut => None,
        }
    }

    /// Takes no more texts.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Takes no more texts, and gives up those that are there: the last event of each is [`Event::Cut`].
    pub fn cut(&self) {
        self.queue.cut();
    }

    /// Waits until all texts that were taken have ended; to be called after [`Engine::close`].
    pub fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of the model was told to each text.
            let _ = thread.join();
        }
    }
}

/// What requests side by side share that have one prompt and one adapter.
fn shared_prompts(requests: &[TextRequest]) -> Vec<Option<Arc<SharedPrompt>>> {
    let generation = |request: &TextRequest| request.adapter.as_ref().map(|adapter| adapter.generation);
    let is_same = |one: &TextRequest, other: &TextRequest| {
        one.prompt == other.prompt && generation(one) == generation(other)
    };
    let of_group = |group: &[TextRequest]| {
        let shared = (group.len() > 1).then(Arc::<SharedPrompt>::default);
        vec![shared; group.len()]
    };
    requests.chunk_by(is_same).flat_map(of_group).collect()
}

/// Bytes of keys and values that a token takes.
fn bytes_of_token(model: &CausalLm, device: &Device) -> u64 {
    let mut cache = KeyValueCache::new();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(vec![0_i64], [1, 1]), device);
    let _ = model.extend(ids.clone(), &AttentionMask::causal(&ids), &mut cache);
    (cache.bytes() / GROWTH_TOKENS) as u64
}
