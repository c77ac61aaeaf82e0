//! Values of Parquet as JSON.

use parquet::data_type::ByteArray;
use parquet::record::{Field, Row};
use serde_json::{Map, Value};

use super::foreign::Foreign;
use super::{Content, MAX_ROW_BYTES};
use crate::text::RowProblem;

/// The fields of a row; it is measured before anything of it is copied.
pub(super) fn content(row: Row) -> Result<Content, RowProblem> {
    let found = bytes_of_group(&row);
    if found > MAX_ROW_BYTES {
        return Err(RowProblem::TooLong { found, limit: MAX_ROW_BYTES });
    }
    Ok(Content::Record(object(&row)))
}

/// Bytes of all texts.
fn bytes_of(field: &Field) -> usize {
    match field {
        Field::Bytes(bytes) => text_of(bytes).map_or(0, str::len),
        Field::Str(text) => text.len(),
        Field::Group(row) => bytes_of_group(row),
        Field::ListInternal(list) => list.elements().iter().map(bytes_of).sum(),
        Field::MapInternal(map) => {
            map.entries().iter().map(|(key, value)| bytes_of(key) + bytes_of(value)).sum()
        }
        Field::Null
        | Field::Bool(_)
        | Field::Byte(_)
        | Field::Short(_)
        | Field::Int(_)
        | Field::Long(_)
        | Field::UByte(_)
        | Field::UShort(_)
        | Field::UInt(_)
        | Field::ULong(_)
        | Field::Float16(_)
        | Field::Float(_)
        | Field::Double(_)
        | Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => 0,
    }
}

fn bytes_of_group(row: &Row) -> usize {
    row.get_column_iter().map(|(name, field)| name.len() + bytes_of(field)).sum()
}

fn object(row: &Row) -> Map<String, Value> {
    row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect()
}

fn value(field: &Field) -> Value {
    match field {
        Field::Bytes(bytes) => text_of(bytes).map_or_else(|| Foreign::Bytes.value(), Value::from),
        Field::Group(row) => Value::Object(object(row)),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::MapInternal(map) => {
            Value::Object(map.entries().iter().map(|(key, of)| (name(key), value(of))).collect())
        }
        Field::Decimal(_) => Foreign::Decimal.value(),
        Field::Date(_) => Foreign::Date.value(),
        Field::TimeMillis(_) | Field::TimeMicros(_) => Foreign::Time.value(),
        Field::TimestampMillis(_) | Field::TimestampMicros(_) => Foreign::Timestamp.value(),
        Field::Null
        | Field::Bool(_)
        | Field::Byte(_)
        | Field::Short(_)
        | Field::Int(_)
        | Field::Long(_)
        | Field::UByte(_)
        | Field::UShort(_)
        | Field::UInt(_)
        | Field::ULong(_)
        | Field::Float16(_)
        | Field::Float(_)
        | Field::Double(_)
        | Field::Str(_) => field.to_json_value(),
    }
}

/// A key of a map as the name of a field.
fn name(key: &Field) -> String {
    match value(key) {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

fn text_of(bytes: &ByteArray) -> Option<&str> {
    std::str::from_utf8(bytes.data()).ok()
}
