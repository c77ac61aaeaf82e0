//! What Python walks over, but takes for no sequence: views of a mapping, and what filters give out bit by bit.

use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, State, Value};

use super::guard::{IsTuple, items, list, pay};

/// What a value is walked over for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `keys()` of a mapping.
    Keys,
    /// `values()` of a mapping.
    Values,
    /// `items()` of a mapping.
    Items,
    /// What a filter such as `map` gives.
    Generator,
}

/// Parts that can be walked over and nothing else.
#[derive(Debug)]
struct View {
    parts: Vec<Value>,
    kind: Kind,
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match self.kind {
            Kind::Keys | Kind::Values | Kind::Items => Enumerator::Values(self.parts.clone()),
            // Nobody knows how many come.
            Kind::Generator => Enumerator::Iter(Box::new(self.parts.clone().into_iter().filter(|_| true))),
        }
    }

    /// The engine would count up to an index; Python has none here.
    fn get_value(self: &Arc<Self>, _key: &Value) -> Option<Value> {
        Some(Value::UNDEFINED)
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.kind == Kind::Generator || !self.parts.is_empty()
    }
}

/// The parts as Python gives them out.
pub(super) fn view(parts: Vec<Value>, kind: Kind) -> Value {
    Value::from_object(View { parts, kind })
}

/// A list that a filter made as what the filter gives in Python; any other value as it is.
pub(super) fn generated(state: &State, value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => Ok(view(items(state, &value)?, Kind::Generator)),
        _ => Ok(value),
    }
}

/// Whether a value is no sequence though it has parts.
pub(super) fn is_view(value: &Value) -> bool {
    value.downcast_object_ref::<View>().is_some()
}

/// A list of the parts of a view; any other value as it is.
pub(super) fn listed(state: &State, value: Value) -> Result<Value, Error> {
    match value.downcast_object_ref::<View>() {
        Some(view) => list(state, view.parts.clone(), IsTuple::No),
        None => Ok(value),
    }
}

/// A value as it may be kept: what is only iterated over becomes a list.
///
/// # Errors
/// As [`pay`].
pub(super) fn kept(state: &State, value: Value) -> Result<Value, Error> {
    let value = match value.kind() {
        ValueKind::Iterable if !value.is_tuple() && !is_view(&value) => Value::from(items(state, &value)?),
        _ => value,
    };
    pay(state, &value)?;
    Ok(value)
}

/// `repr` of a view, if the value is one; `parts` writes a list.
pub(super) fn write(
    out: &mut String,
    value: &Value,
    parts: impl FnOnce(&mut String, Value) -> Result<(), Error>,
) -> Option<Result<(), Error>> {
    let View { parts: inside, kind } = value.downcast_object_ref::<View>()?;
    let name = match kind {
        Kind::Keys => "dict_keys",
        Kind::Values => "dict_values",
        Kind::Items => "dict_items",
        Kind::Generator => {
            out.push_str("<generator object>");
            return Some(Ok(()));
        }
    };
    out.push_str(name);
    out.push('(');
    let written = parts(out, Value::from(inside.clone()));
    out.push(')');
    Some(written)
}

#[cfg(test)]
mod tests {
    use super::super::environment::tests::{assert_all, with};
    use serde_json::json;

    #[test]
    fn a_view_is_walked_over_but_no_sequence() {
        let variables = json!({"d": {"a": 1}, "m": [{"role": "user"}], "e": {}});
        for view in [
            "d.keys()",
            "d.values()",
            "d.items()",
            "d|items",
            "m|map(attribute='role')",
            "m|selectattr('role')",
            "m|reject('none')",
            "m|reverse",
            "m|batch(2)",
            "m|slice(2)",
            "m|unique",
        ] {
            for (test, expected) in
                [("sequence", "False"), ("iterable", "True"), ("mapping", "False"), ("string", "False")]
            {
                let text = with(&format!("{{{{ ({view}) is {test} }}}}"), &variables);
                assert_eq!(text.as_deref(), Ok(expected), "{view} is {test}");
            }
            let text = with(&format!("{{{{ ({view})|list is sequence }}}}"), &variables);
            assert_eq!(text.as_deref(), Ok("True"), "{view}|list");
            let text =
                with(&format!("{{% for x in {view} %}}{{{{ loop.length }}}}{{% endfor %}}"), &variables);
            assert_eq!(text.as_deref().map(|text| text.starts_with(['1', '2'])), Ok(true), "{view}");
        }
        assert_all(&[
            ("(1, 2) is sequence", "True"),
            ("range(3) is sequence", "True"),
            ("'a' is sequence", "True"),
        ]);
    }

    #[test]
    fn what_a_filter_gives_out_is_true_even_where_nothing_comes() {
        let variables = json!({"e": {}, "m": []});
        for (value, expected) in
            [("e.keys()", "no"), ("m|map('upper')", "yes"), ("m|select", "yes"), ("m|sort", "no")]
        {
            let text = with(&format!("{{{{ 'yes' if {value} else 'no' }}}}"), &variables);
            assert_eq!(text.as_deref(), Ok(expected), "{value}");
        }
    }

    #[test]
    fn a_view_is_written_as_in_python_and_has_no_index() {
        assert_all(&[
            ("{'a': 1}.keys()", "dict_keys(['a'])"),
            ("{'a': 1}.items()", "dict_items([('a', 1)])"),
            ("{'a': 1}.values()[0]", ""),
            ("{'a': 1}.keys()|length", "1"),
            ("'a' in {'a': 1}.keys()", "True"),
        ]);
    }
}
