//! Values of Parquet as JSON.

use parquet::data_type::ByteArray;
use parquet::record::{Field, Row};
use serde_json::{Map, Value};

use super::foreign::Foreign;
use super::{Content, MAX_ROW_BYTES, UNREAD, VALUE_BYTES};
use crate::text::RowProblem;

/// The fields of a row and how many bytes they have; those that were not read are null.
///
/// # Errors
/// If its texts are longer than a row may be.
pub(super) fn content(row: &Row, unread: &[String]) -> Result<(Content, usize), RowProblem> {
    let mut built = Built { bytes: 0 };
    let fields = built.object(row);
    if built.bytes > MAX_ROW_BYTES {
        return Err(RowProblem::TooLong { found: built.bytes, limit: MAX_ROW_BYTES });
    }
    let unread = unread.iter().map(|name| (name.clone(), UNREAD.into()));
    let fields: Map<_, _> = fields.into_iter().chain(unread).collect();
    let bytes = built.bytes + fields.len() * VALUE_BYTES;
    Ok((Content::Record(fields), bytes))
}

/// What was built of a row: what is beyond the bound is counted, but not copied.
struct Built {
    /// Bytes of names and texts.
    bytes: usize,
}

impl Built {
    fn object(&mut self, row: &Row) -> Map<String, Value> {
        let field =
            |(name, field): (&String, &Field)| (self.kept(name).unwrap_or_default(), self.value(field));
        row.get_column_iter().map(field).collect()
    }

    fn value(&mut self, field: &Field) -> Value {
        match field {
            Field::Bytes(bytes) => self.bytes_value(bytes),
            Field::Group(row) => Value::Object(self.object(row)),
            Field::ListInternal(list) => list.elements().iter().map(|element| self.value(element)).collect(),
            Field::MapInternal(map) => {
                let entry = |(key, value): &(Field, Field)| (name(self.value(key)), self.value(value));
                Value::Object(map.entries().iter().map(entry).collect())
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

    fn bytes_value(&mut self, bytes: &ByteArray) -> Value {
        match std::str::from_utf8(bytes.data()) {
            Ok(text) => self.kept(text).map_or(Value::Null, Value::from),
            Err(_) => Foreign::Bytes.value(),
        }
    }

    /// A copy of a text, as long as there is room.
    fn kept(&mut self, text: &str) -> Option<String> {
        self.bytes += text.len();
        (self.bytes <= MAX_ROW_BYTES).then(|| text.to_owned())
    }
}

/// A key of a map as the name of a field.
fn name(key: Value) -> String {
    match key {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
