//! Values as Python writes them.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, Output, State, Value};

use super::guard::{invalid, pay, pay_bytes};
use super::view;

/// Writes what a template prints.
///
/// # Errors
/// If it is too much.
pub(super) fn formatter(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.write_str(text)?,
        None => out.write_str(&text(state, value)?)?,
    }
    Ok(())
}

/// `str(value)`.
///
/// # Errors
/// If it is too long, or if the fuel is used up.
pub(super) fn text(state: &State, value: &Value) -> Result<String, Error> {
    pay(state, value)?;
    let mut out = String::new();
    match value.as_str() {
        Some(text) => out.push_str(text),
        None if value.is_undefined() => {}
        None => write(&mut out, value)?,
    }
    pay_bytes(state, out.len() as u64)?;
    Ok(out)
}

/// `repr(value)`.
fn write(out: &mut String, value: &Value) -> Result<(), Error> {
    if let Some(written) = view::write(out, value, |out, parts| write(out, &parts)) {
        return written;
    }
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Number if !value.is_integer() => out.push_str(&float(value)),
        ValueKind::String => write!(out, "{value:?}")?,
        ValueKind::Map => {
            let pairs = value.as_object().and_then(|map| map.try_iter_pairs()).into_iter().flatten();
            write_parts(out, ["{", "}"], pairs, |out, (key, value)| {
                write(out, &key)?;
                out.push_str(": ");
                write(out, &value)
            })?;
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let brackets = match (value.is_tuple(), value.len()) {
                (true, Some(1)) => ["(", ",)"],
                (true, _) => ["(", ")"],
                (false, _) => ["[", "]"],
            };
            write_parts(out, brackets, value.try_iter()?.checked(), |out, part| write(out, &part?))?;
        }
        ValueKind::Invalid => return Err(invalid(value.to_string())),
        _ => write!(out, "{value}")?,
    }
    Ok(())
}

fn write_parts<T>(
    out: &mut String,
    [open, close]: [&str; 2],
    parts: impl Iterator<Item = T>,
    mut write: impl FnMut(&mut String, T) -> Result<(), Error>,
) -> Result<(), Error> {
    out.push_str(open);
    for (index, part) in parts.enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        write(out, part)?;
    }
    out.push_str(close);
    Ok(())
}

/// `repr` of a float: the fewest digits that mean the same number, with an exponent where Python writes one.
pub(super) fn float(value: &Value) -> String {
    let Ok(number) = f64::try_from(value.clone()) else { return value.to_string() };
    if number.is_nan() {
        return "nan".to_owned();
    }
    let scientific = format!("{number:e}");
    match scientific.split_once('e').map(|(digits, exponent)| (digits, exponent.parse::<i32>())) {
        Some((digits, Ok(exponent))) if !(-4..16).contains(&exponent) && number != 0.0 => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        Some(_) | None => format!("{number:?}"),
    }
}

/// A whole number as the engine holds it.
pub(super) fn int(number: i128) -> Value {
    i64::try_from(number).map_or_else(|_| Value::from(number), Value::from)
}

/// What Python calls the type of a value.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "an undefined value",
        ValueKind::None => "None",
        ValueKind::Bool => "a bool",
        ValueKind::Number if value.is_integer() => "an int",
        ValueKind::Number => "a float",
        ValueKind::String => "a str",
        ValueKind::Seq | ValueKind::Iterable if value.is_tuple() => "a tuple",
        ValueKind::Seq | ValueKind::Iterable => "a list",
        ValueKind::Map => "a dict",
        _ => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::super::environment::tests::{assert_all, with};
    use serde_json::json;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (number, expected) in [
            (json!(2.5), "2.5"),
            (json!(1e15), "1000000000000000.0"),
            (json!(1e16), "1e+16"),
            (json!(1.5e22), "1.5e+22"),
            (json!(0.0001), "0.0001"),
            (json!(0.00001), "1e-05"),
            (json!(-0.0), "-0.0"),
            (json!(3), "3"),
        ] {
            assert_eq!(with("{{ x }}", &json!({"x": number})).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn values_are_written_as_python_writes_them() {
        assert_all(&[
            ("none", "None"),
            ("nope", ""),
            ("[true, none, 1.0, 'a']", "[True, None, 1.0, 'a']"),
            ("(1,)", "(1,)"),
            ("{'a': none, 1: 'x'}", "{'a': None, 1: 'x'}"),
            ("[\"it's\", 'say \"x\"', 'tab\\t']", "[\"it's\", 'say \"x\"', 'tab\\t']"),
        ]);
    }
}
