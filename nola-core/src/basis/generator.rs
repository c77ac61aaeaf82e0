//! The random entries themselves: distributions, streams, and the words of a block.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[cfg(target_arch = "x86_64")]
use crate::philox::FirstRounds;
use crate::philox::philox4x32_10_lanes;

/// Philox calls made side by side.
const LANES: usize = 8;

/// Distribution of the basis entries before their scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// Uniform in (−1, 1), in steps of 2⁻¹⁵.
    #[default]
    Uniform,
    /// +1 or −1.
    Sign,
}

/// What a sequence of random numbers is for; the last word of the counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Basis of the factor A.
    A = 0,
    /// Basis of the factor B.
    B = 1,
    /// Frozen offset of A, and LoRA's initial A.
    OffsetA = 2,
    /// Frozen offset of B, and the initial B of LoRA on an embedding.
    OffsetB = 3,
    /// Initial coefficients.
    Coefficients = 4,
    /// Basis of a whole weight.
    Weight = 5,
    /// What dropout keeps.
    Dropout = 6,
}

/// One family of random matrices: everything that `value` depends on but the indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generator {
    /// Distribution of the entries.
    pub distribution: Distribution,
    /// Seed of the adapter.
    pub seed: u64,
    /// Hash of the site's name, or of its shape if the basis is shared.
    pub site: u32,
    /// What the numbers are for.
    pub stream: Stream,
}

impl Generator {
    /// Writes the entries `start..start + values.len()` of basis matrix `index`.
    ///
    /// # Panics
    /// If `start` is no multiple of 128.
    pub fn fill(&self, index: u32, start: usize, values: &mut [f32]) {
        assert_eq!(start % 128, 0, "a chunk begins at a block of either distribution");
        match self.distribution {
            Distribution::Uniform => self.fill_with(index, start / 8, 8, values, |words, position| {
                uniform_of((words[position / 2] >> (16 * (position % 2))) & 0xFFFF)
            }),
            Distribution::Sign => self.fill_with(index, start / 128, 128, values, sign_of),
        }
    }

    /// The entries `0..count` of basis matrix `index`.
    pub fn values(&self, index: u32, count: usize) -> Vec<f32> {
        let mut values = vec![0.0; count];
        self.fill(index, 0, &mut values);
        values
    }

    /// The four words of one block.
    pub fn words(&self, block: u32, index: u32) -> [u32; 4] {
        self.lanes([block], [index]).map(|[word]| word)
    }

    pub(super) fn lanes<const N: usize>(&self, blocks: [u32; N], indices: [u32; N]) -> [[u32; N]; 4] {
        philox4x32_10_lanes([blocks, indices, [self.site; N], [self.stream as u32; N]], self.key())
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn first_rounds(&self) -> FirstRounds {
        FirstRounds::new(self.site, self.stream as u32, self.key())
    }

    fn key(&self) -> [u32; 2] {
        [self.seed as u32, (self.seed >> 32) as u32]
    }

    fn fill_with(
        &self,
        index: u32,
        first_block: usize,
        values_per_block: usize,
        values: &mut [f32],
        value_of: impl Fn(&[u32; 4], usize) -> f32,
    ) {
        for (group, values) in values.chunks_mut(LANES * values_per_block).enumerate() {
            let first_block = (first_block + group * LANES) as u32;
            let blocks = std::array::from_fn(|lane| first_block.wrapping_add(lane as u32));
            let lanes = self.lanes::<LANES>(blocks, [index; LANES]);
            for (lane, values) in values.chunks_mut(values_per_block).enumerate() {
                let words = lanes.map(|word| word[lane]);
                for (position, value) in values.iter_mut().enumerate() {
                    *value = value_of(&words, position);
                }
            }
        }
    }
}

/// The uniform value of a half-word.
#[inline]
pub(super) fn uniform_of(half_word: u32) -> f32 {
    (half_word as f32 + 0.5) * (1.0 / 32768.0) - 1.0
}

fn sign_of(words: &[u32; 4], position: usize) -> f32 {
    let bit = (words[position / 32] >> (position % 32)) & 1;
    1.0 - 2.0 * bit as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_entries_are_symmetric_and_never_zero() {
        let step = 1.0 / 65536.0;
        let values = [0xFFFF, 0x0000, 0x7FFF, 0x8000].map(uniform_of);
        assert_eq!(values, [1.0 - step, step - 1.0, -step, step]);
    }
}
