//! Fields of a record, with errors that name them.

use serde_json::{Map, Value};

use crate::text::RowProblem;
use crate::text::read::type_of;

/// The fields of a record.
pub struct Fields<'a>(pub &'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// A field that a setting names; `cure` is its key.
    pub fn named_text(&self, field: &str, cure: &'static str) -> Result<&'a str, RowProblem> {
        as_text(field, self.required(field, Some(cure))?)
    }

    /// A field with text.
    pub fn text(&self, field: &str) -> Result<&'a str, RowProblem> {
        as_text(field, self.required(field, None)?)
    }

    /// A field with text that may be absent or null, which is as good as empty.
    pub fn text_or_empty(&self, field: &str) -> Result<&'a str, RowProblem> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(""),
            Some(value) => as_text(field, value),
        }
    }

    /// A field with a list.
    pub fn list(&self, field: &str) -> Result<&'a [Value], RowProblem> {
        let value = self.required(field, None)?;
        let wrong =
            || RowProblem::WrongType { field: field.to_owned(), found: type_of(value), expected: "a list" };
        value.as_array().map(Vec::as_slice).ok_or_else(wrong)
    }

    /// A field with a list of objects.
    pub fn objects(&self, field: &str) -> Result<Vec<Fields<'a>>, RowProblem> {
        let object = |value: &'a Value| match value {
            Value::Object(fields) => Ok(Fields(fields)),
            other => Err(RowProblem::WrongType {
                field: field.to_owned(),
                found: type_of(other),
                expected: "a list of objects",
            }),
        };
        self.list(field)?.iter().map(object).collect()
    }

    /// A field that says something: it is there, and neither null nor empty.
    pub fn telling(&self, field: &str) -> Option<&'a Value> {
        let is_empty = |value: &Value| match value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(values) => values.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        };
        self.0.get(field).filter(|value| !is_empty(value))
    }

    /// A field of any type.
    pub fn value(&self, field: &str) -> Result<&'a Value, RowProblem> {
        self.required(field, None)
    }

    fn required(&self, field: &str, cure: Option<&'static str>) -> Result<&'a Value, RowProblem> {
        let missing = || RowProblem::MissingField {
            field: field.to_owned(),
            present: self.0.keys().cloned().collect(),
            cure,
        };
        self.0.get(field).ok_or_else(missing)
    }
}

fn as_text<'a>(field: &str, value: &'a Value) -> Result<&'a str, RowProblem> {
    let wrong = || RowProblem::WrongType { field: field.to_owned(), found: type_of(value), expected: "text" };
    value.as_str().ok_or_else(wrong)
}
