//! Fields of JSON configurations, checked one by one.

use std::ops::RangeInclusive;
use std::path::Path;

use nola_core::foreign_json;
use serde_json::Value;

use crate::Error;

/// Largest number of a field without a bound of its own.
const MAX_FLOAT: f64 = 1e12;

/// Reads fields of a configuration; an error names the field.
pub(crate) struct Fields<'a> {
    pub(crate) json: &'a Value,
    pub(crate) file: &'a Path,
}

impl Fields<'_> {
    pub(crate) fn wrong(&self, field: &'static str, expected: &str) -> Error {
        let found = self.json.get(field).map_or("absent".to_string(), foreign_json::shown);
        Error::Field { file: self.file.to_path_buf(), field, found, expected: expected.to_string() }
    }

    pub(crate) fn number(
        &self,
        field: &'static str,
        absent: usize,
        range: RangeInclusive<usize>,
    ) -> Result<usize, Error> {
        let Some(value) = self.json.get(field).filter(|value| !value.is_null()) else {
            return Ok(absent);
        };
        // Transformers also writes sizes as `[height, width]`; only square ones exist here.
        let square =
            value.as_array().filter(|sides| sides.len() == 2 && sides[0] == sides[1]).map(|sides| &sides[0]);
        let number = square.unwrap_or(value).as_u64().and_then(|number| usize::try_from(number).ok());
        number.filter(|number| range.contains(number)).ok_or_else(|| {
            self.wrong(field, &format!("a whole number from {} to {}", range.start(), range.end()))
        })
    }

    pub(crate) fn float(&self, field: &'static str, absent: f64) -> Result<f64, Error> {
        match self.json.get(field).filter(|value| !value.is_null()) {
            None => Ok(absent),
            Some(value) => value
                .as_f64()
                .filter(|number| (0.0..=64.0).contains(number))
                .ok_or_else(|| self.wrong(field, "a number from 0 to 64")),
        }
    }

    pub(crate) fn flag(&self, field: &'static str, absent: bool) -> Result<bool, Error> {
        match self.json.get(field).filter(|value| !value.is_null()) {
            None => Ok(absent),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(field, "true or false")),
        }
    }

    /// A number above 0, such as what a norm divides by.
    pub(crate) fn positive(&self, field: &'static str, absent: f64) -> Result<f64, Error> {
        match self.json.get(field).filter(|value| !value.is_null()) {
            None => Ok(absent),
            Some(value) => positive(value)
                .ok_or_else(|| self.wrong(field, &format!("a number above 0, at most {MAX_FLOAT:e}"))),
        }
    }

    /// So many numbers above 0.
    pub(crate) fn positives(&self, field: &'static str, count: usize) -> Result<Vec<f64>, Error> {
        let numbers = self.json[field].as_array().and_then(|list| list.iter().map(positive).collect());
        numbers.filter(|numbers: &Vec<f64>| numbers.len() == count).ok_or_else(|| {
            self.wrong(field, &format!("a list of {count} numbers above 0, at most {MAX_FLOAT:e}"))
        })
    }

    /// One token id or a list of them; `null` is none, and so is one below zero, which some files name.
    pub(crate) fn token_ids(&self, field: &'static str, absent: &[u32]) -> Result<Vec<u32>, Error> {
        let Some(value) = self.json.get(field) else { return Ok(absent.to_vec()) };
        token_ids(value).ok_or_else(|| self.wrong(field, "a token id, a list of token ids, or null"))
    }

    /// Refuses a variant that this program does not compute.
    pub(crate) fn refuse_flag(&self, field: &'static str) -> Result<(), Error> {
        match self.flag(field, false)? {
            false => Ok(()),
            true => Err(self.wrong(field, "false: this program does not compute it")),
        }
    }

    /// Refuses weights that are quantised otherwise than bitsandbytes does it in NF4 and LLM.int8.
    pub(crate) fn refuse_other_quantization(&self) -> Result<(), Error> {
        let field = "quantization_config";
        let Some(found) = self.json.get(field).filter(|value| !value.is_null()) else { return Ok(()) };
        let is_set = |flag: &str| found[flag] == Value::Bool(true);
        let is_nf4 = is_set("load_in_4bit") && found["bnb_4bit_quant_type"] == "nf4";
        if found["quant_method"] == "bitsandbytes" && (is_nf4 || is_set("load_in_8bit")) {
            return Ok(());
        }
        Err(self.wrong(field, "bitsandbytes in nf4 or 8 bits, or no quantization"))
    }
}

fn positive(value: &Value) -> Option<f64> {
    value.as_f64().filter(|&number| number > 0.0 && number <= MAX_FLOAT)
}

/// One token id or a list of them; `null` is none, and so is one below zero. `None` if it is anything else.
pub(crate) fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let all = match value {
        Value::Null => &[][..],
        Value::Array(ids) => ids.as_slice(),
        one => std::slice::from_ref(one),
    };
    let named = all.iter().filter(|id| id.as_i64().is_none_or(|id| id >= 0));
    named.map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn token_ids_are_one_or_a_list_or_none() {
        let cases = [
            (json!(7), Some(vec![7])),
            (json!([7, 9]), Some(vec![7, 9])),
            (json!(null), Some(vec![])),
            (json!(-1), Some(vec![])),
            (json!([-1, 3]), Some(vec![3])),
            (json!("7"), None),
            (json!(7.5), None),
            (json!([[7]]), None),
            (json!(1_u64 << 32), None),
        ];
        for (value, expected) in cases {
            assert_eq!(token_ids(&value), expected, "{value}");
        }
    }
}
