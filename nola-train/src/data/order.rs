//! The order of samples: a pure function of seed and step, so that a resumed run goes on as if never stopped.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What random numbers are for; two purposes never share a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The choice of a few pictures of each class.
    Shots,
    /// The order of samples in an epoch.
    Order,
    /// The change of one picture in one step.
    Augmentation,
}

/// The random numbers of a purpose at a place (a class, an epoch, or a step and a position in it).
pub fn random(seed: u64, purpose: Purpose, place: u64, position: u64) -> ChaCha8Rng {
    let purpose: u64 = match purpose {
        Purpose::Shots => 1,
        Purpose::Order => 2,
        Purpose::Augmentation => 3,
    };
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, purpose, place, position]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// The numbers `0..len` in a random order.
///
/// Written out, because the results of `rand`'s own shuffle may change with its version.
pub fn permutation(len: usize, random: &mut ChaCha8Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    for last in (1..len).rev() {
        let choices = last as u128 + 1;
        let chosen = (u128::from(random.next_u64()) * choices) >> 64;
        order.swap(last, chosen as usize);
    }
    order
}

/// The order of training samples: each epoch a permutation of its own, cut into steps that may cross its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Samples of the data set.
    pub samples: usize,
    /// Samples of a step.
    pub batch: usize,
    /// Seed of the order.
    pub seed: u64,
}

impl Order {
    /// The samples of an optimizer step, counted from 0.
    pub fn step(&self, step: usize) -> Vec<usize> {
        let first = step * self.batch;
        let mut batch = Vec::with_capacity(self.batch);
        while batch.len() < self.batch {
            let position = first + batch.len();
            let (epoch, start) = (position / self.samples, position % self.samples);
            let order = permutation(self.samples, &mut random(self.seed, Purpose::Order, epoch as u64, 0));
            let end = self.samples.min(start + self.batch - batch.len());
            batch.extend_from_slice(&order[start..end]);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_sample_comes_once_in_each_epoch(samples in 1usize..40, batch in 1usize..60, seed: u64) {
            let order = Order { samples, batch, seed };
            let epochs = 3;
            let steps = (epochs * samples).div_ceil(batch);
            let seen: Vec<usize> = (0..steps).flat_map(|step| order.step(step)).collect();
            prop_assert_eq!(seen.len(), steps * batch);
            for epoch in seen.chunks_exact(samples).take(epochs) {
                let mut epoch = epoch.to_vec();
                epoch.sort_unstable();
                prop_assert_eq!(epoch, (0..samples).collect::<Vec<_>>());
            }
        }

        #[test]
        fn the_order_does_not_depend_on_the_size_of_steps(samples in 1usize..40, batch in 1usize..20, seed: u64) {
            let large = Order { samples, batch: 2 * batch, seed };
            let small = Order { batch, ..large };
            prop_assert_eq!(large.step(3), [small.step(6), small.step(7)].concat());
        }
    }

    #[test]
    fn epochs_and_seeds_have_orders_of_their_own() {
        let order = Order { samples: 100, batch: 100, seed: 1 };
        assert_ne!(order.step(0), order.step(1));
        assert_ne!(order.step(0), Order { seed: 2, ..order }.step(0));
    }

    #[test]
    fn the_order_is_the_same_on_every_machine_and_in_every_version() {
        let order = Order { samples: 10, batch: 10, seed: 7 };
        assert_eq!(order.step(0), PINNED);
    }

    /// Also what a ChaCha8 written from its description alone gives.
    const PINNED: [usize; 10] = [8, 2, 3, 4, 6, 1, 0, 7, 5, 9];
}
