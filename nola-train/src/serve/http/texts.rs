//! Texts on their way: tokens of the engine become parts of text, up to stop strings.

use std::sync::Arc;
use std::task::{Context, Poll};

use nola_models::generate::{Finish, GenerationConfig};
use nola_models::tokenizer::{DecodeSpecials, TextStream, Tokenizer};
use tokio::sync::mpsc::Receiver;

use super::errors::ApiError;
use super::scores::{ScoredToken, scored};
use super::stops::Stops;
use crate::serve::{Engine, Event, NewToken, Rejection, TextRequest};

/// All texts of a request.
#[derive(Debug)]
pub(super) struct Texts {
    texts: Vec<Text>,
    /// Which of them is asked first, so that none has to wait for the others.
    next: usize,
    usage: Usage,
}

/// How many tokens were read and made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FinishReason {
    /// With an end token or a stop string.
    Stop,
    /// It is as long as it may be.
    Length,
}

impl FinishReason {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// A part of a text.
#[derive(Debug, PartialEq)]
pub(super) struct Part {
    /// Which text: those of the first prompt, then those of the second, ...
    pub index: usize,
    pub text: String,
    /// The tokens that it is made of, if they are to be returned.
    pub tokens: Vec<ScoredToken>,
    /// Whether it is the last one.
    pub finish: Option<FinishReason>,
}

/// A text on its way.
#[derive(Debug)]
struct Text {
    /// Gone when the text has ended; the engine sees that.
    events: Option<Receiver<Event>>,
    stream: Option<TextStream<Arc<Tokenizer>>>,
    tokenizer: Arc<Tokenizer>,
    stops: Stops,
    ends: Vec<u32>,
    /// The token before the next one.
    last: Option<u32>,
    /// Tokens whose text is held back.
    tokens: Vec<ScoredToken>,
    /// Bytes that came out of the tokens, and that were let through.
    bytes: usize,
    passed: usize,
    /// The same in characters, as offsets are counted.
    characters: usize,
}

impl Texts {
    /// Asks the engine for them.
    ///
    /// # Errors
    /// If it does not take them.
    pub(super) fn start(
        engine: &Engine,
        tokenizer: &Arc<Tokenizer>,
        requests: Vec<TextRequest>,
        stops: &[String],
    ) -> Result<Self, Rejection> {
        let starts: Vec<(Vec<u32>, GenerationConfig, usize)> = requests
            .iter()
            .map(|request| (request.prompt.clone(), request.generation.clone(), request.sequence))
            .collect();
        // `usage` counts a prompt once, whatever `n` is.
        let prompt_tokens =
            starts.iter().filter(|(.., sequence)| *sequence == 0).map(|(prompt, ..)| prompt.len()).sum();
        let events = engine.submit(requests)?;
        let text = |((prompt, generation, _), events): ((Vec<u32>, GenerationConfig, usize), _)| {
            Text::new(&prompt, events, tokenizer, stops, generation.eos_token_id)
        };
        let texts = starts.into_iter().zip(events).map(text).collect();
        Ok(Self { texts, next: 0, usage: Usage { prompt_tokens, completion_tokens: 0 } })
    }

    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// Lets go of all of them.
    pub(super) fn give_up(&mut self) {
        self.texts.iter_mut().for_each(|text| text.events = None);
    }

    /// How many texts there are.
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    /// The next part of any of them; none if all have ended.
    pub(super) fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Part, ApiError>>> {
        let count = self.texts.len();
        for step in 0..count {
            let index = (self.next + step) % count;
            while let Some(events) = &mut self.texts[index].events {
                let Poll::Ready(event) = events.poll_recv(context) else { break };
                if matches!(event, Some(Event::Token(_))) {
                    self.usage.completion_tokens += 1;
                }
                let part = self.texts[index].part(index, event).transpose();
                if let Some(part) = part {
                    self.next = index + 1;
                    return Poll::Ready(Some(part));
                }
            }
        }
        if self.texts.iter().all(|text| text.events.is_none()) { Poll::Ready(None) } else { Poll::Pending }
    }

