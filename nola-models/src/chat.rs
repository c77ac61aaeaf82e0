//! Conversations as the text that a model was trained on, through the Jinja template that comes with its tokenizer.

mod conversation;
mod environment;
mod error;
mod filters;
mod guard;
mod json;
mod methods;
mod namespace;
mod operators;
mod print;
mod program;
mod turns;
mod view;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value, context};
use serde::Deserialize;

use crate::tokenizer::Tokenizer;
use crate::tokenizer::files::{Files, read_bounded, utf8};
use conversation::THOUGHTS;
pub use conversation::{Conversation, Message};
pub use error::ChatError;
use program::Program;
pub use turns::{KnownBy, Rendered, Turn};

/// Steps that a template may take; 64 bytes of text count as one.
const FUEL: u64 = 6_000_000;
/// A failure that takes longer is slow, and after so many of them a template is given up.
const SLOW: Duration = Duration::from_millis(200);
const MAX_SLOW_FAILURES: usize = 4;
/// A template longer than this is refused, in bytes.
const MAX_TEMPLATE_BYTES: usize = 1 << 18;

/// How the text of a conversation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prompt {
    /// With the head of an answer that the model is to write.
    Generation,
    /// With the last message.
    Complete,
}

/// A chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    program: Program,
    /// The one for conversations with tools, where a folder has it.
    with_tools: Option<Program>,
    file: PathBuf,
    names: BTreeMap<&'static str, String>,
    /// Conversations on which it failed after a long time: not all rows of a data set can be tried with such a template.
    slow_failures: AtomicUsize,
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
            let with_tools = files.text("additional_chat_templates/tool_use.jinja")?;
            let several = Several { default: template, with_tools };
            return Self::new(several, files.path("chat_template.jinja"), names).map(Some);
        }
        // `chat_template.json` is where processors of several media kept it.
        for name in ["tokenizer_config.json", "chat_template.json"] {
            let config: Option<Config> = files.json(name)?;
            let Some(stored) = config.and_then(|config| config.chat_template) else { continue };
            let file = files.path(name);
            return Self::new(Several::of(stored, &file)?, file, names).map(Some);
        }
        Ok(None)
    }

    /// The template of one file, to be used instead of the model's own.
    ///
    /// # Errors
    /// If the file cannot be read, or if it is no Jinja.
    pub fn of_file(file: &Path, tokenizer: &Tokenizer) -> Result<Self, ChatError> {
        let bytes = read_bounded(file)?.ok_or_else(|| ChatError::Missing { file: file.to_path_buf() })?;
        let template = Several { default: utf8(file, bytes)?, with_tools: None };
        Self::new(template, file.to_path_buf(), tokenizer.special_tokens())
    }

    fn new(
        templates: Several,
        file: PathBuf,
        names: &BTreeMap<&'static str, String>,
    ) -> Result<Self, ChatError> {
        let program = compile(&templates.default, &file)?;
        let with_tools = templates.with_tools.map(|template| compile(&template, &file)).transpose()?;
        let mut environment = environment::new();
        environment.set_fuel(Some(FUEL));
        let (names, slow_failures) = (names.clone(), AtomicUsize::new(0));
        Ok(Self { environment, program, with_tools, file, names, slow_failures })
    }

    /// The file that holds the template, for error messages.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The text of all its templates, which differs between templates that write differently.
    pub fn sources(&self) -> String {
        let with_tools = self.with_tools.as_ref().map_or("", Program::source);
        format!("{}\n{with_tools}", self.program.source())
    }

    /// Whether the template mentions a field of messages or a variable; what it does not mention it cannot write.
    pub fn reads(&self, field: &str) -> bool {
        let names = if THOUGHTS.contains(&field) { &THOUGHTS[..] } else { &[field] };
        let sources = self.sources();
        let code = sources.split("{#").enumerate().map(|(part, text)| match part {
            0 => text,
            // What stands behind the end of the comment.
            _ => text.split_once("#}").map_or("", |(_, code)| code),
        });
        let is_word_end = |char: char| !(char.is_alphanumeric() || char == '_');
        code.flat_map(|code| code.split(is_word_end)).any(|word| names.contains(&word))
    }

    /// The text of a conversation. It holds the special tokens already, so it is encoded without adding any.
    ///
    /// # Errors
    /// If the template refuses the conversation, fails on it, or takes too long.
    ///
    /// # Source
    /// `apply_chat_template` of transformers.
    pub fn render(&self, conversation: &Conversation, prompt: Prompt) -> Result<String, ChatError> {
        let mut text = self.written(conversation, prompt)?;
        if self.has_blocks(conversation) {
            text.retain(|char| !program::SAID.contains(&char));
        }
        Ok(text)
    }

    /// The text with the marks of `{% generation %}` blocks.
    fn written(&self, conversation: &Conversation, prompt: Prompt) -> Result<String, ChatError> {
        if self.slow_failures.load(Ordering::Relaxed) >= MAX_SLOW_FAILURES {
            return Err(ChatError::GivenUp { file: self.file.clone(), failures: MAX_SLOW_FAILURES });
        }
        let start = Instant::now();
        let variables = context! {
            messages => Serde(&conversation.messages),
            tools => Serde(&conversation.tools),
            documents => Serde(&conversation.documents),
            add_generation_prompt => prompt == Prompt::Generation,
            ..context! { ..Value::from(Serde(&conversation.variables)), ..Value::from(self.names.clone()) }
        };
        let failed = |source: minijinja::Error| {
            let (file, messages) = (self.file.clone(), conversation.messages.len());
            let is_slow = start.elapsed() >= SLOW;
            self.slow_failures.fetch_add(usize::from(is_slow), Ordering::Relaxed);
            match source.kind() {
                ErrorKind::OutOfFuel => ChatError::Endless { file, messages, fuel: FUEL },
                _ => ChatError::Refused { file, messages, line: source.line().unwrap_or(1), source },
            }
        };
        self.program_for(conversation).render(&self.environment, variables).map_err(failed)
    }

    fn program_for(&self, conversation: &Conversation) -> &Program {
        match &self.with_tools {
            Some(program) if !conversation.tools.is_null() => program,
            Some(_) | None => &self.program,
        }
    }

    /// Whether the template itself says what the assistant writes.
    fn has_blocks(&self, conversation: &Conversation) -> bool {
        self.program_for(conversation).has_blocks()
    }
}

