//! How the frequencies of a longer context are made from those of the pretraining.
//!
//! # Source
//! `modeling_rope_utils.py` of transformers 5.24. Linear: Chen et al. 2023; YaRN: Peng et al. 2023; LongRoPE: Ding et al. 2024.

use std::f64::consts::TAU;

/// How the frequencies of a longer context are made.
#[derive(Debug, Clone, PartialEq)]
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
    /// Made of a larger base, the longer a text is (dynamic NTK).
    Dynamic {
        /// How fast the base grows with the text.
        factor: f64,
        /// Up to so many tokens nothing changes.
        max_tokens: f64,
    },
    /// Low ones divided by a number, high ones kept, a ramp over the entries between, and larger heads (YaRN).
    Yarn(Yarn),
    /// Each divided by a number of its own, which is another one in long texts, and larger heads (LongRoPE).
    LongRope(LongRope),
}

/// The scaling of YaRN.
#[derive(Debug, Clone, PartialEq)]
pub struct Yarn {
    /// What low frequencies are divided by.
    pub factor: f64,
    /// What sines and cosines are multiplied by.
    pub attention_factor: f64,
    /// Frequencies with more turns than this in the original context are high.
    pub beta_fast: f64,
    /// Frequencies with fewer turns than this in the original context are low.
    pub beta_slow: f64,
    /// Longest sequence of the pretraining, in tokens.
    pub original_max_tokens: f64,
    /// Whether the ramp begins and ends at whole entries.
    pub truncate: bool,
}

/// The scaling of LongRoPE.
#[derive(Debug, Clone, PartialEq)]
pub struct LongRope {
    /// What each frequency is divided by in texts that are no longer than `original_max_tokens`.
    pub short_factor: Vec<f64>,
    /// The same in longer ones.
    pub long_factor: Vec<f64>,
    /// What sines and cosines are multiplied by.
    pub attention_factor: f64,
    /// Longest sequence of the pretraining, in tokens.
    pub original_max_tokens: f64,
}

impl RotaryScaling {
    /// Radians a token of each pair of entries of a head, in a text of `tokens` tokens.
    pub(crate) fn frequencies(&self, theta: f64, d_head: usize, tokens: usize) -> Vec<f64> {
        let unscaled =
            |theta: f64| (0..d_head / 2).map(move |pair| theta.powf(-(2.0 * pair as f64) / d_head as f64));
        let d_head = d_head as f64;
        match self {
            Self::Unscaled => unscaled(theta).collect(),
            Self::Linear { factor } => unscaled(theta).map(|frequency| frequency / factor).collect(),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_tokens } => {
                let scaled = |frequency: f64| {
                    let waves = original_max_tokens * frequency / TAU;
                    let kept = (waves - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    blend(frequency, *factor, kept.clamp(0.0, 1.0))
                };
                unscaled(theta).map(scaled).collect()
            }
            Self::Dynamic { factor, max_tokens } => {
                let longer = (tokens as f64).max(*max_tokens) / max_tokens;
                let growth = (factor * longer - (factor - 1.0)).powf(d_head / (d_head - 2.0));
                unscaled(theta * growth).collect()
            }
            Self::Yarn(yarn) => {
                let ramp = yarn.ramp(theta, d_head);
                let scaled = |(pair, frequency)| blend(frequency, yarn.factor, 1.0 - ramp(pair as f64));
                unscaled(theta).enumerate().map(scaled).collect()
            }
            Self::LongRope(long_rope) => {
                let factors = long_rope.factors(tokens);
                unscaled(theta).zip(factors).map(|(frequency, factor)| frequency / factor).collect()
            }
        }
    }

    /// What sines and cosines are multiplied by.
    pub(crate) fn attention_factor(&self) -> f64 {
        match self {
            Self::Unscaled | Self::Linear { .. } | Self::Llama3 { .. } | Self::Dynamic { .. } => 1.0,
            Self::Yarn(Yarn { attention_factor, .. }) | Self::LongRope(LongRope { attention_factor, .. }) => {
                *attention_factor
            }
        }
    }

    /// Whether the frequencies are others when a text has grown from `before` tokens to `after`.
    pub(crate) fn changes(&self, before: usize, after: usize) -> bool {
        let [before, after] = [before, after].map(|tokens| tokens as f64);
        match self {
            Self::Unscaled | Self::Linear { .. } | Self::Llama3 { .. } | Self::Yarn(_) => false,
            Self::Dynamic { max_tokens, .. } => after > *max_tokens && after > before,
            Self::LongRope(LongRope { original_max_tokens, .. }) => {
                before <= *original_max_tokens && after > *original_max_tokens
            }
        }
    }

