//! From rows to examples: what each published format calls its fields, and what a model is to learn of them.

mod alpaca;
mod chat;
mod e2e;
mod fields;
mod triples;
mod unused;

use std::borrow::Cow;

use super::read::{Content, PlainText, UsedColumns};
use super::{ChatRender, Dialogue, MAX_ROW_BYTES, Note, RowProblem, TextError, TextFormat, TextSettings};
pub(super) use fields::Fields;

impl TextFormat {
    /// How it reads plain text files.
    pub(super) fn plain_text(self) -> PlainText {
        match self {
            Self::Text => PlainText::Running,
            Self::E2e => PlainText::Lines,
            Self::PromptCompletion
            | Self::Template
            | Self::Alpaca
            | Self::ShareGpt
            | Self::Chat
            | Self::Dart
            | Self::WebNlg => PlainText::Refused,
        }
    }

    /// The fields of a row that it looks at; of what it does not look at the names are enough.
    ///
    /// # Errors
    /// If the settings lack what the format is made of.
    pub(super) fn columns(self, settings: &TextSettings) -> Result<UsedColumns, TextError> {
        if self == Self::Template && (settings.template.is_empty() || settings.completion.is_empty()) {
            return Err(TextError::NoTemplate);
        }
        Ok(unused::looked_at(self, settings).map_or(UsedColumns::All, UsedColumns::named))
    }

    /// The examples in a row; a row of DART or WebNLG has one for each of its sentences. `chat` writes those of conversations.
    pub(super) fn converted(
        self,
        content: Content,
        settings: &TextSettings,
        chat: Option<&dyn ChatRender>,
    ) -> Result<Converted, RowProblem> {
        let fields = match content {
            Content::Text(text) if self == Self::E2e => return Ok(Example::Pair(e2e::line(&text)?).into()),
            Content::Text(text) => return Ok(Example::Document(text).into()),
            Content::More(text) => return Ok(Example::More(text).into()),
            Content::Record(fields) => fields,
        };
        let fields = Fields(&fields);
        let columns = &settings.columns;
        let mut converted = match self {
            Self::Text => {
                let text = fields.named_text(&columns.text, "data.text.columns.text")?;
                Example::Document(text.to_owned()).into()
            }
            Self::PromptCompletion => {
                let prompt = fields.named_text(&columns.prompt, "data.text.columns.prompt")?;
                let completion = fields.named_text(&columns.completion, "data.text.columns.completion")?;
                Example::Pair(Pair::new(prompt, completion, Separator::None)).into()
            }
            Self::Template => {
                let prompt = settings.template.filled(fields.0, "data.text.template")?;
                let completion = settings.completion.filled(fields.0, "data.text.completion")?;
                Example::Pair(Pair::new(prompt, completion, Separator::None)).into()
            }
            Self::Alpaca => Example::Pair(alpaca::pair(&fields)?).into(),
            Self::ShareGpt | Self::Chat => {
                let chat = chat.expect("conversations are only read with a chat template");
                let keys = if self == Self::Chat { chat::OPENAI } else { chat::SHAREGPT };
                chat::conversation(&fields, &keys, &settings.system, chat)?
            }
            Self::E2e => Example::Pair(e2e::record(&fields)?).into(),
            Self::Dart => triples::dart(&fields)?.into(),
            Self::WebNlg => triples::webnlg(&fields)?.into(),
        };
        let unused = unused::unused(self, &fields, settings)?;
        converted.notes.extend(unused.into_iter().map(|field| (Note::Unused, field)));
        check_length(&converted.examples)?;
        Ok(converted)
    }
}

/// What becomes of a row.
#[derive(Debug, Default)]
pub(super) struct Converted {
    pub examples: Vec<Example>,
    /// What of the row is not in them as it stands there.
    pub notes: Vec<(Note, String)>,
}

impl From<Example> for Converted {
    fn from(example: Example) -> Self {
        Self { examples: vec![example], ..Self::default() }
    }
}

impl From<Vec<Pair>> for Converted {
    fn from(pairs: Vec<Pair>) -> Self {
        Self { examples: pairs.into_iter().map(Example::Pair).collect(), ..Self::default() }
    }
}

/// A row of a column format has no line that could be measured, so its examples are.
fn check_length(examples: &[Example]) -> Result<(), RowProblem> {
    match examples.iter().map(Example::bytes).max() {
        Some(found) if found > MAX_ROW_BYTES => Err(RowProblem::TooLong { found, limit: MAX_ROW_BYTES }),
        Some(_) | None => Ok(()),
    }
}

/// Something to learn, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Example {
    /// Running text; all of it is learned.
    Document(String),
    /// The same, going on from the example before.
    More(String),
    /// A prompt, and what is learned to follow it.
    Pair(Pair),
    /// A conversation; the assistant's messages are learned.
    Chat(Box<Dialogue>),
}