    /// Waits for the next part.
    pub(super) async fn part(&mut self) -> Option<Result<Part, ApiError>> {
        std::future::poll_fn(|context| self.poll_part(context)).await
    }
}

impl Text {
    fn new(
        prompt: &[u32],
        events: Receiver<Event>,
        tokenizer: &Arc<Tokenizer>,
        stops: &[String],
        ends: Vec<u32>,
    ) -> Self {
        Self {
            events: Some(events),
            stream: Some(TextStream::new(Arc::clone(tokenizer), prompt, DecodeSpecials::Skip)),
            tokenizer: Arc::clone(tokenizer),
            stops: Stops::new(stops.to_vec()),
            ends,
            last: prompt.last().copied(),
            tokens: Vec::new(),
            bytes: 0,
            passed: 0,
            characters: 0,
        }
    }

    /// What an event adds to the text, if that can be sent already.
    fn part(&mut self, index: usize, event: Option<Event>) -> Result<Option<Part>, ApiError> {
        match event {
            // A text that lost a piece does not go on without it.
            Some(Event::Token(new)) => self.token(index, &new).inspect_err(|_| self.events = None),
            Some(Event::Finished(finish)) => self.finished(index, finish).map(Some),
            Some(Event::Failed(problem)) => {
                self.events = None;
                Err(ApiError::failed(problem))
            }
            Some(Event::Cut) => {
                self.events = None;
                Err(ApiError::cut())
            }
            None => {
                self.events = None;
                Err(ApiError::failed("the engine ended before the text did"))
            }
        }
    }

    fn token(&mut self, index: usize, new: &NewToken) -> Result<Option<Part>, ApiError> {
        if self.ends.contains(&new.token) {
            return Ok(None);
        }
        if let Some(scores) = &new.scores {
            let token = scored(&self.tokenizer, self.last, new.token, scores, self.bytes, self.characters)?;
            self.tokens.push(token);
        }
        self.last = Some(new.token);
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let piece = stream.push(new.token).map_err(|error| ApiError::failed(error.to_string()))?;
        Ok(self.passed(index, &piece.unwrap_or_default()))
    }

    /// The part of a piece of text that can be sent.
    fn passed(&mut self, index: usize, piece: &str) -> Option<Part> {
        self.bytes += piece.len();
        self.characters += piece.chars().count();
        let passed = self.stops.push(piece);
        self.passed += passed.text.len();
        if passed.is_stopped {
            self.events = None;
            return Some(Part {
                index,
                text: passed.text,
                tokens: self.passed_tokens(),
                finish: Some(FinishReason::Stop),
            });
        }
        let text = passed.text;
        (!text.is_empty()).then(|| Part { index, text, tokens: self.passed_tokens(), finish: None })
    }

    /// The end of the text.
    fn finished(&mut self, index: usize, finish: Finish) -> Result<Part, ApiError> {
        self.events = None;
        let rest = self.stream.take().map(TextStream::finish).transpose();
        let rest = rest.map_err(|error| ApiError::failed(error.to_string()))?.flatten().unwrap_or_default();
        let (mut text, mut tokens) = match self.passed(index, &rest) {
            Some(stopped @ Part { finish: Some(_), .. }) => return Ok(stopped),
            Some(part) => (part.text, part.tokens),
            None => Default::default(),
        };
        text.push_str(&self.stops.finish());
        tokens.append(&mut self.tokens);
        let finish = match finish {
            Finish::Eos | Finish::Stopped => FinishReason::Stop,
            Finish::MaxNewTokens | Finish::ContextFull => FinishReason::Length,
        };
        Ok(Part { index, text, tokens, finish: Some(finish) })
    }

    /// Takes the tokens that begin in the text that was passed on.
    fn passed_tokens(&mut self) -> Vec<ScoredToken> {
        let count = self.tokens.iter().take_while(|token| token.start < self.passed).count();
        self.tokens.drain(..count).collect()
    }
}
