//! A sample for people: what is learned stands out.

use anstyle::{AnsiColor, Effects, Style};

use super::Sample;
use crate::printable::printable;

/// Tokens shown at most.
const SHOWN_TOKENS: usize = 1024;

/// What is given, and what is learned.
const GIVEN: Style = Style::new().effects(Effects::DIMMED);
const LEARNED: Style = AnsiColor::Green.on_default().effects(Effects::BOLD);

/// How what is learned stands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// In colour, for terminals.
    Colour,
    /// Between `⟦` and `⟧`.
    Plain,
}

/// The text of a sample, in which what is learned stands out; `decode` gives the text of tokens, special ones included.
///
/// Control characters other than line ends and tabs are written out, so that data cannot command the terminal.
pub fn preview(sample: &Sample, paint: Paint, decode: &dyn Fn(&[u32]) -> String) -> String {
    let shown = sample.ids.len().min(SHOWN_TOKENS);
    let mut text = String::new();
    let mut show = |ids: &[u32], is_learned: bool| {
        if ids.is_empty() {
            return;
        }
        let decoded = decode(ids);
        let part = printable(&decoded);
        text.push_str(&match (paint, is_learned) {
            (Paint::Colour, true) => format!("{LEARNED}{part}{LEARNED:#}"),
            (Paint::Colour, false) => format!("{GIVEN}{part}{GIVEN:#}"),
            (Paint::Plain, true) => format!("⟦{part}⟧"),
            (Paint::Plain, false) => part.into_owned(),
        });
    };
    let mut from = 0;
    for range in &sample.trained {
        // Nothing predicts the first token.
        let (start, end) = (range.start.max(1).min(shown), range.end.min(shown));
        show(&sample.ids[from..start.max(from)], false);
        show(&sample.ids[start..end.max(start)], true);
        from = end.max(start);
    }
    show(&sample.ids[from..shown], false);
    if shown < sample.ids.len() {
        text.push_str(&format!("\n... and {} more tokens", sample.ids.len() - shown));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::fake::text_of;

    fn sample(text: &str, start: usize, end: usize) -> Sample {
        let trained = std::iter::once(start..end).collect();
        Sample { ids: text.bytes().map(u32::from).collect(), trained }
    }

    fn plain(sample: &Sample) -> String {
        preview(sample, Paint::Plain, &|ids| text_of(ids))
    }

    #[test]
    fn what_is_learned_stands_between_brackets() {
        assert_eq!(plain(&sample("ask:say.ask:", 4, 8)), "ask:⟦say.⟧ask:");
        assert_eq!(plain(&sample("all", 0, 3)), "a⟦ll⟧");
    }

    #[test]
    fn in_colour_the_prompt_is_dim_and_the_rest_is_green() {
        let text = preview(&sample("askno", 3, 5), Paint::Colour, &|ids| text_of(ids));
        assert_eq!(text, "\u{1b}[2mask\u{1b}[0m\u{1b}[1m\u{1b}[32mno\u{1b}[0m");
    }

    #[test]
    fn data_cannot_command_the_terminal() {
        assert_eq!(plain(&sample("a\u{1b}[2J\r\n", 0, 0)), "a\\u{1b}[2J\\u{d}\n");
    }

    #[test]
    fn a_long_sample_is_cut_short() {
        let text = plain(&sample(&"x".repeat(1500), 10, 1500));
        assert!(text.ends_with("x⟧\n... and 476 more tokens"), "{text}");
    }
}