    /// Whether they ever are.
    pub(crate) fn depends_on_length(&self) -> bool {
        match self {
            Self::Unscaled | Self::Linear { .. } | Self::Llama3 { .. } | Self::Yarn(_) => false,
            Self::Dynamic { .. } | Self::LongRope(_) => true,
        }
    }
}

/// A frequency of which the share `kept` stays, and the rest is divided by `factor`.
fn blend(frequency: f64, factor: f64, kept: f64) -> f64 {
    (1.0 - kept) * frequency / factor + kept * frequency
}

impl Yarn {
    /// The attention factor of a file that names none.
    pub fn default_attention_factor(factor: f64) -> f64 {
        Self::magnitude(factor, 1.0)
    }

    /// The attention factor of a file with both `mscale` and `mscale_all_dim`.
    pub fn attention_factor_of(factor: f64, mscale: f64, mscale_all_dim: f64) -> f64 {
        Self::magnitude(factor, mscale) / Self::magnitude(factor, mscale_all_dim)
    }

    fn magnitude(factor: f64, mscale: f64) -> f64 {
        if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
    }

    /// How much of the frequency at a pair of entries is divided, from 0 to 1.
    fn ramp(&self, theta: f64, d_head: f64) -> impl Fn(f64) -> f64 {
        // The pair of entries that turns so often in the original context.
        let pair = |turns: f64| d_head * (self.original_max_tokens / (turns * TAU)).ln() / (2.0 * theta.ln());
        let (low, high) = (pair(self.beta_fast), pair(self.beta_slow));
        let (low, high) = if self.truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(d_head - 1.0));
        let width = if low == high { 0.001 } else { high - low };
        move |pair| ((pair - low) / width).clamp(0.0, 1.0)
    }
}

impl LongRope {
    /// The attention factor of a file that names none, for a context so many times as long as the original one.
    pub fn default_attention_factor(factor: f64, original_max_tokens: f64) -> f64 {
        if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original_max_tokens.ln()).sqrt() }
    }

    fn factors(&self, tokens: usize) -> &[f64] {
        if tokens as f64 > self.original_max_tokens { &self.long_factor } else { &self.short_factor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of the frequency of one radian a token, the first of every head.
    fn first(scaling: &RotaryScaling) -> f64 {
        scaling.frequencies(10_000.0, 8, 1)[0]
    }

    #[test]
    fn frequencies_fall_from_one_by_powers_of_theta() {
        let found = RotaryScaling::Unscaled.frequencies(10_000.0, 8, 1);
        for (found, expected) in found.into_iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!((found - expected).abs() < 1e-12, "{found}");
        }
    }

    #[test]
    fn linear_scaling_divides_every_frequency() {
        assert_eq!(first(&RotaryScaling::Linear { factor: 4.0 }), 0.25);
    }

    /// LLaMA-3 with so many tokens in the original context.
    fn llama3(original_max_tokens: f64) -> RotaryScaling {
        RotaryScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_tokens,
        }
    }

    #[test]
    fn llama3_keeps_waves_shorter_than_a_quarter_of_the_context() {
        assert_eq!(first(&llama3(4.5 * TAU)), 1.0);
    }

    #[test]
    fn llama3_divides_waves_longer_than_the_context() {
        assert_eq!(first(&llama3(0.9 * TAU)), 1.0 / 8.0);
    }

    #[test]
    fn llama3_blends_between() {
        // Half way between 1 and 4 waves in the context: half of each.
        let expected = 0.5 + 0.5 / 8.0;
        assert!((first(&llama3(2.5 * TAU)) - expected).abs() < 1e-15);
    }

    #[test]
    fn only_a_text_longer_than_the_context_changes_dynamic_frequencies() {
        let scaling = RotaryScaling::Dynamic { factor: 2.0, max_tokens: 16.0 };
        let at = |tokens| scaling.frequencies(10_000.0, 8, tokens);
        assert_eq!(at(16), RotaryScaling::Unscaled.frequencies(10_000.0, 8, 16));
        assert!(at(17)[1] < at(16)[1] && at(32)[1] < at(17)[1]);
    }
}
