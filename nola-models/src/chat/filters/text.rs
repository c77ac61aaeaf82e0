//! Filters of texts that the engine does not have.

use std::sync::LazyLock;

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, State, Value};
use regex::Regex;

use super::super::guard::{invalid, pay_bytes};
use super::super::methods::options;
use super::super::print;

/// A text that is shortened may be longer by so many characters.
const LEEWAY: i64 = 5;
/// Sizes by their name, each 1,000 or 1,024 times the one before.
const DECIMAL: [&str; 8] = ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
const BINARY: [&str; 8] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

/// Makes them known.
pub(super) fn add_to(environment: &mut Environment) {
    environment.add_filter("truncate", truncate);
    environment.add_filter("xmlattr", xmlattr);
    environment.add_filter("striptags", striptags);
    environment.add_filter("urlencode", urlencode);
    environment.add_filter("filesizeformat", filesizeformat);
    for name in ["e", "escape", "forceescape"] {
        environment.add_filter(name, escape);
    }
}

fn whole(option: Option<Value>, default: i64) -> Result<i64, Error> {
    let Some(option) = option else { return Ok(default) };
    option
        .as_i64()
        .ok_or_else(|| invalid(format!("a whole number is wanted, not {}", print::type_name(&option))))
}

/// The text up to a length, with an end that says that there was more.
fn truncate(state: &State, value: &Value, given: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let [length, kills_words, end, leeway] =
        options(&given.into_values(), ["length", "killwords", "end", "leeway"])?;
    let (length, leeway) = (whole(length, 255)?, whole(leeway, LEEWAY)?);
    let end = end.map_or(Ok("...".to_owned()), |end| print::text(state, &end))?;
    let end_length = end.chars().count() as i64;
    if length < end_length || leeway < 0 {
        return Err(invalid(format!(
            "`truncate` to {length}, which its end alone is longer than, or a leeway below 0"
        )));
    }
    let text = print::text(state, value)?;
    if text.chars().count() as i64 <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let kept: String = text.chars().take((length - end_length) as usize).collect();
    let kept = match kept.rsplit_once(' ') {
        Some((words, _)) if !kills_words.is_some_and(|kills| kills.is_true()) => words,
        Some(_) | None => &kept,
    };
    Ok(format!("{kept}{end}"))
}

/// A text without tags and comments, with single spaces.
fn striptags(state: &State, value: &Value) -> Result<String, Error> {
    static COMMENTS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new("(?s)<!--.*?-->").expect("a pattern of our own"));
    static TAGS: LazyLock<Regex> = LazyLock::new(|| Regex::new("(?s)<.*?>").expect("a pattern of our own"));
    let text = print::text(state, value)?;
    let text = COMMENTS.replace_all(&text, "");
    let text = TAGS.replace_all(&text, "");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let marks =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#34;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    Ok(marks.into_iter().fold(text, |text, (mark, sign)| text.replace(mark, sign)))
}

/// A text for an address, or pairs for its query.
fn urlencode(state: &State, value: &Value) -> Result<String, Error> {
    let pair = |[key, value]: [&Value; 2]| -> Result<String, Error> {
        Ok(format!("{}={}", quoted(&print::text(state, key)?, ""), quoted(&print::text(state, value)?, "")))
    };
    let pairs: Vec<String> = match value.kind() {
        ValueKind::Map => {
            let pairs = value.as_object().and_then(|map| map.try_iter_pairs()).into_iter().flatten();
            pairs.map(|(key, value)| pair([&key, &value])).collect::<Result<_, _>>()?
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let two =
                |both: Value| pair([&both.get_item(&Value::from(0))?, &both.get_item(&Value::from(1))?]);
            value.try_iter()?.map(two).collect::<Result<_, _>>()?
        }
        _ => return Ok(quoted(&print::text(state, value)?, "/")),
    };
    Ok(pairs.join("&"))
}