impl Example {
    /// Length of its text.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Document(text) | Self::More(text) => text.len(),
            Self::Pair(pair) => pair.prompt.len() + pair.completion.len(),
            Self::Chat(dialogue) => dialogue.conversation.bytes(),
        }
    }

    /// Its texts, without what a template writes around them.
    pub(super) fn texts(&self) -> Vec<Cow<'_, str>> {
        match self {
            Self::Document(text) | Self::More(text) => vec![text.into()],
            Self::Pair(pair) => vec![(&pair.prompt).into(), (&pair.completion).into()],
            Self::Chat(dialogue) => {
                dialogue.conversation.messages.iter().map(|message| message.text().into()).collect()
            }
        }
    }
}

/// A prompt, and what is learned to follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// What the model is given.
    pub prompt: String,
    /// What it is to say.
    pub completion: String,
    /// What stands between them.
    pub joint: Separator,
    /// Which part of the data set it belongs to.
    pub part: Part,
}

impl Pair {
    /// A prompt of a format, with nothing that follows it yet; one of a template is filled already.
    pub fn question(format: TextFormat, prompt: &str) -> Self {
        match format {
            TextFormat::Alpaca => Self::new(alpaca::prompt(prompt, ""), "", Separator::None),
            TextFormat::E2e | TextFormat::Dart | TextFormat::WebNlg => {
                Self::new(prompt, "", Separator::EndAndSpace)
            }
            TextFormat::Text
            | TextFormat::PromptCompletion
            | TextFormat::Template
            | TextFormat::ShareGpt
            | TextFormat::Chat => Self::new(prompt, "", Separator::None),
        }
    }

    fn new(prompt: impl Into<String>, completion: impl Into<String>, joint: Separator) -> Self {
        Self { prompt: prompt.into(), completion: completion.into(), joint, part: Part::Whole }
    }
}

/// What stands between prompt and completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separator {
    /// Nothing.
    None,
    /// The end token, and a space before the completion: the form in which LoRA's and NOLA's GPT-2 code has E2E, DART
    /// and WebNLG.
    EndAndSpace,
}

/// A part of a data set that is also scored alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The data set has no parts.
    Whole,
    /// WebNLG: of a category that is in the training data.
    Seen,
    /// WebNLG: of another category.
    Unseen,
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::text::fake::Template;

    /// The examples of a record, or what is wrong with it.
    pub fn convert(format: TextFormat, value: serde_json::Value) -> Result<Vec<Example>, String> {
        Ok(converted(format, value)?.examples)
    }

    /// The same, with what is not used.
    pub fn converted(format: TextFormat, value: serde_json::Value) -> Result<Converted, String> {
        converted_for(&Template { end: "" }, format, value)
    }

    /// The same, for another chat template.
    pub fn converted_for(
        chat: &dyn ChatRender,
        format: TextFormat,
        value: serde_json::Value,
    ) -> Result<Converted, String> {
        let serde_json::Value::Object(fields) = value else { panic!("not an object") };
        let settings = TextSettings { system: "be brief".to_owned(), ..TextSettings::default() };
        format
            .converted(Content::Record(fields), &settings, Some(chat))
            .map_err(|problem| problem.to_string())
    }

    #[test]
    fn a_wrong_column_is_named_with_those_there_are_and_the_setting() {
        let message =
            convert(TextFormat::PromptCompletion, json!({"question": "a", "answer": "b"})).unwrap_err();
        assert_eq!(
            message,
            "no field `prompt`; the row has question, answer; name the right one in data.text.columns.prompt"
        );
    }

    #[test]
    fn a_field_of_another_type_is_named() {
        let message = convert(TextFormat::Text, json!({"text": 3})).unwrap_err();
        assert_eq!(message, "`text` is a number; expected text");
    }

    #[test]
    fn a_row_of_many_megabytes_is_bad_in_any_kind_of_file() {
        let message = convert(TextFormat::Text, json!({"text": "x".repeat(MAX_ROW_BYTES + 1)})).unwrap_err();
        assert!(message.contains("a row may have"), "{message}");
    }

    #[test]
    fn a_recipe_names_formats_as_messages_do() {
        for format in [
            TextFormat::Text,
            TextFormat::PromptCompletion,
            TextFormat::Template,
            TextFormat::Alpaca,
            TextFormat::ShareGpt,
            TextFormat::Chat,
            TextFormat::E2e,
            TextFormat::Dart,
            TextFormat::WebNlg,
        ] {
            assert_eq!(serde_json::to_value(format).unwrap(), format.to_string());
        }
    }
}
