//! `[data.text]`: how rows of text become samples.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PromptTemplate, TextError};

/// Longest sample a recipe may ask for, in tokens; more is a typo.
const MOST_TOKENS: usize = 1 << 20;

/// How rows of text become samples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TextSettings {
    /// Most tokens that the model is given in one row of a batch; a sample has one more, which is only predicted.
    #[schemars(
        range(min = 1, max = MOST_TOKENS),
        example = 1024,
        extend("x-unit" = "tokens", "x-range" = "1 to 1048576, and at most the positions of the model")
    )]
    pub max_tokens: usize,
    /// Which tokens the loss is computed on.
    #[schemars(example = &"all")]
    pub loss: Loss,
    /// What happens to a row that cannot be used.
    #[schemars(example = &"skip")]
    pub on_bad_row: OnBadRow,
    /// What happens to a sample longer than `max_tokens`.
    #[schemars(example = &"drop")]
    pub on_long: OnLong,
    /// Whether samples are put together until `max_tokens` are full; plain text always is.
    #[schemars(example = &"on")]
    pub packing: Packing,
    /// Whether the samples of a step are of about the same length, which saves padding.
    #[schemars(example = true)]
    pub group_by_length: bool,
    /// Names of the columns that a format reads.
    pub columns: Columns,
    /// The prompt, in the format `template`: `{name}` stands for the column of that name, `{{` and `}}` for the braces
    /// themselves. Text is written as it is, numbers and lists as JSON writes them.
    #[schemars(with = "String", example = &"Question: {question} Answer:", extend("x-unit" = "text with columns in braces"))]
    pub template: PromptTemplate,
    /// What follows the prompt and is learned, in the format `template`, likewise.
    #[schemars(with = "String", example = &" {answer}", extend("x-unit" = "text with columns in braces"))]
    pub completion: PromptTemplate,
    /// System message of conversations that have none; empty: they keep none.
    #[schemars(example = &"You are a helpful assistant.")]
    pub system: String,
    /// Most rows that are read of each entry of `data.train` and `data.validation`,
    /// counted over its files; 0 reads all.
    #[schemars(example = 1000, extend("x-unit" = "rows"))]
    pub limit: usize,
    /// Folder in which tokenised data is kept for the next run; empty: it is not kept.
    #[schemars(example = &"cache", extend("x-unit" = "folder"))]
    pub cache: PathBuf,
}

impl Default for TextSettings {
    fn default() -> Self {
        Self {
            max_tokens: 512,
            loss: Loss::Completion,
            on_bad_row: OnBadRow::Fail,
            on_long: OnLong::Cut,
            packing: Packing::Off,
            group_by_length: false,
            columns: Columns::default(),
            template: PromptTemplate::default(),
            completion: PromptTemplate::default(),
            system: String::new(),
            limit: 0,
            cache: PathBuf::new(),
        }
    }
}

impl TextSettings {
    /// Requires values that a model with `context` positions can use.
    ///
    /// # Errors
    /// If `max_tokens` is 0, absurd, or more than the model's positions.
    pub fn check(&self, context: usize) -> Result<(), TextError> {
        let most = context.min(MOST_TOKENS);
        if (1..=most).contains(&self.max_tokens) {
            return Ok(());
        }
        Err(TextError::MaxTokens { found: self.max_tokens, most })
    }
}

/// Which tokens the loss is computed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// Those of the completion, or of the assistant's messages, and the end token after them.
    Completion,
    /// All of them.
    All,
}

/// What happens to a row that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnBadRow {
    /// The run does not start; the first of such rows are listed.
    Fail,
    /// Such rows are left out; they are counted, and the first are listed.
    Skip,
}

/// What happens to a sample that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnLong {
    /// Its end is cut off.
    Cut,
    /// It is left out.
    Drop,
}

/// Whether several samples share a row of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Packing {
    /// Each has a row of its own.
    Off,
    /// As many as fit; each is a segment with positions of its own.
    On,
}

/// Names of the columns that a format reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Columns {
    /// Column of the prompt, in the format `prompt-completion`.
    #[schemars(example = &"question", extend("x-unit" = "name of a column"))]
    pub prompt: String,
    /// Column of the completion, in the format `prompt-completion`.
    #[schemars(example = &"answer", extend("x-unit" = "name of a column"))]
    pub completion: String,
    /// Column of the document, in the format `text`.
    #[schemars(example = &"body", extend("x-unit" = "name of a column"))]
    pub text: String,
}

impl Default for Columns {
    fn default() -> Self {
        Self { prompt: "prompt".to_owned(), completion: "completion".to_owned(), text: "text".to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_recipe_leaves_out_has_its_default() {
        let settings: TextSettings =
            toml::from_str("max_tokens = 64\ncolumns = { text = \"body\" }").unwrap();
        let columns = Columns { text: "body".to_owned(), ..Columns::default() };
        assert_eq!(settings, TextSettings { max_tokens: 64, columns, ..TextSettings::default() });
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let message = toml::from_str::<TextSettings>("max_token = 64").unwrap_err().to_string();
        assert!(message.contains("unknown field `max_token`"), "{message}");
    }

    #[test]
    fn samples_longer_than_the_models_context_are_refused() {
        let settings = TextSettings { max_tokens: 513, ..TextSettings::default() };
        let message = settings.check(512).unwrap_err().to_string();
        assert!(message.contains("513") && message.contains("1 to 512"), "{message}");
        assert!(settings.check(513).is_ok());
    }
}
