//! Why a chat template cannot be read or does not fit a conversation.

use std::path::PathBuf;

use crate::tokenizer::TokenizerError;

/// Why a chat template could not be read, or a conversation not be written with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// A file of the tokenizer cannot be read.
    #[error(transparent)]
    File(#[from] TokenizerError),

    /// There is no template file where one was named.
    #[error("{}: no such file; name a Jinja template", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
    },

    /// The template is longer than any honest one.
    #[error("{}: a chat template of {bytes} bytes, but at most {limit} are read", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Length of the template, in bytes.
        bytes: usize,
        /// The longest that is read, in bytes.
        limit: usize,
    },

    /// There are several templates, and none is the default one.
    #[error("{}: chat templates {}, but none named `default`; save the one you want as chat_template.jinja",
        file.display(), names.join(", "))]
    NoDefault {
        /// The file.
        file: PathBuf,
        /// Names of the templates.
        names: Vec<String>,
    },

    /// The template is no Jinja.
    #[error("{}: line {line} of the chat template is no Jinja that can be read", file.display())]
    Syntax {
        /// The file with the template.
        file: PathBuf,
        /// Number of the line in the template, from one.
        line: usize,
        /// What is wrong with it.
        source: minijinja::Error,
    },

    /// The template refuses the conversation, or fails on it.
    #[error("{}: the chat template cannot write this conversation of {messages} messages (line {line})", file.display())]
    Refused {
        /// The file with the template.
        file: PathBuf,
        /// Number of messages.
        messages: usize,
        /// Number of the line in the template, from one.
        line: usize,
        /// What the template says.
        source: minijinja::Error,
    },

    /// The template does not end on this conversation.
    #[error(
        "{}: the chat template takes more than {fuel} steps (or 64 bytes each) for {messages} messages; it may loop for ever",
        file.display()
    )]
    Endless {
        /// The file with the template.
        file: PathBuf,
        /// Number of messages.
        messages: usize,
        /// Steps that are allowed; 64 bytes of text count as one.
        fuel: u64,
    },

    /// The template has failed slowly so often that it is not tried any more.
    #[error(
        "{}: the chat template has failed after a long time on {failures} conversations and is not tried on more; \
         use another template",
        file.display()
    )]
    GivenUp {
        /// The file with the template.
        file: PathBuf,
        /// Conversations on which it failed.
        failures: usize,
    },

    /// The template does not let an answer be found in its text.
    #[error(
        "{}: the chat template writes message {message} so that it cannot be found in the text, and it is unknown which \
         words are the assistant's; train on all words (data.text.loss = \"all\"), put {{% generation %}} blocks into the \
         template, or use another template",
        file.display()
    )]
    Unclear {
        /// The file with the template.
        file: PathBuf,
        /// Number of the message, from one.
        message: usize,
    },
}
