//! Operators as Python has them.

use std::cmp::Ordering;

use minijinja::formatting::FormatStyle;
use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::filled::formatted;
use super::guard::{IsTuple, count, invalid, items, list, pay, pay_bytes};
use super::namespace::{dict, namespace, set_attribute};
use super::view::{is_view, kept};
use super::{methods, print};

pub(super) const LIST: &str = "[]";
pub(super) const TUPLE: &str = "()";
pub(super) const DICT: &str = "{}";
pub(super) const SLICE: &str = "[:]";
pub(super) const ATTRIBUTE: &str = "getattr()";
pub(super) const SET_ATTRIBUTE: &str = "setattr()";

/// Makes the operators known; no template can call them by these names.
pub(super) fn add_to(environment: &mut Environment) {
    environment.add_filter("+", add);
    environment.add_filter("*", multiply);
    environment.add_filter("%", remainder);
    environment.add_filter("~", concatenate);
    for operator in COMPARISONS {
        environment.add_filter(operator.name, move |state: &State, a: &Value, b: &Value| {
            (operator.holds)(state, a, b)
        });
        environment.add_filter(operator.chained, move |state: &State, a: &Value, b: &Value| {
            let holds = Value::from((operator.holds)(state, a, b)?);
            list(state, vec![holds, b.clone()], IsTuple::Yes)
        });
    }
    environment.add_filter(LIST, |state: &State, parts: Rest<Value>| list(state, parts.0, IsTuple::No));
    environment.add_filter(TUPLE, |state: &State, parts: Rest<Value>| list(state, parts.0, IsTuple::Yes));
    environment.add_filter(DICT, |state: &State, parts: Rest<Value>| {
        let pairs = parts.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
        kept(state, Value::from_pairs(pairs))
    });
    environment.add_filter(SLICE, slice);
    environment.add_filter(ATTRIBUTE, attribute);
    environment.add_filter(SET_ATTRIBUTE, set_attribute);
    environment.add_function("namespace", namespace);
    environment.add_function("dict", dict);
}

/// A comparison.
pub(super) struct Comparison {
    /// Its sign.
    pub name: &'static str,
    /// Its name in a chain such as `a < b < c`, which keeps the right operand.
    chained: &'static str,
    /// What the engine calls it.
    engine: &'static str,
    pub holds: fn(&State, &Value, &Value) -> Result<bool, Error>,
}

pub(super) const COMPARISONS: [Comparison; 8] = [
    Comparison { name: "==", chained: "==..", engine: "Eq", holds: equal },
    Comparison { name: "!=", chained: "!=..", engine: "Ne", holds: |state, a, b| Ok(!equal(state, a, b)?) },
    Comparison {
        name: "<",
        chained: "<..",
        engine: "Lt",
        holds: |state, a, b| Ok(order(state, "<", a, b)?.is_lt()),
    },
    Comparison {
        name: "<=",
        chained: "<=..",
        engine: "Lte",
        holds: |state, a, b| Ok(order(state, "<=", a, b)?.is_le()),
    },
    Comparison {
        name: ">",
        chained: ">..",
        engine: "Gt",
        holds: |state, a, b| Ok(order(state, ">", a, b)?.is_gt()),
    },
    Comparison {
        name: ">=",
        chained: ">=..",
        engine: "Gte",
        holds: |state, a, b| Ok(order(state, ">=", a, b)?.is_ge()),
    },
    Comparison { name: "in", chained: "in..", engine: "In", holds: contains },
    Comparison {
        name: "not in",
        chained: "notin..",
        engine: "NotIn",
        holds: |state, a, b| Ok(!contains(state, a, b)?),
    },
];

/// The name in a chain of the comparison that the engine calls `engine`.
pub(super) fn chained(engine: &str) -> &'static str {
    let found = COMPARISONS.iter().find(|operator| operator.engine == engine);
    found.map_or("unknown comparison", |operator| operator.chained)
}

/// A number of Python's.
enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    fn of(value: &Value) -> Option<Self> {
        match value.kind() {
            ValueKind::Bool => Some(Self::Int(value.is_true().into())),
            ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok().map(Self::Int),
            ValueKind::Number => f64::try_from(value.clone()).ok().map(Self::Float),
            _ => None,
        }
    }

    fn float(&self) -> f64 {
        match *self {
            Self::Int(int) => int as f64,
            Self::Float(float) => float,
        }
    }
}

/// The result of an operator for two numbers, if they are numbers.
fn arithmetic(
    a: &Value,
    b: &Value,
    ints: fn(i128, i128) -> Option<i128>,
    floats: fn(f64, f64) -> f64,
) -> Option<Result<Value, Error>> {
    let (a, b) = (Number::of(a)?, Number::of(b)?);
    Some(match (a, b) {
        (Number::Int(a), Number::Int(b)) => {
            ints(a, b).map(print::int).ok_or_else(|| invalid("a number out of range, or a division by zero"))
        }
        (a, b) => Ok(Value::from(floats(a.float(), b.float()))),
    })
}

