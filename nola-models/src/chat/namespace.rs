//! Values that are made of named fields: `namespace()`, whose fields can be set, and `dict()`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use minijinja::value::{Kwargs, Object, ObjectRepr, ValueKind};
use minijinja::{Error, State, Value};

use super::guard::{invalid, items};
use super::print;
use super::view::kept;

/// What `namespace()` makes: the only value whose fields can be set.
///
/// To whoever walks over values it has no parts, so that a namespace within itself is no endless value.
#[derive(Debug, Default)]
struct Namespace(Mutex<BTreeMap<String, Value>>);

impl Namespace {
    fn set(&self, name: &str, value: Value) {
        self.0.lock().expect("nobody panics with the lock").insert(name.to_owned(), value);
    }
}

impl Object for Namespace {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.lock().expect("nobody panics with the lock").get(key.as_str()?).cloned()
    }

    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<Namespace>")
    }
}

/// Whether `namespace()` made it.
pub(super) fn is_namespace(value: &Value) -> bool {
    value.downcast_object_ref::<Namespace>().is_some()
}

/// `namespace(...)`.
pub(super) fn namespace(state: &State, from: Option<Value>, fields: Kwargs) -> Result<Value, Error> {
    let namespace = Namespace::default();
    let pairs = dict(state, from, fields)?;
    for (name, value) in pairs.as_object().and_then(|map| map.try_iter_pairs()).into_iter().flatten() {
        namespace.set(name.as_str().unwrap_or_default(), value);
    }
    Ok(Value::from_object(namespace))
}

/// `dict(...)`.
pub(super) fn dict(state: &State, from: Option<Value>, fields: Kwargs) -> Result<Value, Error> {
    let mut pairs: Vec<(Value, Value)> = Vec::new();
    if let Some(from) = from {
        let wrong = || invalid(format!("a mapping or pairs are wanted, not {}", print::type_name(&from)));
        match from.kind() {
            ValueKind::Map => {
                pairs.extend(from.as_object().and_then(|map| map.try_iter_pairs()).ok_or_else(wrong)?)
            }
            ValueKind::Seq | ValueKind::Iterable => {
                for both in items(state, &from)? {
                    let both: [Value; 2] = items(state, &both)?.try_into().map_err(|_| wrong())?;
                    pairs.push(both.into());
                }
            }
            _ => return Err(wrong()),
        }
    }
    for name in fields.args() {
        pairs.push((Value::from(name), kept(state, fields.peek(name)?)?));
    }
    fields
        .assert_all_used()
        .or_else(|_| fields.args().try_for_each(|name| fields.get::<Value>(name).map(drop)))?;
    kept(state, Value::from_pairs(pairs))
}

/// `{% set target.name = value %}`.
pub(super) fn set_attribute(state: &State, value: Value, target: &Value, name: &str) -> Result<(), Error> {
    let namespace = target.downcast_object_ref::<Namespace>();
    let wrong =
        || invalid(format!("only fields of a namespace are set, not of {}", print::type_name(target)));
    namespace.ok_or_else(wrong)?.set(name, kept(state, value)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::environment::tests::rendered;

    #[test]
    fn only_fields_of_a_namespace_are_set() {
        let counted =
            "{% set n = namespace(c=0) %}{% for x in 'abc' %}{% set n.c = n.c + 1 %}{% endfor %}{{ n.c }}";
        assert_eq!(rendered(counted).unwrap(), "3");
        assert_eq!(
            rendered("{% set n = namespace({'a': 1}, b=2) %}{{ n.a + n.b }}{{ n is mapping }}").unwrap(),
            "3False"
        );
        assert!(rendered("{% set d = {} %}{% set d.x = 1 %}").is_err());
    }

    #[test]
    fn a_namespace_within_itself_ends() {
        let within = "{% set n = namespace() %}{% set n.x = n %}{{ n }}{{ [n] }}{{ n == n }}{{ n ~ '' }}{{ {n: 1}[n] }}";
        assert!(rendered(within).is_ok());
    }
}
