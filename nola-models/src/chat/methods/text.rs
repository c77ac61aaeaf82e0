//! Methods of `str`.

use minijinja::formatting::FormatStyle;
use minijinja::value::{Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::options;
use crate::chat::filled::formatted;
use crate::chat::guard::{count, invalid, items, pay_bytes, pay_parts};
use crate::chat::print;

/// All methods there are.
pub(super) const NAMES: [&str; 43] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "islower",
    "isnumeric",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
    "encode",
    "translate",
];

/// Calls a method of a text.
pub(in crate::chat) fn call(
    state: &State,
    text: &str,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    if let Some(value) = without_arguments(text, name) {
        return from_args::<()>(arguments).map(|()| value);
    }
    match name {
        "strip" | "lstrip" | "rstrip" => strip(text, name, arguments),
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(arguments)?;
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(arguments)?;
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        "split" | "rsplit" => split(state, text, name, arguments),
        "splitlines" => splitlines(state, text, arguments),
        "partition" | "rpartition" => partition(text, name, arguments),
        "startswith" | "endswith" => starts(state, text, name, arguments),
        "find" | "rfind" | "index" | "rindex" | "count" => find(text, name, arguments),
        "replace" => replace(state, text, arguments),
        "join" => join(state, text, arguments),
        "ljust" | "rjust" | "center" => justify(text, name, arguments),
        "zfill" => zfill(text, arguments),
        "expandtabs" => expandtabs(state, text, arguments),
        "format" => formatted(state, FormatStyle::StrFormat, text, arguments),
        _ => Err(Error::new(ErrorKind::UnknownMethod, format!("text has no method named {name}"))),
    }
}

/// The methods that take nothing else.
fn without_arguments(text: &str, name: &str) -> Option<Value> {
    let all = |test: fn(char) -> bool| Value::from(!text.is_empty() && text.chars().all(test));
    Some(match name {
        "upper" => text.to_uppercase().into(),
        "lower" => text.to_lowercase().into(),
        "casefold" => text.to_lowercase().replace('ß', "ss").into(),
        "swapcase" => text.chars().map(swapped).collect::<String>().into(),
        "capitalize" => capitalized(text).into(),
        "title" => titled(text).into(),
        "islower" => (text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)).into(),
        "isupper" => (text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)).into(),
        "istitle" => (text.chars().any(char::is_alphabetic) && titled(text) == text).into(),
        "isspace" => all(is_space),
        "isdigit" => all(|char| char.is_ascii_digit() || is_decimal(char) || "²³¹".contains(char)),
        "isdecimal" => all(is_decimal),
        "isnumeric" => all(char::is_numeric),
        "isalnum" => all(char::is_alphanumeric),
        "isalpha" => all(char::is_alphabetic),
        "isascii" => text.is_ascii().into(),
        _ => return None,
    })
}

fn is_decimal(char: char) -> bool {
    char.is_ascii_digit()
        || (!char.is_ascii() && char.is_numeric() && !char.is_alphabetic() && !"²³¹¼½¾".contains(char))
}

/// What Python takes for white space.
pub(super) fn is_space(char: char) -> bool {
    char.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&char)
}

fn swapped(char: char) -> String {
    if char.is_uppercase() { char.to_lowercase().collect() } else { char.to_uppercase().collect() }
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
    first + &chars.as_str().to_lowercase()
}

/// Each word with a large first letter; a word is what letters there are in a row.
fn titled(text: &str) -> String {
    let mut is_inside = false;
    let letter = |char: char| -> String {
        let was_inside = std::mem::replace(&mut is_inside, char.is_alphabetic());
        if was_inside { char.to_lowercase().collect() } else { char.to_uppercase().collect() }
    };
    text.chars().map(letter).collect()
}

fn strip(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (chars,): (Option<&str>,) = from_args(arguments)?;
    let goes = |char: char| chars.map_or_else(|| is_space(char), |chars| chars.contains(char));
    let text = if name == "rstrip" { text } else { text.trim_start_matches(goes) };
    Ok(if name == "lstrip" { text } else { text.trim_end_matches(goes) }.into())
}

