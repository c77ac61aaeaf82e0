//! Files of text: rows as other programs write them.

use crate::cases::{assert_loss, assert_refused, case, run};

#[test]
fn fault_17_a_quotation_mark_that_never_closes_is_found_in_its_line() {
    assert_refused("csv-line-of-open-quote", "train recipe.toml", 4, &["rows.csv:4"]);
    let evaluate = "evaluate --model model --data rows.csv --format prompt-completion";
    assert_refused("fault-csv-quote-that-never-closes", evaluate, 4, &["rows.csv:2"]);
}

#[test]
fn a_quotation_mark_of_a_tsv_file_swallows_no_line() {
    assert_loss("tsv-open-quotes", "train recipe.toml", 7.36591);
}

#[test]
fn a_parquet_file_packed_with_zstd_or_lz4_is_read() {
    assert_loss("parquet-zstd", "train recipe.toml", 7.15153);
    assert_loss("parquet-lz4", "train recipe.toml", 7.15153);
}

#[test]
fn plain_bytes_of_a_parquet_column_are_text() {
    assert_loss("parquet-bytes-column", "train recipe.toml", 7.15153);
}

#[test]
fn fault_16_rows_that_are_all_too_long_are_named_so() {
    assert_refused("fault-all-rows-dropped", "train recipe.toml", 4, &["data.text.max_tokens"]);
}

#[test]
fn fault_14_a_row_with_nan_is_its_own_fault_and_not_the_files() {
    let workshop = case("json-list-nan");
    let skipped = run(&workshop, "train recipe.toml --json");
    assert_eq!(skipped.code, 0, "{}", skipped.stderr);
    for expected in ["rows.json:3 (row 2): `completion` is null", "1 bad; 2 samples", "11 of them learned"] {
        assert!(skipped.stderr.contains(expected), "{expected}: {}", skipped.stderr);
    }
    let expected = ["rows.json:3 (row 2): `completion` is null", "on_bad_row"];
    assert_refused("json-list-nan", "train recipe.toml --set data.text.on_bad_row=fail", 4, &expected);
}
