//! How the machine-translation scorers cut a text into tokens.
//!
//! # Source
//! The tokenisers of NIST's `mteval-v13a` and `mteval-v14` scripts as `sacrebleu` and `e2e-metrics` have them.

use std::sync::LazyLock;

use regex::Regex;

/// Replacements that are made one after the other.
type Steps = LazyLock<Vec<(Regex, &'static str)>>;

static MTEVAL_13A: Steps = LazyLock::new(|| {
    steps([
        // ASCII punctuation and symbols, but not `'`, `,`, `-` and `.`.
        (r#"[ -&(-+/:-@\[-`{-~]"#, " $0 "),
        (r"([^0-9])([.,])", "$1 $2 "),
        (r"([.,])([^0-9])", " $1 $2"),
        (r"([0-9])(-)", "$1 $2 "),
    ])
});

static INTERNATIONAL: Steps = LazyLock::new(|| {
    steps([(r"(\P{N})(\p{P})", "$1 $2 "), (r"(\p{P})(\P{N})", " $1 $2"), (r"\p{S}", " $0 ")])
});

fn steps<const N: usize>(steps: [(&str, &'static str); N]) -> Vec<(Regex, &'static str)> {
    steps
        .map(|(pattern, with)| (Regex::new(pattern).expect("the pattern is a constant"), with))
        .into_iter()
        .collect()
}

fn split_after(text: String, steps: &Steps) -> Vec<String> {
    let text =
        steps.iter().fold(text, |text, (pattern, with)| pattern.replace_all(&text, *with).into_owned());
    whitespace(&text)
}

/// The tokens between white space.
pub(super) fn whitespace(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// As `mteval-v13a`: ASCII punctuation is cut off, but stays inside numbers and in words after `'` and `-`.
pub(super) fn mteval_13a(text: &str) -> Vec<String> {
    let mut text = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    for (entity, character) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
        text = text.replace(entity, character);
    }
    split_after(format!(" {text} "), &MTEVAL_13A)
}

/// As [`mteval_13a`], in lower case.
pub(super) fn mteval_lower(text: &str) -> Vec<String> {
    mteval_13a(text).iter().map(|token| token.to_lowercase()).collect()
}

/// As `mteval-v14` with international tokenisation: punctuation and symbols of every script.
pub(super) fn international(text: &str) -> Vec<String> {
    split_after(text.trim_end().to_owned(), &INTERNATIONAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(tokens: &[String]) -> String {
        tokens.join(" ")
    }

    #[test]
    fn punctuation_inside_a_number_stays() {
        assert_eq!(joined(&mteval_13a("It costs $1,234.56.")), "It costs $ 1,234.56 .");
    }

    #[test]
    fn a_hyphen_is_cut_off_only_after_a_digit() {
        assert_eq!(joined(&mteval_13a("family-friendly, 20-25")), "family-friendly , 20 - 25");
    }

    #[test]
    fn entities_become_their_characters() {
        assert_eq!(joined(&mteval_13a("R&amp;B &lt;3")), "R & B < 3");
    }

    #[test]
    fn a_line_break_after_a_hyphen_joins_the_word() {
        assert_eq!(joined(&mteval_13a("Wild-\nwood\npub")), "Wildwood pub");
    }

    #[test]
    fn the_international_tokens_cut_at_symbols_of_every_script() {
        assert_eq!(joined(&international("£20-25, «café»")), "£ 20-25 , « café »");
    }
}
