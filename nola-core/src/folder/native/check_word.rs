//! One word for each site of a folder, which changes when what is frozen there does.
//!
//! What is regenerated to the bit is hashed. What is computed from the base's weight by linear algebra has other last bits on
//! another processor: it has a sum in 16 bits, and the sum computed again has to be near.

use burn::module::Module;
use half::bf16;

use crate::adapted::Adapted;
use crate::adapter::{Factor, FrozenMatrix, Plan};
use crate::basis::{Distribution, Generator, Stream};
use crate::philox::fnv1a_32;
use crate::site::Site;

/// How many `bf16` numbers a sum may be away from the stored one.
const STEPS: i32 = 2;
/// How far a sum may be away, as a part of the matrix's length: sums near zero have no precise digits.
const CANCELLATION: f64 = 1e-5;

/// The check word of what `plan` freezes.
pub(super) fn check_word(plan: &Plan) -> u32 {
    match sums(plan) {
        None => fnv1a_32(&format!("{}/{}", plan.a.check_text(), plan.b.check_text())),
        Some([a, b]) => u32::from(a.bits()) << 16 | u32::from(b.bits()),
    }
}

/// One text for each site whose check word does not fit.
pub(super) fn problems_of_check_words<M: Module>(adapted: &Adapted<M>, stored: &[u32]) -> Vec<String> {
    let sites = adapted.sites().iter().zip(adapted.plans()).zip(stored);
    sites.filter_map(|((site, plan), stored)| problem(site, plan, *stored)).collect()
}

fn problem(site: &Site, plan: &Plan, stored: u32) -> Option<String> {
    let path = &site.path;
    let Some([a, b]) = sums(plan) else {
        let word = check_word(plan);
        return (word != stored).then(|| {
            format!("site `{path}`: check word {stored:08x}, but the basis regenerated here has {word:08x}")
        });
    };
    let fits = a.fits((stored >> 16) as u16) && b.fits(stored as u16);
    (!fits).then(|| {
        format!(
            "site `{path}`: the factors computed here from its weight are not those that the adapter was trained with; load \
             the base that it was trained on, its weights in the same type"
        )
    })
}

/// Both halves of the check word, if a factor was computed from a weight.
fn sums(plan: &Plan) -> Option<[Half; 2]> {
    let factors = [&plan.a, &plan.b];
    factors.iter().any(|factor| factor.computed().is_some()).then(|| factors.map(Half::of))
}

/// What tells one factor.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Half {
    /// Of what is the same to the bit everywhere.
    Hash(u16),
    /// Of what is nearly the same: the sum of its numbers, each with a random sign, and the length of all.
    Sum { sum: f64, length: f64 },
}

impl Half {
    fn of(factor: &Factor) -> Self {
        match factor.computed() {
            None => Self::Hash(fnv1a_32(&factor.check_text()) as u16),
            Some(frozen) => Self::sum_of(frozen),
        }
    }

    fn sum_of(frozen: &FrozenMatrix) -> Self {
        let generator =
            Generator { distribution: Distribution::Sign, seed: 0, site: 0, stream: Stream::OffsetB };
        let values = frozen.values();
        let signs = generator.values(0, values.len());
        let sum = values.iter().zip(signs).map(|(&value, sign)| f64::from(value) * f64::from(sign)).sum();
        let square: f64 = values.iter().map(|&value| f64::from(value).powi(2)).sum();
        Self::Sum { sum, length: square.sqrt() }
    }

    fn bits(self) -> u16 {
        match self {
            Self::Hash(bits) => bits,
            Self::Sum { sum, .. } => bf16::from_f64(sum).to_bits(),
        }
    }

    /// Whether a stored half is that of the same factor.
    fn fits(self, stored: u16) -> bool {
        match self {
            Self::Hash(bits) => bits == stored,
            Self::Sum { sum, length } => {
                let difference = (bf16::from_bits(stored).to_f64() - sum).abs();
                (place(self.bits()) - place(stored)).abs() <= STEPS || difference <= CANCELLATION * length
            }
        }
    }
}

/// The place of a `bf16` number among all in ascending order; both zeros are one.
fn place(bits: u16) -> i32 {
    let magnitude = i32::from(bits & 0x7FFF);
    if bits >> 15 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(change: impl Fn(usize, f32) -> f32) -> Plan {
        let values = |seed: f32| {
            let values = (0..60).map(|n| change(n, (n as f32 * 1.9 + seed).sin()));
            FrozenMatrix::computed(values.collect::<Vec<f32>>(), [20, 3])
        };
        Plan::low_rank(Factor::Frozen(values(0.2)), Factor::Frozen(values(0.7)), 3, 1.0)
    }

    fn problem_of(plan: &Plan, stored: u32) -> Option<String> {
        problem(&Site::linear("blocks.0.mlp.up", 20, 20), plan, stored)
    }

    #[test]
    fn last_bits_of_computed_factors_do_not_matter() {
        let stored = check_word(&plan(|_, value| value));
        for ulps in [1_u32, 7] {
            let other = plan(|n, value| f32::from_bits(value.to_bits() + ulps * (n as u32 % 2)));
            assert_eq!(problem_of(&other, stored), None, "{ulps}");
        }
    }

    #[test]
    fn other_factors_are_told_with_site_and_cure() {
        let stored = check_word(&plan(|_, value| value));
        let others = [
            plan(|_, value| 1.05 * value),
            plan(|_, value| -value),
            plan(|n, value| if n % 3 == 1 { -value } else { value }),
            plan(|n, value| value + (n as f32 * 0.8).cos()),
        ];
        for (number, other) in others.iter().enumerate() {
            let problem = problem_of(other, stored).unwrap_or_else(|| panic!("{number} is another one"));
            assert!(problem.contains("`blocks.0.mlp.up`") && problem.contains("load the base"), "{problem}");
        }
    }

    #[test]
    fn neighbours_on_both_sides_of_zero_are_near() {
        let [low, high] = [-f32::MIN_POSITIVE, f32::MIN_POSITIVE].map(|v| place(bf16::from_f32(v).to_bits()));
        assert_eq!((low, high, place(0x8000)), (-place(0x0080), place(0x0080), 0));
    }
}
