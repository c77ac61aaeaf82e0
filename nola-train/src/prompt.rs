//! What a user types, as the tokens that a model was trained to go on from.

use nola_models::chat::{Conversation, Message, Prompt};
use nola_models::tokenizer::Specials;

use crate::Error;
use crate::base::TextBase;
use crate::text::{Pair, TextFormat, prompt_ids};

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
/// If the text cannot be tokenised, or a conversation is wanted and the model has no chat template.
pub fn tokens(text: &str, reading: Reading, system: &str, base: &TextBase) -> Result<Vec<u32>, Error> {
    let wrong = |problem| Error::Prompt { prompt: text.to_owned(), problem };
    match reading {
        Reading::Plain => Ok(base.tokenizer.encode(text, Specials::AsModel)?),
        Reading::Chat => conversation(text, system, base),
        Reading::Row(format) if format.is_conversation() => conversation(text, system, base),
        Reading::Row(format) => prompt_ids(&Pair::question(format, text), base).map_err(wrong),
    }
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
    // A template writes the start token itself.
    Ok(base.tokenizer.encode(&template.render(&conversation, Prompt::Generation)?, Specials::None)?)
}
