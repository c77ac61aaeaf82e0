//! Faults of what rows say: columns, speakers, and how much there is to learn.

use serde_json::json;

use super::{assert_rows_refused, with_rows};
use crate::text_workshop::{CONTEXT, e2e_row, run_with_input, text_workshop};

#[test]
fn fault_16_samples_longer_than_asked_are_cut_or_dropped_and_counted() {
    let rows = format!("{}\n{}\n", e2e_row("Zizzi", "Thai"), e2e_row(&"Very long ".repeat(6), "Thai"));
    let short = "data.text.max_tokens=120";
    for (more, part) in [
        (&[short][..], "2 rows read, 0 bad; 2 samples, 1 cut at the end"),
        (&[short, "data.text.on_long=drop"], "2 rows read, 0 bad; 1 samples, 1 dropped as too long"),
    ] {
        let run = with_rows("long.txt", "e2e", &rows, more);
        assert!(run.code == 0 && run.stderr.contains(part), "{}", run.stderr);
    }
}

#[test]
fn fault_16_samples_longer_than_the_context_are_refused() {
    let long = format!("data.text.max_tokens={}", CONTEXT + 1);
    assert_rows_refused(
        "rows.txt",
        "e2e",
        e2e_row("Zizzi", "Thai"),
        &[&long],
        &["`data.text.max_tokens` is 257", "1 to 256"],
    );
}

#[test]
fn fault_16_samples_of_which_nothing_is_learned_are_counted_or_refused() {
    let (good, all_prompt) = (e2e_row("Zizzi", "Thai"), e2e_row(&"long ".repeat(60), "Thai"));
    let run = with_rows("rows.txt", "e2e", format!("{good}\n{all_prompt}\n"), &[]);
    let part = "1 samples, 1 dropped with too long a prompt";
    assert!(run.code == 0 && run.stderr.contains(part), "{}", run.stderr);
    let parts =
        ["rows.txt: nothing to learn from: 1 rows read; 1 dropped", "data.text.max_tokens = 256", "shorten"];
    assert_rows_refused("rows.txt", "e2e", all_prompt, &[], &parts);
}

#[test]
fn fault_16_a_file_without_rows_is_refused() {
    assert_rows_refused(
        "empty.txt",
        "e2e",
        "",
        &[],
        &["empty.txt: nothing to learn from: there are no rows in it"],
    );
}

#[test]
fn fault_15_columns_of_other_names_are_refused_with_those_there_are() {
    let rows = "question,answer\nFood?,Thai\n";
    let parts = ["rows.csv:2: no field `prompt`", "the row has question, answer", "data.text.columns.prompt"];
    assert_rows_refused("rows.csv", "prompt-completion", rows, &[], &parts);
    let named = ["data.text.columns.prompt=question", "data.text.columns.completion=answer"];
    assert_eq!(with_rows("rows.csv", "prompt-completion", rows, &named).code, 0);
    assert_rows_refused(
        "rows.csv",
        "alpaca",
        rows,
        &[],
        &["rows.csv:2: no field `instruction`", "the row has question, answer"],
    );
}

#[test]
fn fault_15_equal_bad_rows_are_told_once_with_the_first_places() {
    let rows: String = (1..=15).map(|row| format!("row {row} has no separator\n")).collect();
    assert_rows_refused(
        "rows.txt",
        "e2e",
        rows,
        &[],
        &["15 rows cannot be used", "15 rows: no `||`", "(rows.txt:1, 2, 3, 4, 5 and 10 more)"],
    );
}

#[test]
fn fault_15_fields_that_are_null_absent_or_of_another_type_are_named_by_row() {
    let rows = [
        json!({"prompt": "a", "completion": "b"}),
        json!({"prompt": null, "completion": "b"}),
        json!({"prompt": "a"}),
        json!({"prompt": "a", "completion": 7}),
    ];
    let rows: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let parts = [
        "3 rows cannot be used",
        "rows.jsonl:2: `prompt` is null",
        "rows.jsonl:3: no field `completion`; the row has prompt",
        "rows.jsonl:4: `completion` is a number",
    ];
    assert_rows_refused("rows.jsonl", "prompt-completion", rows, &[], &parts);
}

#[test]
fn fault_15_speakers_that_no_conversation_has_are_named() {
    let rows = [
        json!({"messages": [{"role": "narrator", "content": "a"}, {"role": "assistant", "content": "b"}]}),
        json!({"messages": [{"role": "user", "content": "a"}]}),
        json!({"messages": []}),
    ];
    let rows: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let parts = ["3 rows cannot be used", "rows.jsonl:1: message 1 is by `narrator`", "rows.jsonl:2"];
    assert_rows_refused("rows.jsonl", "chat", rows, &[], &parts);
}

#[test]
fn fault_15_a_system_message_beside_another_one_is_refused() {
    let row = json!({
        "system": "Be brief.",
        "conversations": [
            {"from": "system", "value": "Be kind."},
            {"from": "human", "value": "a"},
            {"from": "gpt", "value": "b"},
        ],
    });
    let parts = ["rows.jsonl:1: `system` is not the system message of the conversation; keep one of them"];
    assert_rows_refused("rows.jsonl", "sharegpt", format!("{row}\n"), &[], &parts);
}

#[test]
fn fault_16_a_row_far_beyond_the_context_is_left_out_without_being_learned() {
    let row = |prompt: &str| json!({"prompt": prompt, "completion": "b"}).to_string();
    let rows = format!("{}\n{}\n", row(&"the ".repeat(3_900_000)), row("the"));
    let run = with_rows("rows.jsonl", "prompt-completion", rows, &["data.text.on_long=drop"]);
    assert!(
        run.code == 0 && run.stderr.contains("2 rows read, 0 bad; 1 samples, 1 dropped"),
        "{}",
        run.stderr
    );
}

#[test]
fn fault_16_a_line_of_standard_input_without_an_end_is_refused() {
    let workshop = text_workshop();
    let outcome = run_with_input(&workshop, &"a".repeat(80 << 20), &["generate", "--model", "base"]);
    outcome.assert_refused(2, &["line 1 of standard input has more than", "shorten it"]);
}
