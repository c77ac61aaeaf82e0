//! JSON: one object a line, or one document with a list of them.

use std::io::{BufRead, Cursor, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::json_document::{Broken, Document, LISTS, Position, Text};
use super::{Content, MAX_ROW_BYTES, MAX_ROW_VALUES, Row, Sink, foreign, io_error, lines, record};
use crate::text::{Place, RowLocation, RowProblem, TextError};

/// One object a line.
pub(super) fn read_lines(
    file: &Arc<Path>,
    reader: impl BufRead,
    sink: &mut Sink,
) -> Result<ControlFlow<()>, TextError> {
    let parse = |text: &str, line| row(text, Position { line, column: 1 });
    lines::read_rows(file, reader, &parse, sink)
}

/// A document; a file that starts with a whole object that has no list of rows is read as one object a line.
pub(super) fn read(
    file: &Arc<Path>,
    mut reader: Box<dyn BufRead>,
    sink: &mut Sink,
) -> Result<ControlFlow<()>, TextError> {
    let mut start = Vec::new();
    let mut first_line = 0;
    while start[first_line..].trim_ascii().is_empty() && start.len() < MAX_ROW_BYTES {
        first_line = start.len();
        let line = reader.by_ref().take(MAX_ROW_BYTES as u64).read_until(b'\n', &mut start);
        if line.map_err(io_error(file))? == 0 {
            break;
        }
    }
    let is_row = is_row(&start[first_line..]);
    let whole = Cursor::new(start).chain(reader);
    if is_row { read_lines(file, whole, sink) } else { read_document(file, whole, sink) }
}

/// Whether a line is an object without a list of rows; one with more values than a row may have is a document.
fn is_row(line: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(line) else { return false };
    if !text.trim_start().starts_with('{') || check_values(text).is_err() {
        return false;
    }
    match foreign::parse(text) {
        Ok(Value::Object(fields)) => !LISTS.iter().any(|list| fields.get(*list).is_some_and(Value::is_array)),
        Ok(_) | Err(_) => false,
    }
}

/// Requires that a text holds no more values than a row may have: each takes more memory than its text.
fn check_values(text: &str) -> Result<(), RowProblem> {
    if text.len() <= MAX_ROW_VALUES {
        return Ok(());
    }
    let (mut values, mut in_string, mut is_escaped) = (0, false, false);
    for byte in text.bytes() {
        values += usize::from(!in_string && matches!(byte, b',' | b'[' | b'{'));
        in_string ^= byte == b'"' && !is_escaped;
        is_escaped = in_string && byte == b'\\' && !is_escaped;
    }
    if values > MAX_ROW_VALUES { Err(RowProblem::ManyValues(MAX_ROW_VALUES)) } else { Ok(()) }
}

fn read_document(
    file: &Arc<Path>,
    reader: impl BufRead,
    sink: &mut Sink,
) -> Result<ControlFlow<()>, TextError> {
    let mut document = Document::new(reader);
    let mut number = 0;
    while let Some(text) = document.next_row().map_err(|broken| in_file(broken, file))? {
        number += 1;
        let place = Place {
            file: Arc::clone(file),
            spot: RowLocation::RowAtLine { row: number, line: text.start.line },
        };
        if sink(Row { place, content: content(&text) }).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn in_file(broken: Broken, file: &Path) -> TextError {
    match broken {
        Broken::Io(source) => io_error(file)(source),
        Broken::Json { line, problem } => TextError::Json { file: file.to_path_buf(), line, problem },
        Broken::NoList => TextError::NoList { file: file.to_path_buf() },
    }
}

fn content(text: &Text) -> Result<Content, RowProblem> {
    if text.bytes > MAX_ROW_BYTES {
        return Err(RowProblem::TooLong { found: text.bytes, limit: MAX_ROW_BYTES });
    }
    row(super::text(&text.kept)?, text.start)
}

/// What the text of a row holds that starts at `start`.
fn row(text: &str, start: Position) -> Result<Content, RowProblem> {
    let wrong = |error: serde_json::Error| {
        let message = error.to_string();
        let problem =
            message.rsplit_once(" at line ").map_or(message.as_str(), |(problem, _)| problem).to_owned();
        let before = if error.line() == 1 { start.column - 1 } else { 0 };
        RowProblem::Json {
            problem,
            line: start.line + error.line().saturating_sub(1),
            column: before + error.column(),
        }
    };
    check_values(text)?;
    record(foreign::parse(text).map_err(wrong)?)
}

#[cfg(test)]
mod tests {
    use std::io::{self, BufReader};

    use super::super::tests::rows_of;
    use super::*;
    use crate::text::read::PlainText;

    fn rows(name: &str, text: &str) -> Result<Vec<String>, TextError> {
        rows_of(name, text.as_bytes(), PlainText::Running)
    }

    fn message(text: &str) -> String {
        rows("a.json", text).unwrap_err().to_string()
    }

    #[test]
    fn a_row_of_more_values_than_it_may_have_is_bad_and_the_others_stay() {
        let many = |value: &str| format!("{{\"a\":[{}1]}}", value.repeat(600_000));
        for row in [many("1,"), many("{},"), many("[],"), many("\"\\\"\",")] {
            for text in [format!("{row}\n{{\"a\":2}}\n"), format!("[{row},\n{{\"a\":2}}]")] {
                let name = if text.starts_with('[') { "a.json" } else { "a.jsonl" };
                let found = rows_of(name, text.as_bytes(), PlainText::Refused).unwrap();
                assert!(found[0].contains("! more than 524288 values"), "{}", &found[0][..80]);
                assert!(found[1].ends_with("{\"a\":2}"), "{}", found[1]);
            }
        }
    }

    #[test]
    fn a_long_text_with_commas_and_brackets_is_one_value() {
        let text = format!("{{\"a\":\"{}\"}}\n", ",[{\\\"".repeat(600_000));
        let found = rows_of("a.jsonl", text.as_bytes(), PlainText::Refused).unwrap();
        assert!(found[0].starts_with("a.jsonl:1 {"), "{}", &found[0][..80]);
    }

    #[test]
    fn a_document_in_one_line_may_have_more_values_than_a_row() {
        let rows: Vec<String> = (0..200_000).map(|row| format!("{{\"a\":{row},\"b\":[]}}")).collect();
        let text = format!("{{\"data\":[{}]}}", rows.join(","));
        assert_eq!(rows_of("a.json", text.as_bytes(), PlainText::Refused).unwrap().len(), 200_000);
    }

    #[test]
    fn a_list_gives_its_rows_with_their_lines() {
        let text = "[\n {\"a\": 1},\n {\"a\": 2}, {\"a\":\n 3}\n]\n";
        let expected =
            ["a.json:2 (row 1) {\"a\":1}", "a.json:3 (row 2) {\"a\":2}", "a.json:3 (row 3) {\"a\":3}"];
        for end in ["\n", "\r\n", "\r"] {
            assert_eq!(rows("a.json", &text.replace('\n', end)).unwrap(), expected);
        }
        assert_eq!(rows("a.json", " [ ] ").unwrap(), [""; 0]);
    }

    #[test]
    fn an_object_gives_the_rows_of_its_lists() {
        let text = "{\"version\": [1, 2], \"data\": [{\"a\": 1}], \"more\": {}}";
        assert_eq!(rows("a.json", text).unwrap(), ["a.json:1 (row 1) {\"a\":1}"]);
        let text = "{\"data\": [],\n\"x\": \"data\", \"entries\": [{\"a\": 1},\n{\"a\": 2}]}";
        assert_eq!(
            rows("a.json", text).unwrap(),
            ["a.json:2 (row 1) {\"a\":1}", "a.json:3 (row 2) {\"a\":2}"]
        );
    }

    #[test]
    fn json_lines_are_known_even_if_named_json() {
        let expected = ["a.json:1 {\"a\":1}", "a.json:2 {\"a\":2}"];
        for end in ["\n", "\r\n", "\r"] {
            let text = "{\"a\": 1}\n{\"a\": 2}\n".replace('\n', end);
            assert_eq!(rows("a.json", &text).unwrap(), expected);
        }
        let expected = ["a.json:3 {\"a\":null}", "a.json:4 {\"a\":2}"];
        assert_eq!(rows("a.json", "\n \n{\"a\": NaN}\n{\"a\": 2}").unwrap(), expected);
    }

    #[test]
    fn an_object_without_a_list_says_what_to_write() {
        for text in ["{\n\"rows\": [1]\n}", "{\n}", "{\n\"data\": {}}"] {
            assert!(message(text).contains("an object with a list `data`"), "{text}");
        }
    }

    #[test]
    fn a_row_that_is_no_json_is_bad_in_a_list_as_in_lines_and_the_others_stay() {
        for (wrong, problem, column) in [
            ("{\"a\": }", "expected value", 7),
            ("{'a': 1}", "key must be a string", 2),
            ("{\"a\": nan}", "expected ident", 8),
        ] {
            let list = rows("a.json", &format!("[\n{{\"a\": 1}},\n{wrong},\n{{\"a\": 2}}]")).unwrap();
            let lines = rows("a.jsonl", &format!("{{\"a\": 1}}\n\n{wrong}\n{{\"a\": 2}}")).unwrap();
            let found = format!("not JSON: {problem} (line 3, column {column})");
            assert_eq!(list[1], format!("a.json:3 (row 2) ! {found}"));
            assert_eq!(lines[1], format!("a.jsonl:3 ! {found}"));
            assert!(list[2].ends_with("{\"a\":2}") && lines[2].ends_with("{\"a\":2}"));
        }
    }

    #[test]
    fn a_row_that_python_reads_is_read_in_a_list_as_in_lines() {
        for python in ["1e999", "-1e999", "NaN", "[Infinity]", "\"\\ud83d\"", "{\"b\": \"x\\udc00\"}"] {
            let row = format!("{{\"a\": {python}, \"text\": \"c\"}}");
            for name in ["a.json", "a.jsonl"] {
                let found = rows(name, &format!("{row}\n")).unwrap();
                assert!(found.len() == 1 && found[0].ends_with("\"text\":\"c\"}"), "{found:?}");
            }
            assert!(rows("a.json", &format!("[{row}]")).unwrap()[0].ends_with("\"text\":\"c\"}"));
        }
    }

    #[test]
    fn a_bad_row_of_several_lines_names_the_line_of_the_problem() {
        let rows = rows("a.json", "[{\"a\":\n 1,\n  b}, {\"a\": }]").unwrap();
        assert!(rows[0].ends_with("a.json:1 (row 1) ! not JSON: key must be a string (line 3, column 3)"));
        assert!(
            rows[1].ends_with("a.json:3 (row 2) ! not JSON: expected value (line 3, column 13)"),
            "{rows:?}"
        );
    }

    #[test]
    fn a_document_whose_rows_cannot_be_told_apart_names_the_line() {
        for (text, line, problem) in [
            ("[{\"a\": 1},\n", 2, "cut short"),
            ("[{\"a\": 1}\n", 2, "cut short"),
            ("[{\"a\": 1},\n{\"a\": 2", 2, "the `{` of line 2 is not closed"),
            ("[{\"a\": 1},\n{\"a\": \"2}\n]", 2, "not closed in this line"),
            ("[{\"a\": 1}\n{\"a\": 2}]", 2, "expected `,` or `]`"),
            ("[{\"a\": 1},\n{\"a\": [2}\n]", 2, "the `[` of line 2"),
            ("[{\"a\": 1},\n\n]", 3, "a comma behind the last row"),
            ("[\n,{\"a\": 1}]", 2, "expected a value"),
            ("[{\"a\": 1}]\n\nx", 3, "more text behind the end"),
            ("{\"data\": [{\"a\": 1}]\n\"b\": 1}", 2, "expected `,`, `}` or a name"),
            ("{\"data\": [{\"a\": 1}],\n\"b\" 1}", 2, "expected `:`"),
            ("{\"data\": [{\"a\": 1}]", 1, "expected `,`, `}`"),
            ("{\"v\": 1,\n\"b\": x, \"data\": []}", 2, "no JSON value"),
            ("", 1, "the file is empty"),
            ("\n \n", 3, "the file is empty"),
            ("nonsense", 1, "expected a list of rows"),
        ] {
            let message = message(text);
            assert!(message.contains(&format!("a.json:{line}: not JSON: ")), "{text} {message}");
            assert!(message.contains(problem), "{text} {message}");
        }
    }

    #[test]
    fn brackets_and_marks_in_a_text_are_none_of_the_document() {
        let text = "[{\"a\": \"]}, \\\"{[\\\\\"}, {\"b\": \"é\"}]";
        let expected = ["a.json:1 (row 1) {\"a\":\"]}, \\\"{[\\\\\"}", "a.json:1 (row 2) {\"b\":\"é\"}"];
        assert_eq!(rows("a.json", text).unwrap(), expected);
    }

    #[test]
    fn rows_that_are_no_objects_are_bad_and_the_others_stay() {
        let found = rows("a.json", "[3, null,\n\"x\", [1], NaN , {\"a\": 1}]").unwrap();
        for (row, what) in found.iter().zip(["a number", "null", "text", "a list", "null"]) {
            assert!(row.ends_with(&format!("! {what}; expected an object with named fields")), "{row}");
        }
        assert_eq!(found[5], "a.json:2 (row 6) {\"a\":1}");
    }

    #[test]
    fn a_row_that_is_not_utf_8_is_bad_in_a_list_too() {
        let rows = rows_of("a.json", b"[{\"a\": \"\xff\"}, {\"a\": 1}]", PlainText::Running).unwrap();
        assert_eq!(
            rows,
            [
                "a.json:1 (row 1) ! not UTF-8 at byte 7 of the row; save the file as UTF-8",
                "a.json:1 (row 2) {\"a\":1}"
            ]
        );
    }

    #[test]
    fn a_line_that_is_not_json_is_a_bad_row_and_the_others_stay() {
        let rows = rows("a.jsonl", "{\"a\": 1}\n{\"a\"\n{\"a\": 2}\n").unwrap();
        assert_eq!(rows.len(), 3);
        assert!(rows[1].starts_with("a.jsonl:2 ! not JSON: EOF"), "{rows:?}");
    }

    #[test]
    fn five_hundred_brackets_are_a_bad_row() {
        let deep = format!("{{\"a\": {}1{}}}", "[".repeat(500), "]".repeat(500));
        for (name, text) in [("a.jsonl", format!("{deep}\n{{}}")), ("a.json", format!("[{deep}, {{}}]"))] {
            let rows = rows(name, &text).unwrap();
            assert!(rows[0].contains("recursion limit exceeded") && rows.len() == 2, "{rows:?}");
        }
    }

    #[test]
    fn a_million_brackets_in_a_document_are_an_error() {
        assert!(message(&"[".repeat(1 << 20)).contains("a.json:1: not JSON: brackets in more than"));
    }

    #[test]
    fn a_row_of_many_megabytes_is_bad_without_being_held_and_the_others_stay() {
        let file = Arc::from(Path::new("a.json"));
        let giant =
            Cursor::new("[{\"a\": \"").chain(io::repeat(b'x').take(1 << 25)).chain(Cursor::new("\"}, {}]"));
        let mut found = Vec::new();
        let _ = read(&file, Box::new(BufReader::new(giant)), &mut |row| {
            found.push(row.content.map_err(|problem| problem.to_string()));
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(found[0], Err("33554441 bytes; a row may have 16777216".to_owned()));
        assert!(found[1].is_ok());
    }

    #[test]
    fn reading_stops_once_there_is_enough() {
        let file = Arc::from(Path::new("a.json"));
        let reader = Box::new(Cursor::new("[{\"a\": 1}, {\"a\": 2}, nonsense"));
        let mut count = 0;
        let flow = read(&file, reader, &mut |_| {
            count += 1;
            if count == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(flow, Ok(ControlFlow::Break(()))) && count == 2);
    }
}
