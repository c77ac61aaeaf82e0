//! Filters and tests of Jinja2: the engine's where they agree with it, measured before and after; ours where they do not.

mod text;

use minijinja::formatting::FormatStyle;
use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};

use super::filled::formatted;
use super::guard::{count, invalid, pay, pay_bytes, pay_parts};
use super::json::tojson;
use super::methods::options;
use super::namespace::is_namespace;
use super::operators::COMPARISONS;
use super::view::kept;
use super::{methods, print, view};

/// Makes filters and tests known.
pub(super) fn add_to(environment: &mut Environment) {
    for (name, filter) in engine_filters() {
        environment.add_filter(name, move |state: &mut State, arguments: Rest<ValueOrKwargs>| {
            measured(state, &filter, arguments.into_values())
        });
    }
    for (name, filter) in engine_generators() {
        environment.add_filter(name, move |state: &mut State, arguments: Rest<ValueOrKwargs>| {
            let result = measured(state, &filter, arguments.into_values())?;
            view::generated(state, result)
        });
    }
    for (name, filter) in engine_counts() {
        environment.add_filter(name, move |state: &mut State, arguments: Rest<ValueOrKwargs>| {
            let arguments = arguments.into_values();
            for number in arguments.iter().skip(1).filter_map(Value::as_i64) {
                count(number)?;
            }
            let result = measured(state, &filter, arguments)?;
            view::generated(state, result)
        });
    }
    text::add_to(environment);
    environment.add_filter(UNKNOWN, unknown);
    for (name, filter) in engine_splits() {
        environment.add_filter(name, move |state: &mut State, arguments: Rest<ValueOrKwargs>| {
            let arguments = arguments.into_values();
            pay_parts(state, arguments.first().and_then(Value::as_str).map_or(0, str::len))?;
            measured(state, &filter, arguments)
        });
    }
    environment.add_filter("format", |state: &State, text: &Value, values: Rest<ValueOrKwargs>| {
        formatted(state, FormatStyle::Printf, &print::text(state, text)?, &values.into_values())
    });
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", |state: &State, value: &Value| print::text(state, value));
    environment.add_filter("indent", indent);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("replace", replace);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("center", center);
    environment.add_filter("wordcount", |state: &State, value: &Value| {
        Ok::<_, Error>(
            print::text(state, value)?
                .split(|char: char| !char.is_alphanumeric() && char != '_')
                .filter(|word| !word.is_empty())
                .count(),
        )
    });
    // Only a loop calls it: Python iterates over no value that is none.
    environment.add_filter(ITERATED, |state: &State, value: Value| match value.kind() {
        ValueKind::None => Err(invalid("None is no list to loop over")),
        _ => view::listed(state, value),
    });
    environment.remove_filter("pprint");
    environment.remove_global("debug");
    add_tests(environment);
}

/// What a loop calls with what it loops over.
pub(super) const ITERATED: &str = "iter()";
/// What stands for a filter that is not known.
pub(super) const UNKNOWN: &str = "unknown()";

/// The filters of Jinja2 that there are.
const KNOWN: [&str; 50] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
    "xmlattr",
];
/// Filters that Jinja2 does not have, but the engine.
const OF_ENGINE: [&str; 5] = ["bool", "chain", "lines", "split", "zip"];

/// Whether there is a filter of this name; names of the operators that stand for instructions are no words.
pub(super) fn is_known(name: &str) -> bool {
    KNOWN.contains(&name)
        || OF_ENGINE.contains(&name)
        || !name.starts_with(|char: char| char.is_alphabetic() || char == '_')
}

fn measured(state: &mut State, filter: &Value, arguments: Vec<Value>) -> Result<Value, Error> {
    arguments.iter().try_for_each(|argument| pay(state, argument))?;
    let result = filter.call(state, &arguments)?;
    kept(state, result)
}