/// The bytes of a text as an address has them.
fn quoted(text: &str, safe: &str) -> String {
    let byte = |byte: u8| match char::from(byte) {
        char if char.is_ascii_alphanumeric() || "_.-~".contains(char) || safe.contains(char) => {
            char.to_string()
        }
        // In a query, a space is a plus.
        ' ' if safe.is_empty() => "+".to_owned(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// A number of bytes for people.
fn filesizeformat(state: &State, value: &Value, given: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let [binary] = options(&given.into_values(), ["binary"])?;
    let (base, names) =
        if binary.is_some_and(|binary| binary.is_true()) { (1024.0, BINARY) } else { (1000.0, DECIMAL) };
    let text = print::text(state, value)?;
    let bytes: f64 =
        text.trim().parse().map_err(|_| invalid(format!("`{text}` is not a number of bytes")))?;
    if bytes == 1.0 {
        return Ok("1 Byte".to_owned());
    }
    if bytes < base {
        return Ok(format!("{} Bytes", bytes.trunc()));
    }
    let unit = |power: usize| base.powi(power as i32 + 2);
    let power = (0..names.len()).find(|power| bytes < unit(*power)).unwrap_or(names.len() - 1);
    Ok(format!("{:.1} {}", base * bytes / unit(power), names[power]))
}

/// The fields of a mapping as attributes of XML, with a space before them.
fn xmlattr(state: &State, value: &Value, given: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let [spaced] = options(&given.into_values(), ["autospace"])?;
    let pairs = value.as_object().and_then(|map| map.try_iter_pairs());
    let mut fields = Vec::new();
    for (key, value) in pairs.ok_or_else(|| invalid("`xmlattr` takes a mapping"))? {
        if value.is_none() || value.is_undefined() {
            continue;
        }
        let name = print::text(state, &key)?;
        if name.contains(|char: char| char.is_whitespace() || "/>=".contains(char)) {
            return Err(invalid(format!("`{name}` cannot be the name of an attribute")));
        }
        fields.push(format!("{}=\"{}\"", escape(state, &key)?, escape(state, &value)?));
    }
    let space = if fields.is_empty() || spaced.is_some_and(|spaced| !spaced.is_true()) { "" } else { " " };
    Ok(format!("{space}{}", fields.join(" ")))
}

/// A text with the signs of HTML written out.
fn escape(state: &State, value: &Value) -> Result<String, Error> {
    let text = print::text(state, value)?;
    let marks = [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("'", "&#39;"), ("\"", "&#34;")];
    let text = marks.into_iter().fold(text, |text, (sign, mark)| text.replace(sign, mark));
    pay_bytes(state, text.len() as u64)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::super::environment::tests::{assert_all, rendered};

    #[test]
    fn filters_of_texts_give_what_those_of_jinja_give() {
        assert_all(&[
            ("'The quick brown fox'|truncate(12)", "The..."),
            ("'The quick brown fox'|truncate(12, true)", "The quick..."),
            ("'The quick brown fox'|truncate(11, true, '')", "The quick b"),
            ("'The quick'|truncate(5)", "The quick"),
            ("'<p>a  <b>b</b>\\n c</p><!-- no -->'|striptags", "a b c"),
            ("'a b/c?d=ä&'|urlencode", "a%20b/c%3Fd%3D%C3%A4%26"),
            ("{'a b': 'c/d', 'e': 1}|urlencode", "a+b=c%2Fd&e=1"),
            (
                "[1, 999, 1000, 123456, 2500000]|map('filesizeformat')|join(';')",
                "1 Byte;999 Bytes;1.0 kB;123.5 kB;2.5 MB",
            ),
            ("2048|filesizeformat(true)", "2.0 KiB"),
            ("'<a b=\"c\">&'|e", "&lt;a b=&#34;c&#34;&gt;&amp;"),
            ("{'a': 'x\"y', 'b': none, 'c': 1}|xmlattr", " a=\"x&#34;y\" c=\"1\""),
            ("{'a': 1}|xmlattr(false)", "a=\"1\""),
        ]);
    }

    #[test]
    fn what_they_cannot_take_is_an_error() {
        for expression in
            ["'abcdef'|truncate(2)", "'abcdef'|truncate('x')", "'x'|filesizeformat", "{'a b': 1}|xmlattr"]
        {
            assert!(rendered(&format!("{{{{ {expression} }}}}")).is_err(), "{expression}");
        }
    }
}
