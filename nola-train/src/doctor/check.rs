//! One comparison, and what it came to.

use serde::Serialize;

use crate::device::differences::{Bound, Differences};

/// Numbers that a device computed, beside the expected ones.
#[derive(Debug, Clone)]
pub(super) struct Comparison {
    pub(super) what: String,
    pub(super) found: Vec<f32>,
    pub(super) expected: Vec<f32>,
    pub(super) bound: Bound,
}

/// What a comparison came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Checked {
    pub(super) group: &'static str,
    pub(super) what: String,
    /// Numbers that were compared.
    pub(super) numbers: usize,
    /// How many of them are too far off.
    pub(super) wrong: usize,
    /// The largest difference, in the unit of `allowed`; null if something is non-finite.
    pub(super) largest_difference: f32,
    /// How large it may be.
    pub(super) allowed: f32,
    /// What the difference is measured in.
    pub(super) unit: Unit,
    /// Place, counted from 1, of the first number that is too far off, what it should be and what it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_wrong: Option<FirstWrong>,
    /// Whether it could be computed at all.
    pub(super) computed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Unit {
    Absolute,
    OfLargest,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct FirstWrong {
    place: usize,
    expected: f32,
    found: f32,
}

impl Comparison {
    pub(super) fn new(what: impl Into<String>, found: Vec<f32>, expected: Vec<f32>, bound: Bound) -> Self {
        Self { what: what.into(), found, expected, bound }
    }

    pub(super) fn checked(self, group: &'static str) -> Checked {
        let differences = Differences::of(&self.found, &self.expected, self.bound);
        let (allowed, unit) = match self.bound {
            Bound::SameBits => (0.0, Unit::Absolute),
            Bound::Absolute(allowed) => (allowed, Unit::Absolute),
            Bound::OfLargest(part) => (part, Unit::OfLargest),
        };
        let first_wrong = (differences.first).map(|wrong| FirstWrong {
            place: wrong.place,
            expected: wrong.expected,
            found: wrong.found,
        });
        Checked {
            group,
            what: self.what,
            numbers: differences.count,
            wrong: differences.wrong,
            largest_difference: differences.largest,
            allowed,
            unit,
            first_wrong,
            computed: true,
        }
    }
}

impl Checked {
    /// A group of which nothing could be computed.
    pub(super) fn failed(group: &'static str) -> Self {
        Self {
            group,
            what: group.to_owned(),
            numbers: 0,
            wrong: 0,
            largest_difference: f32::INFINITY,
            allowed: 0.0,
            unit: Unit::Absolute,
            first_wrong: None,
            computed: false,
        }
    }

    /// What is wrong, if something is.
    pub(super) fn problem(&self) -> Option<String> {
        let Self { group, what, wrong, numbers, .. } = self;
        if !self.computed {
            return Some(format!("{group}: the computation failed"));
        }
        let FirstWrong { place, expected, found } = self.first_wrong?;
        Some(format!(
            "{group}: {wrong} of {numbers} numbers of {what} are wrong; number {place} should be {expected:?} and is {found:?}"
        ))
    }

    /// The largest difference as a part of what is allowed; 0 where nothing is allowed and nothing differs.
    pub(super) fn used(&self) -> f32 {
        if self.largest_difference == 0.0 { 0.0 } else { self.largest_difference / self.allowed }
    }
}
