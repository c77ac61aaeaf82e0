//! Faults of chat templates.

use super::{refused, refused_on};
use crate::bad_input::edit_json;
use crate::text_workshop::{text_workshop, tokenizer_config_json};

const CHAT: [&str; 5] = ["generate", "--model", "base", "--chat", "Hi"];

#[test]
fn fault_22_conversations_for_a_model_without_a_chat_template_are_refused() {
    let workshop = text_workshop();
    edit_json(&workshop.at("base/tokenizer_config.json"), |config| {
        config.as_object_mut().expect("a table").remove("chat_template");
    });
    let parts = ["no chat template, which `chat` needs", "tokenizer_config.json"];
    refused_on(&workshop, "rows/chat.jsonl", "chat", &[], 4, &parts);
}

#[test]
fn fault_22_a_chat_template_that_never_ends_is_stopped() {
    let loops = [
        "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ];
    for template in loops {
        let workshop = text_workshop();
        edit_json(&workshop.at("base/tokenizer_config.json"), |config| {
            config["chat_template"] = template.into()
        });
        let parts = ["12 rows cannot be used", "chat template: ", "rows/chat.jsonl:1"];
        refused_on(&workshop, "rows/chat.jsonl", "chat", &[], 4, &parts);
        refused(&workshop, &CHAT, 5, &["tokenizer_config.json"]);
    }
}

#[test]
fn fault_22_a_chat_template_that_is_none_is_refused() {
    let workshop = text_workshop();
    edit_json(&workshop.at("base/tokenizer_config.json"), |config| {
        config["chat_template"] = "{% for %}".into()
    });
    refused_on(&workshop, "rows/chat.jsonl", "chat", &[], 5, &["tokenizer_config.json", "chat template"]);
}

#[test]
fn fault_22_a_broken_template_in_a_file_of_its_own_is_named() {
    let workshop = text_workshop();
    workshop.write("base/chat_template.jinja", "{{ oops( }}");
    assert!(tokenizer_config_json()["chat_template"].is_string());
    refused(&workshop, &CHAT, 5, &["base/chat_template.jinja"]);
}

/// A name that is not there prints nothing, as in transformers; what is done with it is an error.
#[test]
fn fault_22_a_template_that_uses_what_is_not_there_is_named_with_its_line() {
    for template in
        ["line\n{{ nobody.name.first }}", "line\n{{ messages|unheard_of }}", "line\n{{ unheard_of() }}"]
    {
        let workshop = text_workshop();
        workshop.write("base/chat_template.jinja", template);
        refused(&workshop, &CHAT, 5, &["base/chat_template.jinja", "2"]);
    }
}

#[test]
fn fault_22_a_template_that_writes_without_end_is_stopped() {
    let workshop = text_workshop();
    workshop.write("base/chat_template.jinja", "{% set a = 'x' * 100000 %}{{ a * 100000 }}");
    refused(&workshop, &CHAT, 5, &["base/chat_template.jinja"]);
}
