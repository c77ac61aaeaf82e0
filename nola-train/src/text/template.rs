//! A text with places for the columns of a row: `Question: {question}`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::RowProblem;
use super::read::{foreign_in, type_of};

/// A text with places for columns: `{name}` stands for the column of that name, `{{` and `}}` for the braces themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PromptTemplate {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Column(String),
}

impl PromptTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// In words, if a brace has no partner or no name stands between two of them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut plain) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = &rest[at..];
            if brace.starts_with("{{") || brace.starts_with("}}") {
                plain.push_str(&brace[..1]);
                rest = &brace[2..];
                continue;
            }
            let (name, behind) = column(brace)?;
            parts.extend(text_part(&mut plain));
            parts.push(Part::Column(name.to_owned()));
            rest = behind;
        }
        plain.push_str(rest);
        parts.extend(text_part(&mut plain));
        Ok(Self { text: text.to_owned(), parts })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The columns that have a place in it, each once.
    pub fn columns(&self) -> Vec<&str> {
        let mut columns: Vec<&str> = Vec::new();
        for part in &self.parts {
            match part {
                Part::Column(name) if !columns.contains(&name.as_str()) => columns.push(name),
                Part::Column(_) | Part::Text(_) => {}
            }
        }
        columns
    }

    /// The text for a row; `key` names the setting that the template comes from.
    ///
    /// # Errors
    /// If the row lacks a column or has no value in it.
    pub fn filled(&self, row: &Map<String, Value>, key: &'static str) -> Result<String, RowProblem> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Column(name) => text.push_str(&written(name, row, key)?),
            }
        }
        Ok(text)
    }
}

/// What was gathered as a part, if it is anything.
fn text_part(plain: &mut String) -> Option<Part> {
    (!plain.is_empty()).then(|| Part::Text(std::mem::take(plain)))
}

/// The name in the braces that a text begins with, and what follows them.
fn column(text: &str) -> Result<(&str, &str), String> {
    let alone = |sign: &str| {
        format!("a `{sign}` stands alone; a column is written `{{name}}`, and the sign itself `{sign}{sign}`")
    };
    let inside = text.strip_prefix('{').ok_or_else(|| alone("}"))?;
    let (name, behind) =
        inside.split_once('}').filter(|(name, _)| !name.contains('{')).ok_or_else(|| alone("{"))?;
    match name.trim().is_empty() {
        true => Err("`{}` names no column; write `{name}`".to_owned()),
        false => Ok((name, behind)),
    }
}

/// A value as text: text as it is, everything else as JSON writes it.
fn written(name: &str, row: &Map<String, Value>, key: &'static str) -> Result<String, RowProblem> {
    let wrong = |found| RowProblem::WrongType { field: name.to_owned(), found, expected: "a value" };
    let missing = || RowProblem::MissingField {
        field: name.to_owned(),
        present: row.keys().cloned().collect(),
        cure: Some(key),
    };
    match row.get(name).ok_or_else(missing)? {
        Value::Null => Err(wrong(type_of(&Value::Null))),
        Value::String(text) => Ok(text.clone()),
        value => match foreign_in(value) {
            Some(found) => Err(wrong(found)),
            None => Ok(value.to_string()),
        },
    }
}

impl TryFrom<String> for PromptTemplate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<PromptTemplate> for String {
    fn from(template: PromptTemplate) -> Self {
        template.text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn filled(template: &str, row: Value) -> Result<String, String> {
        let Value::Object(row) = row else { panic!("not an object") };
        let template = PromptTemplate::parse(template).expect(template);
        template.filled(&row, "data.text.template").map_err(|problem| problem.to_string())
    }

    #[test]
    fn a_column_stands_in_the_place_of_its_name() {
        let row = json!({"q": "Who?", "first name": "Ada", "n": 3, "x": 0.5, "ok": true, "list": [1, "a"]});
        for (template, expected) in [
            ("Question: {q}\nAnswer:", "Question: Who?\nAnswer:"),
            ("{first name} asks {q} {q}", "Ada asks Who? Who?"),
            ("{{q}} {n} {x} {ok} {list}", "{q} 3 0.5 true [1,\"a\"]"),
            ("{{{q}}}", "{Who?}"),
            ("plain", "plain"),
        ] {
            assert_eq!(filled(template, row.clone()).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn a_column_that_is_not_there_lists_those_that_are() {
        assert_eq!(
            filled("{quest}", json!({"question": "a", "answer": "b"})).unwrap_err(),
            "no field `quest`; the row has question, answer; name the right one in data.text.template"
        );
    }

    #[test]
    fn a_missing_value_is_a_problem_of_its_row() {
        assert_eq!(filled("{q}", json!({"q": null})).unwrap_err(), "`q` is null; expected a value");
        assert_eq!(filled("{q}", json!({"q": ""})).as_deref(), Ok(""));
    }

    #[test]
    fn a_brace_without_a_partner_is_refused_with_the_cure() {
        for (template, says) in [
            ("a { b", "`{` stands alone"),
            ("a } b", "`}` stands alone"),
            ("{a{b}", "`{{`"),
            ("{}", "names no column"),
            ("{ }", "names no column"),
        ] {
            let message = PromptTemplate::parse(template).expect_err(template);
            assert!(message.contains(says), "{message}");
        }
    }

    #[test]
    fn an_empty_text_is_no_template() {
        assert_eq!(PromptTemplate::parse(""), Ok(PromptTemplate::default()));
    }

    #[test]
    fn the_columns_are_listed_once_in_order() {
        let template = PromptTemplate::parse("{b} {a} {b} {{c}}").expect("a template");
        assert_eq!(template.columns(), ["b", "a"]);
    }

    proptest! {
        #[test]
        fn a_text_with_doubled_braces_is_itself(text in "[a{}]{0,12}") {
            let template = PromptTemplate::parse(&text.replace('{', "{{").replace('}', "}}")).expect("doubled");
            prop_assert_eq!(template.filled(&Map::new(), "data.text.template").expect("no column"), text);
        }
    }
}