fn split(state: &State, text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let [separator, most] = options(arguments, ["sep", "maxsplit"])?;
    let most =
        most.map_or(Some(-1), |most| most.as_i64()).ok_or_else(|| invalid("maxsplit is a whole number"))?;
    let most = usize::try_from(most).unwrap_or(usize::MAX - 1);
    let is_right = name == "rsplit";
    let Some(separator) = separator else {
        pay_parts(state, text.split(is_space).count().min(most + 1))?;
        return Ok(texts(words(text, most, is_right)));
    };
    let separator = separator.as_str().filter(|separator| !separator.is_empty());
    let separator =
        separator.ok_or_else(|| invalid(format!("`{name}` splits at a text that is not empty")))?;
    pay_parts(state, text.split(separator).count().min(most + 1))?;
    let parts: Vec<&str> = if is_right {
        let mut parts: Vec<&str> = text.rsplitn(most + 1, separator).collect();
        parts.reverse();
        parts
    } else {
        text.splitn(most + 1, separator).collect()
    };
    Ok(texts(parts))
}

fn texts(parts: Vec<&str>) -> Value {
    parts.into_iter().map(Value::from).collect()
}

/// The words between white space, at most `most` splits; what is not split any more keeps the space at its far end.
fn words(text: &str, most: usize, is_right: bool) -> Vec<&str> {
    let (mut words, mut rest) = (Vec::new(), text);
    loop {
        rest = if is_right { rest.trim_end_matches(is_space) } else { rest.trim_start_matches(is_space) };
        if rest.is_empty() {
            break;
        }
        let cut = if is_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(cut) = cut.filter(|_| words.len() < most) else {
            words.push(rest);
            break;
        };
        let space = rest[cut..].chars().next().map_or(0, char::len_utf8);
        let (left, right) = (&rest[..cut], &rest[cut + space..]);
        let (word, others) = if is_right { (right, left) } else { (left, right) };
        words.push(word);
        rest = others;
    }
    if is_right {
        words.reverse();
    }
    words
}

