//! Methods of Python's types.

mod text;

use std::sync::Arc;

use minijinja::value::{Kwargs, Object, ObjectRepr, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

pub(super) use text::call as of_text;

use super::guard::{IsTuple, invalid, items, list, pay};
use super::view::{Kind, kept, view};

const DICT: [&str; 5] = ["copy", "get", "items", "keys", "values"];
const LIST: [&str; 3] = ["copy", "count", "index"];
/// Methods that change a value, which templates of Hugging Face may not call.
const CHANGING: [&str; 12] = [
    "append",
    "clear",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "reverse",
    "setdefault",
    "sort",
    "update",
    "fromkeys",
];

/// Whether a type of Python has a method of that name.
pub(super) fn is_method(name: &str) -> bool {
    DICT.contains(&name) || LIST.contains(&name) || text::NAMES.contains(&name)
}

/// The method of a value, not called yet: it goes before a key of that name.
pub(super) fn bound(value: &Value, name: &str) -> Option<Value> {
    let names: &[&str] = match value.kind() {
        ValueKind::Map => &DICT,
        ValueKind::Seq => &LIST,
        ValueKind::String => &text::NAMES,
        _ => &[],
    };
    let name = names.iter().find(|known| **known == name)?;
    Some(Value::from_object(Bound { value: value.clone(), name }))
}

/// Calls a method that the engine does not know.
///
/// # Errors
/// If there is none of that name, or if its arguments are wrong.
pub(super) fn call(
    state: &mut State,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    pay(state, value)?;
    arguments.iter().try_for_each(|argument| pay(state, argument))?;
    let result = match value.kind() {
        ValueKind::String => text::call(state, value.as_str().unwrap_or_default(), name, arguments),
        ValueKind::Map => of_dict(value, name, arguments),
        ValueKind::Seq | ValueKind::Iterable => of_list(state, value, name, arguments),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    };
    match result {
        Ok(result) => kept(state, result),
        Err(error) if error.kind() == ErrorKind::UnknownMethod && CHANGING.contains(&name) => {
            Err(invalid(format!("`{name}` changes a value, which no chat template may do")))
        }
        Err(error) => Err(error),
    }
}

fn of_dict(value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let object = value.as_object().ok_or(ErrorKind::UnknownMethod)?;
    let pairs = || object.try_iter_pairs().into_iter().flatten();
    match name {
        "get" => {
            let (key, default): (&Value, Option<Value>) = from_args(arguments)?;
            Ok(object.get_value(key).or(default).unwrap_or(Value::from(())))
        }
        "keys" => {
            from_args::<()>(arguments).map(|()| view(pairs().map(|(key, _)| key).collect(), Kind::Keys))
        }
        "values" => {
            from_args::<()>(arguments).map(|()| view(pairs().map(|(_, value)| value).collect(), Kind::Values))
        }
        "items" => from_args::<()>(arguments).map(|()| {
            view(pairs().map(|(key, value)| Value::from(Tuple::from([key, value]))).collect(), Kind::Items)
        }),
        "copy" => from_args::<()>(arguments).map(|()| value.clone()),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn of_list(state: &State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let parts = items(state, value)?;
    match name {
        "count" => {
            let (wanted,): (&Value,) = from_args(arguments)?;
            Ok(Value::from(parts.iter().filter(|part| *part == wanted).count()))
        }
        "index" => {
            let (wanted,): (&Value,) = from_args(arguments)?;
            let found = parts.iter().position(|part| part == wanted);
            found.map(Value::from).ok_or_else(|| invalid("`index`: the list has no such value"))
        }
        "copy" => from_args::<()>(arguments).and_then(|()| list(state, parts, IsTuple::No)),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// A method with its value.
#[derive(Debug)]
struct Bound {
    value: Value,
    name: &'static str,
}

impl Object for Bound {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
        call(state, &self.value, self.name, arguments)
    }

    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<built-in method {}>", self.name)
    }
}

/// Arguments that may be given by place or by name; `None` is as not given.
///
/// # Errors
/// If there are more, or others.
pub(super) fn options<const N: usize>(
    given: &[Value],
    names: [&str; N],
) -> Result<[Option<Value>; N], Error> {
    Ok(arguments(given, names)?.map(|value| value.filter(|value| !value.is_none())))
}

/// Arguments that may be given by place or by name.
///
/// # Errors
/// If there are more, or others.
pub(super) fn arguments<const N: usize>(
    given: &[Value],
    names: [&str; N],
) -> Result<[Option<Value>; N], Error> {
    let (by_place, named) = match given.split_last() {
        Some((last, before)) if last.is_kwargs() => (before, Kwargs::try_from(last.clone())?),
        Some(_) | None => (given, Kwargs::from_iter(std::iter::empty::<(&str, Value)>())),
    };
    if by_place.len() > N {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let mut values = [const { None }; N];
    for (index, name) in names.into_iter().enumerate() {
        let value = match by_place.get(index) {
            None if named.has(name) => Some(named.get::<Value>(name)?),
            value => value.cloned(),
        };
        values[index] = value.filter(|value| !value.is_undefined());
    }
    named.assert_all_used()?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::super::environment::tests::{assert_all, rendered, with};
    use serde_json::json;

    #[test]
    fn methods_of_mappings_and_lists_are_those_of_python() {
        assert_all(&[
            ("{'a': 1}.get('a')", "1"),
            ("{'a': 1}.get('b')", "None"),
            ("{'a': 1}.get('b', 5)", "5"),
            ("{'a': 1}.items()|list", "[('a', 1)]"),
            ("{'a': 1}.keys()|list ~ {'a': 1}.values()|list", "['a'][1]"),
            ("[3, 1, 1].count(1)", "2"),
            ("[3, 1].index(1)", "1"),
            ("[3].copy()", "[3]"),
        ]);
    }

    #[test]
    fn a_method_goes_before_a_key_of_its_name() {
        let schema = json!({"p": {"items": {"type": "string"}, "keys": 1}});
        for (expression, expected) in [
            ("p.items is callable", "True"),
            ("p.items.type is defined", "False"),
            ("p['items'].type", "string"),
            ("p.items()|length", "2"),
            ("p.type is defined", "False"),
        ] {
            assert_eq!(
                with(&format!("{{{{ {expression} }}}}"), &schema).as_deref(),
                Ok(expected),
                "{expression}"
            );
        }
    }

    #[test]
    fn a_method_that_is_not_there_is_named() {
        for (call, name) in [
            ("'a'.nope()", "nope"),
            ("[].frob()", "frob"),
            ("{}.zap()", "zap"),
            ("'a'.maketrans()", "maketrans"),
        ] {
            let message = rendered(&format!("{{{{ {call} }}}}")).unwrap_err();
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn no_template_changes_a_value() {
        for call in
            ["[].append(1)", "{}.update({'a': 1})", "[1].pop()", "{}.setdefault('a', 1)", "[2, 1].sort()"]
        {
            let message = rendered(&format!("{{{{ {call} }}}}")).unwrap_err();
            assert!(message.contains("changes a value"), "{message}");
        }
    }
}
