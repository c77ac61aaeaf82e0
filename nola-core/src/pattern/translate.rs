//! A pattern of Python's `re` in the words of our engine.
//!
//! Both have nearly the same language, but the engine takes what Python refuses, and reads some signs in another way:
//! escapes, classes within classes, flags, comments, names of groups. So every pattern is read as Python reads it.

use super::source::Source;

/// Groups within groups beyond this are refused.
const MAX_DEPTH: usize = 60;

/// The pattern in the words of our engine.
///
/// # Errors
/// If it is none to Python, with the reason in Python's words.
///
/// # Source
/// `re._parser` of Python 3.11.
pub(super) fn translated(pattern: &str) -> Result<String, String> {
    let mut translator =
        Translator { source: Source::new(pattern), groups: Vec::new(), global: Flags::default(), depth: 0 };
    translator.alternatives(Flags::default())?;
    if translator.source.next().is_some() {
        return Err("unbalanced parenthesis".to_owned());
    }
    Ok(format!("(?{}:{})", translator.global.engine(), translator.source.out))
}

/// What `(?aimsx)` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Flags {
    /// `\w` and its like know ASCII alone.
    pub(super) is_ascii: bool,
    ignores_case: bool,
    is_multi_line: bool,
    dot_is_all: bool,
    is_verbose: bool,
}

impl Flags {
    fn set(&mut self, flag: char, value: bool) -> Result<(), String> {
        match flag {
            'a' => self.is_ascii = value,
            'u' => self.is_ascii = !value,
            'i' => self.ignores_case = value,
            'm' => self.is_multi_line = value,
            's' => self.dot_is_all = value,
            'x' => self.is_verbose = value,
            'L' => return Err("bad inline flags: cannot use 'L' flag with a str pattern".to_owned()),
            _ => return Err("unknown flag".to_owned()),
        }
        Ok(())
    }

    /// Those that our engine has, too, on and off.
    fn engine(self) -> String {
        let flags = [('i', self.ignores_case), ('m', self.is_multi_line), ('s', self.dot_is_all)];
        let those = |on: bool| flags.iter().filter(move |(_, is_on)| *is_on == on).map(|(flag, _)| *flag);
        those(true).chain(Some('-').filter(|_| those(false).next().is_some())).chain(those(false)).collect()
    }
}

/// What was read last, which decides what may stand behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    /// Nothing yet.
    Nothing,
    /// What matches no characters, such as `^`.
    Anchor,
    /// What can be repeated; its translation begins at `start`.
    Atom { start: usize },
    /// What is repeated.
    Repeated,
}

/// A group that was opened.
struct Group {
    name: Option<String>,
    is_open: bool,
}

/// Reads a pattern and writes its translation.
pub(super) struct Translator {
    pub(super) source: Source,
    groups: Vec<Group>,
    /// The flags at the start, which hold for all of it.
    global: Flags,
    depth: usize,
}

impl Translator {
    /// Branches up to the end of a group or of the pattern.
    fn alternatives(&mut self, flags: Flags) -> Result<(), String> {
        let mut flags = flags;
        let is_whole = self.depth == 0;
        self.sequence(&mut flags, is_whole)?;
        while self.source.eat('|') {
            self.source.out.push('|');
            self.sequence(&mut flags, false)?;
        }
        Ok(())
    }

    /// Items up to the end of a branch; flags for all of it may stand only at the start of the pattern.
    fn sequence(&mut self, flags: &mut Flags, may_set_flags: bool) -> Result<(), String> {
        let mut last = Item::Nothing;
        while let Some(char) = self.source.peek().filter(|char| !matches!(char, '|' | ')')) {
            self.source.next();
            if flags.is_verbose && self.is_skipped(char) {
                continue;
            }
            let start = self.source.out.len();
            if char == '(' && self.flags_for_all(flags, may_set_flags && last == Item::Nothing)? {
                continue;
            }
            last = match char {
                '\\' => self.escape(*flags)?,
                '(' => self.group(*flags, last)?,
                '*' | '+' | '?' => self.repeated(last, &char.to_string())?,
                '{' => match self.source.attempt(bounds) {
                    Some(bounds) => self.repeated(last, &bounds?)?,
                    None => self.itself(char),
                },
                '^' | '$' => {
                    self.source.out.push(char);
                    Item::Anchor
                }
                '[' => {
                    self.class(*flags)?;
                    Item::Atom { start }
                }
                '.' => {
                    self.source.out.push(char);
                    Item::Atom { start }
                }
                _ => self.itself(char),
            };
        }
        Ok(())
    }

