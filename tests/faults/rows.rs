//! Faults of files of rows, whatever the rows say: lines, JSON, CSV and Parquet.

use serde_json::json;

use super::{assert_rows_refused, refused, with_rows};
use crate::program::bytes_of;
use crate::text_workshop::{e2e_row, sets, text_workshop, train, trained};

/// A row of text may have this many bytes.
const MAX_ROW_BYTES: usize = 16 << 20;

const SKIP: &str = "data.text.on_bad_row=skip";

/// Asserts that a good row, then `bad`, then a good row are refused with the line of the bad one, and that it can be skipped.
fn assert_bad_second_line(file: &str, format: &str, good: &str, bad: &[u8], parts: &[&str]) {
    let rows = [good.as_bytes(), b"\n", bad, b"\n", good.as_bytes(), b"\n"].concat();
    let place = format!("{file}:2: ");
    let parts = [&["1 rows cannot be used", &place, "on_bad_row = \"skip\""], parts].concat();
    assert_rows_refused(file, format, &rows, &[], &parts);
    let skipped = with_rows(file, format, &rows, &[SKIP]);
    assert_eq!(skipped.code, 0, "{}", skipped.stderr);
    assert!(skipped.stderr.contains("3 rows read, 1 bad; 2 samples"), "{}", skipped.stderr);
    assert!(skipped.stderr.contains(&format!("left out: {place}")), "{}", skipped.stderr);
}

#[test]
fn fault_14_bytes_that_are_no_utf_8_are_named_by_line() {
    let good = e2e_row("Zizzi", "Thai");
    assert_bad_second_line("rows.txt", "e2e", &good, b"name : \xff||x", &["not UTF-8 at byte 7"]);
    assert_rows_refused(
        "story.txt",
        "text",
        b"one line\nanother \xff line\n",
        &[],
        &["story.txt:2: not UTF-8 at byte 8"],
    );
}

#[test]
fn fault_14_utf_16_is_named() {
    assert_rows_refused(
        "rows.txt",
        "e2e",
        b"\xff\xfen\0a\0",
        &[],
        &["rows.txt: is UTF-16", "save it as UTF-8"],
    );
}

#[test]
fn fault_14_a_byte_order_mark_and_windows_line_ends_change_no_bit() {
    let workshop = text_workshop();
    trained(&workshop);
    let rows = String::from_utf8(bytes_of(&workshop.at("rows/e2e.txt"))).expect("text");
    workshop.write("windows.txt", format!("\u{feff}{}", rows.replace('\n', "\r\n")));
    train(&workshop, &sets(&["data.train=windows.txt", "output.dir=runs/windows"])).json();
    let adapter = |run: &str| bytes_of(&workshop.at(run).join("adapter/adapter_model.safetensors"));
    assert_eq!(adapter("runs/windows"), adapter("runs/food"));
}

#[test]
fn fault_14_a_line_without_end_is_refused() {
    let good = e2e_row("Zizzi", "Thai");
    let endless = vec![b'a'; MAX_ROW_BYTES + 1000];
    assert_bad_second_line("rows.txt", "e2e", &good, &endless, &["16778217 bytes; a row may have 16777216"]);
    assert_rows_refused(
        "story.txt",
        "text",
        &endless,
        &[],
        &["story.txt:1: 16778216 bytes; a row may have 16777216"],
    );
    let document = [b"[{\"prompt\": \"", &endless[..], b"\"}]"].concat();
    assert_rows_refused(
        "rows.json",
        "prompt-completion",
        document,
        &[],
        &["rows.json:1 (row 1): 16778230 bytes; a row may have 16777216"],
    );
}

#[test]
fn fault_14_brackets_ten_thousand_deep_are_refused() {
    let deep = "[".repeat(10_000);
    let row = json!({"prompt": "a", "completion": "b"}).to_string();
    assert_bad_second_line(
        "rows.jsonl",
        "prompt-completion",
        &row,
        deep.as_bytes(),
        &["not JSON: recursion limit"],
    );
    assert_rows_refused(
        "rows.json",
        "prompt-completion",
        &deep,
        &[],
        &["rows.json:1: not JSON: brackets in more than 1000 brackets"],
    );
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        let workshop = text_workshop();
        workshop.write(&format!("base/{file}"), format!("{{\"model\": {{\"type\": {deep}"));
        refused(&workshop, &["generate", "--model", "base", "Hi"], 5, &[&format!("base/{file}")]);
    }
}

#[test]
fn fault_17_a_csv_row_of_another_length_is_named() {
    let rows = "prompt,completion\na,b\na,b,c\n";
    assert_rows_refused(
        "rows.csv",
        "prompt-completion",
        rows,
        &[],
        &["rows.csv:3: 3 fields; the header has 2"],
    );
}

#[test]
fn fault_14_blank_lines_are_no_rows() {
    let good = e2e_row("Zizzi", "Thai");
    let rows = format!("\n{good}\n\n   \r\n{good}\n\n");
    let run = with_rows("rows.txt", "e2e", rows, &[]);
    assert!(run.code == 0 && run.stderr.contains("2 rows read, 0 bad; 2 samples"), "{}", run.stderr);
}

#[test]
fn fault_14_a_line_that_is_no_json_is_named_or_left_out() {
    let good = json!({"prompt": "a", "completion": "b"}).to_string();
    for bad in [&b"{\"prompt\": \"a\""[..], b"{'prompt': 'a'}", b"prompt", b"[1]", b"\0\0\0"] {
        assert_bad_second_line("rows.jsonl", "prompt-completion", &good, bad, &[]);
    }
}

#[test]
fn fault_17_a_parquet_file_that_is_cut_short_or_none_is_refused() {
    let whole = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/parquet-zstd/rows.parquet");
    let whole = bytes_of(&whole);
    let end = whole.len();
    for bytes in [&whole[..end / 2], &whole[..end - 1], &whole[..8], b"PAR1", b"no parquet at all"] {
        assert_rows_refused(
            "rows.parquet",
            "prompt-completion",
            bytes,
            &[],
            &["rows.parquet: not Parquet this program can read; get it again"],
        );
    }
}

#[test]
fn fault_17_columns_of_mixed_types_are_named() {
    let rows = "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": 7, \"completion\": [\"b\"]}\n";
    let parts = ["rows.jsonl:2", "`prompt` is a number; expected"];
    assert_rows_refused("rows.jsonl", "prompt-completion", rows, &[], &parts);
}
