//! JSON as Python writes it, which is how templates show tools to a model.

use std::io::{self, Write};

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind, State};
use serde::Serialize;
use serde_json::ser::Formatter;

/// The `tojson` filter of Hugging Face's templates: Python's `json.dumps` with `ensure_ascii=False`.
///
/// Unlike Jinja's own it escapes nothing for HTML.
pub(super) fn tojson(state: &State, value: &Value, options: Kwargs) -> Result<Value, Error> {
    let wrong =
        |source| Error::new(ErrorKind::InvalidOperation, "cannot be written as JSON").with_source(source);
    let indent = options.get::<Option<usize>>("indent")?;
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let [item, key] = match separators {
        None => [if indent.is_some() { "," } else { ", " }, ": "].map(str::to_string),
        Some(two) => two.try_into().map_err(|_| {
            Error::new(ErrorKind::InvalidOperation, "separators are two: between values, and behind a key")
        })?,
    };
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let mut json = serde_json::to_value(value).map_err(wrong)?;
    if sorted {
        json.sort_all_objects();
    }
    let python = Python { indent, item, key, ascii, depth: 0, filled: false };
    let mut written = Vec::new();
    json.serialize(&mut serde_json::Serializer::with_formatter(&mut written, python)).map_err(wrong)?;
    state.consume_fuel(written.len() as u64 / 64)?;
    Ok(Value::from(String::from_utf8_lossy(&written).into_owned()))
}

/// How Python's `json.dumps` sets out a value.
struct Python {
    /// Spaces per level; `None` for one line.
    indent: Option<usize>,
    /// Between two values.
    item: String,
    /// Between a key and its value.
    key: String,
    /// Whether other characters than ASCII are escaped.
    ascii: bool,
    depth: usize,
    /// Whether the list or map that ends now holds something.
    filled: bool,
}

impl Python {
    fn open<W: ?Sized + Write>(&mut self, to: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.filled = false;
        to.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, to: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.filled {
            self.new_line(to)?;
        }
        to.write_all(bracket)
    }

    fn next<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        if !first {
            to.write_all(self.item.as_bytes())?;
        }
        self.new_line(to)
    }

    fn new_line<W: ?Sized + Write>(&self, to: &mut W) -> io::Result<()> {
        match self.indent {
            Some(spaces) => write!(to, "\n{:1$}", "", spaces * self.depth),
            None => Ok(()),
        }
    }
}

impl Formatter for Python {
    fn begin_array<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.open(to, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.close(to, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.next(to, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.open(to, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.close(to, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.next(to, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(self.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, to: &mut W, fragment: &str) -> io::Result<()> {
        if !self.ascii {
            return to.write_all(fragment.as_bytes());
        }
        for character in fragment.chars() {
            if character.is_ascii() {
                write!(to, "{character}")?;
                continue;
            }
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(to, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use minijinja::value::Serde;
    use minijinja::{Environment, context};

    /// What `{{ value|tojson(options) }}` gives for one value.
    fn written(options: &str) -> String {
        let mut environment = Environment::new();
        environment.add_filter("tojson", super::tojson);
        let value: serde_json::Value =
            serde_json::from_str(r#"{"b": [1, {"x": "<é🙂>"}], "a": {}, "l": []}"#).unwrap();
        let template = format!("{{{{ value|tojson({options}) }}}}");
        environment.render_str(&template, context!(value => Serde(value))).unwrap()
    }

    #[test]
    fn json_is_that_of_python() {
        assert_eq!(written(""), r#"{"b": [1, {"x": "<é🙂>"}], "a": {}, "l": []}"#);
        assert_eq!(written("separators=(',', ':')"), r#"{"b":[1,{"x":"<é🙂>"}],"a":{},"l":[]}"#);
        assert_eq!(written("sort_keys=true"), r#"{"a": {}, "b": [1, {"x": "<é🙂>"}], "l": []}"#);
        assert_eq!(
            written("ensure_ascii=true"),
            r#"{"b": [1, {"x": "<\u00e9\ud83d\ude42>"}], "a": {}, "l": []}"#
        );
        let indented =
            "{\n  \"b\": [\n    1,\n    {\n      \"x\": \"<é🙂>\"\n    }\n  ],\n  \"a\": {},\n  \"l\": []\n}";
        assert_eq!(written("indent=2"), indented);
    }
}
