//! The one error of generation.

use std::path::PathBuf;

/// Why no text could be generated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The generation settings are no JSON, or a value has the wrong type.
    #[error("{}: `{field}` cannot be read; correct it, or restore the file from its source", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Path of the field; `.` for the whole file.
        field: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },

    /// The settings of a model ask for something that this program does not do.
    #[error(
        "{}: `{field}` is {found}, which is not supported; remove it from the file, if other text than the model's \
         authors meant is acceptable",
        file.display()
    )]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// The field.
        field: &'static str,
        /// What stands there.
        found: serde_json::Value,
    },

    /// The settings of a model hold a value that cannot be, or two that do not go together.
    #[error("{}: {source}; correct the file", file.display())]
    Settings {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: Box<Self>,
    },

    /// A setting is a number that cannot be.
    #[error("`{field}` is {found}; it must be {allowed}")]
    OutOfRange {
        /// The setting.
        field: &'static str,
        /// Its value.
        found: f64,
        /// What may stand there.
        allowed: &'static str,
    },

    /// Beam search was asked to draw at random.
    #[error(
        "`num_beams` is {num_beams} and `do_sample` is true; beams are not sampled: set one beam, or `do_sample` to false"
    )]
    SampledBeams {
        /// The beams asked for.
        num_beams: usize,
    },

    /// More sequences are wanted than a beam search keeps.
    #[error(
        "`num_return_sequences` is {wanted}, but only {num_beams} beams are kept; set `num_beams` to {wanted} or more"
    )]
    TooFewBeams {
        /// The sequences asked for.
        wanted: usize,
        /// The beams asked for.
        num_beams: usize,
    },

    /// Several sequences are wanted where all would be the same.
    #[error(
        "`num_return_sequences` is {wanted}, but greedy choice gives one; set `do_sample` to true or `num_beams` to {wanted}"
    )]
    SameSequences {
        /// The sequences asked for.
        wanted: usize,
    },

    /// The tokens of a beam search were to be handed out one by one.
    #[error(
        "`num_beams` is {num_beams}, but only one beam can be streamed: which beam wins shows at the end"
    )]
    StreamedBeams {
        /// The beams asked for.
        num_beams: usize,
    },

    /// An end token is none of the model's.
    #[error(
        "`eos_token_id` names {token}, but the model has {vocabulary} tokens, from 0; give an id below, or an empty list"
    )]
    UnknownEnd {
        /// The end token.
        token: u32,
        /// Number of the model's tokens.
        vocabulary: usize,
    },

    /// A prompt has no token.
    #[error("prompt {} is empty; give at least one token, as the begin-of-text token", row + 1)]
    EmptyPrompt {
        /// The prompt.
        row: u64,
    },

    /// A prompt leaves no room.
    #[error(
        "prompt {} has {tokens} tokens, but prompt and new text together have at most {limit}; shorten it",
        row + 1
    )]
    LongPrompt {
        /// The prompt.
        row: u64,
        /// Its length, in tokens.
        tokens: usize,
        /// Longest sequence of the model, in tokens.
        limit: usize,
    },

    /// A token of a prompt is none of the model's.
    #[error(
        "token {token} at place {place} of prompt {} is none of the model's {vocabulary}; use the model's tokenizer",
        row + 1
    )]
    UnknownToken {
        /// The prompt.
        row: u64,
        /// Place in the prompt, from 0.
        place: usize,
        /// The token.
        token: u32,
        /// Number of the model's tokens.
        vocabulary: usize,
    },

    /// The model gave a logit that is NaN or infinite.
    #[error(
        "prompt {}: after {new_tokens} new tokens the model gives {logit} for token {token}; its weights or its \
         adapter are damaged, or its number type is too narrow",
        row + 1
    )]
    Logit {
        /// The prompt.
        row: u64,
        /// How many tokens had been made.
        new_tokens: usize,
        /// The token.
        token: usize,
        /// Its logit.
        logit: f32,
    },

    /// No token may follow.
    #[error(
        "prompt {}: after {new_tokens} new tokens none may follow; set `no_repeat_ngram_size` larger, or to 0 for off",
        row + 1
    )]
    NothingLeft {
        /// The prompt.
        row: u64,
        /// How many tokens had been made.
        new_tokens: usize,
    },

    /// The model failed.
    #[error("the model could not give the next token")]
    Model {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl GenerateError {
    /// Whether other settings or another prompt would help, rather than other files.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Json { .. }
            | Self::Unsupported { .. }
            | Self::Settings { .. }
            | Self::Logit { .. }
            | Self::NothingLeft { .. }
            | Self::Model { .. } => false,
            Self::OutOfRange { .. }
            | Self::SampledBeams { .. }
            | Self::TooFewBeams { .. }
            | Self::SameSequences { .. }
            | Self::StreamedBeams { .. }
            | Self::UnknownEnd { .. }
            | Self::EmptyPrompt { .. }
            | Self::LongPrompt { .. }
            | Self::UnknownToken { .. } => true,
        }
    }
}
