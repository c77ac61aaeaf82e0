//! Which of many adapters requests ask for.

use clap::ValueEnum;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Zipf};
use serde::Serialize;

/// How often each adapter is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Traffic {
    /// Each as often as any other.
    Uniform,
    /// The n-th in proportion to 1/n, or to that to the power of an exponent.
    Zipf,
}

impl Traffic {
    /// The adapters, from 0, that requests ask for, one after the other without end; the same ones every time.
    ///
    /// # Panics
    /// If there is no adapter, or the exponent is below 0.
    pub fn requests(self, adapters: u64, exponent: f64) -> impl Iterator<Item = u64> {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let zipf = Zipf::new(adapters as f64, exponent).expect("an adapter, and an exponent of at least 0");
        std::iter::repeat_with(move || match self {
            Self::Uniform => random.random_range(0..adapters),
            Self::Zipf => drawn(&zipf, adapters, &mut random),
        })
    }

    /// As it is typed.
    pub fn name(self) -> String {
        self.to_possible_value().expect("no kind is hidden").get_name().to_owned()
    }
}

/// Ranks are drawn as floats from 1 on.
fn drawn(zipf: &Zipf<f64>, adapters: u64, random: &mut impl Rng) -> u64 {
    (zipf.sample(random) as u64 - 1).min(adapters - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_many_is_asked_as_often_as_the_law_says() {
        for (exponent, expected) in [(1.0, 0.1336), (0.0, 0.001)] {
            let requests: Vec<u64> = Traffic::Zipf.requests(1000, exponent).take(100_000).collect();
            let of_first = requests.iter().filter(|&&adapter| adapter == 0).count() as f64 / 1e5;
            assert!((of_first / expected - 1.0).abs() < 0.3, "{exponent}: {of_first}");
            assert!(requests.iter().all(|&adapter| adapter < 1000));
        }
    }

    #[test]
    fn requests_are_the_same_every_time() {
        for traffic in [Traffic::Uniform, Traffic::Zipf] {
            let some = || traffic.requests(50, 1.0).take(20).collect::<Vec<_>>();
            assert_eq!(some(), some());
        }
    }
}
