//! Text of others without what commands a terminal.

use std::borrow::Cow;
use std::path::Path;

/// The text with its control characters written out, but for line ends and tabs.
///
/// So are those that change the direction of what follows, since with them a name can be made to look like another.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if is_harmful(char) { shown.extend(char.escape_unicode()) } else { shown.push(char) }
    }
    Cow::Owned(shown)
}

/// A name as a part of a line: line ends and tabs are written out as well.
pub fn name(text: &str) -> Cow<'_, str> {
    let is_odd = |char| is_harmful(char) || matches!(char, '\n' | '\t');
    if !text.contains(is_odd) {
        return Cow::Borrowed(text);
    }
    let shown = |char: char| match char {
        '\n' => "\\n".to_owned(),
        '\t' => "\\t".to_owned(),
        _ if is_harmful(char) => char.escape_unicode().to_string(),
        _ => char.to_string(),
    };
    Cow::Owned(text.chars().map(shown).collect())
}

/// The name of a file or folder as a part of a line.
pub fn path_name(path: &Path) -> String {
    name(&path.to_string_lossy()).into_owned()
}

/// Names as a part of a line.
pub fn names<T: AsRef<str>>(names: &[T]) -> String {
    names.iter().map(|text| name(text.as_ref())).collect::<Vec<_>>().join(", ")
}

/// One line of JSON with those of its characters escaped that JSON leaves as they are; it means the same.
pub fn in_json(json: &str) -> Cow<'_, str> {
    if !json.contains(is_harmful) {
        return Cow::Borrowed(json);
    }
    let mut shown = String::with_capacity(json.len());
    for char in json.chars() {
        // All of them stand in strings, and need four digits at most.
        if is_harmful(char) {
            shown.push_str(&format!("\\u{:04x}", u32::from(char)))
        } else {
            shown.push(char)
        }
    }
    Cow::Owned(shown)
}

fn is_harmful(char: char) -> bool {
    let turns = matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}');
    turns || char.is_control() && !matches!(char, '\n' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_commands_a_terminal_is_written_out() {
        for (text, shown) in [
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("a\u{7}b\rc", "a\\u{7}b\\u{d}c"),
            ("\u{9b}2J\u{7f}\0", "\\u{9b}2J\\u{7f}\\u{0}"),
            ("cat\u{202e}gnp", "cat\\u{202e}gnp"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }

    #[test]
    fn other_text_stays_as_it_is() {
        let text = "pêche 桃\tplum\n\u{1f351}";
        assert!(matches!(printable(text), Cow::Borrowed(same) if same == text));
    }

    #[test]
    fn a_name_stays_on_its_line() {
        assert_eq!(name("cat\nerror: gone\t!\r\u{1b}[2J"), "cat\\nerror: gone\\t!\\u{d}\\u{1b}[2J");
        assert_eq!(path_name(Path::new("a\nb/c.png")), "a\\nb/c.png");
        assert_eq!(names(&["a\nb", "pêche"]), "a\\nb, pêche");
        assert!(matches!(name("pêche 桃"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_means_the_same() {
        let names = ["cat\u{9b}2J", "\u{1b}[31m", "a\u{202e}b", "\u{7f}", "pêche"];
        let json = serde_json::to_string(&names).unwrap();
        let shown = in_json(&json);
        assert!(!shown.contains(is_harmful), "{shown}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&shown).unwrap(), names);
    }
}
