//! Rotary positions in the half-split layout: entry `n` of a head turns with entry `n + d_head/2`.

mod scaling;

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::AttentionMask;
use crate::fused::rotated;
pub use scaling::{LongRope, RotaryScaling, Yarn};

/// How fast the entries of a head turn with the position of their token.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// Base of the geometric row of wave lengths.
    pub theta: f64,
    /// How the frequencies of a longer context were made from those of the pretraining.
    pub scaling: RotaryScaling,
}

impl Rotary {
    /// Radians a token that each pair of entries turns in a text of `tokens` tokens, `d_head / 2` of them.
    fn frequencies(&self, d_head: usize, tokens: usize) -> Vec<f64> {
        self.scaling.frequencies(self.theta, d_head, tokens)
    }

    /// Sines and cosines for all tokens of a pass, computed on the host in f64.
    pub(crate) fn rope(&self, d_head: usize, mask: &AttentionMask, device: &Device, dtype: DType) -> Rope {
        let (positions, rows) = mask.positions();
        let tokens = positions.len() / rows;
        let angles = self.angles(d_head, mask);
        let shape = [angles.len() * 2 / (tokens * d_head), 1, tokens, d_head / 2];
        Rope::by(&angles, self.scaling.attention_factor(), shape, device, dtype)
    }

    /// Whether all tokens of a text turn otherwise when it has grown from `before` tokens to `after`.
    pub(crate) fn changes(&self, before: usize, after: usize) -> bool {
        self.scaling.changes(before, after)
    }

    /// Whether they ever do.
    pub(crate) fn depends_on_length(&self) -> bool {
        self.scaling.depends_on_length()
    }

    /// The angle of each token, one for each pair of entries: of each row, or, where all rows agree, of one.
    fn angles(&self, d_head: usize, mask: &AttentionMask) -> Vec<f64> {
        let (positions, rows) = mask.positions();
        let tokens = positions.len() / rows;
        let mut angles = Vec::with_capacity(positions.len() * d_head / 2);
        if self.scaling.depends_on_length() && !mask.lengths().is_empty() {
            for &length in mask.lengths() {
                add_angles(&mut angles, positions.iter().copied(), &self.frequencies(d_head, length));
            }
            return angles;
        }
        // Samples that share a row begin at position 0 again.
        for text in positions.chunks(tokens).flat_map(|row| row.chunk_by(|one, next| one < next)) {
            let frequencies = self.frequencies(d_head, text.last().map_or(0, |last| last + 1));
            add_angles(&mut angles, text.iter().copied(), &frequencies);
        }
        angles
    }
}

/// Adds the angles at `positions`.
fn add_angles(angles: &mut Vec<f64>, positions: impl Iterator<Item = usize>, frequencies: &[f64]) {
    for position in positions {
        angles.extend(frequencies.iter().map(|frequency| position as f64 * frequency));
    }
}

/// How far the tokens of a pass are rotated; made once for all blocks.
#[derive(Clone)]
pub(crate) struct Rope {
    /// `[rows or 1, 1, tokens, d_head / 2]`, and so `sin`.
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rope {
    /// By `angles`, row-major in `shape`; what is rotated becomes `factor` times as large.
    fn by(angles: &[f64], factor: f64, shape: [usize; 4], device: &Device, dtype: DType) -> Self {
        let table = |function: fn(f64) -> f64| {
            let values: Vec<f32> = angles.iter().map(|&angle| (factor * function(angle)) as f32).collect();
            Tensor::<4>::from_data(TensorData::new(values, shape), device).cast(dtype)
        };
        Self { cos: table(f64::cos), sin: table(f64::sin) }
    }

    /// # Shapes
    /// - `x` and output: `[batch, heads, tokens, d_head]`
    pub(crate) fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        rotated(x, self.cos.clone(), self.sin.clone())
    }
}

#[cfg(test)]
mod tests;
