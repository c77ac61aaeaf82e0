//! What a user types, as the tokens that a model was trained to go on from.

use nola_models::chat::{Conversation, Message, Prompt};
use nola_models::tokenizer::Specials;

use crate::Error;
use crate::base::TextBase;
use crate::text::{Pair, TextFormat, prompt_ids};

/// A prompt of so many bytes is always tokenised; a longer one, if its bytes could be so few tokens as the model takes.
const TOKENISED_BYTES: usize = 1 << 20;

/// Of a prompt that is far too long, so much is kept for the message.
const SHOWN_CHARS: usize = 100;

/// How a prompt is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// As it stands.
    Plain,
    /// As the prompt of a row of this format.
    Row(TextFormat),
    /// As what a user says to an assistant.
    Chat,
}

/// The tokens of a prompt.
///
/// # Errors
/// If the text is far longer than the model's context or cannot be tokenised, or a conversation is wanted and the model has no
/// chat template.
pub fn tokens(text: &str, reading: Reading, system: &str, base: &TextBase) -> Result<Vec<u32>, Error> {
    check_length(text, base)?;
    check_length(system, base)?;
    let wrong = |problem| Error::Prompt { prompt: text.to_owned(), problem };
    match reading {
        Reading::Plain => Ok(base.tokenizer.encode(text, Specials::AsModel)?),
        Reading::Chat => conversation(text, system, base),
        Reading::Row(format) if format.is_conversation() => conversation(text, system, base),
        Reading::Row(format) => prompt_ids(&Pair::question(format, text), base).map_err(wrong),
    }
}

/// To tokenise a text takes many times its memory, which is not spent on one that cannot be used.
fn check_length(text: &str, base: &TextBase) -> Result<(), Error> {
    let context = base.model.info().max_tokens;
    if text.len() <= base.tokenizer.most_bytes(context).max(TOKENISED_BYTES) {
        return Ok(());
    }
    Err(Error::Prompt {
        prompt: text.chars().take(SHOWN_CHARS).collect(),
        problem: format!(
            "{} bytes are longer than the model's context of {context} tokens; shorten it",
            text.len()
        ),
    })
}

fn conversation(text: &str, system: &str, base: &TextBase) -> Result<Vec<u32>, Error> {
    let Some(template) = &base.chat else {
        let problem =
            "the model has no chat template; leave out --chat, or name a model that was trained to chat";
        return Err(Error::Prompt { prompt: text.to_owned(), problem: problem.to_owned() });
    };
    let system = (!system.is_empty()).then(|| Message::new("system", system));
    let messages = system.into_iter().chain([Message::new("user", text)]).collect();
    let conversation = Conversation::new(messages);
    let rendered = template.render(&conversation, Prompt::Generation)?;
    check_length(&rendered, base)?;
    // A template writes the start token itself.
    Ok(base.tokenizer.encode(&rendered, Specials::None)?)
}
