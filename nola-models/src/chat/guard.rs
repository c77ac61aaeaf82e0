//! How large and how deep a value may be: every value that a template builds is measured before it is kept or walked.
//!
//! A value that shares its parts takes little memory and has endless text, so fuel for instructions alone bounds nothing.

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// Lists within lists beyond this are refused.
pub(super) const MAX_DEPTH: usize = 200;
/// A value may have this many bytes with all its parts, counted as often as they occur.
pub(super) const MAX_BYTES: u64 = 64 << 20;
/// A repetition, a width or a number of parts may not be larger.
const MAX_COUNT: i64 = 1_000_000;
/// What a part costs besides its text.
const PART_BYTES: u64 = 32;
/// Bytes that one unit of fuel pays.
const FUEL_BYTES: u64 = 64;

/// Pays for a walk over a value.
///
/// # Errors
/// If it is too deep or too large, or if the fuel is used up.
pub(super) fn pay(state: &State, value: &Value) -> Result<(), Error> {
    if value.as_object().is_none() {
        return Ok(());
    }
    let bytes = size(state, value)?;
    pay_bytes(state, bytes)
}

/// The bytes of a value with all its parts, for which nothing is paid.
///
/// # Errors
/// If it is too deep or too large, or if the fuel would not do; what was walked is paid then.
pub(super) fn size(state: &State, value: &Value) -> Result<u64, Error> {
    let fuel = state.fuel_levels().map_or(u64::MAX, |(_, left)| left.saturating_mul(FUEL_BYTES));
    let mut walk = Walk { bytes: 0, most: MAX_BYTES.min(fuel) };
    match walk.visit(value, 0) {
        Ok(()) => Ok(walk.bytes),
        Err(error) => pay_bytes(state, walk.bytes).and(Err(error)),
    }
}

/// Pays for a list of so many parts that is about to be made.
///
/// # Errors
/// If they are too many, or if the fuel is used up.
pub(super) fn pay_parts(state: &State, parts: usize) -> Result<(), Error> {
    pay_bytes(state, (parts as u64).saturating_mul(PART_BYTES))
}

/// Pays for text that is about to be written.
///
/// # Errors
/// If it is too long, or if the fuel is used up.
pub(super) fn pay_bytes(state: &State, bytes: u64) -> Result<(), Error> {
    state.consume_fuel(bytes / FUEL_BYTES)?;
    if bytes > MAX_BYTES { Err(too_large()) } else { Ok(()) }
}

/// The items of a list, a text or the keys of a mapping.
///
/// # Errors
/// If there are none, too many of them, or if the fuel is used up.
pub(super) fn items(state: &State, value: &Value) -> Result<Vec<Value>, Error> {
    let mut items = Vec::new();
    for item in value.try_iter()?.checked() {
        if items.len() as u64 * PART_BYTES > MAX_BYTES {
            return Err(too_large());
        }
        if items.len() % 64 == 63 {
            state.consume_fuel(PART_BYTES)?;
        }
        items.push(item?);
    }
    Ok(items)
}

/// A list or tuple of parts, which are measured.
///
/// # Errors
/// As [`pay`].
pub(super) fn list(state: &State, items: Vec<Value>, is_tuple: IsTuple) -> Result<Value, Error> {
    let value = match is_tuple {
        IsTuple::Yes => Value::from(Tuple::from(items)),
        IsTuple::No => Value::from(items),
    };
    pay(state, &value)?;
    Ok(value)
}

/// Whether a list is one that Python would call a tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IsTuple {
    Yes,
    No,
}

impl IsTuple {
    pub fn of(value: &Value) -> Self {
        if value.is_tuple() { Self::Yes } else { Self::No }
    }
}

/// A number of repetitions or spaces.
///
/// # Errors
/// If it is larger than any honest one.
pub(super) fn count(wanted: i64) -> Result<usize, Error> {
    if wanted > MAX_COUNT {
        return Err(invalid(format!("{wanted} is too many; at most {MAX_COUNT} are made")));
    }
    Ok(wanted.max(0) as usize)
}

/// What a template does wrong.
pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

pub(super) fn too_large() -> Error {
    invalid(format!("a value of more than {MAX_BYTES} bytes, counted with all its parts"))
}

struct Walk {
    bytes: u64,
    most: u64,
}

