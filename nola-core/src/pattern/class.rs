//! Escapes and classes of characters.

use super::source::Source;
use super::translate::{Flags, Item, Translator};

/// One entry of a class.
enum Entry {
    Char(char),
    /// Such as `\d`, as our engine writes it inside of a class.
    Category(String),
}

impl Translator {
    /// What stands behind a backslash outside of a class.
    pub(super) fn escape(&mut self, flags: Flags) -> Result<Item, String> {
        let start = self.source.out.len();
        let char = self.source.next().ok_or("bad escape (end of pattern)")?;
        match char {
            'A' => self.source.out.push_str("\\A"),
            'Z' | 'z' => self.source.out.push_str("\\z"),
            'b' | 'B' => self.source.out.push_str(boundary(char, flags)),
            '1'..='9' => return self.number(char, start),
            _ => {
                match category(char, flags) {
                    Some(inside) => self.source.out.push_str(&format!("[{inside}]")),
                    None => {
                        let char = character(&mut self.source, char)?;
                        self.source.literal(char);
                    }
                }
                return Ok(Item::Atom { start });
            }
        }
        Ok(Item::Anchor)
    }

    /// A number behind a backslash: three octal digits are a character, all else is a group.
    fn number(&mut self, first: char, start: usize) -> Result<Item, String> {
        let octal = self.source.attempt(|source| {
            let more = source.take(2, |char| char.is_digit(8));
            (first.is_digit(8) && more.len() == 2).then(|| format!("{first}{more}"))
        });
        if let Some(octal) = octal {
            let char = of_octal(&octal)?;
            self.source.literal(char);
            return Ok(Item::Atom { start });
        }
        let more = self.source.take(1, |char| char.is_ascii_digit());
        self.back_reference(&format!("{first}{more}"))?;
        Ok(Item::Atom { start })
    }

    /// A class, whose opening bracket was read.
    pub(super) fn class(&mut self, flags: Flags) -> Result<(), String> {
        let open = || "unterminated character set".to_owned();
        self.source.out.push('[');
        if self.source.eat('^') {
            self.source.out.push('^');
        }
        let mut is_first = true;
        loop {
            // Right after the opening, `]` stands for itself.
            if self.source.peek() == Some(']') && !is_first {
                break;
            }
            is_first = false;
            let low = self.entry(flags)?.ok_or_else(open)?;
            let is_range =
                self.source.attempt(|source| (source.eat('-') && source.peek() != Some(']')).then_some(()));
            if is_range.is_none() {
                self.write(low);
                continue;
            }
            match (low, self.entry(flags)?.ok_or_else(open)?) {
                (Entry::Char(low), Entry::Char(high)) if low <= high => {
                    self.source.literal(low);
                    self.source.out.push('-');
                    self.source.literal(high);
                }
                _ => return Err("bad character range".to_owned()),
            }
        }
        self.source.next();
        self.source.out.push(']');
        Ok(())
    }

    fn entry(&mut self, flags: Flags) -> Result<Option<Entry>, String> {
        let Some(char) = self.source.next() else { return Ok(None) };
        if char != '\\' {
            return Ok(Some(Entry::Char(char)));
        }
        let char = self.source.next().ok_or("bad escape (end of pattern)")?;
        if let Some(category) = category(char, flags) {
            return Ok(Some(Entry::Category(category)));
        }
        let char = match char {
            'b' => '\u{8}',
            '1'..='7' => {
                let more = self.source.take(2, |char| char.is_digit(8));
                of_octal(&format!("{char}{more}"))?
            }
            _ => character(&mut self.source, char)?,
        };
        Ok(Some(Entry::Char(char)))
    }

    fn write(&mut self, entry: Entry) {
        match entry {
            Entry::Char(char) => self.source.literal(char),
            Entry::Category(category) => self.source.out.push_str(&category),
        }
    }
}

/// Where a word begins or ends, or does not.
fn boundary(char: char, flags: Flags) -> &'static str {
    match (char, flags.is_ascii) {
        ('b', false) => "\\b",
        ('b', true) => "(?:(?<![0-9A-Za-z_])(?=[0-9A-Za-z_])|(?<=[0-9A-Za-z_])(?![0-9A-Za-z_]))",
        (_, false) => "\\B",
        (_, true) => "(?:(?<![0-9A-Za-z_])(?![0-9A-Za-z_])|(?<=[0-9A-Za-z_])(?=[0-9A-Za-z_]))",
    }
}

/// The class of characters that a letter behind a backslash stands for, as it is written inside of a class.
fn category(char: char, flags: Flags) -> Option<String> {
    let inside = match (char.to_ascii_lowercase(), flags.is_ascii) {
        ('d', true) => "0-9",
        ('w', true) => "0-9A-Za-z_",
        ('s', true) => "\\t-\\r\\x20",
        ('d', false) => "\\d",
        ('w', false) => "\\w",
        // Python takes the separators of ASCII for spaces, too.
        ('s', false) => "\\s\\x1c-\\x1f",
        _ => return None,
    };
    Some(if char.is_ascii_uppercase() { format!("[^{inside}]") } else { inside.to_owned() })
}

/// The character that an escape stands for, whose first character was read.
fn character(source: &mut Source, first: char) -> Result<char, String> {
    Ok(match first {
        'a' => '\u{7}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        'x' => of_hex(source, first, 2)?,
        'u' => of_hex(source, first, 4)?,
        'U' => of_hex(source, first, 8)?,
        '0' => {
            let more = source.take(2, |char| char.is_digit(8));
            of_octal(&format!("0{more}"))?
        }
        'N' => return Err("names of characters (`\\N{...}`) are not read; write `\\uXXXX`".to_owned()),
        _ if first.is_ascii_alphanumeric() => return Err(format!("bad escape \\{first}")),
        itself => itself,
    })
}

fn of_hex(source: &mut Source, first: char, length: usize) -> Result<char, String> {
    let digits = source.take(length, |char| char.is_ascii_hexdigit());
    let bad = || format!("bad escape \\{first}{digits}");
    let code = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == length);
    code.and_then(char::from_u32).ok_or_else(bad)
}

fn of_octal(digits: &str) -> Result<char, String> {
    let code = u8::from_str_radix(digits, 8);
    code.map(char::from).map_err(|_| format!("octal escape value \\{digits} outside of range 0-0o377"))
}
