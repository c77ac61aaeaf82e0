//! How far the numbers that a device computed are from the expected ones.

use std::fmt;

/// Numbers of one kind, and the part of the program that made them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    pub(crate) what: String,
    pub(crate) numbers: Vec<f32>,
}

impl Part {
    pub(crate) fn new(what: impl Into<String>, numbers: Vec<f32>) -> Self {
        Self { what: what.into(), numbers }
    }
}

/// How far a number may be from the expected one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    /// Not at all.
    SameBits,
    /// By so much.
    Absolute(f32),
    /// By this part of the largest expected number.
    OfLargest(f32),
}

/// How far numbers are from the expected ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Differences {
    /// How many were compared.
    pub(crate) count: usize,
    /// How many are too far off.
    pub(crate) wrong: usize,
    /// The largest difference, in the unit of the bound; infinite if something is non-finite.
    pub(crate) largest: f32,
    /// The first number that is too far off.
    pub(crate) first: Option<Wrong>,
}

/// A number that is too far off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Wrong {
    /// Its place, counted from 1.
    pub(crate) place: usize,
    pub(crate) expected: f32,
    pub(crate) found: f32,
}

impl Differences {
    /// Compares `found` with `expected`, number by number; one that is absent is NaN.
    pub(crate) fn of(found: &[f32], expected: &[f32], bound: Bound) -> Self {
        let largest_expected = expected.iter().fold(0.0_f32, |most, number| most.max(number.abs()));
        let (unit, allowed) = match bound {
            Bound::SameBits => (1.0, 0.0),
            Bound::Absolute(allowed) => (1.0, allowed),
            // What is to be zero throughout is compared as it is.
            Bound::OfLargest(part) if largest_expected > 0.0 => (largest_expected, part),
            Bound::OfLargest(part) => (1.0, part),
        };
        let count = found.len().max(expected.len());
        let mut differences = Self { count, wrong: 0, largest: 0.0, first: None };
        for n in 0..count {
            let number = |numbers: &[f32]| numbers.get(n).copied().unwrap_or(f32::NAN);
            let (found, expected) = (number(found), number(expected));
            let difference = (found - expected).abs() / unit;
            let is_right = match bound {
                Bound::SameBits => found.to_bits() == expected.to_bits(),
                Bound::Absolute(_) | Bound::OfLargest(_) => difference <= allowed,
            };
            if !is_right {
                differences.wrong += 1;
                differences.first.get_or_insert(Wrong { place: n + 1, expected, found });
            }
            let difference = if difference.is_nan() { f32::INFINITY } else { difference };
            differences.largest = differences.largest.max(difference);
        }
        differences
    }

    /// What is wrong, if something is: how much of it, and the first number expected and found.
    pub(crate) fn problem(&self, what: &str) -> Option<String> {
        let first = self.first?;
        Some(format!("{} of {} numbers of {what} are wrong: {first}", self.wrong, self.count))
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, expected, found } = self;
        write!(f, "number {place} should be {expected:?} and is {found:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_within_the_bound_are_right() {
        for bound in [Bound::Absolute(0.1), Bound::OfLargest(0.05)] {
            let near = Differences::of(&[1.0, 2.09], &[1.0, 2.0], bound);
            assert_eq!((near.count, near.wrong, near.problem("it")), (2, 0, None), "{near:?}");
            let far = Differences::of(&[1.0, 2.11], &[1.0, 2.0], bound);
            let problem = "1 of 2 numbers of it are wrong: number 2 should be 2.0 and is 2.11";
            assert_eq!(far.problem("it").as_deref(), Some(problem));
        }
    }

    #[test]
    fn the_same_bits_are_told_from_the_next_number() {
        let next = f32::from_bits(1.0_f32.to_bits() + 1);
        assert_eq!(Differences::of(&[1.0], &[1.0], Bound::SameBits).wrong, 0);
        assert_eq!(Differences::of(&[next], &[1.0], Bound::SameBits).wrong, 1);
        assert_eq!(Differences::of(&[-0.0], &[0.0], Bound::SameBits).wrong, 1, "a sign is a bit");
    }

    #[test]
    fn what_is_absent_or_non_finite_is_wrong() {
        for found in [&[1.0, f32::NAN][..], &[1.0, f32::INFINITY], &[1.0]] {
            let differences = Differences::of(found, &[1.0, 2.0], Bound::OfLargest(0.5));
            assert_eq!((differences.wrong, differences.largest), (1, f32::INFINITY), "{found:?}");
        }
    }
}