/// Filters of the engine that give what Jinja2's give.
fn engine_filters() -> Vec<(&'static str, Value)> {
    vec![
        ("upper", Value::from_function(filters::upper)),
        ("lower", Value::from_function(filters::lower)),
        ("title", Value::from_function(filters::title)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("length", Value::from_function(filters::length)),
        ("count", Value::from_function(filters::length)),
        ("dictsort", Value::from_function(filters::dictsort)),
        ("trim", Value::from_function(filters::trim)),
        ("join", Value::from_function(filters::join)),
        ("abs", Value::from_function(filters::abs)),
        ("attr", Value::from_function(filters::attr)),
        ("first", Value::from_function(filters::first)),
        ("last", Value::from_function(filters::last)),
        ("min", Value::from_function(filters::min)),
        ("max", Value::from_function(filters::max)),
        ("sort", Value::from_function(filters::sort)),
        ("list", Value::from_function(filters::list)),
        ("sum", Value::from_function(filters::sum)),
        ("groupby", Value::from_function(filters::groupby)),
        ("chain", Value::from_function(filters::chain)),
        ("zip", Value::from_function(filters::zip)),
    ]
}

/// Those that Python gives out bit by bit.
fn engine_generators() -> Vec<(&'static str, Value)> {
    vec![
        ("items", Value::from_function(filters::items)),
        ("map", Value::from_function(filters::map)),
        ("reject", Value::from_function(filters::reject)),
        ("rejectattr", Value::from_function(filters::rejectattr)),
        ("reverse", Value::from_function(filters::reverse)),
        ("select", Value::from_function(filters::select)),
        ("selectattr", Value::from_function(filters::selectattr)),
        ("unique", Value::from_function(filters::unique)),
    ]
}

/// Refuses a filter that is not known, and says which are.
fn unknown(given: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let given = given.into_values();
    let (name, known) = (given.last().and_then(Value::as_str).unwrap_or_default(), KNOWN.join(", "));
    Err(Error::new(ErrorKind::UnknownFilter, format!("there is no filter `{name}` here; there are: {known}")))
}

/// Filters of the engine that make a list of the parts of a text, in one go.
fn engine_splits() -> Vec<(&'static str, Value)> {
    vec![("split", Value::from_function(filters::split)), ("lines", Value::from_function(filters::lines))]
}

/// Filters of the engine whose numbers say how much is made.
fn engine_counts() -> Vec<(&'static str, Value)> {
    vec![
        ("batch", Value::from_function(filters::batch)),
        ("slice", Value::from_function(filters::slice)),
        ("round", Value::from_function(filters::round)),
    ]
}

/// The value, or another where it is not defined, or where it is nothing.
fn default(value: &Value, given: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let [other, boolean] = methods::arguments(&given.into_values(), ["default_value", "boolean"])?;
    let is_nothing = boolean.is_some_and(|boolean| boolean.is_true()) && !value.is_true();
    if value.is_undefined() || is_nothing { Ok(other.unwrap_or(Value::from(""))) } else { Ok(value.clone()) }
}

/// Lines with space before each but the first, or a text instead of the space.
fn indent(state: &State, value: &Value, given: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let [width, first, blank] = options(&given.into_values(), ["width", "first", "blank"])?;
    let width = width.unwrap_or(Value::from(4));
    let [is_first, is_blank] = [first, blank].map(|option| option.is_some_and(|option| option.is_true()));
    let step = match width.as_str() {
        Some(step) => step.to_owned(),
        None => {
            " ".repeat(count(width.as_i64().ok_or_else(|| invalid("`indent` takes a number or a text"))?)?)
        }
    };
    let text = print::text(state, value)?;
    pay_bytes(state, (text.matches('\n').count() as u64 + 1).saturating_mul(step.len() as u64))?;
    // Jinja2 splits a text that ends in a line end into one line more.
    let lines: Vec<&str> = text.split('\n').collect();
    let mut indented = String::new();
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            indented.push('\n');
        }
        let is_wanted = if index == 0 { is_first } else { is_blank || !line.is_empty() };
        indented.push_str(if is_wanted { &step } else { "" });
        indented.push_str(line);
    }
    Ok(indented)
}

/// A text with parts of it replaced, wherever they are or the first `count` times.
fn replace(state: &State, value: &Value, given: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let [old, new, times] = options(&given.into_values(), ["old", "new", "count"])?;
    let [old, new] = [old, new].map(|text| print::text(state, &text.unwrap_or_default()));
    let arguments = [Value::from(old?), Value::from(new?), times.unwrap_or(Value::from(-1))];
    methods::of_text(state, &print::text(state, value)?, "replace", &arguments)
}