    fn itself(&mut self, char: char) -> Item {
        let start = self.source.out.len();
        self.source.literal(char);
        Item::Atom { start }
    }

    /// Whether a verbose pattern does without this character: a space, or a comment, which is read over.
    fn is_skipped(&mut self, char: char) -> bool {
        if char == '#' {
            self.source.take(usize::MAX, |char| char != '\n');
        }
        matches!(char, '#' | ' ' | '\t'..='\r')
    }

    fn repeated(&mut self, last: Item, times: &str) -> Result<Item, String> {
        let start = match last {
            Item::Nothing | Item::Anchor => return Err("nothing to repeat".to_owned()),
            Item::Repeated => return Err("multiple repeat".to_owned()),
            Item::Atom { start } => start,
        };
        self.source.out.push_str(times);
        if self.source.eat('?') {
            self.source.out.push('?');
        } else if self.source.eat('+') {
            self.source.out.insert_str(start, "(?>");
            self.source.out.push(')');
        }
        Ok(Item::Repeated)
    }

    /// Reads `(?aimsx)`, whose bracket was read; false if it is no such thing.
    fn flags_for_all(&mut self, flags: &mut Flags, is_at_start: bool) -> Result<bool, String> {
        let letters = self.source.attempt(|source| {
            let letters = source.eat('?').then(|| source.take(usize::MAX, |char| char.is_ascii_alphabetic()));
            letters.filter(|letters| !letters.is_empty() && source.eat(')'))
        });
        let Some(letters) = letters else { return Ok(false) };
        if !is_at_start {
            return Err(format!(
                "global flags not at the start of the expression; write `(?{letters}:...)` around what they are for"
            ));
        }
        turn_on(flags, &letters)?;
        self.global = *flags;
        Ok(true)
    }

    /// A group, whose opening bracket was read.
    fn group(&mut self, flags: Flags, last: Item) -> Result<Item, String> {
        let start = self.source.out.len();
        if !self.source.eat('?') {
            self.capture(None, flags)?;
            return Ok(Item::Atom { start });
        }
        match self.source.next().ok_or("unexpected end of pattern")? {
            'P' => self.with_name(flags)?,
            ':' => self.inside("(?:", flags)?,
            '#' => {
                self.source.until(')').ok_or("missing ), unterminated comment")?;
                return Ok(last);
            }
            '=' => self.inside("(?=", flags)?,
            '!' => self.inside("(?!", flags)?,
            '>' => self.inside("(?>", flags)?,
            '<' => match self.source.next() {
                Some('=') => self.inside("(?<=", flags)?,
                Some('!') => self.inside("(?<!", flags)?,
                other => return Err(format!("unknown extension ?<{}", String::from_iter(other))),
            },
            '(' => self.condition(flags)?,
            char if char.is_ascii_alphabetic() || char == '-' => self.with_flags(char, flags)?,
            other => return Err(format!("unknown extension ?{other}")),
        }
        Ok(Item::Atom { start })
    }

