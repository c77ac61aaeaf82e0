//! Rotary positions in the half-split layout: entry `n` of a head rope with entry `n + d_head/2`.

use std::f64::consts::TAU;

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::AttentionMask;
use crate::fused::rotated;

/// How fast the entries of a head turn with the position of their token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotary {
    /// Base of the geometric row of wave lengths.
    pub theta: f64,
    /// How the frequencies of a longer context were made from those of the pretraining.
    pub scaling: RotaryScaling,
}

/// How the frequencies of a longer context are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RotaryScaling {
    /// They are not.
    Unscaled,
    /// All divided by one number.
    Linear {
        /// What they are divided by.
        factor: f64,
    },
    /// Low ones divided by a number, high ones kept, and a blend between (LLaMA-3).
    Llama3 {
        /// What low frequencies are divided by.
        factor: f64,
        /// Waves longer than `original_max_tokens` divided by this are low.
        low_freq_factor: f64,
        /// Waves shorter than `original_max_tokens` divided by this are high.
        high_freq_factor: f64,
        /// Longest sequence of the pretraining, in tokens.
        original_max_tokens: f64,
    },
}

impl Rotary {
    /// Radians a token that each pair of entries rope, `d_head / 2` of them.
    fn frequencies(&self, d_head: usize) -> impl Iterator<Item = f64> {
        let unscaled = move |n: usize| self.theta.powf(-(2.0 * n as f64) / d_head as f64);
        (0..d_head / 2).map(unscaled).map(|frequency| self.scaling.apply(frequency))
    }

    /// Sines and cosines for all tokens of a pass, computed on the host in f64.
    pub(super) fn rope(&self, d_head: usize, mask: &AttentionMask, device: &Device, dtype: DType) -> Rope {
        let (positions, rows) = mask.positions();
        let frequencies: Vec<f64> = self.frequencies(d_head).collect();
        let turn = |&position: &usize| frequencies.iter().map(move |frequency| position as f64 * frequency);
        let angles: Vec<f64> = positions.iter().flat_map(turn).collect();
        let shape = [rows, 1, positions.len() / rows, d_head / 2];
        let table = |function: fn(f64) -> f64| {
            let values: Vec<f32> = angles.iter().map(|&angle| function(angle) as f32).collect();
            Tensor::<4>::from_data(TensorData::new(values, shape), device).cast(dtype)
        };
        Rope { cos: table(f64::cos), sin: table(f64::sin) }
    }
}

impl RotaryScaling {
    /// # Source
    /// `_compute_linear_scaling_rope_parameters` and `_compute_llama3_parameters` of transformers.
    fn apply(self, frequency: f64) -> f64 {
        match self {
            Self::Unscaled => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_tokens } => {
                let waves = original_max_tokens * frequency / TAU;
                let kept = ((waves - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                (1.0 - kept) * frequency / factor + kept * frequency
            }
        }
    }
}

/// How far the tokens of a pass are rotated; made once for all blocks.
pub(super) struct Rope {
    /// `[rows or 1, 1, tokens, d_head / 2]`, and so `sin`.
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rope {
    /// # Shapes
    /// - `x` and output: `[batch, heads, tokens, d_head]`
    pub(super) fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        rotated(x, self.cos.clone(), self.sin.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_fall_from_one_by_powers_of_theta() {
        let rotary = Rotary { theta: 10_000.0, scaling: RotaryScaling::Unscaled };
        let found: Vec<f64> = rotary.frequencies(8).collect();
        for (found, expected) in found.into_iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!((found - expected).abs() < 1e-12, "{found}");
        }
    }

    #[test]
    fn linear_scaling_divides_every_frequency() {
        assert_eq!(RotaryScaling::Linear { factor: 4.0 }.apply(0.5), 0.125);
    }

    /// LLaMA-3.1's own numbers.
    const LLAMA3: RotaryScaling = RotaryScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_tokens: 8192.0,
    };

    #[test]
    fn llama3_keeps_waves_shorter_than_a_quarter_of_the_context() {
        let frequency = TAU / 2000.0;
        assert_eq!(LLAMA3.apply(frequency), frequency);
    }

    #[test]
    fn llama3_divides_waves_longer_than_the_context() {
        let frequency = TAU / 8200.0;
        assert_eq!(LLAMA3.apply(frequency), frequency / 8.0);
    }

    #[test]
    fn llama3_blends_between() {
        // Half way between 1 and 4 waves in the context: half of each.
        let frequency = TAU * 2.5 / 8192.0;
        let expected = 0.5 * frequency + 0.5 * frequency / 8.0;
        assert!((LLAMA3.apply(frequency) - expected).abs() < 1e-15);
    }
}
