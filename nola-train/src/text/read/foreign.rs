//! Values that JSON has no type for, among values that are JSON.
//!
//! They are no trouble in a column that is not used; where text is wanted, the message says what there is instead.

use serde_json::{Map, Value};

/// The name of the only field of an object that stands for a foreign value; no data set names a field so.
const MARK: &str = "\0foreign";

/// What a value is that JSON has no type for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    /// Bytes that are not UTF-8.
    Bytes,
    /// A decimal number.
    Decimal,
    /// A date.
    Date,
    /// A time of day.
    Time,
    /// A point in time.
    Timestamp,
}

impl Foreign {
    const ALL: [Self; 5] = [Self::Bytes, Self::Decimal, Self::Date, Self::Time, Self::Timestamp];

    /// What messages call it.
    pub fn description(self) -> &'static str {
        match self {
            Self::Bytes => "bytes that are not UTF-8 text",
            Self::Decimal => "a decimal number",
            Self::Date => "a date",
            Self::Time => "a time of day",
            Self::Timestamp => "a timestamp",
        }
    }

    /// What stands for it.
    pub fn value(self) -> Value {
        Value::Object(Map::from_iter([(MARK.to_owned(), self.description().into())]))
    }
}

/// What an object stands for, if it stands for a foreign value.
pub(super) fn kind_of(fields: &Map<String, Value>) -> Option<Foreign> {
    let description = fields.get(MARK)?.as_str()?;
    Foreign::ALL.into_iter().find(|kind| kind.description() == description)
}

#[cfg(test)]
mod tests {
    use super::super::type_of;
    use super::*;

    #[test]
    fn every_kind_is_told_by_its_name_and_objects_are_objects() {
        for kind in Foreign::ALL {
            assert_eq!(type_of(&kind.value()), kind.description());
        }
        assert_eq!(type_of(&serde_json::json!({"a": 1})), "an object");
    }
}