fn splitlines(state: &State, text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let [keeps] = options(arguments, ["keepends"])?;
    let keeps = keeps.is_some_and(|keeps| keeps.is_true());
    let is_end = |char: char| "\n\r\u{b}\u{c}\u{1c}\u{1d}\u{1e}\u{85}\u{2028}\u{2029}".contains(char);
    pay_parts(state, text.split(is_end).count())?;
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find(is_end) {
        let end = if rest[at..].starts_with("\r\n") {
            2
        } else {
            rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(if keeps { &rest[..at + end] } else { &rest[..at] });
        rest = &rest[at + end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    Ok(texts(lines))
}

fn partition(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(arguments)?;
    if separator.is_empty() {
        return Err(invalid(format!("`{name}` splits at a text that is not empty")));
    }
    let (found, missing) = match name {
        "partition" => (text.split_once(separator), [text, "", ""]),
        _ => (text.rsplit_once(separator), ["", "", text]),
    };
    let parts = found.map_or(missing, |(left, right)| [left, separator, right]);
    Ok(Value::from(Tuple::from(parts.map(Value::from).to_vec())))
}

/// The part of a text between two bounds, counted in characters as slices are, and its first character.
fn part(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(&str, usize)> {
    let length = text.chars().count() as i64;
    let bound = |at: i64| if at < 0 { (at + length).max(0) } else { at.min(length) };
    if start.is_some_and(|start| start > length) {
        return None;
    }
    let (start, end) = (start.map_or(0, bound) as usize, end.map_or(length, bound) as usize);
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    (start <= end).then(|| (&text[byte(start)..byte(end)], start))
}

fn starts(state: &State, text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (wanted, start, end): (&Value, Option<i64>, Option<i64>) = from_args(arguments)?;
    let Some((text, _)) = part(text, start, end) else { return Ok(false.into()) };
    let wanted = if wanted.is_tuple() { items(state, wanted)? } else { vec![wanted.clone()] };
    for wanted in &wanted {
        let wrong = || {
            invalid(format!("`{name}` takes a text or a tuple of texts, not {}", print::type_name(wanted)))
        };
        let wanted = wanted.as_str().filter(|_| wanted.kind() == ValueKind::String).ok_or_else(wrong)?;
        if if name == "startswith" { text.starts_with(wanted) } else { text.ends_with(wanted) } {
            return Ok(true.into());
        }
    }
    Ok(false.into())
}

fn find(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (wanted, start, end): (&str, Option<i64>, Option<i64>) = from_args(arguments)?;
    let found = part(text, start, end);
    if name == "count" {
        let count = |(part, _): (&str, usize)| match wanted {
            "" => part.chars().count() + 1,
            wanted => part.matches(wanted).count(),
        };
        return Ok(Value::from(found.map_or(0, count)));
    }
    let place = found.and_then(|(part, first)| {
        let byte = if name.starts_with('r') { part.rfind(wanted) } else { part.find(wanted) };
        byte.map(|byte| first + part[..byte].chars().count())
    });
    match place {
        Some(place) => Ok(Value::from(place)),
        None if name.ends_with("index") => {
            Err(invalid(format!("`{name}`: the text does not have that part")))
        }
        None => Ok(Value::from(-1)),
    }
}

fn replace(state: &State, text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let [old, new, times] = options(arguments, ["old", "new", "count"])?;
    let wrong = || invalid("`replace` takes two texts");
    let [old, new] = [&old, &new].map(|text| text.as_ref().and_then(Value::as_str));
    let (old, new) = (old.ok_or_else(wrong)?, new.ok_or_else(wrong)?);
    let times = times.and_then(|times| times.as_i64()).unwrap_or(-1);
    let times = usize::try_from(times).unwrap_or(usize::MAX);
    let found = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    let grown = new.len().saturating_sub(old.len()) as u64;
    pay_bytes(state, grown.saturating_mul(found.min(times) as u64))?;
    Ok(text.replacen(old, new, times).into())
}

fn join(state: &State, text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (parts,): (&Value,) = from_args(arguments)?;
    let mut joined = String::new();
    for (index, part) in items(state, parts)?.iter().enumerate() {
        let wrong = || invalid(format!("`join` takes texts, not {}", print::type_name(part)));
        let part = part.as_str().ok_or_else(wrong)?;
        pay_bytes(state, (text.len() + part.len()) as u64)?;
        joined.push_str(if index > 0 { text } else { "" });
        joined.push_str(part);
    }
    pay_bytes(state, joined.len() as u64)?;
    Ok(joined.into())
}

fn justify(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (width, fill): (i64, Option<&str>) = from_args(arguments)?;
    let fill = fill.unwrap_or(" ");
    if fill.chars().count() != 1 {
        return Err(invalid(format!("`{name}` fills with one character")));
    }
    let width = count(width)?;
    let missing = width.saturating_sub(text.chars().count());
    let left = match name {
        "ljust" => 0,
        "rjust" => missing,
        // An odd space goes where Python puts it.
        _ => missing / 2 + (missing & width & 1),
    };
    Ok(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left)).into())
}

fn zfill(text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (width,): (i64,) = from_args(arguments)?;
    let zeros = "0".repeat(count(width)?.saturating_sub(text.chars().count()));
    let sign = if text.starts_with(['+', '-']) { 1 } else { 0 };
    Ok(format!("{}{zeros}{}", &text[..sign], &text[sign..]).into())
}

fn expandtabs(state: &State, text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let [size] = options(arguments, ["tabsize"])?;
    let size = size.map_or(Some(8), |size| size.as_i64());
    let size = count(size.ok_or_else(|| invalid("tabsize is a whole number"))?)?;
    pay_bytes(state, (text.matches('\t').count() as u64).saturating_mul(size as u64))?;
    let (mut expanded, mut column) = (String::new(), 0);
    for char in text.chars() {
        let spaces = if size == 0 { 0 } else { size - column % size };
        match char {
            '\t' => {
                expanded.push_str(&" ".repeat(spaces));
                column += spaces;
            }
            char => {
                expanded.push(char);
                column = if char == '\n' || char == '\r' { 0 } else { column + 1 };
            }
        }
    }
    Ok(expanded.into())
}

#[cfg(test)]
mod tests {
    use crate::chat::environment::tests::{assert_all, rendered};

    #[test]
    fn parts_are_taken_off_as_python_takes_them() {
        assert_all(&[
            ("'xlamp'.removeprefix('x')", "lamp"),
            ("'lamp'.removeprefix('x')", "lamp"),
            ("'lampx'.removesuffix('x')", "lamp"),
            ("'lamp'.removesuffix('')", "lamp"),
            ("' x '.strip() ~ '|' ~ 'xxaxx'.strip('x') ~ '|' ~ '\\n\\nx\\n'.lstrip('\\n')", "x|a|x\n"),
            ("'a,b,c'.partition(',')", "('a', ',', 'b,c')"),
            ("'a,b,c'.rpartition(',')", "('a,b', ',', 'c')"),
            ("'abc'.partition('-')", "('abc', '', '')"),
            ("'abc'.rpartition('-')", "('', '', 'abc')"),
        ]);
    }

    #[test]
    fn texts_are_split_as_python_splits_them() {
        assert_all(&[
            ("' a  b '.split()", "['a', 'b']"),
            ("' a  b '.split(' ')", "['', 'a', '', 'b', '']"),
            ("' a b  c '.split(none, 1)", "['a', 'b  c ']"),
            ("' a b  c '.rsplit(none, 1)", "[' a b', 'c']"),
            ("'a-b-c'.rsplit('-', 1)", "['a-b', 'c']"),
            ("'a-b-c'.split('-', maxsplit=1)", "['a', 'b-c']"),
            ("''.split() ~ ''.split(',')", "[]['']"),
            ("'a\\n\\nb\\r\\nc\\n'.splitlines()", "['a', '', 'b', 'c']"),
            ("'a\\nb'.splitlines(true)", "['a\\n', 'b']"),
        ]);
        assert!(rendered("{{ 'a'.split('') }}").is_err());
    }

    #[test]
    fn places_are_found_as_python_finds_them() {
        assert_all(&[
            ("'Hello'.index('l')", "2"),
            ("'Hello'.rindex('l')", "3"),
            ("'Hello'.find('z')", "-1"),
            ("'éhé'.find('é', 1)", "2"),
            ("'Hello'.count('l') ~ 'Hello'.count('')", "26"),
            ("'Hello'.startswith(('x', 'H'))", "True"),
            ("'Hello'.startswith('l', 2)", "True"),
            ("'Hello'.endswith('lo')", "True"),
        ]);
        assert!(rendered("{{ 'Hello'.index('z') }}").unwrap_err().contains("index"));
    }

    #[test]
    fn texts_are_filled_as_python_fills_them() {
        assert_all(&[
            ("'7'.zfill(3) ~ '-7'.zfill(4)", "007-007"),
            ("'ab'.ljust(4) ~ '|' ~ 'ab'.rjust(4, '.')", "ab  |..ab"),
            ("'ab'.center(5, '*') ~ 'abc'.center(6, '*')", "**ab**abc**"),
            ("'ab\\tc'.expandtabs(4)", "ab  c"),
            ("'{} {}'.format(1, 'b') ~ '{a}'.format(a=2)", "1 b2"),
            ("'a-a'.replace('a', 'b', 1)", "b-a"),
            ("', '.join(['a', 'b'])", "a, b"),
        ]);
    }

    #[test]
    fn letters_are_changed_as_python_changes_them() {
        assert_all(&[
            ("\"it's a dog\".title()", "It'S A Dog"),
            ("'aBC dEF'.capitalize()", "Abc def"),
            ("'aB'.swapcase() ~ 'ß'.upper()", "AbSS"),
            ("'12'.isdigit() ~ '1a'.isalnum() ~ ''.isspace() ~ 'Ab'.istitle()", "TrueTrueFalseTrue"),
        ]);
    }
}
