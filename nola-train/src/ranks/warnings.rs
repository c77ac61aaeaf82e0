//! Warnings of ranks that do not show anything: they travel to the first one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a warning begins.
const BEGINS: &str = "warning: ";

/// The warnings of a rank; all clones are one.
#[derive(Debug, Clone)]
pub(super) struct Warnings {
    is_first: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Of the first rank: what it has shown.
    shown: BTreeSet<String>,
    /// Of another one: those that are not sent to the first one yet.
    unsent: Vec<String>,
}

/// The text of a warning, with or without the name of a run before it; none of another line.
fn warning(line: &str) -> Option<&str> {
    let (before, text) = line.split_once(BEGINS)?;
    (before.is_empty() || before.ends_with(": ")).then_some(text)
}

impl Warnings {
    pub(super) fn of(rank: usize) -> Self {
        Self { is_first: rank == 0, state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this rank shows a line; another one than the first keeps a warning to send it.
    pub(super) fn is_shown(&self, line: &str) -> bool {
        if let Some(text) = warning(line) {
            let mut state = self.state();
            if self.is_first {
                state.shown.insert(text.to_owned());
            } else {
                state.unsent.push(text.to_owned());
            }
        }
        self.is_first
    }

    /// The warnings that are not sent yet; each only once.
    pub(super) fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.state().unsent)
    }

    /// Whether a warning of another rank was not shown yet; from now on it was.
    pub(super) fn is_new(&self, text: &str) -> bool {
        self.state().shown.insert(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_of_another_rank_travels_and_all_else_is_not_shown() {
        let other = Warnings::of(1);
        for line in ["nola: warning: a", "warning: b", "nola: step 1/2", "data: 3 rows", "no warning: c"] {
            assert!(!other.is_shown(line));
        }
        assert_eq!(other.taken(), ["a", "b"]);
        assert!(other.taken().is_empty());
    }

    #[test]
    fn the_first_rank_shows_everything_and_a_warning_of_all_ranks_once() {
        let first = Warnings::of(0);
        assert!(first.is_shown("warning: a") && first.is_shown("nola: step 1/2"));
        assert!(!first.is_new("a"), "it was shown");
        assert!(first.is_new("b") && !first.is_new("b"));
    }
}
