//! What is asked of the engine, and what it answers.

use std::sync::Arc;

use nola_models::generate::{Finish, GenerateError, GenerationConfig};

use super::ServedAdapter;

/// A text to be continued.
#[derive(Debug, Clone)]
pub struct TextRequest {
    /// Whose answer is wanted; none: the base's.
    pub adapter: Option<Arc<ServedAdapter>>,
    /// The tokens of the prompt; at least one.
    pub prompt: Vec<u32>,
    /// How it is continued; a beam search is refused.
    pub generation: GenerationConfig,
    /// Which of several texts of the same prompt it is, from 0; with the seed, it fixes what is drawn.
    pub sequence: usize,
    /// Taken from the logit of a token for each time that it was made; the prompt does not count.
    pub frequency_penalty: f64,
    /// Taken from the logit of a token that was made; the prompt does not count.
    pub presence_penalty: f64,
    /// How many of the likeliest tokens are returned beside each new one; none: no probability is.
    pub top_scores: Option<usize>,
}

/// What becomes of a text. The last event is none of tokens; none follows when the receiver is gone.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// One more token; an end token comes too.
    Token(NewToken),
    /// The text has ended.
    Finished(Finish),
    /// It cannot be continued.
    Failed(String),
    /// The server ends before it does.
    Cut,
}

/// A token just made.
#[derive(Debug, Clone, PartialEq)]
pub struct NewToken {
    /// Its id.
    pub token: u32,
    /// Its probability, and those of the likeliest tokens, the likeliest first; if asked for.
    pub scores: Option<(f32, Vec<TokenScore>)>,
}

/// A token that could have come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenScore {
    /// Its id.
    pub token: u32,
    /// The natural logarithm of its probability.
    pub log_probability: f32,
}

/// Why a text is not even begun.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// Too many are waiting.
    #[error("{waiting} texts are waiting already; come back in {seconds} seconds")]
    Busy {
        /// How many.
        waiting: usize,
        /// When it may be worth to come back.
        seconds: u64,
    },
    /// Prompt and text may become longer than all that the cache holds.
    #[error(
        "prompt and text may have {tokens} tokens, and the cache holds {limit}; ask for fewer (max_tokens)"
    )]
    TooLong {
        /// Most tokens of both.
        tokens: usize,
        /// Tokens that fit.
        limit: usize,
    },
    /// A setting or the prompt is not usable.
    #[error(transparent)]
    Unusable(#[from] GenerateError),
    /// The engine takes no more texts.
    #[error("the server is shutting down")]
    Closing,
    /// The engine is broken.
    #[error("the model failed: {0}; start the server again")]
    Broken(String),
}
