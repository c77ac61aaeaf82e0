//! What an adapter folder says of the text that it was trained on.

use std::path::Path;

use nola_core::Error as AdapterError;
use nola_core::bundle::{self, Manifest};
use nola_core::{folder, plain_words};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::settings::DataFormat;
use crate::text::{Columns, Loss, PromptTemplate, TextSettings};

/// How the samples of an adapter were written: kept in its folder, so that its prompts are written likewise wherever the
/// folder goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterData {
    /// Layout of the rows.
    pub format: DataFormat,
    /// Longest sample, in tokens.
    pub max_tokens: usize,
    /// Which tokens were learned.
    pub loss: Loss,
    /// Names of the columns.
    pub columns: Columns,
    /// The prompt, in the format `template`.
    #[serde(default, skip_serializing_if = "PromptTemplate::is_empty")]
    pub template: PromptTemplate,
    /// What follows it.
    #[serde(default, skip_serializing_if = "PromptTemplate::is_empty")]
    pub completion: PromptTemplate,
    /// System message of conversations that have none.
    pub system: String,
    /// SHA-256 of the chat template; absent where none was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template_sha256: Option<String>,
}

impl AdapterData {
    /// What an adapter has to remember of how its samples were written.
    pub fn new(format: DataFormat, text: &TextSettings, chat_template_sha256: Option<String>) -> Self {
        Self {
            format,
            max_tokens: text.max_tokens,
            loss: text.loss,
            columns: text.columns.clone(),
            template: text.template.clone(),
            completion: text.completion.clone(),
            system: text.system.clone(),
            chat_template_sha256,
        }
    }

    /// What an adapter folder, or a member of a bundle, says; none if it says nothing: another program wrote it, or an older
    /// version, or it is about images.
    ///
    /// # Errors
    /// If its configuration is damaged.
    pub fn of_folder(folder: &Path) -> Result<Option<Self>, AdapterError> {
        match bundle::member_at(folder) {
            Some((bundle, name)) => {
                let manifest = Manifest::read(&bundle)?;
                Self::of_value(manifest.member(&bundle, &name)?.data.clone(), folder)
            }
            None if bundle::is_bundle(folder) => Err(Manifest::read(folder)?.is_several(folder)),
            None => Self::of_value(folder::read_data(folder)?, &folder.join("adapter_config.json")),
        }
    }

    /// What `file` says.
    ///
    /// # Errors
    /// If that cannot be.
    pub fn of_value(value: Value, file: &Path) -> Result<Option<Self>, AdapterError> {
        if value.is_null() {
            return Ok(None);
        }
        serde_json::from_value(value).map(Some).map_err(|error| {
            let problem = format!(
                "`data`: {}; restore the file from its source, or update nola-train",
                plain_words(&error.to_string())
            );
            AdapterError::Invalid { file: file.to_owned(), problems: vec![problem] }
        })
    }

    /// The settings of text that is written the same way.
    pub fn settings(&self) -> TextSettings {
        TextSettings {
            max_tokens: self.max_tokens,
            loss: self.loss,
            columns: self.columns.clone(),
            template: self.template.clone(),
            completion: self.completion.clone(),
            system: self.system.clone(),
            ..TextSettings::default()
        }
    }

    /// As an adapter folder keeps it.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("numbers and text")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::TextFormat;

    #[test]
    fn what_an_adapter_remembers_gives_the_settings_it_was_trained_with() {
        let text = TextSettings {
            max_tokens: 96,
            loss: Loss::All,
            columns: Columns { prompt: "question".to_owned(), ..Columns::default() },
            system: "Be brief.".to_owned(),
            ..TextSettings::default()
        };
        let format = DataFormat::Text(TextFormat::Chat);
        let kept = AdapterData::new(format, &text, Some("5e".to_owned())).to_value();
        let read: AdapterData = serde_json::from_value(kept).expect("what was written");
        assert_eq!((read.format, read.settings()), (format, text));
        assert_eq!(read.chat_template_sha256.as_deref(), Some("5e"));
    }
}
