//! What is left of an update once the weights are rounded for a file.

/// What is left of an update once the weights are rounded for a file.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Survivors {
    /// Weights whose update is not zero.
    pub changed: usize,
    /// Those of them that differ from the base's once both are rounded.
    pub left: usize,
    /// Sum of the squares of the update.
    squares: f64,
    /// Sum of the products of the update with what the file holds of it.
    along: f64,
}

impl Survivors {
    /// Notes the update of one weight, and the weight before and after it, both rounded.
    pub(super) fn note(&mut self, update: f64, [before, after]: [f32; 2]) {
        let is_changed = update != 0.0;
        self.changed += usize::from(is_changed);
        self.left += usize::from(is_changed && before != after);
        self.squares += update * update;
        self.along += update * (f64::from(after) - f64::from(before));
    }

    /// The share of the update that is left: what the file holds of it, projected onto it. 1 if it is whole, 0 if nothing is
    /// left, none if there is no update. Noise across the update, which rounding adds, does not count.
    pub fn share(&self) -> Option<f64> {
        (self.squares > 0.0).then(|| self.along / self.squares)
    }
}

impl std::ops::Add for Survivors {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            changed: self.changed + other.changed,
            left: self.left + other.left,
            squares: self.squares + other.squares,
            along: self.along + other.along,
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    /// What bf16 leaves of an update of weights that are all 1.
    fn in_bf16(updates: &[f32]) -> Survivors {
        let rounded = |value: f32| bf16::from_f32(value).to_f32();
        let mut survivors = Survivors::default();
        updates.iter().for_each(|update| survivors.note(f64::from(*update), [1.0, rounded(1.0 + update)]));
        survivors
    }

    #[test]
    fn an_update_that_rounding_takes_away_has_no_share() {
        let lost = in_bf16(&[1e-3, -1e-3]);
        assert_eq!((lost.changed, lost.left, lost.share()), (2, 0, Some(0.0)));
    }

    #[test]
    fn an_update_that_the_type_holds_is_whole() {
        assert_eq!(in_bf16(&[0.25, -0.5]).share(), Some(1.0));
    }

    #[test]
    fn a_share_weighs_each_number_by_what_it_changes() {
        let partly = in_bf16(&[0.25, 1e-3]);
        assert_eq!((partly.changed, partly.left), (2, 1));
        assert!(partly.share().is_some_and(|share| (0.9999..1.0).contains(&share)), "{partly:?}");
    }

    #[test]
    fn no_update_has_no_share() {
        assert_eq!(in_bf16(&[0.0, 0.0]).share(), None);
    }

    #[test]
    fn sums_of_parts_are_those_of_the_whole() {
        let (one, other) = ([0.25, 0.0], [0.5, -0.125]);
        assert_eq!(in_bf16(&one) + in_bf16(&other), in_bf16(&[one, other].concat()));
    }
}
