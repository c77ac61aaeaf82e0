//! Conversations as the text that a model was trained on, through the Jinja template that comes with its tokenizer.

mod environment;
mod error;
mod json;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};

use crate::tokenizer::Tokenizer;
use crate::tokenizer::files::{Files, read_bounded, utf8};
pub use error::ChatError;

/// Role of the one whose words are learned.
const ASSISTANT: &str = "assistant";

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: most templates know `system`, `user` and `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// How the text of a conversation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prompt {
    /// With the head of an answer that the model is to write.
    Generation,
    /// With the last message.
    Complete,
}

/// The text of a conversation, and which of it the assistant says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The whole text.
    pub text: String,
    /// Bytes of the text that the assistant says, message by message, each with the mark that ends its turn.
    pub assistant: Vec<Range<usize>>,
}

/// A chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    file: PathBuf,
    names: BTreeMap<&'static str, String>,
}

/// The template as `tokenizer_config.json` holds it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    One(String),
    Several(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    chat_template: Option<Stored>,
}

impl ChatTemplate {
    /// The template of a model folder, in `chat_template.jinja` or `tokenizer_config.json`; `None` if it has none.
    ///
    /// # Errors
    /// If a file cannot be read, or if the template is no Jinja.
    pub fn of_folder(folder: &Path, tokenizer: &Tokenizer) -> Result<Option<Self>, ChatError> {
        let mut files = Files::open(folder)?;
        let names = tokenizer.special_tokens();
        if let Some(template) = files.text("chat_template.jinja")? {
            return Self::new(&template, files.path("chat_template.jinja"), names).map(Some);
        }
        // `chat_template.json` is where processors of several media kept it.
        for name in ["tokenizer_config.json", "chat_template.json"] {
            let config: Option<Config> = files.json(name)?;
            let Some(stored) = config.and_then(|config| config.chat_template) else { continue };
            let file = files.path(name);
            return Self::new(&default_of(stored, &file)?, file, names).map(Some);
        }
        Ok(None)
    }

    /// The template of one file, to be used instead of the model's own.
    ///
    /// # Errors
    /// If the file cannot be read, or if it is no Jinja.
    pub fn of_file(file: &Path, tokenizer: &Tokenizer) -> Result<Self, ChatError> {
        let bytes = read_bounded(file)?.ok_or_else(|| ChatError::Missing { file: file.to_path_buf() })?;
        Self::new(&utf8(file, bytes)?, file.to_path_buf(), tokenizer.special_tokens())
    }

    fn new(template: &str, file: PathBuf, names: &BTreeMap<&'static str, String>) -> Result<Self, ChatError> {
        Ok(Self { environment: environment::of(template, &file)?, file, names: names.clone() })
    }

    /// The file that holds the template, for error messages.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The text of a conversation. It holds the special tokens already, so it is encoded without adding any.
    ///
    /// # Errors
    /// If the template refuses the conversation, fails on it, or takes too long.
    ///
    /// # Source
    /// `apply_chat_template` of transformers, without tools and documents.
    pub fn render(&self, messages: &[Message], prompt: Prompt) -> Result<String, ChatError> {
        let names = Value::from(self.names.clone());
        let variables = context! {
            messages => Serde(messages),
            tools => Value::from(()),
            documents => Value::from(()),
            add_generation_prompt => prompt == Prompt::Generation,
            ..names
        };
        let failed = |source: minijinja::Error| {
            let (file, messages) = (self.file.clone(), messages.len());
            match source.kind() {
                ErrorKind::OutOfFuel => ChatError::Endless { file, messages, fuel: environment::FUEL },
                _ => ChatError::Refused { file, messages, line: source.line().unwrap_or(1), source },
            }
        };
        self.environment.get_template(environment::NAME).and_then(|it| it.render(variables)).map_err(failed)
    }

    /// The text of a conversation, and which of it the assistant says: all from the end of what a prompt for the answer
    /// would be to the mark that ends the turn, which is what a model must learn to write.
    ///
    /// Space behind that mark is not counted, for nobody reads what a model writes behind it.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; and if the template writes earlier messages differently when more follow.
    pub fn assistant_spans(&self, messages: &[Message]) -> Result<Rendered, ChatError> {
        let text = self.render(messages, Prompt::Complete)?;
        let mut assistant = Vec::new();
        for (index, message) in messages.iter().enumerate().filter(|(_, message)| message.role == ASSISTANT) {
            let before = self.render(&messages[..index], Prompt::Generation)?;
            let through = self.render(&messages[..=index], Prompt::Complete)?;
            let said = through.strip_prefix(before.as_str()).filter(|_| text.starts_with(&through));
            let said =
                said.ok_or_else(|| ChatError::Unstable { file: self.file.clone(), message: index + 1 })?;
            assistant.push(before.len()..before.len() + turn_bytes(said, &message.content));
        }
        Ok(Rendered { text, assistant })
    }
}

/// Length of a turn in bytes, without space behind the mark that ends it; space alone is such a mark, too.
fn turn_bytes(said: &str, content: &str) -> usize {
    let trimmed = said.trim_end();
    if trimmed.ends_with(content.trim_end()) { said.len() } else { trimmed.len() }
}

/// The template that is used unless another is asked for.
fn default_of(stored: Stored, file: &Path) -> Result<String, ChatError> {
    let mut several = match stored {
        Stored::One(template) => return Ok(template),
        Stored::Several(several) => several,
    };
    match several.iter().position(|it| it.name == "default") {
        Some(at) => Ok(several.swap_remove(at).template),
        None => {
            let names = several.into_iter().map(|it| it.name).collect();
            Err(ChatError::NoDefault { file: file.to_path_buf(), names })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = r"{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    const LLAMA2: &str = r"{% if messages[0]['role'] == 'system' %}
    {% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}
    {% set rest = messages[1:] %}
{% else %}
    {% set system = '' %}
    {% set rest = messages %}
{% endif %}
{% for message in rest %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('user and assistant must take turns') }}
    {% endif %}
    {% if message['role'] == 'user' %}
        {{- bos_token + '[INST] ' + (system if loop.first else '') + message['content'].strip() + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message['content'] | trim + ' ' + eos_token }}
    {%- endif %}
{% endfor %}";

    const LLAMA3: &str = r"{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
";

    fn template(source: &str) -> ChatTemplate {
        let names = BTreeMap::from([("bos_token", "<s>".to_string()), ("eos_token", "</s>".to_string())]);
        ChatTemplate::new(source, PathBuf::from("chat_template.jinja"), &names).unwrap()
    }

    /// Two questions with their answers, behind a word of the system.
    fn conversation() -> Vec<Message> {
        [
            ("system", "Be brief."),
            ("user", " Two and two? "),
            ("assistant", "Four."),
            ("user", "And one?"),
            ("assistant", "Five. "),
        ]
        .map(|(role, content)| Message::new(role, content))
        .to_vec()
    }

    fn spoken(source: &str, messages: &[Message]) -> Vec<String> {
        let Rendered { text, assistant } = template(source).assistant_spans(messages).unwrap();
        assistant.into_iter().map(|range| text[range].to_string()).collect()
    }

    #[test]
    fn chatml_is_written_as_transformers_writes_it() {
        let text = template(CHATML).render(&conversation()[..2], Prompt::Generation).unwrap();
        assert_eq!(
            text,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Two and two? <|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn llama_2_is_written_as_transformers_writes_it() {
        let text = template(LLAMA2).render(&conversation(), Prompt::Complete).unwrap();
        assert_eq!(
            text,
            "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nTwo and two? [/INST] Four. </s><s>[INST] And one? [/INST] Five. </s>"
        );
    }

    #[test]
    fn llama_3_is_written_as_transformers_writes_it() {
        let text = template(LLAMA3).render(&conversation()[1..2], Prompt::Generation).unwrap();
        assert_eq!(
            text,
            "<s><|start_header_id|>user<|end_header_id|>\n\nTwo and two?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        );
    }

    #[test]
    fn the_assistant_says_its_words_and_the_end_of_its_turn() {
        assert_eq!(spoken(CHATML, &conversation()), ["Four.<|im_end|>", "Five. <|im_end|>"]);
        assert_eq!(spoken(LLAMA2, &conversation()), [" Four. </s>", " Five. </s>"]);
        assert_eq!(spoken(LLAMA3, &conversation()), ["Four.<|eot_id|>", "Five.<|eot_id|>"]);
    }

    #[test]
    fn where_only_space_ends_a_turn_the_space_is_said() {
        let plain = r"{% for message in messages %}{{ message.role + ': ' + message.content + '\n\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}";
        assert_eq!(spoken(plain, &conversation()), ["Four.\n\n", "Five. \n\n"]);
    }

    #[test]
    fn a_template_without_a_head_for_answers_has_the_model_write_it() {
        let headless = "{% for message in messages %}{{ '<' + message.role + '>' + message.content + '</s>' }}{% endfor %}";
        assert_eq!(spoken(headless, &conversation()), ["<assistant>Four.</s>", "<assistant>Five. </s>"]);
    }

    #[test]
    fn a_template_that_rewrites_earlier_turns_is_an_error() {
        let forgetful = "{% for message in messages %}{% if loop.last or message.role != 'assistant' %}{{ message.content }}{% endif %};{% endfor %}";
        let wrong = template(forgetful).assistant_spans(&conversation());
        assert!(matches!(wrong, Err(ChatError::Unstable { message: 3, .. })), "{wrong:?}");
    }

    #[test]
    fn what_a_template_refuses_is_told_in_its_own_words() {
        let wrong = template(LLAMA2).render(&conversation()[2..], Prompt::Complete).unwrap_err();
        let ChatError::Refused { source, line, .. } = wrong else { panic!("{wrong:?}") };
        assert!(source.to_string().contains("must take turns"));
        assert_eq!(line, 10);
    }

    #[test]
    fn a_template_that_loops_is_an_error() {
        let loops = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}";
        let wrong = template(loops).render(&conversation(), Prompt::Complete);
        assert!(matches!(wrong, Err(ChatError::Endless { messages: 5, .. })), "{wrong:?}");
    }

    #[test]
    fn markup_in_a_message_is_text() {
        let message = [Message::new("user", "{{ 1 }} {% if %} <b>&amp;")];
        let text = template("{{ messages[0].content }}").render(&message, Prompt::Complete).unwrap();
        assert_eq!(text, message[0].content);
    }

    #[test]
    fn a_long_conversation_is_within_the_limits() {
        let turn = |i: usize| Message::new(["user", "assistant"][i % 2], "word ".repeat(200));
        let long: Vec<_> = (0..1000).map(turn).collect();
        assert!(template(LLAMA2).render(&long, Prompt::Complete).is_ok());
    }

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
        let text =
            |files: &[(&str, &str)]| found(files).unwrap().unwrap().render(&[], Prompt::Complete).unwrap();
        assert_eq!(text(&[("tokenizer_config.json", named)]), "a!");
        assert_eq!(text(&[("tokenizer_config.json", r#"{"chat_template": "one"}"#)]), "one");
        assert_eq!(text(&[("tokenizer_config.json", named), ("chat_template.jinja", "file")]), "file");
        assert_eq!(text(&[("chat_template.json", r#"{"chat_template": "media"}"#)]), "media");
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
        assert_eq!(template.render(&[], Prompt::Complete).unwrap(), "own");
        let missing = ChatTemplate::of_file(&folder.path().join("none.jinja"), &tokenizer);
        assert!(matches!(missing, Err(ChatError::Missing { .. })));
    }
}