/// A whole number, or `default` where the value is none.
fn int(state: &State, value: &Value, given: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let [default, base] = options(&given.into_values(), ["default", "base"])?;
    let base = base.and_then(|base| base.as_i64()).unwrap_or(10);
    let found = match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => return Ok(value.clone()),
        ValueKind::Number => {
            f64::try_from(value.clone()).ok().filter(|float| float.is_finite()).map(|float| float as i128)
        }
        ValueKind::String => {
            let text = print::text(state, value)?.trim().replace('_', "");
            whole(&text, base)
                .or_else(|| text.parse::<f64>().ok().filter(|it| it.is_finite()).map(|it| it as i128))
        }
        _ => None,
    };
    Ok(found.map(print::int).or(default).unwrap_or(Value::from(0)))
}

/// A whole number to a base, which a text of another base names in front.
fn whole(text: &str, base: i64) -> Option<i128> {
    let (sign, digits) =
        text.strip_prefix('-').map_or((1, text.strip_prefix('+').unwrap_or(text)), |rest| (-1, rest));
    let prefix = match base {
        16 => ["0x", "0X"],
        8 => ["0o", "0O"],
        2 => ["0b", "0B"],
        _ => ["", ""],
    };
    let digits = prefix.iter().find_map(|prefix| digits.strip_prefix(prefix)).unwrap_or(digits);
    let base = u32::try_from(base).ok().filter(|base| (2..=36).contains(base))?;
    let is_number = digits.starts_with(|char: char| char.is_ascii_alphanumeric());
    is_number.then(|| i128::from_str_radix(digits, base).ok())?.map(|number| sign * number)
}

/// A number, or `default` where the value is none.
fn float(state: &State, value: &Value, given: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let [default] = options(&given.into_values(), ["default"])?;
    let found = match value.kind() {
        ValueKind::Bool => Some(if value.is_true() { 1.0 } else { 0.0 }),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        ValueKind::String => print::text(state, value)?.trim().replace('_', "").parse().ok(),
        _ => None,
    };
    Ok(found.map(Value::from).or(default).unwrap_or(Value::from(0.0)))
}

fn center(state: &State, value: &Value, width: Option<i64>) -> Result<Value, Error> {
    methods::of_text(state, &print::text(state, value)?, "center", &[Value::from(width.unwrap_or(80))])
}

fn add_tests(environment: &mut Environment) {
    let names = [
        ("==", ["eq", "equalto", "=="]),
        ("!=", ["ne", "ne", "!="]),
        ("<", ["lt", "lessthan", "<"]),
        ("<=", ["le", "le", "<="]),
        (">", ["gt", "greaterthan", ">"]),
        (">=", ["ge", "ge", ">="]),
        ("in", ["in", "in", "in"]),
    ];
    for (operator, names) in names {
        let Some(operator) = COMPARISONS.iter().find(|known| known.name == operator) else { continue };
        for name in names {
            environment.add_test(name, |state: &State, a: &Value, b: &Value| (operator.holds)(state, a, b));
        }
    }
    let has_parts = |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Iterable | ValueKind::Map
        )
    };
    environment.add_test("sequence", move |value: &Value| has_parts(value) && !view::is_view(value));
    environment.add_test("iterable", has_parts);
    environment.add_test("callable", |value: &Value| match value.kind() {
        ValueKind::Plain => !is_namespace(value),
        kind => kind == ValueKind::Undefined,
    });
    environment.add_test("lower", |state: &State, value: &Value| has_case(state, value, char::is_uppercase));
    environment.add_test("upper", |state: &State, value: &Value| has_case(state, value, char::is_lowercase));
}

/// Whether the text of a value has letters of one case and none of the `other`.
fn has_case(state: &State, value: &Value, other: fn(char) -> bool) -> Result<bool, Error> {
    let text = print::text(state, value)?;
    let is_cased = |char: char| char.is_lowercase() || char.is_uppercase();
    Ok(text.contains(is_cased) && !text.contains(other))
}

#[cfg(test)]
mod tests {
    use super::super::environment::tests::{assert_all, rendered, with};
    use serde_json::json;

    #[test]
    fn tests_hold_as_in_jinja() {
        assert_all(&[
            ("'abc' is sequence", "True"),
            ("{} is sequence", "True"),
            ("[] is sequence", "True"),
            ("1 is sequence", "False"),
            ("none is sequence", "False"),
            ("'abc' is iterable", "True"),
            ("none is iterable", "False"),
            ("5 is iterable", "False"),
            ("'abc' is mapping", "False"),
            ("{} is mapping", "True"),
            ("true is integer", "False"),
            ("true is number", "True"),
            ("3 is in [3]", "True"),
            ("raise_exception is callable", "True"),
            ("nope is callable", "True"),
            ("namespace() is callable", "False"),
            ("namespace is callable", "True"),
            ("(1, 2) is sequence", "True"),
            ("(1, 2) is iterable", "True"),
            ("(1, 2) is mapping", "False"),
            ("'ab' is lower", "True"),
            ("'Ab' is lower", "False"),
            ("'1' is lower", "False"),
            ("none is upper", "False"),
            ("{'a': 1} is lower", "True"),
        ]);
    }

