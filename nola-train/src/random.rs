//! Random numbers that are a pure function of a seed and of what they are for.

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
    /// The choice of what is held out for validation.
    HoldOut,
    /// The choice of samples that come in an epoch, where only some of them do.
    Weight,
}

/// The random numbers of a purpose at a place (a class, an epoch, or a step and a position in it).
pub fn random(seed: u64, purpose: Purpose, place: u64, position: u64) -> ChaCha8Rng {
    let purpose: u64 = match purpose {
        Purpose::Shots => 1,
        Purpose::Order => 2,
        Purpose::Augmentation => 3,
        Purpose::HoldOut => 4,
        Purpose::Weight => 5,
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
