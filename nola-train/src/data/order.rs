//! The order of samples: a pure function of seed and step, so that a resumed run goes on as if never stopped.

use crate::random::{Purpose, permutation, random};

/// Samples that come equally often.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedSamples {
    /// The samples.
    pub samples: Vec<usize>,
    /// How often each of them comes in an epoch: of the part behind the point so many are drawn anew for every epoch.
    pub weight: f64,
}

impl WeightedSamples {
    /// Each sample once in an epoch.
    pub fn once(samples: usize) -> Self {
        Self { samples: (0..samples).collect(), weight: 1.0 }
    }

    /// Samples that come in an epoch.
    pub fn in_epoch(&self) -> usize {
        self.weight.trunc() as usize * self.samples.len() + self.drawn()
    }

    /// Samples that come once more than the others.
    fn drawn(&self) -> usize {
        (self.weight.fract() * self.samples.len() as f64).round() as usize
    }

    /// The samples of an epoch; `place` tells several such lists of one seed apart.
    fn epoch(&self, seed: u64, epoch: usize, place: usize) -> Vec<usize> {
        let mut all = self.samples.repeat(self.weight.trunc() as usize);
        let drawn = self.drawn();
        if drawn > 0 {
            let mut random = random(seed, Purpose::Weight, epoch as u64, place as u64);
            let order = permutation(self.samples.len(), &mut random);
            all.extend(order[..drawn].iter().map(|&index| self.samples[index]));
        }
        all
    }
}

/// The order of training samples: each epoch a permutation of its own, cut into steps that may cross its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    parts: Vec<WeightedSamples>,
    /// Samples of an epoch.
    samples: usize,
    batch: usize,
    seed: u64,
    /// The epoch that was drawn last, kept since the next step most often needs it too.
    drawn: Option<(usize, Vec<usize>)>,
}

impl Order {
    /// For samples of which some come in every epoch; each step takes `batch`.
    pub fn new(parts: Vec<WeightedSamples>, batch: usize, seed: u64) -> Self {
        let samples = parts.iter().map(WeightedSamples::in_epoch).sum();
        Self { parts, samples, batch, seed, drawn: None }
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
        let drawn = drawn.unwrap_or_else(|| (epoch, self.draw(epoch)));
        let (_, order) = self.drawn.insert(drawn);
        order
    }

    fn draw(&self, epoch: usize) -> Vec<usize> {
        let parts = self.parts.iter().enumerate();
        let all: Vec<usize> = parts.flat_map(|(place, part)| part.epoch(self.seed, epoch, place)).collect();
        let order = permutation(all.len(), &mut random(self.seed, Purpose::Order, epoch as u64, 0));
        order.into_iter().map(|index| all[index]).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn once(samples: usize, batch: usize, seed: u64) -> Order {
        Order::new(vec![WeightedSamples::once(samples)], batch, seed)
    }

    /// How often each of ten samples comes in some epochs, five of weight `first` and five of weight `second`.
    fn counts(first: f64, second: f64, epochs: usize) -> Vec<Vec<usize>> {
        let part =
            |samples: std::ops::Range<usize>, weight| WeightedSamples { samples: samples.collect(), weight };
        let parts = vec![part(0..5, first), part(5..10, second)];
        let in_epoch = parts.iter().map(WeightedSamples::in_epoch).sum();
        let mut order = Order::new(parts, in_epoch, 3);
        let count = |epoch| {
            let samples = order.step(epoch);
            (0..10).map(|sample| samples.iter().filter(|&&found| found == sample).count()).collect()
        };
        (0..epochs).map(count).collect()
    }

    #[test]
    fn a_whole_weight_is_how_often_each_sample_comes() {
        for epoch in counts(2.0, 3.0, 3) {
            assert_eq!(epoch, [2, 2, 2, 2, 2, 3, 3, 3, 3, 3]);
        }
    }

    #[test]
    fn a_part_of_the_samples_is_drawn_anew_for_every_epoch() {
        let epochs = counts(0.4, 1.6, 20);
        for epoch in &epochs {
            assert_eq!(epoch[..5].iter().sum::<usize>(), 2);
            assert_eq!(epoch[5..].iter().sum::<usize>(), 8);
            assert!(epoch[..5].iter().all(|&count| count <= 1) && epoch[5..].iter().all(|&count| count >= 1));
        }
        let ever: Vec<usize> = (0..5).map(|sample| epochs.iter().map(|epoch| epoch[sample]).sum()).collect();
        assert!(ever.iter().all(|&count| count > 0), "each comes in some epoch: {ever:?}");
    }

    #[test]
    fn a_weight_of_one_changes_no_order() {
        let halves = [0..4, 4..10].map(|samples| WeightedSamples { samples: samples.collect(), weight: 1.0 });
        let mut weighted = Order::new(halves.to_vec(), 3, 5);
        let mut plain = once(10, 3, 5);
        assert!((0..9).all(|step| weighted.step(step) == plain.step(step)));
    }

    proptest! {
        #[test]
        fn every_sample_comes_once_in_each_epoch(samples in 1usize..40, batch in 1usize..60, seed: u64) {
            let mut order = once(samples, batch, seed);
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
            let mut large = once(samples, 2 * batch, seed);
            let mut small = once(samples, batch, seed);
            prop_assert_eq!(large.step(3), [small.step(6), small.step(7)].concat());
        }

        #[test]
        fn a_step_has_its_samples_whatever_was_asked_for_before(steps in proptest::collection::vec(0usize..30, 1..20)) {
            let mut asked = once(7, 3, 5);
            for step in steps {
                prop_assert_eq!(asked.step(step), once(7, 3, 5).step(step));
            }
        }
    }

    #[test]
    fn epochs_and_seeds_have_orders_of_their_own() {
        let mut order = once(100, 100, 1);
        assert_ne!(order.step(0), order.step(1));
        assert_ne!(order.step(0), once(100, 100, 2).step(0));
    }

    #[test]
    fn the_order_is_the_same_on_every_machine_and_in_every_version() {
        let mut order = once(10, 10, 7);
        assert_eq!(order.step(0), PINNED);
    }

    /// Also what a ChaCha8 written from its description alone gives.
    const PINNED: [usize; 10] = [8, 2, 3, 4, 6, 1, 0, 7, 5, 9];
}
