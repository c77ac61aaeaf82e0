//! Chat templates, and conversations that are put into them.

use std::path::Path;

use nola_models::chat::{ChatTemplate, Conversation, Message, Prompt};
use nola_models::tokenizer::Tokenizer;
use serde_json::{Value, json};

use super::input::{accepted, in_folder, new_folder, parts};

const FILE: &str = "chat_template.jinja";

/// A template, then the messages of a conversation as JSON; without them, it is tried on some of ours.
pub fn template(bytes: &[u8]) {
    thread_local! {
        static TOKENIZER: Tokenizer = small_tokenizer();
    }
    let [template, messages] = parts(bytes);
    in_folder(&[(FILE, template)], |folder| {
        let template = TOKENIZER.with(|tokenizer| ChatTemplate::of_file(&folder.join(FILE), tokenizer));
        let Some(template) = accepted(template, bytes) else { return };
        template.mentions("tools");
        match messages.map(serde_json::from_slice::<Value>) {
            Some(Ok(messages)) => render(&template, &conversation(&messages), bytes),
            Some(Err(_)) => {}
            None => ours().iter().for_each(|conversation| render(&template, conversation, bytes)),
        }
    });
}

fn render(template: &ChatTemplate, conversation: &Conversation, bytes: &[u8]) {
    for prompt in [Prompt::Complete, Prompt::Generation] {
        accepted(template.render(conversation, prompt), bytes);
    }
    let Some(rendered) = accepted(template.assistant_spans(conversation), bytes) else { return };
    let mut end = 0;
    for turn in &rendered.assistant {
        assert!(rendered.text.get(turn.bytes.clone()).is_some(), "an answer that is no part of the text");
        assert!(turn.bytes.start >= end, "answers that overlap");
        end = turn.bytes.end;
    }
    template.unread(conversation, &rendered.text);
}

fn conversation(messages: &Value) -> Conversation {
    let fields = messages.as_array().into_iter().flatten().filter_map(Value::as_object);
    Conversation::new(fields.cloned().map(Message::of_fields).collect())
}

fn ours() -> [Conversation; 3] {
    let plain = json!([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi \u{e9}"},
        {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": " Bye, bye.\n"}]);
    let parts = json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]},
        {"role": "assistant", "content": null, "thinking": "hm", "tool_calls": [{"type": "function",
        "function": {"name": "add", "arguments": {"a": 1, "b": [2.5, null, true]}}}]},
        {"role": "tool", "content": "3"}, {"role": "assistant", "content": "3"}]);
    let tools = json!([{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]);
    let with_tools =
        Conversation { tools, documents: json!([{"title": "t", "text": "x"}]), ..conversation(&parts) };
    [conversation(&plain), with_tools, Conversation::default()]
}

/// A tokenizer with names for the special tokens.
fn small_tokenizer() -> Tokenizer {
    let folder = new_folder();
    let write = |name: &str, value: Value| std::fs::write(folder.path().join(name), value.to_string());
    let vocabulary = json!({"a": 0, "<s>": 1, "</s>": 2});
    let model = json!({"model": {"type": "BPE", "vocab": vocabulary, "merges": []}});
    write("tokenizer.json", model).expect("a file in memory");
    write("tokenizer_config.json", json!({"bos_token": "<s>", "eos_token": "</s>"}))
        .expect("a file in memory");
    open(folder.path())
}

fn open(folder: &Path) -> Tokenizer {
    Tokenizer::open(folder).expect("a small tokenizer")
}