/// Compiles a template, which `file` holds.
fn compile(template: &str, file: &Path) -> Result<Program, ChatError> {
    if template.len() > MAX_TEMPLATE_BYTES {
        let (bytes, limit) = (template.len(), MAX_TEMPLATE_BYTES);
        return Err(ChatError::TooLarge { file: file.to_path_buf(), bytes, limit });
    }
    let syntax = |source: minijinja::Error| {
        let line = source.line().unwrap_or(1);
        ChatError::Syntax { file: file.to_path_buf(), line, source }
    };
    Program::compile(template).map_err(syntax)
}

/// The templates of a folder that are used.
struct Several {
    default: String,
    with_tools: Option<String>,
}

impl Several {
    /// The template that is used unless another is asked for, and the one for tools.
    fn of(stored: Stored, file: &Path) -> Result<Self, ChatError> {
        let mut several = match stored {
            Stored::One(default) => return Ok(Self { default, with_tools: None }),
            Stored::Several(several) => several,
        };
        let mut taken = |name: &str| {
            let at = several.iter().position(|it| it.name == name)?;
            Some(several.swap_remove(at).template)
        };
        let (default, with_tools) = (taken("default"), taken("tool_use"));
        match default {
            Some(default) => Ok(Self { default, with_tools }),
            None => {
                let rest = several.into_iter().map(|it| it.name);
                let names = with_tools.map(|_| "tool_use".to_owned()).into_iter().chain(rest).collect();
                Err(ChatError::NoDefault { file: file.to_path_buf(), names })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

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

    pub fn template(source: &str) -> ChatTemplate {
        let names = BTreeMap::from([("bos_token", "<s>".to_string()), ("eos_token", "</s>".to_string())]);
        let templates = Several { default: source.to_owned(), with_tools: None };
        ChatTemplate::new(templates, PathBuf::from("chat_template.jinja"), &names).unwrap()
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
        said(source, &Conversation::new(messages.to_vec())).unwrap()
    }

    pub fn said(source: &str, conversation: &Conversation) -> Result<Vec<String>, ChatError> {
        let Rendered { text, assistant, .. } = template(source).assistant_spans(conversation)?;
        Ok(assistant.into_iter().map(|turn| text[turn.bytes].to_string()).collect())
    }

    fn written(source: &str, messages: &[Message], prompt: Prompt) -> Result<String, ChatError> {
        template(source).render(&Conversation::new(messages.to_vec()), prompt)
    }

    #[test]
    fn chatml_is_written_as_transformers_writes_it() {
        let text = written(CHATML, &conversation()[..2], Prompt::Generation).unwrap();
        assert_eq!(
            text,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Two and two? <|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn llama_2_is_written_as_transformers_writes_it() {
        let text = written(LLAMA2, &conversation(), Prompt::Complete).unwrap();
        assert_eq!(
            text,
            "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nTwo and two? [/INST] Four. </s><s>[INST] And one? [/INST] Five. </s>"
        );
    }

    #[test]
    fn llama_3_is_written_as_transformers_writes_it() {
        let text = written(LLAMA3, &conversation()[1..2], Prompt::Generation).unwrap();
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
    fn what_a_template_refuses_is_told_in_its_own_words() {
        let wrong = written(LLAMA2, &conversation()[2..], Prompt::Complete).unwrap_err();
        let ChatError::Refused { source, line, .. } = wrong else { panic!("{wrong:?}") };
        assert!(source.to_string().contains("must take turns"));
        assert_eq!(line, 10);
    }

    #[test]
    fn a_template_that_loops_is_an_error() {
        let loops = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}";
        let wrong = written(loops, &conversation(), Prompt::Complete);
        assert!(matches!(wrong, Err(ChatError::Endless { messages: 5, .. })), "{wrong:?}");
    }

    #[test]
    fn a_template_at_which_the_engine_panics_is_an_error() {
        let cycle = "{% for a in range(3) %}{{ loop.cycle() }}{% endfor %}";
        assert!(written(cycle, &conversation(), Prompt::Complete).is_err());
    }

    #[test]
    fn a_field_is_read_where_its_whole_name_stands_in_the_code() {
        let reads = |source: &str, field: &str| template(source).reads(field);
        assert!(reads("{{ messages[0].name }}", "name") && reads("{{ m['thinking'] }}", "reasoning_content"));
        assert!(!reads("{% set ns = namespace(a=1) %}", "name"));
        assert!(!reads("{% if enable_thinking %}{% endif %}", "thinking"));
        assert!(!reads("{# no tools #}{{ messages }}", "tools"));
    }

    #[test]
    fn markup_in_a_message_is_text() {
        let message = [Message::new("user", "{{ 1 }} {% if %} <b>&amp;")];
        let text = written("{{ messages[0].content }}", &message, Prompt::Complete).unwrap();
        assert_eq!(text, message[0].content());
    }

    #[test]
    fn a_long_conversation_is_within_the_limits() {
        let turn = |i: usize| Message::new(["user", "assistant"][i % 2], "word ".repeat(200));
        let long: Vec<_> = (0..1000).map(turn).collect();
        assert!(written(LLAMA2, &long, Prompt::Complete).is_ok());
    }

    fn conversation_of(fields: Json) -> Conversation {
        Conversation {
            messages: vec![Message::of_fields(fields.as_object().unwrap().clone())],
            ..Conversation::default()
        }
    }

    #[test]
    fn a_template_is_given_all_that_transformers_gives() {
        let mut talk =
            conversation_of(json!({"role": "tool", "content": "x", "tool_call_id": "7", "name": "tide"}));
        talk.tools = json!([{"function": {"name": "tide"}}]);
        talk.documents = json!([{"title": "t"}]);
        talk.variables = json!({"enable_thinking": false}).as_object().unwrap().clone();
        let source = "{{ messages[0].name }}{{ messages[0].tool_call_id }}{{ tools[0].function.name }}{{ documents[0].title }}\
            {{ enable_thinking }}{{ bos_token }}";
        assert_eq!(template(source).render(&talk, Prompt::Complete).unwrap(), "tide7tidetFalse<s>");
        let nothing =
            "{{ tools is none }}{{ documents is none }}{{ messages|length }}{{ add_generation_prompt }}";
        let text = template(nothing).render(&Conversation::default(), Prompt::Generation).unwrap();
        assert_eq!(text, "TrueTrue0True");
    }

    #[test]
    fn thoughts_are_read_under_any_of_their_names() {
        for name in ["reasoning_content", "thinking", "reasoning"] {
            let talk = conversation_of(json!({"role": "assistant", "content": "x", name: "thought"}));
            for read in ["reasoning_content", "thinking"] {
                let template = template(&format!("{{{{ messages[0].{read} }}}}"));
                assert_eq!(template.render(&talk, Prompt::Complete).unwrap(), "thought");
                assert!(template.reads(name) && !template.reads("tools"));
            }
        }
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
