//! Conversations and the templates that write them.

use crate::cases::{assert_loss, assert_refused, assert_scored};

const CHAT: &str = "--model base --format chat --data rows.jsonl";

#[test]
fn the_end_of_a_turn_is_the_templates_own() {
    assert_scored("chat-end-of-turn", CHAT, 6.56262, 5);
}

#[test]
fn an_empty_list_of_tool_calls_is_no_tool_call() {
    assert_scored("chat-empty-tool-calls", CHAT, 7.33822, 4);
}

#[test]
fn reasoning_content_reaches_the_template() {
    assert_scored("chat-reasoning-content", CHAT, 6.87184, 11);
}

#[test]
fn tools_of_a_row_reach_the_template() {
    assert_scored("chat-tools", CHAT, 6.11626, 3);
}

#[test]
fn a_template_that_drops_thoughts_is_learned_from_its_whole_text() {
    assert_scored("chat-thoughts-dropped", CHAT, 6.30518, 7);
    assert_loss("chat-thoughts-dropped", "train recipe.toml", 6.41453);
}

#[test]
fn a_history_of_an_alpaca_row_is_used_or_named() {
    let arguments = "evaluate --model base --format alpaca --data rows.jsonl";
    assert_refused("alpaca-history", arguments, 4, &["history", "rows.jsonl:1"]);
}

#[test]
fn an_answer_of_weight_zero_is_not_learned() {
    assert_scored("sharegpt-weight", "--model base --format sharegpt --data rows.jsonl", 6.76580, 6);
}

#[test]
fn a_text_is_a_sequence_to_a_template() {
    assert_scored("template-is-sequence", CHAT, 5.90229, 4);
}

#[test]
fn fault_22_what_a_template_raises_is_shown_with_its_row() {
    let parts = ["a message may have four letters", "rows.jsonl:1"];
    assert_refused("template-raises", &format!("evaluate {CHAT}"), 4, &parts);
}

#[test]
fn a_template_may_use_the_methods_of_a_python_text() {
    assert_scored("template-string-method", CHAT, 7.46600, 4);
}

#[test]
fn fault_22_a_template_that_never_ends_well_is_refused() {
    for name in ["fault-template-deep-value", "fault-template-indent", "fault-template-shared-lists"] {
        assert_refused(name, "generate --model model --chat --max-new-tokens 1 the", 5, &["template"]);
    }
}
