//! Text of others without what commands a terminal.

use std::borrow::Cow;

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
    fn json_means_the_same() {
        let names = ["cat\u{9b}2J", "\u{1b}[31m", "a\u{202e}b", "\u{7f}", "pêche"];
        let json = serde_json::to_string(&names).unwrap();
        let shown = in_json(&json);
        assert!(!shown.contains(is_harmful), "{shown}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&shown).unwrap(), names);
    }
}
