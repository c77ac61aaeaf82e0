//! Conversations as the text that a model was trained on, through the Jinja template that comes with its tokenizer.

mod conversation;
mod environment;
mod error;
mod filled;
mod filters;
mod guard;
mod json;
mod methods;
mod namespace;
mod operators;
mod print;
mod program;
mod stored;
mod turns;
mod unread;
mod view;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value, context};

use crate::tokenizer::Tokenizer;
pub use conversation::{Conversation, Message};
pub use error::ChatError;
use program::Program;
use stored::Stored;
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
    /// All words of their code.
    words: HashSet<String>,
    file: PathBuf,
    names: BTreeMap<&'static str, String>,
    /// Conversations on which it failed after a long time: not all rows of a data set can be tried with such a template.
    slow_failures: AtomicUsize,
}

impl ChatTemplate {
    /// The template of a model folder, in `chat_template.jinja` or `tokenizer_config.json`; `None` if it has none.
    ///
    /// # Errors
    /// If a file cannot be read, or if the template is no Jinja.
    pub fn of_folder(folder: &Path, tokenizer: &Tokenizer) -> Result<Option<Self>, ChatError> {
        let stored = Stored::of_folder(folder)?;
        stored.map(|stored| Self::new(stored, tokenizer.special_tokens())).transpose()
    }

    /// The template of one file, to be used instead of the model's own.
    ///
    /// # Errors
    /// If the file cannot be read, or if it is no Jinja.
    pub fn of_file(file: &Path, tokenizer: &Tokenizer) -> Result<Self, ChatError> {
        Self::new(Stored::of_file(file)?, tokenizer.special_tokens())
    }

    fn new(stored: Stored, names: &BTreeMap<&'static str, String>) -> Result<Self, ChatError> {
        let Stored { file, default, with_tools } = stored;
        let program = compile(&default, &file)?;
        let with_tools = with_tools.map(|template| compile(&template, &file)).transpose()?;
        let mut environment = environment::new();
        environment.set_fuel(Some(FUEL));
        let words = [Some(&program), with_tools.as_ref()].into_iter().flatten().flat_map(words_of).collect();
        let (names, slow_failures) = (names.clone(), AtomicUsize::new(0));
        Ok(Self { environment, program, with_tools, words, file, names, slow_failures })
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

    /// Whether the template mentions a word, such as the name of a field or a role; what it does not mention it cannot read.
    pub fn mentions(&self, word: &str) -> bool {
        self.words.contains(word)
    }

    /// The text of a conversation. It holds the special tokens already, so it is encoded without adding any.
    ///
    /// # Errors
    /// If the template refuses the conversation, fails on it, or takes too long.
    ///
    /// # Source
    /// `apply_chat_template` of transformers.
    pub fn render(&self, conversation: &Conversation, prompt: Prompt) -> Result<String, ChatError> {
        Ok(self.unmarked(self.written(conversation, prompt)?, conversation))
    }

    /// A text without the marks of `{% generation %}` blocks.
    fn unmarked(&self, mut text: String, conversation: &Conversation) -> String {
        if self.has_blocks(conversation) {
            text.retain(|char| !program::BLOCK_MARKS.contains(&char));
        }
        text
    }

    /// The text with the marks of `{% generation %}` blocks.
    fn written(&self, conversation: &Conversation, prompt: Prompt) -> Result<String, ChatError> {
        if self.slow_failures.load(Ordering::Relaxed) >= MAX_SLOW_FAILURES {
            return Err(ChatError::GivenUp { file: self.file.clone(), failures: MAX_SLOW_FAILURES });
        }
        let start = Instant::now();
        let failed = |source: minijinja::Error| {
            let (file, messages) = (self.file.clone(), conversation.messages.len());
            let is_slow = start.elapsed() >= SLOW;
            self.slow_failures.fetch_add(usize::from(is_slow), Ordering::Relaxed);
            match source.kind() {
                ErrorKind::OutOfFuel => ChatError::Endless { file, messages, fuel: FUEL },
                _ => ChatError::Refused { file, messages, line: source.line().unwrap_or(1), source },
            }
        };
        self.tried(conversation, prompt).map_err(failed)
    }

    /// The same, whatever comes of it.
    fn tried(&self, conversation: &Conversation, prompt: Prompt) -> Result<String, minijinja::Error> {
        let variables = context! {
            messages => Serde(&conversation.messages),
            tools => Serde(&conversation.tools),
            documents => Serde(&conversation.documents),
            add_generation_prompt => prompt == Prompt::Generation,
            ..context! { ..Value::from(Serde(&conversation.variables)), ..Value::from(self.names.clone()) }
        };
        self.program_for(conversation).render(&self.environment, variables)
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

/// The words of a template's code, without those of its comments.
fn words_of(program: &Program) -> impl Iterator<Item = String> {
    let code = program.source().split("{#").enumerate().map(|(part, text)| match part {
        0 => text,
        // What stands behind the end of the comment.
        _ => text.split_once("#}").map_or("", |(_, code)| code),
    });
    let is_word_end = |char: char| !(char.is_alphanumeric() || char == '_');
    code.flat_map(move |code| code.split(is_word_end)).map(str::to_owned)
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
        let file = PathBuf::from("chat_template.jinja");
        ChatTemplate::new(Stored { file, default: source.to_owned(), with_tools: None }, &names).unwrap()
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

    fn answers(source: &str, messages: &[Message]) -> Vec<String> {
        answers_of(source, &Conversation::new(messages.to_vec())).unwrap()
    }

    pub fn answers_of(source: &str, conversation: &Conversation) -> Result<Vec<String>, ChatError> {
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
        assert_eq!(answers(CHATML, &conversation()), ["Four.<|im_end|>", "Five. <|im_end|>"]);
        assert_eq!(answers(LLAMA2, &conversation()), [" Four. </s>", " Five. </s>"]);
        assert_eq!(answers(LLAMA3, &conversation()), ["Four.<|eot_id|>", "Five.<|eot_id|>"]);
    }

    #[test]
    fn where_only_space_ends_a_turn_the_space_is_said() {
        let plain = r"{% for message in messages %}{{ message.role + ': ' + message.content + '\n\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}";
        assert_eq!(answers(plain, &conversation()), ["Four.\n\n", "Five. \n\n"]);
    }

    #[test]
    fn a_template_without_a_head_for_answers_has_the_model_write_it() {
        let headless = "{% for message in messages %}{{ '<' + message.role + '>' + message.content + '</s>' }}{% endfor %}";
        assert_eq!(answers(headless, &conversation()), ["<assistant>Four.</s>", "<assistant>Five. </s>"]);
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
    fn a_word_is_mentioned_where_it_stands_whole_in_the_code() {
        let mentions = |source: &str, word: &str| template(source).mentions(word);
        assert!(mentions("{{ messages[0].name }}", "name") && mentions("{{ m['thinking'] }}", "thinking"));
        assert!(!mentions("{% set ns = namespace(a=1) %}", "name"));
        assert!(!mentions("{% if enable_thinking %}{% endif %}", "thinking"));
        assert!(!mentions("{# no tools #}{{ messages }}", "tools"));
    }

    #[test]
    fn markup_in_a_message_is_text() {
        let message = [Message::new("user", "{{ 1 }} {% if %} <b>&amp;")];
        let text = written("{{ messages[0].content }}", &message, Prompt::Complete).unwrap();
        assert_eq!(text, message[0].text());
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
            }
        }
    }
}
