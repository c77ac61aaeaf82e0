//! What a user types, as the tokens that a model was trained to go on from.

use nola_models::chat::{Conversation, Message, Prompt};
use nola_models::tokenizer::Specials;
use serde_json::{Map, Value};

use crate::Error;
use crate::session::TextEncoder;
use crate::text::{Pair, PromptTemplate, TextFormat, prompt_ids};

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

/// How the texts of columns are given, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenBy {
    /// With `--field`.
    Option,
    /// In the field `columns` of a request.
    Request,
}

impl GivenBy {
    fn name(self) -> &'static str {
        match self {
            Self::Option => "--field",
            Self::Request => "columns",
        }
    }

    /// How the text of one column is given.
    fn example(self, column: &str) -> String {
        match self {
            Self::Option => format!("--field {column}=TEXT"),
            Self::Request => format!("`columns`: {{\"{column}\": \"TEXT\"}}"),
        }
    }
}

/// The tokens of a prompt.
///
/// # Errors
/// If the text is far longer than the model's context or cannot be tokenised, or a conversation is wanted and the model has no
/// chat template.
pub fn tokens(text: &str, reading: Reading, system: &str, encoder: &TextEncoder) -> Result<Vec<u32>, Error> {
    check_length(text, encoder)?;
    check_length(system, encoder)?;
    let wrong = |problem| Error::Prompt { prompt: text.to_owned(), problem };
    match reading {
        Reading::Plain => Ok(encoder.tokenizer.encode(text, Specials::AsModel)?),
        Reading::Chat => conversation(text, system, encoder),
        Reading::Row(format) if format.is_conversation() => conversation(text, system, encoder),
        Reading::Row(format) => prompt_ids(&Pair::question(format, text), encoder).map_err(wrong),
    }
}

/// The prompts of a template: `fields` are the columns with their texts, given as `by` says, and each of `prompts` is the text of
/// the one column that is not among them; without such a column there is one prompt.
///
/// # Errors
/// If a field is no column of the template, or the columns leave open what a prompt is.
pub fn filled(
    template: &PromptTemplate,
    by: GivenBy,
    fields: &[(String, String)],
    prompts: &[String],
) -> Result<Vec<String>, Error> {
    let wrong = |problem| Error::Prompt { prompt: template.text().to_owned(), problem };
    let columns = template.columns();
    let listed = |columns: &[&str]| columns.join(", ");
    if let Some((name, _)) = fields.iter().find(|(name, _)| !columns.contains(&name.as_str())) {
        return Err(wrong(format!("has no column `{name}`; its columns are {}", listed(&columns))));
    }
    let is_open = |column: &&&str| fields.iter().all(|(name, _)| name != **column);
    let open: Vec<&str> = columns.iter().filter(is_open).copied().collect();
    let row = |more: Option<(&str, &String)>| -> Map<String, Value> {
        let typed = fields.iter().map(|(name, text)| (name.as_str(), text)).chain(more);
        typed.map(|(name, text)| (name.to_owned(), Value::String(text.clone()))).collect()
    };
    let fill = |row: Map<String, Value>| {
        template.filled(&row, by.name()).map_err(|problem| wrong(problem.to_string()))
    };
    match open[..] {
        [] if prompts.is_empty() => Ok(vec![fill(row(None))?]),
        [] => Err(wrong(format!(
            "{} gives every column, so there is no place for a prompt; leave it out",
            by.name()
        ))),
        [column] => prompts.iter().map(|prompt| fill(row(Some((column, prompt))))).collect(),
        [..] => Err(wrong(format!(
            "has the columns {}; give all but one of them, as in {}, and the prompt is the text of that one",
            listed(&columns),
            by.example(open[0])
        ))),
    }
}

/// To tokenise a text takes many times its memory, which is not spent on one that cannot be used.
fn check_length(text: &str, encoder: &TextEncoder) -> Result<(), Error> {
    let context = encoder.info.max_tokens;
    if text.len() <= encoder.tokenizer.most_bytes(context).max(TOKENISED_BYTES) {
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

fn conversation(text: &str, system: &str, encoder: &TextEncoder) -> Result<Vec<u32>, Error> {
    if encoder.chat.is_none() {
        let problem =
            "the model has no chat template; leave out --chat, or name a model that was trained to chat";
        return Err(Error::Prompt { prompt: text.to_owned(), problem: problem.to_owned() });
    }
    let system = (!system.is_empty()).then(|| Message::new("system", system));
    let messages = system.into_iter().chain([Message::new("user", text)]).collect();
    conversation_tokens(&Conversation::new(messages), encoder)
}

/// The tokens of a conversation, up to where the assistant speaks next.
///
/// # Errors
/// If the model has no chat template, or that does not write this conversation, or the text is far longer than the model's
/// context.
pub fn conversation_tokens(conversation: &Conversation, encoder: &TextEncoder) -> Result<Vec<u32>, Error> {
    let Some(template) = &encoder.chat else {
        let problem = "the model has no chat template; name a model that was trained to chat";
        return Err(Error::Prompt { prompt: String::new(), problem: problem.to_owned() });
    };
    let rendered = template.render(conversation, Prompt::Generation)?;
    check_length(&rendered, encoder)?;
    // A template writes the start token itself.
    Ok(encoder.tokenizer.encode(&rendered, Specials::None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(template: &str, fields: &[(&str, &str)], prompts: &[&str]) -> Result<Vec<String>, String> {
        let template = PromptTemplate::parse(template).expect(template);
        let fields: Vec<_> =
            fields.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        let prompts: Vec<_> = prompts.iter().map(|prompt| (*prompt).to_owned()).collect();
        filled(&template, GivenBy::Option, &fields, &prompts).map_err(|error| {
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        })
    }

    #[test]
    fn a_prompt_is_the_text_of_the_column_that_is_not_given() {
        assert_eq!(prompts("Q: {q}", &[], &["a", "b"]).unwrap(), ["Q: a", "Q: b"]);
        assert_eq!(prompts("{c} Q: {q}", &[("c", "x")], &["a"]).unwrap(), ["x Q: a"]);
        assert_eq!(prompts("{c} Q: {q}", &[("c", "x"), ("q", "y")], &[]).unwrap(), ["x Q: y"]);
    }

    #[test]
    fn columns_that_are_left_open_are_named_with_the_cure() {
        let message = prompts("{c} Q: {q}", &[], &["a"]).unwrap_err();
        assert!(message.contains("has the columns c, q") && message.contains("--field c=TEXT"), "{message}");
        let message = prompts("Q: {q}", &[("x", "y")], &["a"]).unwrap_err();
        assert!(message.contains("has no column `x`; its columns are q"), "{message}");
        let message = prompts("Q: {q}", &[("q", "y")], &["a"]).unwrap_err();
        assert!(message.contains("no place for a prompt"), "{message}");
    }

    #[test]
    fn a_request_is_told_of_its_own_field() {
        let template = PromptTemplate::parse("{c} Q: {q}").expect("a template");
        let error = filled(&template, GivenBy::Request, &[], &["a".to_owned()]).expect_err("two are open");
        let message = error.to_string();
        assert!(message.contains(r#"`columns`: {"c": "TEXT"}"#) && !message.contains("--field"), "{message}");
    }
}
