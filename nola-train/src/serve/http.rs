//! The interface over HTTP: OpenAI's, and what a server of adapters needs beside it.
//!
//! One file for each path, all of them thin: `completions`, `chat`, `images`, `models`, `admin`, `metrics`, `page`. What
//! they share is in `fields` (requests), `sampling`, `texts`, `answers` and `errors`; `keys`, `body` and `server` keep
//! others from doing harm.

mod admin;
mod answers;
mod body;
mod chat;
mod completions;
mod errors;
mod fields;
mod images;
mod keys;
mod metrics;
mod models;
mod name;
mod openapi;
mod page;
mod sampling;
mod scores;
mod server;
mod stops;
mod texts;

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use nola_models::generate::{GenerateError, GenerationConfig};
use serde_json::json;

use self::answers::{Answer, Shape};
use self::body::Room;
use self::errors::ApiError;
use self::metrics::Answered;
use self::sampling::Sampling;
use self::texts::Texts;

use super::{Classifier, Engine, Entry, Missing, Registry, ServedAdapter, TextRequest};
use crate::adapter_data::AdapterData;
use crate::session::TextEncoder;

pub use self::keys::{Key, Keys};
pub use self::server::{Ending, serve};

/// What answers.
#[derive(Debug, Clone)]
pub enum Service {
    /// A language model.
    Text(Box<TextService>),
    /// A vision transformer.
    Images(Box<Classifier>),
}

impl Service {
    /// Takes no more texts and images.
    fn close(&self) {
        match self {
            Self::Text(text) => text.engine.close(),
            Self::Images(classifier) => classifier.close(),
        }
    }

    /// Gives up the texts that were taken; images are answered soon.
    fn cut(&self) {
        match self {
            Self::Text(text) => text.engine.cut(),
            Self::Images(_) => {}
        }
    }

    /// Waits until those that were taken are answered, after the server has ended.
    pub fn join(&self) {
        match self {
            Self::Text(text) => text.engine.join(),
            Self::Images(classifier) => classifier.join(),
        }
    }
}

/// A language model that answers.
#[derive(Debug, Clone)]
pub struct TextService {
    /// Completes texts.
    pub engine: Engine,
    /// Text to tokens and back.
    pub encoder: TextEncoder,
    /// How texts are made where a request does not say.
    pub generation: GenerationConfig,
    /// What the base itself was trained on, if it is the model of a run.
    pub base_data: Option<AdapterData>,
    /// Most texts of one request.
    pub most_texts: usize,
}

/// What all requests share; clones are the same.
#[derive(Debug, Clone)]
pub struct App(Arc<Shared>);

/// What [`App`] holds.
#[derive(Debug)]
pub struct Shared {
    registry: Arc<Registry>,
    service: Service,
    keys: Keys,
    /// Where the base came from.
    base_root: String,
    /// Whether nobody but this machine can ask.
    is_local: bool,
    /// Seconds since 1970.
    started_at: u64,
    room: Room,
    decoding: images::Decoding,
    answered: Answered,
    requests: AtomicU64,
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    /// A server at `address` of a base, which came from `base_root`, and its adapters.
    pub fn new(
        registry: Arc<Registry>,
        service: Service,
        base_root: String,
        keys: Keys,
        address: SocketAddr,
    ) -> Self {
        Self(Arc::new(Shared {
            registry,
            service,
            keys,
            base_root,
            is_local: address.ip().is_loopback(),
            started_at: now(),
            room: Room::default(),
            decoding: images::Decoding::default(),
            answered: Answered::default(),
            requests: AtomicU64::new(0),
        }))
    }

    /// All paths.
    fn router(&self) -> Router {
        Router::new()
            .route("/", get(page::page))
            .route("/health", get(health))
            .route("/metrics", get(metrics::metrics))
            .route("/openapi.json", get(openapi::openapi))
            .route("/v1/models", get(models::list))
            .route("/v1/models/{*model}", get(models::one))
            .route("/v1/completions", post(completions::complete))
            .route("/v1/chat/completions", post(chat::chat))
            .route("/v1/images/classify", post(images::classify))
            .route("/v1/load_lora_adapter", post(admin::load))
            .route("/v1/unload_lora_adapter", post(admin::unload))
            .route("/v1/adapters/{name}", get(admin::get).put(admin::put).delete(admin::delete))
            .fallback(errors::not_found)
            .method_not_allowed_fallback(errors::wrong_method)
            // Bodies have limits of their own.
            .layer(DefaultBodyLimit::disable())
            .layer(middleware::from_fn_with_state(self.clone(), keys::guard))
            .with_state(self.clone())
    }