impl Walk {
    fn visit(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid(format!("values within values, more than {MAX_DEPTH} deep")));
        }
        self.bytes += PART_BYTES + value.as_bytes().map_or(0, <[u8]>::len) as u64;
        if self.bytes > self.most {
            return Err(too_large());
        }
        let Some(object) = value.as_object() else { return Ok(()) };
        match value.kind() {
            ValueKind::Map => {
                for (key, value) in object.try_iter_pairs().into_iter().flatten() {
                    self.visit(&key, depth + 1)?;
                    self.visit(&value, depth + 1)?;
                }
            }
            ValueKind::Seq | ValueKind::Iterable => {
                for item in object.try_iter().into_iter().flatten() {
                    self.visit(&item, depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::environment::tests::rendered;

    /// A template that grows a value in a loop, and then does something with it.
    fn grown(times: usize, step: &str, then: &str) -> Result<String, String> {
        rendered(&format!(
            "{{% set n = namespace(x=[1], y=[1], s='ab') %}}{{% for i in range({times}) %}}{step}{{% endfor %}}{then}"
        ))
    }

    #[test]
    fn values_within_values_without_end_are_refused() {
        for step in [
            "{% set n.x = [n.x] %}",
            "{% set n.x = {'a': n.x} %}",
            "{% set n.x = (n.x, 1) %}",
            "{% set n.x = dict(a=n.x) %}",
            "{% set n.x = n.x|batch(1)|list %}",
            "{% set n.x = [n.x][:] %}",
            "{% set n.x = [n.x] * 1 %}",
        ] {
            for then in ["{{ n.x }}", "{{ n.x|tojson }}", ""] {
                let message = grown(100_000, step, then).unwrap_err();
                assert!(message.contains("deep"), "{step}: {message}");
            }
        }
    }

    #[test]
    fn a_value_that_shares_its_parts_is_walked_within_its_fuel() {
        for step in [
            "{% set n.x = [n.x, n.x] %}",
            "{% set n.x = {'a': n.x, 'b': n.x} %}",
            "{% set n.x = n.x + n.x %}",
        ] {
            for then in
                ["{{ n.x }}", "{{ n.x|tojson }}", "{{ n.x ~ '' }}", "{{ n.x|string }}", "{{ n.x|length }}"]
            {
                assert!(grown(40, step, then).is_err(), "{step} {then}");
            }
        }
        let both = "{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}";
        for then in [
            "{{ n.x == n.y }}",
            "{{ n.x < n.y }}",
            "{{ n.x in [n.y] }}",
            "{{ {n.x: 1}[n.y] }}",
            "{{ 1 == n.x == n.y }}",
        ] {
            assert!(grown(40, both, then).is_err(), "{then}");
        }
    }

    #[test]
    fn a_text_without_end_is_refused() {
        for step in [
            "{% set n.s = n.s + n.s %}",
            "{% set n.s = n.s ~ n.s %}",
            "{% set n.s = n.s * 2 %}",
            "{% set n.s = n.s.replace('a', n.s) %}",
        ] {
            assert!(grown(64, step, "{{ n.s|length }}").is_err(), "{step}");
        }
    }

    #[test]
    fn a_number_that_would_fill_the_memory_is_refused() {
        for expression in [
            "'a' * 10**9",
            "[1] * 10**9",
            "(1,) * 10**9",
            "range(10**9)|list",
            "'a\\nb'|indent(10**9)",
            "'a'.ljust(10**9)",
            "'a'.center(10**9)",
            "'a'.zfill(10**9)",
            "'a'|center(10**9)",
            "('\\t' * 1000000).expandtabs(10**6)",
            "'%1000000000d' % 1",
            "'%*d' % (1000000000, 1)",
            "'%1000000000d'|format(1)",
            "'%.1000000000f'|format(1.5)",
            "'%*d'|format(1000000000, 1)",
            "['%1000000000d']|map('format', 1)|list",
            "('%9999d' * 100000) % ((1,) * 100000)",
            "('{0:>9999}' * 100000).format('a')",
            "('{0}' * 1000).format('a' * 1000000)",
            "('%(a)s' * 1000) % {'a': 'b' * 1000000}",
            "('{0}' * 1000).format(['a' * 1000000])",
            "('%s' * 8)|format(*(('a' * 10000000,) * 8))",
            "('a,' * 20000000).split(',')",
            "('a ' * 20000000).split()",
            "('a ' * 20000000).rsplit()",
            "('\n' * 20000000).splitlines()",
            "('a' * 20000000)|list",
            "('a' * 20000000)|sort",
            "('a,' * 20000000)|split(',')|list",
            "('\n' * 20000000)|lines",
            "('a' * 20000000)|batch(1)|list",
            "strftime_now('%255Y' * 1000000)",
            "'{:>1000000000}'.format('a')",
            "[1]|batch(10**9, 0)|list",
            "[1]|slice(10**9)|list",
            "('a' * 1000000).replace('a', 'b' * 1000000)",
            "('b' * 1000000).join('a' * 1000000)",
            "(['a'] * 100000)|join('b' * 1000000)",
            "[{'a': 1}]|tojson(indent=65536)",
        ] {
            assert!(rendered(&format!("{{{{ {expression} }}}}")).is_err(), "{expression}");
        }
    }

    #[test]
    fn a_loop_without_end_is_stopped() {
        for endless in [
            "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
            "{% for a in range(90000) %}{% for b in range(90000) %}x{% endfor %}{% endfor %}",
            "{% set x = 'a' * 10000000 %}{% for i in range(90000) %}{% set y = 'b' in x %}{% endfor %}",
            "{% set x = range(90000)|list %}{% for i in range(90000) %}{% set y = 0.5 in x %}{% endfor %}",
        ] {
            assert!(rendered(endless).is_err(), "{endless}");
        }
    }

    #[test]
    fn an_honest_value_is_kept() {
        let listed = "{% set n = namespace(x=[]) %}{% for i in range(500) %}{% set n.x = n.x + [{'i': i}] %}{% endfor %}{{ n.x|length }}";
        assert_eq!(rendered(listed).unwrap(), "500");
    }
}
