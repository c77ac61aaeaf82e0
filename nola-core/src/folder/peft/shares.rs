//! Which of the equal shares of an axis are one part of it.

use std::ops::Range;

/// The shares `from..to` of an axis that is cut into `of` equal ones.
///
/// The parts themselves need not be equal: where there are fewer keys and values than queries, a share of a fused projection is a
/// head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// The first share, from 0.
    pub from: usize,
    /// The share after the last one.
    pub to: usize,
    /// How many shares there are in all.
    pub of: usize,
}

impl Shares {
    /// The `index`-th of `of` equal parts.
    pub const fn nth(index: usize, of: usize) -> Self {
        Self { from: index, to: index + 1, of }
    }

    /// Number of shares.
    pub const fn count(self) -> usize {
        self.to - self.from
    }

    /// Whether `share` is one of them.
    pub const fn contains(self, share: usize) -> bool {
        self.from <= share && share < self.to
    }

    /// Length of the whole axis, of which this part is `part` long.
    pub const fn whole(self, part: usize) -> usize {
        part / self.count() * self.of
    }

    /// Where this part lies on an axis that is `whole` long.
    pub const fn range(self, whole: usize) -> Range<usize> {
        self.from * whole / self.of..self.to * whole / self.of
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unequal_parts_lie_side_by_side() {
        let parts = [(0, 4), (4, 6), (6, 8)].map(|(from, to)| Shares { from, to, of: 8 });
        assert_eq!(parts.map(|part| part.range(64)), [0..32, 32..48, 48..64]);
        assert_eq!(parts.map(|part| part.whole(part.range(64).len())), [64; 3]);
    }

    #[test]
    fn the_last_of_three_equal_parts_is_the_last_third() {
        assert_eq!(Shares::nth(2, 3).range(48), 32..48);
    }
}
