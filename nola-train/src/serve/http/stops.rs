//! Stop strings, found across the borders of tokens.

/// Lets text through up to the first of some strings, and holds back what may be the beginning of one.
#[derive(Debug, Default)]
pub(super) struct Stops {
    strings: Vec<String>,
    held: String,
}

/// What of a text is let through.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Passed {
    pub text: String,
    /// Whether a stop string followed, behind which nothing comes.
    pub is_stopped: bool,
}

impl Stops {
    /// None of `strings` is empty.
    pub(super) fn new(strings: Vec<String>) -> Self {
        Self { strings, held: String::new() }
    }

    /// The next part of the text. Of several stop strings the one that is complete first counts, so that it does not matter
    /// how the text is cut.
    pub(super) fn push(&mut self, part: &str) -> Passed {
        let known = self.held.len();
        self.held.push_str(part);
        let found = self.strings.iter().filter_map(|stop| first_end(&self.held, stop, known)).min();
        if let Some((_, start)) = found {
            self.held.truncate(start);
            return Passed { text: std::mem::take(&mut self.held), is_stopped: true };
        }
        let kept = self.strings.iter().map(|stop| beginning_at_end(&self.held, stop)).max().unwrap_or(0);
        let held = self.held.split_off(self.held.len() - kept);
        Passed { text: std::mem::replace(&mut self.held, held), is_stopped: false }
    }

    /// What was held back, when nothing more comes.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Where `stop` first ends in `text`, and starts; it does not end in the first `known` bytes.
fn first_end(text: &str, stop: &str, known: usize) -> Option<(usize, usize)> {
    let from = text.floor_char_boundary((known + 1).saturating_sub(stop.len()));
    let start = from + text[from..].find(stop)?;
    Some((start + stop.len(), start))
}

/// Bytes of the longest beginning of `stop` that `text` ends with.
fn beginning_at_end(text: &str, stop: &str) -> usize {
    let is_beginning = |&bytes: &usize| stop.is_char_boundary(bytes) && text.ends_with(&stop[..bytes]);
    (1..stop.len().min(text.len() + 1)).rev().find(is_beginning).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is let through of parts, and whether the text was stopped.
    fn passed(stops: &[&str], parts: &[&str]) -> (String, bool) {
        let mut stops = Stops::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut text = String::new();
        for part in parts {
            let passed = stops.push(part);
            text.push_str(&passed.text);
            if passed.is_stopped {
                return (text, true);
            }
        }
        text.push_str(&stops.finish());
        (text, false)
    }

    #[test]
    fn a_text_ends_before_its_stop_string() {
        assert_eq!(passed(&["\n"], &["a b\nc"]), ("a b".to_owned(), true));
        assert_eq!(passed(&["END"], &["a E", "N", "D b"]), ("a ".to_owned(), true));
        assert_eq!(passed(&[], &["a", "b"]), ("ab".to_owned(), false));
    }

    #[test]
    fn what_only_looked_like_a_stop_string_comes_out() {
        assert_eq!(passed(&["END"], &["a EN", "d b"]), ("a ENd b".to_owned(), false));
        assert_eq!(passed(&["END"], &["a EN"]), ("a EN".to_owned(), false));
        assert_eq!(passed(&["aab"], &["aa", "ab"]), ("a".to_owned(), true));
    }

    #[test]
    fn nothing_is_held_back_that_cannot_become_one() {
        let mut stops = Stops::new(vec!["END".to_owned()]);
        assert_eq!(stops.push("an E"), Passed { text: "an ".to_owned(), is_stopped: false });
        assert_eq!(stops.push("x"), Passed { text: "Ex".to_owned(), is_stopped: false });
    }

    #[test]
    fn the_string_that_is_complete_first_counts() {
        assert_eq!(passed(&["bc", "abcd"], &["abcd"]), ("a".to_owned(), true));
        assert_eq!(passed(&["c", "bc"], &["abc"]), ("a".to_owned(), true));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_a_text_is_cut(
            text in "[abé]{0,20}",
            cuts in prop::collection::vec(0usize..20, 0..6),
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let mut places: Vec<usize> = cuts.iter().map(|&cut| text.floor_char_boundary(cut)).collect();
            places.extend([0, text.len()]);
            places.sort_unstable();
            let parts: Vec<&str> = places.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            let (whole, is_stopped) = passed(&stops, &[&text]);
            prop_assert_eq!(passed(&stops, &parts), (whole.clone(), is_stopped));
            let is_there = stops.iter().any(|stop| text.contains(stop));
            prop_assert_eq!(is_there, is_stopped);
            prop_assert!(stops.iter().all(|stop| !whole.contains(stop)));
        }
    }
}
