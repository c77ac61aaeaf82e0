//! Where model folders keep their chat templates.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ChatError;
use crate::tokenizer::files::{Files, read_bounded, utf8};

/// The templates of a folder that are used.
pub(super) struct Stored {
    /// The file that holds them.
    pub file: PathBuf,
    /// The one that is used unless another is asked for.
    pub default: String,
    /// The one for conversations with tools.
    pub with_tools: Option<String>,
}

/// The template as `tokenizer_config.json` holds it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Field {
    One(String),
    Several(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    chat_template: Option<Field>,
}

impl Stored {
    /// The templates of a model folder, in `chat_template.jinja` or `tokenizer_config.json`; `None` if it has none.
    ///
    /// # Errors
    /// If a file cannot be read, or none of several templates is the default one.
    pub fn of_folder(folder: &Path) -> Result<Option<Self>, ChatError> {
        let mut files = Files::open(folder)?;
        if let Some(default) = files.text("chat_template.jinja")? {
            let with_tools = files.text("additional_chat_templates/tool_use.jinja")?;
            return Ok(Some(Self { file: files.path("chat_template.jinja"), default, with_tools }));
        }
        // `chat_template.json` is where processors of several media kept it.
        for name in ["tokenizer_config.json", "chat_template.json"] {
            let config: Option<Config> = files.json(name)?;
            let Some(field) = config.and_then(|config| config.chat_template) else { continue };
            return Self::of_field(field, files.path(name)).map(Some);
        }
        Ok(None)
    }

    /// The template of one file.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn of_file(file: &Path) -> Result<Self, ChatError> {
        let bytes = read_bounded(file)?.ok_or_else(|| ChatError::Missing { file: file.to_path_buf() })?;
        Ok(Self { file: file.to_path_buf(), default: utf8(file, bytes)?, with_tools: None })
    }

    fn of_field(field: Field, file: PathBuf) -> Result<Self, ChatError> {
        let mut several = match field {
            Field::One(default) => return Ok(Self { file, default, with_tools: None }),
            Field::Several(several) => several,
        };
        let mut taken = |name: &str| {
            let at = several.iter().position(|it| it.name == name)?;
            Some(several.swap_remove(at).template)
        };
        let (default, with_tools) = (taken("default"), taken("tool_use"));
        match default {
            Some(default) => Ok(Self { file, default, with_tools }),
            None => {
                let rest = several.into_iter().map(|it| it.name);
                let names = with_tools.map(|_| "tool_use".to_owned()).into_iter().chain(rest).collect();
                Err(ChatError::NoDefault { file, names })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ChatTemplate, Conversation, MAX_TEMPLATE_BYTES, Prompt};
    use super::*;
    use crate::tokenizer::Tokenizer;
    use serde_json::json;

    /// A folder with a tokenizer and these files.
    fn folder_of(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = r#"{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#;
        for (name, content) in files.iter().chain([&("tokenizer.json", tokenizer)]) {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    fn found(files: &[(&str, &str)]) -> Result<Option<ChatTemplate>, ChatError> {
        let folder = folder_of(files);
        ChatTemplate::of_folder(folder.path(), &Tokenizer::open(folder.path()).unwrap())
    }

    #[test]
    fn a_folder_may_have_no_template() {
        assert!(found(&[]).unwrap().is_none());
        assert!(found(&[("tokenizer_config.json", r#"{"chat_template": null}"#)]).unwrap().is_none());
    }

    #[test]
    fn the_template_is_found_wherever_a_folder_keeps_it() {
        let named = r#"{"chat_template": [{"name": "rag", "template": "x"}, {"name": "default", "template": "{{ bos_token }}!"}],
            "bos_token": "a"}"#;
        let text = |files: &[(&str, &str)]| {
            found(files).unwrap().unwrap().render(&Conversation::default(), Prompt::Complete).unwrap()
        };
        assert_eq!(text(&[("tokenizer_config.json", named)]), "a!");
        assert_eq!(text(&[("tokenizer_config.json", r#"{"chat_template": "one"}"#)]), "one");
        assert_eq!(text(&[("tokenizer_config.json", named), ("chat_template.jinja", "file")]), "file");
        assert_eq!(text(&[("chat_template.json", r#"{"chat_template": "media"}"#)]), "media");
    }

    #[test]
    fn a_conversation_with_tools_has_the_template_for_them() {
        let named = r#"{"chat_template": [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]}"#;
        let found = found(&[("tokenizer_config.json", named)]).unwrap().unwrap();
        let with_tools = Conversation { tools: json!([{}]), ..Conversation::default() };
        assert_eq!(found.render(&with_tools, Prompt::Complete).unwrap(), "tools");
        assert_eq!(found.render(&Conversation::default(), Prompt::Complete).unwrap(), "plain");
    }

    #[test]
    fn a_template_that_is_no_jinja_or_too_long_is_refused() {
        let of = |template: &str| found(&[("chat_template.jinja", template)]);
        assert!(matches!(of("a\nb\n{% if %}"), Err(ChatError::Syntax { line: 3, .. })));
        assert!(matches!(of(&"x".repeat(MAX_TEMPLATE_BYTES + 1)), Err(ChatError::TooLarge { .. })));
    }

    #[test]
    fn several_templates_without_a_default_are_named() {
        let named =
            r#"{"chat_template": [{"name": "rag", "template": "x"}, {"name": "tools", "template": "y"}]}"#;
        let Err(ChatError::NoDefault { names, .. }) = found(&[("tokenizer_config.json", named)]) else {
            panic!()
        };
        assert_eq!(names, ["rag", "tools"]);
    }

    #[test]
    fn a_template_file_can_be_chosen() {
        let folder = folder_of(&[("own.jinja", "own\n")]);
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        let template = ChatTemplate::of_file(&folder.path().join("own.jinja"), &tokenizer).unwrap();
        assert_eq!(template.render(&Conversation::default(), Prompt::Complete).unwrap(), "own");
        let missing = ChatTemplate::of_file(&folder.path().join("none.jinja"), &tokenizer);
        assert!(matches!(missing, Err(ChatError::Missing { .. })));
    }
}