fn unsupported(operator: &str, a: &Value, b: &Value) -> Error {
    let kind = if a.is_undefined() || b.is_undefined() {
        ErrorKind::UndefinedError
    } else {
        ErrorKind::InvalidOperation
    };
    Error::new(
        kind,
        format!("`{operator}` does not take {} and {}", print::type_name(a), print::type_name(b)),
    )
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) && !is_view(value)
}

fn add(state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        return joined(state, a, b);
    }
    if is_list(a) && is_list(b) && a.is_tuple() == b.is_tuple() {
        let mut parts = items(state, a)?;
        parts.extend(items(state, b)?);
        return list(state, parts, IsTuple::of(a));
    }
    arithmetic(a, b, i128::checked_add, |a, b| a + b).unwrap_or_else(|| Err(unsupported("+", a, b)))
}

fn multiply(state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    let times =
        |value: &Value| value.as_i64().filter(|_| value.is_integer() || value.kind() == ValueKind::Bool);
    let (repeated, times) = match (times(a), times(b)) {
        (None, Some(times)) => (a, times),
        (Some(times), None) => (b, times),
        (Some(_), Some(_)) | (None, None) => (a, 0),
    };
    if let Some(text) =
        repeated.as_str().filter(|_| b.kind() != ValueKind::String || a.kind() != ValueKind::String)
    {
        pay_bytes(state, (text.len() as u64).saturating_mul(times.max(0) as u64))?;
        return Ok(Value::from(text.repeat(times.max(0) as usize)));
    }
    if is_list(repeated) && (a.is_integer() || b.is_integer()) {
        let parts = items(state, repeated)?;
        let length = parts.len().saturating_mul(times.max(0) as usize);
        count(length.try_into().unwrap_or(i64::MAX))?;
        return list(state, parts.iter().cycle().take(length).cloned().collect(), IsTuple::of(repeated));
    }
    arithmetic(a, b, i128::checked_mul, |a, b| a * b).unwrap_or_else(|| Err(unsupported("*", a, b)))
}

/// The remainder, which has the sign of the divisor; of a text, its placeholders filled.
fn remainder(state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    if let Some(text) = a.as_str() {
        let values = if b.is_tuple() { items(state, b)? } else { vec![b.clone()] };
        return formatted(state, FormatStyle::Printf, text, &values);
    }
    let ints = |a: i128, b: i128| {
        a.checked_rem(b).map(|rest| if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest })
    };
    let floats = |a: f64, b: f64| {
        let rest = a % b;
        if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest.abs().copysign(b) }
    };
    arithmetic(a, b, ints, floats).unwrap_or_else(|| Err(unsupported("%", a, b)))
}

fn concatenate(state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    joined(state, &print::text(state, a)?, &print::text(state, b)?)
}

fn joined(state: &State, a: &str, b: &str) -> Result<Value, Error> {
    pay_bytes(state, (a.len() + b.len()) as u64)?;
    Ok(Value::from([a, b].concat()))
}

fn equal(state: &State, a: &Value, b: &Value) -> Result<bool, Error> {
    pay(state, a)?;
    pay(state, b)?;
    Ok(a == b)
}

/// The order of two values that Python can compare.
fn order(state: &State, operator: &str, a: &Value, b: &Value) -> Result<Ordering, Error> {
    if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
        return Ok(match (a, b) {
            (Number::Int(a), Number::Int(b)) => a.cmp(&b),
            (a, b) => a.float().partial_cmp(&b.float()).ok_or_else(|| invalid("NaN has no order"))?,
        });
    }
    let both_text = a.kind() == ValueKind::String && b.kind() == ValueKind::String;
    let both_lists = is_list(a) && is_list(b);
    if !both_text && !both_lists {
        return Err(unsupported(operator, a, b));
    }
    pay(state, a)?;
    pay(state, b)?;
    Ok(a.cmp(b))
}

fn contains(state: &State, value: &Value, container: &Value) -> Result<bool, Error> {
    if let Some(text) = container.as_str() {
        let part = value.as_str().ok_or_else(|| unsupported("in", value, container))?;
        pay_bytes(state, text.len() as u64)?;
        return Ok(text.contains(part));
    }
    pay(state, value)?;
    pay(state, container)?;
    match container.kind() {
        ValueKind::Undefined => Ok(false),
        ValueKind::Map => Ok(container.as_object().is_some_and(|map| map.get_value(value).is_some())),
        ValueKind::Seq | ValueKind::Iterable => Ok(items(state, container)?.contains(value)),
        _ => Err(unsupported("in", value, container)),
    }
}