    #[test]
    fn filters_give_what_those_of_jinja_give() {
        assert_all(&[
            ("none|default('x') ~ none|default('x', true) ~ nope|d(1)", "Nonex1"),
            ("''|default('y', boolean=true) ~ (nope|default(none) is none)", "yTrue"),
            (
                "[3.9|int, '12'|int, 'x'|int(5), '3.9'|int, '0x1f'|int(base=16), none|int]",
                "[3, 12, 5, 3, 31, 0]",
            ),
            ("['1.5'|float, 'x'|float, 3|float]", "[1.5, 0.0, 3.0]"),
            ("'aaa'|replace('a', 'b', 2)", "bba"),
            ("1.5|replace('.', ',')", "1,5"),
            ("'ab'|center(4) ~ '|' ~ 'a b c'|wordcount", " ab |3"),
            ("[3, 1, 2]|sort(reverse=true)", "[3, 2, 1]"),
            ("[1, 2, 3]|batch(2)|list", "[[1, 2], [3]]"),
            ("{'b': 1, 'a': 2}|dictsort(by='value')", "[('b', 1), ('a', 2)]"),
            ("[1.5, 2]|join(';')", "1.5;2"),
            ("'%s and %04d'|format('a', 7)", "a and 0007"),
            ("'%(a)s'|format(a='b')", "b"),
            ("'%3d|%.2f'|format(1, 2.5)", "  1|2.50"),
            ("'a b'|split|length ~ 'a,b'|split(',')|last", "2b"),
        ]);
    }

    #[test]
    fn every_filter_that_is_named_is_there_and_others_are_refused_with_the_list() {
        for name in super::KNOWN.iter().chain(&super::OF_ENGINE) {
            assert_eq!(rendered(&format!("{{{{ '{name}' is filter }}}}")).as_deref(), Ok("True"), "{name}");
        }
        for name in ["nope", "urlize", "wordwrap", "random", "pprint"] {
            for call in [name.to_owned(), format!("{name}(1, x=2)")] {
                let message = rendered(&format!("{{{{ 'a'|{call} }}}}")).unwrap_err();
                assert!(
                    message.contains(&format!("no filter `{name}`")) && message.contains("upper"),
                    "{message}"
                );
            }
        }
        assert_eq!(rendered("{% if false %}{{ 'a'|nope }}{% endif %}ok").as_deref(), Ok("ok"));
    }

    #[test]
    fn messages_are_filtered_by_their_fields() {
        let messages =
            json!({"m": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]});
        for (expression, expected) in [
            ("m|selectattr('role', 'equalto', 'user')|list|length", "1"),
            ("m|rejectattr('role', 'eq', 'user')|map(attribute='content')|join", "b"),
            ("m|map(attribute='nope', default='z')|list", "['z', 'z']"),
            ("m|selectattr('tool_calls', 'defined')|list", "[]"),
            ("m|join('|', attribute='role')", "user|assistant"),
        ] {
            assert_eq!(
                with(&format!("{{{{ {expression} }}}}"), &messages).as_deref(),
                Ok(expected),
                "{expression}"
            );
        }
    }

    #[test]
    fn lines_are_indented_as_in_jinja() {
        let text = json!({"t": "a\nb\n\nc\n"});
        for (options, expected) in [
            ("", "a\n    b\n\n    c\n"),
            ("2, true", "  a\n  b\n\n  c\n"),
            ("2, blank=true", "a\n  b\n  \n  c\n  "),
            ("'> '", "a\n> b\n\n> c\n"),
        ] {
            assert_eq!(
                with(&format!("{{{{ t|indent({options}) }}}}"), &text).as_deref(),
                Ok(expected),
                "{options}"
            );
        }
    }

    #[test]
    fn what_is_none_is_not_looped_over() {
        assert!(with("{% for x in t %}{% endfor %}", &json!({"t": null})).unwrap_err().contains("None"));
        assert_eq!(rendered("{% for x in nope %}{% endfor %}ok").unwrap(), "ok");
    }
}