    fn text(&self) -> Result<&TextService, ApiError> {
        match &self.service {
            Service::Text(text) => Ok(text),
            Service::Images(_) => {
                let message = "the model is about images; use /v1/images/classify";
                Err(ApiError::missing("model", "wrong_modality", message))
            }
        }
    }

    fn classifier(&self) -> Result<&Classifier, ApiError> {
        match &self.service {
            Service::Images(classifier) => Ok(classifier),
            Service::Text(_) => {
                let message = "the model is about text; use /v1/completions or /v1/chat/completions";
                Err(ApiError::missing("model", "wrong_modality", message))
            }
        }
    }

    /// The adapter that a request names; none if it names the base.
    async fn adapter(&self, name: &str) -> Result<Option<Arc<ServedAdapter>>, ApiError> {
        if name == self.registry.base_name() || name == self.base_root {
            return Ok(None);
        }
        let known = match self.registry.get(name) {
            Err(Missing::Unknown) => self.look_for(name).await,
            known => known,
        };
        known.map(Some).map_err(|missing| ApiError::no_model(name, &missing))
    }

    /// What is listed under the name of an adapter.
    async fn entry(&self, name: &str) -> Result<Entry, ApiError> {
        if self.registry.entry(name).is_none() {
            // If it came since the last scan, it is listed then.
            let _ = self.look_for(name).await;
        }
        self.registry.entry(name).ok_or_else(|| ApiError::no_model(name, &Missing::Unknown))
    }

    /// Looks for an adapter that may have come since the last scan.
    async fn look_for(&self, name: &str) -> Result<Arc<ServedAdapter>, Missing> {
        let (registry, name) = (Arc::clone(&self.registry), name.to_owned());
        blocking(move || registry.find(&name)).await.unwrap_or(Err(Missing::Unknown))
    }

    /// Continues prompts, each as often as wanted.
    async fn answer(&self, asked: Asked, prompts: Vec<Vec<u32>>) -> Result<Response, ApiError> {
        let text = self.text()?;
        text.check_count(prompts.len(), asked.sampling.texts)?;
        // Before a long one is copied for each of its texts.
        let limit = text.encoder.info.max_tokens;
        if let Some(long) = prompts.iter().find(|prompt| prompt.len() >= limit) {
            return Err(GenerateError::LongPrompt { row: 0, tokens: long.len(), limit }.into());
        }
        let requests = asked.requests(prompts);
        let texts = Texts::start(&text.engine, &text.encoder.tokenizer, requests, &asked.sampling.stops)?;
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{:x}-{number}", asked.shape.prefix(), self.started_at);
        let Asked { shape, model, sampling: Sampling { delivery, .. }, top_scores, .. } = asked;
        Answer { shape, id, created: now(), model, delivery, has_scores: top_scores.is_some() }
            .with(texts)
            .await
    }
}

impl TextService {
    /// Checks how many texts a request asks for.
    fn check_count(&self, prompts: usize, of_each: usize) -> Result<(), ApiError> {
        let (texts, most) = (prompts.saturating_mul(of_each), self.most_texts);
        if texts > most {
            let message = format!("the request asks for {texts} texts; at most {most} are made at a time");
            return Err(ApiError::value("n", message));
        }
        Ok(())
    }
}

/// What is asked for, but for the prompts.
struct Asked {
    shape: Shape,
    /// As the request names it.
    model: String,
    adapter: Option<Arc<ServedAdapter>>,
    sampling: Sampling,
    /// Likeliest tokens that are returned beside each; none: no probability is.
    top_scores: Option<usize>,
}

impl Asked {
    fn requests(&self, prompts: Vec<Vec<u32>>) -> Vec<TextRequest> {
        let request = |prompt: &[u32], seed, sequence| TextRequest {
            adapter: self.adapter.clone(),
            prompt: prompt.to_vec(),
            generation: GenerationConfig { seed, ..self.sampling.generation.clone() },
            sequence,
            frequency_penalty: self.sampling.frequency_penalty,
            presence_penalty: self.sampling.presence_penalty,
            top_scores: self.top_scores,
        };
        let of_prompt = |(number, prompt): (u64, Vec<u32>)| {
            let seed = self.sampling.seed_of(number);
            (0..self.sampling.texts).map(move |sequence| request(&prompt, seed, sequence))
        };
        (0..).zip(prompts).flat_map(of_prompt).collect()
    }
}

/// Whether the server answers.
async fn health(State(app): State<App>) -> Response {
    let problem = match &app.service {
        Service::Text(text) => text.engine.problem(),
        Service::Images(classifier) => classifier.problem(),
    };
    match problem {
        None => Json(json!({"status": "ok"})).into_response(),
        Some(problem) => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "failed", "problem": problem})))
                .into_response()
        }
    }
}

/// Does work that takes a while beside the connections.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ApiError::failed(format!("the request could not be worked on: {error}")))
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
