//! TSV with a header: a line is a row, and a tab always parts two fields.
//!
//! The registered format knows no quotation marks. Programs that know those of CSV put them around fields with marks in
//! them, and some around all; so a field that begins and ends with one, and has all others in it doubled, is taken out of
//! them. Every other mark stands as it is.

use std::io::BufRead;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::lines::Lines;
use super::{Content, MAX_ROW_VALUES, Row, Sink, io_error, table};
use crate::text::{Place, RowLocation, RowProblem, TextError};

/// One row for each line that is not blank; all fields are text.
///
/// # Errors
/// If the file cannot be read, or its header cannot be used.
pub(super) fn read(
    file: &Arc<Path>,
    reader: impl BufRead,
    sink: &mut Sink,
) -> Result<ControlFlow<()>, TextError> {
    let mut lines = Lines::new(reader);
    let mut header = None;
    loop {
        let line = match lines.next().map_err(io_error(file))? {
            None => return Ok(ControlFlow::Continue(())),
            Some(Ok("")) => continue,
            Some(line) => line.map(str::to_owned),
        };
        let place = Place { file: Arc::clone(file), spot: RowLocation::Line(lines.line) };
        let Some(header) = &header else {
            header = Some(table::header(line.and_then(|line| fields(&line)), place)?);
            continue;
        };
        let content = line.and_then(|line| content(header, &line));
        if sink(Row { place, content }).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
}

fn content(header: &[String], line: &str) -> Result<Content, RowProblem> {
    let fields = fields(line)?;
    // Where lines are no longer told apart by their tabs, an open mark may have been meant to hold several of them.
    if (fields.len() < header.len() || header.len() == 1) && line.split('\t').any(is_open) {
        return Err(RowProblem::OpenInLine { found: fields.len(), expected: header.len() });
    }
    table::content(header, fields)
}

fn fields(line: &str) -> Result<Vec<String>, RowProblem> {
    if line.split('\t').count() > MAX_ROW_VALUES {
        return Err(RowProblem::ManyValues(MAX_ROW_VALUES));
    }
    Ok(line.split('\t').map(unquoted).collect())
}

/// A field without the quotation marks around it.
fn unquoted(field: &str) -> String {
    let inner = field.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inner {
        Some(inner) if !inner.replace("\"\"", "").contains('"') => inner.replace("\"\"", "\""),
        Some(_) | None => field.to_owned(),
    }
}

/// Whether a field begins with a quotation mark that nothing closes: all others are doubled.
fn is_open(field: &str) -> bool {
    field.strip_prefix('"').is_some_and(|rest| !rest.replace("\"\"", "").contains('"'))
}

#[cfg(test)]
mod tests {
    use super::super::tests::rows_of;
    use crate::text::read::PlainText;

    fn rows(text: &str) -> Vec<String> {
        rows_of("a.tsv", text.as_bytes(), PlainText::Running).unwrap()
    }

    /// The fields of one line.
    fn fields(line: &str) -> Vec<String> {
        let header = (0..line.split('\t').count()).map(|column| column.to_string()).collect::<Vec<_>>();
        let found = rows(&format!("{}\n{line}\n", header.join("\t")));
        let fields: serde_json::Value = serde_json::from_str(&found[0]["a.tsv:2 ".len()..]).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        fields.as_object().unwrap().values().map(text).collect()
    }

    #[test]
    fn tabs_separate_the_fields() {
        assert_eq!(rows("a\tb\n1,1\t2\n"), ["a.tsv:2 {\"a\":\"1,1\",\"b\":\"2\"}"]);
    }

    #[test]
    fn quotation_marks_that_do_not_surround_a_field_stand_as_they_are() {
        for (line, expected) in [
            ("\"Come in, she said\tb", ["\"Come in, she said", "b"]),
            ("a\t\"Go out", ["a", "\"Go out"]),
            ("he said\"\t6\"", ["he said\"", "6\""]),
            ("\"Hi\" he said \"x\"\tb", ["\"Hi\" he said \"x\"", "b"]),
            ("\"a\tb\"", ["\"a", "b\""]),
            ("\"\t\"\"\"", ["\"", "\"\"\""]),
        ] {
            assert_eq!(fields(line), expected, "{line}");
        }
    }

    #[test]
    fn a_field_in_quotation_marks_is_taken_out_of_them() {
        for (line, expected) in [
            ("\"a\"\t\"b c\"", ["a", "b c"]),
            ("\"say \"\"hi\"\"\"\tb", ["say \"hi\"", "b"]),
            ("\"\"\t\"\"\"\"", ["", "\""]),
        ] {
            assert_eq!(fields(line), expected, "{line}");
        }
    }

    #[test]
    fn lines_are_counted_with_the_blank_ones_at_any_line_end() {
        for end in ["\n", "\r\n", "\r"] {
            let text = "a\tb\n\n1\t\"2\n\n\"3\t4\n".replace('\n', end);
            let expected = ["a.tsv:3 {\"a\":\"1\",\"b\":\"\\\"2\"}", "a.tsv:5 {\"a\":\"\\\"3\",\"b\":\"4\"}"];
            assert_eq!(rows(&text), expected);
        }
    }

    #[test]
    fn a_quoted_field_of_several_lines_is_refused_with_the_cure() {
        for text in ["a\tb\n\"one\ntwo\"\t3\n", "a\n\"one\ntwo\"\n"] {
            let found = rows(text);
            assert!(found[0].starts_with("a.tsv:2 ! a quotation mark opens a field"), "{found:?}");
            assert!(found[0].contains("save it as CSV"), "{found:?}");
        }
    }

    #[test]
    fn a_row_of_millions_of_fields_is_bad_without_being_held_and_the_others_stay() {
        let found = rows(&format!("a\n{}\n2\n", "\t".repeat(3 << 20)));
        assert!(found[0].starts_with("a.tsv:2 ! more than 524288 values"), "{found:?}");
        assert_eq!(found[1..], ["a.tsv:3 {\"a\":\"2\"}"]);
    }

    #[test]
    fn rows_of_another_length_than_the_header_are_bad_and_the_others_stay() {
        assert_eq!(
            rows("a\tb\n1\n1\t2\t3\n4\t\n"),
            [
                "a.tsv:2 ! 1 fields; the header has 2",
                "a.tsv:3 ! 3 fields; the header has 2",
                "a.tsv:4 {\"a\":\"4\",\"b\":\"\"}"
            ]
        );
    }
}
