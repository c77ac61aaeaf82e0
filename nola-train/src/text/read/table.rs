//! What CSV and TSV share: a header, and rows of as many fields.

use std::collections::HashSet;

use serde_json::Value;

use super::Content;
use crate::text::{BadRow, Place, RowProblem, TextError};

/// The names in a header.
///
/// # Errors
/// If they are not UTF-8, or one is there twice; columns without a name may be many.
pub(super) fn header(names: Result<Vec<String>, RowProblem>, place: Place) -> Result<Vec<String>, TextError> {
    let twice = |names: &[String]| {
        let mut seen = HashSet::new();
        names.iter().find(|name| !name.is_empty() && !seen.insert(name.as_str())).cloned()
    };
    let checked = names.and_then(|names| match twice(&names) {
        Some(field) => Err(RowProblem::TwiceInHeader { field }),
        None => Ok(names),
    });
    Ok(checked.map_err(|problem| BadRow { place, problem })?)
}

/// The fields of a row by their names.
pub(super) fn content(header: &[String], fields: Vec<String>) -> Result<Content, RowProblem> {
    let (found, expected) = (fields.len(), header.len());
    if found != expected {
        return Err(RowProblem::Ragged { found, expected });
    }
    Ok(Content::Record(header.iter().cloned().zip(fields.into_iter().map(Value::String)).collect()))
}
