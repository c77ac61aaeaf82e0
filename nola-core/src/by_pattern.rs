//! Settings of some sites alone, under patterns of their names, as PEFT's `rank_pattern` and `alpha_pattern`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::pattern::{PatternError, PythonPattern};

/// Values by patterns of names, in the order in which they are tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByPattern<T>(Vec<(String, T)>);

impl<T> Default for ByPattern<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> FromIterator<(String, T)> for ByPattern<T> {
    fn from_iter<I: IntoIterator<Item = (String, T)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl<T> ByPattern<T> {
    /// The patterns, each with its value.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(pattern, value)| (pattern.as_str(), value))
    }

    /// Whether it says nothing of any name.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: Copy> ByPattern<T> {
    /// Its patterns, ready to be asked.
    pub(crate) fn compiled(&self) -> Result<CompiledByPattern<T>, PatternError> {
        let entry = |(pattern, value): &(String, T)| Ok((PythonPattern::site(pattern)?, *value));
        Ok(CompiledByPattern(self.0.iter().map(entry).collect::<Result<_, _>>()?))
    }
}

/// The same with compiled patterns.
#[derive(Debug, Clone)]
pub(crate) struct CompiledByPattern<T>(Vec<(PythonPattern, T)>);

impl<T: Copy> CompiledByPattern<T> {
    /// The value of the first pattern that `name` fits.
    pub(crate) fn first_fit(&self, name: &str) -> Result<Option<T>, PatternError> {
        Ok(self.places(name)?.first().map(|&place| self.0[place].1))
    }

    /// Which patterns `name` fits, from 0.
    pub(crate) fn places(&self, name: &str) -> Result<Vec<usize>, PatternError> {
        let mut places = Vec::new();
        for (place, (pattern, _)) in self.0.iter().enumerate() {
            if pattern.fits(name)? {
                places.push(place);
            }
        }
        Ok(places)
    }
}

impl<T: Serialize> Serialize for ByPattern<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.entries())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ByPattern<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = ByPattern<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a table of patterns")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(ByPattern(entries))
            }
        }

        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for ByPattern<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("ByPattern_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        BTreeMap::<String, T>::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> ByPattern<usize> {
        serde_json::from_str(text).expect("a table")
    }

    #[test]
    fn the_first_pattern_that_fits_the_end_of_a_name_decides() {
        let table = table(r#"{"up": 2, "blocks.1.*": 3, "^mlp.up": 5}"#).compiled().expect("patterns");
        let value = |name| table.first_fit(name).expect("it ends");
        assert_eq!(
            [value("blocks.1.mlp.up"), value("blocks.1.mlp.down"), value("blocks.0.mlp.down"), value("up")],
            [Some(2), Some(3), None, Some(2)]
        );
    }

    #[test]
    fn a_table_keeps_its_order_through_a_file() {
        let text = r#"{"z":1,"a":2,"m":3}"#;
        assert_eq!(serde_json::to_string(&table(text)).expect("JSON"), text);
    }
}