/// `value[start:stop:step]`.
fn slice(state: &State, value: Value, start: Value, stop: Value, step: Value) -> Result<Value, Error> {
    let bound = |value: &Value| -> Result<Option<i64>, Error> {
        if value.is_none() {
            return Ok(None);
        }
        value.as_i64().map(Some).ok_or_else(|| invalid("the bounds of a slice are whole numbers"))
    };
    let step = bound(&step)?.unwrap_or(1);
    if step == 0 {
        return Err(invalid("the step of a slice is not 0"));
    }
    let (start, stop) = (bound(&start)?, bound(&stop)?);
    if let Some(text) = value.as_str() {
        pay_bytes(state, text.len() as u64)?;
        let chars: Vec<char> = text.chars().collect();
        return Ok(indices(chars.len(), start, stop, step).map(|at| chars[at]).collect::<String>().into());
    }
    if !is_list(&value) {
        return Err(invalid(format!("{} has no slices", print::type_name(&value))));
    }
    let parts = items(state, &value)?;
    let chosen = indices(parts.len(), start, stop, step).map(|at| parts[at].clone()).collect();
    list(state, chosen, IsTuple::of(&value))
}

/// The indices of a slice, as Python counts them.
fn indices(length: usize, start: Option<i64>, stop: Option<i64>, step: i64) -> impl Iterator<Item = usize> {
    let length = length as i64;
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let bound = |at: i64| if at < 0 { at.saturating_add(length).max(lowest) } else { at.min(highest) };
    let (first, last) = if step > 0 { (lowest, highest) } else { (highest, lowest) };
    let (start, stop) = (start.map_or(first, bound), stop.map_or(last, bound));
    let distance = if step > 0 { stop - start } else { start - stop };
    let steps = if distance > 0 { (distance - 1) as u64 / step.unsigned_abs() + 1 } else { 0 };
    (0..steps).map(move |at| (start + at as i64 * step) as usize)
}

/// `value.name` for a name that a type of Python has as a method: the method goes before a key of that name.
fn attribute(value: &Value, name: &str) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(Error::new(
            ErrorKind::UndefinedError,
            format!("`{name}` of a value that is not defined"),
        ));
    }
    match methods::bound(value, name) {
        Some(method) => Ok(method),
        None => value.get_attr(name),
    }
}

#[cfg(test)]
mod tests {
    use super::super::environment::tests::{assert_all, with};
    use serde_json::json;

    #[test]
    fn numbers_are_those_of_python() {
        assert_all(&[
            ("7 / 2", "3.5"),
            ("-7 // 2", "-4"),
            ("-7 % 3", "2"),
            ("7 % -3", "-2"),
            ("7.5 % 2", "1.5"),
            ("[2][0] * 3.5", "7.0"),
            ("true + 1", "2"),
            ("[1][0] + 2.0", "3.0"),
            ("2 ** 10", "1024"),
        ]);
    }

    #[test]
    fn texts_and_lists_are_joined_and_repeated() {
        assert_all(&[
            ("'ab' * 3", "ababab"),
            ("3 * 'ab'", "ababab"),
            ("'ab' * -1", ""),
            ("[1] + [2]", "[1, 2]"),
            ("(1,) + (2,)", "(1, 2)"),
            ("[1, 2] * 2", "[1, 2, 1, 2]"),
            ("'a' ~ 1 ~ none ~ 1.0 ~ [1]", "a1None1.0[1]"),
            ("'%s is %d' % ('a', 3)", "a is 3"),
            ("'%.2f' % 3.14159", "3.14"),
        ]);
        for wrong in [
            "x['a'] + 1",
            "none + 'a'",
            "nope + 'a'",
            "[1] + (2,)",
            "x.a < 1",
            "x.get('z') < 1",
            "x.get('z') in x.a",
            "x.a in x.get('z')",
        ] {
            let message = with(&format!("{{{{ {wrong} }}}}"), &json!({"x": {"a": "b"}}));
            assert!(message.is_err(), "{wrong}: {message:?}");
        }
    }

    #[test]
    fn slices_are_those_of_python() {
        let xs = json!({"xs": [3, 1, 2, 1], "s": "Hello"});
        for (slice, expected) in [
            ("s[-3:]", "llo"),
            ("s[::-1]", "olleH"),
            ("s[10:2]", ""),
            ("xs[1:]", "[1, 2, 1]"),
            ("xs[::-2]", "[1, 1]"),
            ("xs[3:0:-2]", "[1, 1]"),
            ("xs[-99:2]", "[3, 1]"),
            ("xs[:-1][-1]", "2"),
        ] {
            assert_eq!(with(&format!("{{{{ {slice} }}}}"), &xs).as_deref(), Ok(expected), "{slice}");
        }
        assert!(with("{{ xs[::0] }}", &xs).is_err());
    }

    #[test]
    fn values_are_compared_as_python_compares_them() {
        assert_all(&[
            ("[1] == [1.0]", "True"),
            ("(1, 2) == [1, 2]", "False"),
            ("{'a': 1} == {'a': 1.0}", "True"),
            ("[1, 2] < [1, 3]", "True"),
            ("nope == none", "False"),
            ("'b' in {'b': 1}", "True"),
            ("3 not in [1, 2]", "True"),
        ]);
    }
}
