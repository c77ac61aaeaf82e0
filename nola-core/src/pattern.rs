//! Patterns as Python's `re` reads them, since PEFT's settings are written for it.

mod class;
mod source;
mod translate;

use fancy_regex::Regex;

use translate::translated;

/// A pattern of Python's, with look-around and back-references.
#[derive(Debug, Clone)]
pub(crate) struct PythonPattern {
    regex: Regex,
    written: String,
}

/// Why a pattern could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is none.
    #[error("`{pattern}` is no regular expression: {reason}")]
    NoPattern {
        /// As it is written.
        pattern: String,
        /// What the parser says.
        reason: String,
    },
    /// It tries too many ways to match.
    #[error("`{pattern}` does not come to an end on `{text}`: {reason}; write it without nested repeats")]
    Endless {
        /// As it is written.
        pattern: String,
        /// What it was asked for.
        text: String,
        /// What the engine says.
        reason: String,
    },
}

impl PythonPattern {
    /// A pattern for a whole text, as `re.fullmatch` takes it.
    pub(crate) fn full(pattern: &str) -> Result<Self, PatternError> {
        Self::new(pattern, |translated| format!("\\A{translated}\\z"))
    }

    /// A pattern for the start of a text, as `re.match` takes it.
    pub(crate) fn at_start(pattern: &str) -> Result<Self, PatternError> {
        Self::new(pattern, |translated| format!("\\A{translated}"))
    }

    /// A pattern for a whole path, or for the end of one after a dot.
    pub(crate) fn end_of_path(pattern: &str) -> Result<Self, PatternError> {
        Self::new(pattern, |translated| format!("\\A(?:.*\\.)?{translated}\\z"))
    }

    /// A pattern for a whole path, or for the end of one after a dot, as PEFT writes it: a back-reference in it counts the
    /// same groups.
    pub(crate) fn site(pattern: &str) -> Result<Self, PatternError> {
        Self::at_start(&format!("(.*\\.)?({pattern})$"))
    }

    fn new(written: &str, place: impl Fn(&str) -> String) -> Result<Self, PatternError> {
        let none = |reason| PatternError::NoPattern { pattern: written.to_owned(), reason };
        let translated = translated(written).map_err(none)?;
        let regex = Regex::new(&place(&translated)).map_err(|error| none(error.to_string()))?;
        Ok(Self { regex, written: written.to_owned() })
    }

    /// Whether `text` fits.
    pub(crate) fn fits(&self, text: &str) -> Result<bool, PatternError> {
        self.regex.is_match(text).map_err(|error| self.endless(text, &error))
    }

    /// The number in the group `name`, if `text` fits.
    pub(crate) fn number(&self, name: &str, text: &str) -> Result<Option<usize>, PatternError> {
        let captures = self.regex.captures(text).map_err(|error| self.endless(text, &error))?;
        Ok(captures.and_then(|captures| captures.name(name)?.as_str().parse().ok()))
    }

    fn endless(&self, text: &str, error: &fancy_regex::Error) -> PatternError {
        let (pattern, text, reason) = (self.written.clone(), text.to_owned(), error.to_string());
        PatternError::Endless { pattern, text, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(pattern: &str, text: &str) -> bool {
        PythonPattern::full(pattern).and_then(|pattern| pattern.fits(text)).expect("a pattern")
    }

    #[test]
    fn look_around_and_back_references_are_understood() {
        let query = "model.layers.1.self_attn.q_proj";
        assert!(full(r".*\.(?!v_)\w+_proj", query));
        assert!(!full(r".*\.(?!q_)\w+_proj", query));
        assert!(full(r".*(?<=self_attn)\.q_proj", query));
        assert!(full(r"(?P<part>ab)\.(?P=part)", "ab.ab"));
        assert!(!full(r"(a|b)\.\1", "a.b"));
    }

    #[test]
    fn a_whole_text_is_matched_by_trying_every_alternative() {
        assert!(full("q|q_proj", "q_proj"));
        assert!(!full("q|q_proj", "q_projs"));
        assert!(full(r"q_proj\Z", "q_proj"));
        assert!(full("^q_proj$", "q_proj"));
        assert!(full("q{,3}", "qqq"));
    }

    #[test]
    fn a_condition_asks_whether_a_group_matched() {
        let pattern = r"(?P<a>self_attn\.)?(?(a)q_proj|v_proj)";
        for (text, fits) in
            [("self_attn.q_proj", true), ("v_proj", true), ("q_proj", false), ("self_attn.v_proj", false)]
        {
            assert_eq!(full(pattern, text), fits, "{text}");
        }
        assert!(full(r"(a)?(?(1)b|c)", "ab") && !full(r"(a)?(?(1)b|c)", "b"));
    }

    #[test]
    fn a_verbose_pattern_may_end_in_a_comment() {
        assert!(full("(?x) .* _proj  # all of them", "q_proj"));
    }

    #[test]
    fn signs_in_a_class_stand_for_themselves() {
        assert!(full("[[a]+", "[a"));
        assert!(full("[a&&b]+", "a&b"));
        assert!(full("[a~~b]+", "~ba"));
        assert!(full("[]a]+", "]a"));
        assert!(full(r"[^\].]+", "ab"));
        assert!(!full("[a&&b]", "[a&&b]"));
    }

    #[test]
    fn the_start_of_a_text_is_enough_where_python_matches_there() {
        let fits = |pattern, text| PythonPattern::at_start(pattern).expect("a pattern").fits(text);
        assert_eq!(fits("model", "model.layers"), Ok(true));
        assert_eq!(fits("layers", "model.layers"), Ok(false));
    }

    #[test]
    fn a_pattern_that_is_none_says_so() {
        for broken in ["q_(proj", "[q", "*q", r"(?<name", r"\2(q)"] {
            let error = PythonPattern::full(broken).expect_err("it is broken").to_string();
            assert!(error.contains(broken) && error.contains("no regular expression"), "{error}");
        }
    }

    #[test]
    fn a_pattern_that_tries_without_end_is_an_error() {
        let pattern = PythonPattern::full(r"(?=(a+)+\1c)(a|b)+").expect("a pattern");
        let error = pattern.fits(&"a".repeat(60)).expect_err("too many ways").to_string();
        assert!(error.contains("does not come to an end"), "{error}");
    }

    #[test]
    fn a_named_number_is_found() {
        let pattern = PythonPattern::at_start(r".*?\.[^.]*\.(?P<idx>\d+)\.").expect("a pattern");
        assert_eq!(pattern.number("idx", "model.layers.12.self_attn.3.q"), Ok(Some(12)));
        assert_eq!(pattern.number("idx", "lm_head"), Ok(None));
    }
}