    /// The rest of a group that begins so.
    fn inside(&mut self, opening: &str, flags: Flags) -> Result<(), String> {
        self.source.out.push_str(opening);
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("groups within groups, more than {MAX_DEPTH} deep"));
        }
        self.alternatives(flags)?;
        self.close()
    }

    fn close(&mut self) -> Result<(), String> {
        if !self.source.eat(')') {
            return Err("missing ), unterminated subpattern".to_owned());
        }
        self.depth -= 1;
        self.source.out.push(')');
        Ok(())
    }

    /// A group that is kept. The engine takes references by number only where no group has a name, so all have one.
    fn capture(&mut self, name: Option<String>, flags: Flags) -> Result<(), String> {
        let index = self.groups.len();
        let opening = format!("(?P<{}>", engine_name(index, name.as_deref()));
        self.groups.push(Group { name, is_open: true });
        self.inside(&opening, flags)?;
        self.groups[index].is_open = false;
        Ok(())
    }

    /// `(?P<name>...)` or `(?P=name)`.
    fn with_name(&mut self, flags: Flags) -> Result<(), String> {
        let (is_new, end) = match self.source.next() {
            Some('<') => (true, '>'),
            Some('=') => (false, ')'),
            other => return Err(format!("unknown extension ?P{}", String::from_iter(other))),
        };
        let name = self.source.until(end).ok_or(format!("missing {end}, unterminated name"))?;
        let is_part = |char: char| char.is_alphanumeric() || char == '_';
        if name.is_empty()
            || name.starts_with(|char: char| char.is_ascii_digit())
            || !name.chars().all(is_part)
        {
            return Err(format!("bad character in group name '{name}'"));
        }
        if !is_new {
            return self.back_reference(&name);
        }
        if self.groups.iter().any(|group| group.name.as_deref() == Some(name.as_str())) {
            return Err(format!("redefinition of group name '{name}'"));
        }
        self.capture(Some(name), flags)
    }

    /// What the group of this name or number matched.
    pub(super) fn back_reference(&mut self, group: &str) -> Result<(), String> {
        let index = self.find(group)?;
        if self.groups[index].is_open {
            return Err("cannot refer to an open group".to_owned());
        }
        let name = engine_name(index, self.groups[index].name.as_deref());
        self.source.out.push_str(&format!("(?P={name})"));
        Ok(())
    }

    fn find(&self, group: &str) -> Result<usize, String> {
        if let Ok(number) = group.parse::<usize>() {
            let index = number.checked_sub(1).filter(|index| *index < self.groups.len());
            return index.ok_or(format!("invalid group reference {group}"));
        }
        let is_it = |known: &Group| known.name.as_deref() == Some(group);
        self.groups.iter().position(is_it).ok_or(format!("unknown group name '{group}'"))
    }

    /// `(?(group)yes|no)`.
    fn condition(&mut self, flags: Flags) -> Result<(), String> {
        let group = self.source.until(')').ok_or("missing ), unterminated name")?;
        let index = self.find(&group)?;
        let name = engine_name(index, self.groups[index].name.as_deref());
        self.source.out.push_str(&format!("(?(<{name}>)"));
        self.depth += 1;
        let mut flags = flags;
        self.sequence(&mut flags, false)?;
        if self.source.eat('|') {
            self.source.out.push('|');
            self.sequence(&mut flags, false)?;
        }
        if self.source.peek() == Some('|') {
            return Err("conditional backref with more than two branches".to_owned());
        }
        self.close()
    }

    /// `(?aimsx-imsx:...)`, whose first letter was read.
    fn with_flags(&mut self, first: char, flags: Flags) -> Result<(), String> {
        let is_letter = |char: char| char.is_ascii_alphabetic();
        let mut flags = flags;
        let (mut on, mut off) = (String::new(), String::new());
        if first != '-' {
            on = format!("{first}{}", self.source.take(usize::MAX, is_letter));
        }
        if first == '-' || self.source.eat('-') {
            off = self.source.take(usize::MAX, is_letter);
            if off.is_empty() {
                return Err("missing flag".to_owned());
            }
        }
        if !self.source.eat(':') {
            return Err(if off.is_empty() { "missing -, : or )" } else { "missing :" }.to_owned());
        }
        turn_on(&mut flags, &on)?;
        for flag in off.chars() {
            if matches!(flag, 'a' | 'u' | 'L') {
                return Err("bad inline flags: cannot turn off flags 'a', 'u' and 'L'".to_owned());
            }
            if on.contains(flag) {
                return Err("bad inline flags: flag turned on and off".to_owned());
            }
            flags.set(flag, false)?;
        }
        self.inside(&format!("(?{}:", flags.engine()), flags)
    }
}

fn turn_on(flags: &mut Flags, letters: &str) -> Result<(), String> {
    if letters.contains('a') && letters.contains('u') {
        return Err("bad inline flags: flags 'a', 'u' and 'L' are incompatible".to_owned());
    }
    letters.chars().try_for_each(|flag| flags.set(flag, true))
}

