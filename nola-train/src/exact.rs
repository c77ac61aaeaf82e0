//! Numbers in JSON as texts: they come back with the same bits, and may be infinite.

use std::fmt::Display;
use std::str::FromStr;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

/// Writes the shortest text that stands for this number alone.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<T: Display, S: Serializer>(number: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

/// Reads such a text.
///
/// # Errors
/// If it is not a number.
pub fn deserialize<'de, T: FromStr, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| D::Error::custom(format!("`{text}` is not a number")))
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Numbers {
        #[serde(with = "super")]
        wide: f64,
        #[serde(with = "super")]
        narrow: f32,
    }

    #[test]
    fn numbers_come_back_with_their_bits() {
        for (wide, narrow) in [(0.1 + 0.2, 1.0 / 3.0), (f64::INFINITY, f32::NEG_INFINITY), (5e-324, 1e-45)] {
            let text = serde_json::to_string(&Numbers { wide, narrow }).expect("two numbers");
            let read: Numbers = serde_json::from_str(&text).expect("two numbers");
            assert_eq!((read.wide.to_bits(), read.narrow.to_bits()), (wide.to_bits(), narrow.to_bits()));
        }
    }
}
