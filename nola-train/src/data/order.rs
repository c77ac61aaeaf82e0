//! The order of samples: a pure function of seed and step, so that a resumed run goes on as if never stopped.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What random numbers are for; two purposes never share a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The choice of a few images of each class.
    Shots,
    /// The order of samples in an epoch.
    Order,
    /// The change of one image in one step.
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    samples: usize,
    batch: usize,
    seed: u64,
    /// The epoch that was drawn last, kept since the next step most often needs it too.
    drawn: Option<(usize, Vec<usize>)>,
}

impl Order {
    /// For a data set of `samples`, of which each step takes `batch`.
    pub fn new(samples: usize, batch: usize, seed: u64) -> Self {
        Self { samples, batch, seed, drawn: None }
    }

    /// What it is drawn with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The samples of an optimizer step, counted from 0; the same ones whatever was asked for before.
    pub fn step(&mut self, step: usize) -> Vec<usize> {
        let first = step * self.batch;
        let mut batch = Vec::with_capacity(self.batch);
        while batch.len() < self.batch {
            let position = first + batch.len();
            let (epoch, start) = (position / self.samples, position % self.samples);
            let end = self.samples.min(start + self.batch - batch.len());
            batch.extend_from_slice(&self.epoch(epoch)[start..end]);
        }
        batch
    }

    /// The samples of an epoch, in order.
    fn epoch(&mut self, epoch: usize) -> &[usize] {
        let drawn = self.drawn.take().filter(|(drawn, _)| *drawn == epoch);
        let (samples, seed) = (self.samples, self.seed);
        let draw = || permutation(samples, &mut random(seed, Purpose::Order, epoch as u64, 0));
        let (_, order) = self.drawn.insert(drawn.unwrap_or_else(|| (epoch, draw())));
        order
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_sample_comes_once_in_each_epoch(samples in 1usize..40, batch in 1usize..60, seed: u64) {
            let mut order = Order::new(samples, batch, seed);
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
            let mut large = Order::new(samples, 2 * batch, seed);
            let mut small = Order::new(samples, batch, seed);
            prop_assert_eq!(large.step(3), [small.step(6), small.step(7)].concat());
        }

        #[test]
        fn a_step_has_its_samples_whatever_was_asked_for_before(steps in proptest::collection::vec(0usize..30, 1..20)) {
            let mut asked = Order::new(7, 3, 5);
            for step in steps {
                prop_assert_eq!(asked.step(step), Order::new(7, 3, 5).step(step));
            }
        }
    }

    #[test]
    fn epochs_and_seeds_have_orders_of_their_own() {
        let mut order = Order::new(100, 100, 1);
        assert_ne!(order.step(0), order.step(1));
        assert_ne!(order.step(0), Order::new(100, 100, 2).step(0));
    }

    #[test]
    fn the_order_is_the_same_on_every_machine_and_in_every_version() {
        let mut order = Order::new(10, 10, 7);
        assert_eq!(order.step(0), PINNED);
    }

    /// Also what a ChaCha8 written from its description alone gives.
    const PINNED: [usize; 10] = [8, 2, 3, 4, 6, 1, 0, 7, 5, 9];
}
