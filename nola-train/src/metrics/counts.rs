//! N-grams of a text and how often each occurs.

use std::cmp::Ordering;

/// The n-grams of one order, sorted, so that sums over them come out the same in every run.
pub(super) struct Counts<'a, T>(Vec<(&'a [T], usize)>);

impl<'a, T: Ord> Counts<'a, T> {
    /// The n-grams of `items` that are `order` items long.
    pub fn of(items: &'a [T], order: usize) -> Self {
        let mut ngrams: Vec<&[T]> = items.windows(order).collect();
        ngrams.sort_unstable();
        Self(ngrams.chunk_by(|left, right| left == right).map(|run| (run[0], run.len())).collect())
    }

    /// Each n-gram as often as the text has it that has it most often.
    pub fn highest(texts: impl IntoIterator<Item = Self>) -> Self {
        let mut all: Vec<_> = texts.into_iter().flat_map(|text| text.0).collect();
        all.sort_unstable_by(|left, right| left.0.cmp(right.0).then(right.1.cmp(&left.1)));
        all.dedup_by(|later, kept| later.0 == kept.0);
        Self(all)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'a [T], usize)> {
        self.0.iter().copied()
    }

    /// N-grams in the text, repeated ones counted as often as they occur.
    pub fn total(&self) -> usize {
        self.0.iter().map(|(_, count)| count).sum()
    }

    /// The n-grams that `other` has too, with both counts: ours, then theirs.
    pub fn shared(&self, other: &Self) -> Vec<(&'a [T], usize, usize)> {
        let (mut ours, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut shared = Vec::new();
        while let (Some(our), Some(their)) = (ours.peek(), theirs.peek()) {
            match our.0.cmp(their.0) {
                Ordering::Less => drop(ours.next()),
                Ordering::Greater => drop(theirs.next()),
                Ordering::Equal => {
                    shared.push((our.0, our.1, their.1));
                    ours.next();
                    theirs.next();
                }
            }
        }
        shared
    }

    /// How many of our n-grams `other` has, each counted at most as often as there.
    pub fn hits(&self, other: &Self) -> usize {
        self.shared(other).iter().map(|(_, ours, theirs)| ours.min(theirs)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_ngram_is_counted_once_for_each_time() {
        let counts = Counts::of(b"abab", 2);
        assert_eq!(counts.0, [(&b"ab"[..], 2), (&b"ba"[..], 1)]);
    }

    #[test]
    fn a_text_shorter_than_the_order_has_no_ngrams() {
        assert_eq!(Counts::of(b"ab", 3).total(), 0);
    }

    #[test]
    fn the_highest_count_of_any_text_is_kept() {
        let highest = Counts::highest([Counts::of(b"ab", 1), Counts::of(b"bb", 1)]);
        assert_eq!(highest.0, [(&b"a"[..], 1), (&b"b"[..], 2)]);
    }

    #[test]
    fn hits_are_clipped_to_what_the_other_text_has() {
        assert_eq!(Counts::of(b"aaab", 1).hits(&Counts::of(b"aac", 1)), 2);
    }
}