/// `{2}`, `{2,}`, `{,3}` or `{2,3}`, whose bracket was read; `None` if it is no such thing.
fn bounds(source: &mut Source) -> Option<Result<String, String>> {
    let is_digit = |char: char| char.is_ascii_digit();
    let low = source.take(usize::MAX, is_digit);
    let high = if source.eat(',') { source.take(usize::MAX, is_digit) } else { low.clone() };
    let is_none = source.peek() != Some('}') || (low.is_empty() && high.is_empty() && !source.was(','));
    if is_none {
        return None;
    }
    source.next();
    let low = if low.is_empty() { "0" } else { &low };
    let number = |text: &str| text.parse::<u32>().unwrap_or(u32::MAX);
    if !high.is_empty() && number(&high) < number(low) {
        return Some(Err("min repeat greater than max repeat".to_owned()));
    }
    Some(Ok(format!("{{{low},{high}}}")))
}

/// The name of a group in our engine.
fn engine_name(index: usize, name: Option<&str>) -> String {
    name.map_or_else(|| format!("group_{}_", index + 1), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::PythonPattern;

    /// Whether each text fits.
    fn fits(pattern: &str, texts: &[&str]) -> Vec<bool> {
        let compiled = PythonPattern::full(pattern).unwrap_or_else(|error| panic!("{error}"));
        texts.iter().map(|text| compiled.fits(text).expect("it ends")).collect()
    }

    #[test]
    fn flags_hold_for_all_or_for_their_group() {
        for (pattern, expected) in [
            (r"\w+", [true, true, false]),
            (r"(?a)\w+", [true, false, false]),
            (r"(?a:\w)+", [true, false, false]),
            (r"(?ai)[A-Z]+", [true, false, false]),
            (r"(?i)Q(?-i:a)b", [true, false, false]),
            (r"(?a)[^\W_]+", [true, false, false]),
            (r"(?x) q \w b  # three", [true, true, false]),
            (r"(?a)\S+\b", [true, true, true]),
        ] {
            assert_eq!(fits(pattern, &["qab", "qéb", "q-b"]), expected, "{pattern}");
        }
    }

    #[test]
    fn escapes_are_those_of_python() {
        for (pattern, text) in [
            (r"\101\x42\u0043\U00000044", "ABCD"),
            (r"\0101", "\u{8}1"),
            (r"[\101-\103]+", "CAB"),
            (r"[\1]", "\u{1}"),
            (r"a[\b]", "a\u{8}"),
            (r"(a)(b)\2\1", "abba"),
            (r"(?P<n>a)\1", "aa"),
            (r"\<a\>\-\#", "<a>-#"),
            ("{a}{", "{a}{"),
            ("a{,2}", "aa"),
            ("(?#words)a(?#more)+", "aa"),
            ("a++b", "aab"),
        ] {
            assert_eq!(fits(pattern, &[text]), [true], "{pattern}");
        }
    }

    #[test]
    fn what_python_refuses_is_refused_with_its_reason() {
        for (pattern, reason) in [
            (r"\p{L}", "bad escape \\p"),
            (r"\K", "bad escape \\K"),
            (r"\400", "outside of range"),
            (r"[\8]", "bad escape \\8"),
            (r"\1(a)", "invalid group reference"),
            (r"(a\1)", "open group"),
            ("(?<n>a)", "unknown extension ?<n"),
            ("(?P<n>a)(?P<n>b)", "redefinition"),
            ("a**", "multiple repeat"),
            ("^*", "nothing to repeat"),
            ("a{3,2}", "min repeat"),
            ("[z-a]", "bad character range"),
            (r"[a-\d]", "bad character range"),
            ("a(?i)b", "write `(?i:...)`"),
            ("(?L)a", "'L' flag"),
            ("(?au)a", "incompatible"),
            ("(a", "missing )"),
            ("a)", "unbalanced"),
            (r"\N{DIGIT ONE}", "names of characters"),
        ] {
            let error = PythonPattern::full(pattern).expect_err(pattern).to_string();
            assert!(error.contains(reason), "{pattern}: {error}");
        }
        assert!(PythonPattern::full(&"(".repeat(10_000)).is_err());
    }
}
