//! Weights in 8 and 4 bits; NF4 is to the bit what bitsandbytes makes.
//!
//! A weight is cut into blocks of [`BLOCK`] numbers, row after row of `[d_out, d_in]` and across rows; a block has one scale, the
//! largest absolute value in it. The plain functions here say what the numbers are; kernels must give the same.
//!
//! # Source
//! NF4 and double quantisation: QLoRA (Dettmers et al., NeurIPS 2023); `bitsandbytes.functional`.

mod double;
mod int8;
mod nf4;
mod packed;

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use double::{NESTED_BLOCK, table as scale_table};
pub use nf4::table as nf4_table;
pub(crate) use packed::PackedView;
#[cfg(feature = "cube")]
pub(crate) use packed::{AFFINE4, HEADER, INT8, NF4_DOUBLE};
pub use packed::{PackedWeight, Scales, WrongPacked};

/// Numbers of a block.
pub const BLOCK: usize = 64;

/// How a weight is stored in few bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Quantization {
    /// Integers from -127 to 127, and the largest absolute value of each block as `f32`: 8.5 bits a number.
    #[serde(rename = "int8")]
    Int8,
    /// Sixteen quantiles of the normal distribution, and the largest absolute value of each block as `f32`: 4.5 bits a number.
    #[serde(rename = "nf4")]
    Nf4,
    /// NF4 whose scales are stored in 8 bits themselves: 4.13 bits a number.
    #[serde(rename = "nf4-double")]
    Nf4Double,
}

impl Quantization {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Int8, Self::Nf4, Self::Nf4Double];

    /// Its name in recipes and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Nf4 => "nf4",
            Self::Nf4Double => "nf4-double",
        }
    }

    /// Bytes of a weight with `count` numbers, without what all weights share.
    pub fn bytes(self, count: usize) -> usize {
        let blocks = count.div_ceil(BLOCK);
        match self {
            Self::Int8 => count + size_of::<f32>() * blocks,
            Self::Nf4 => count.div_ceil(2) + size_of::<f32>() * blocks,
            Self::Nf4Double => {
                count.div_ceil(2) + blocks + size_of::<f32>() * (blocks.div_ceil(NESTED_BLOCK) + 1)
            }
        }
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Quantization {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|quantization| quantization.name() == text);
        known.ok_or_else(|| format!("`{text}` is no quantisation of weights; use int8, nf4 or nf4-double"))
    }
}

/// The table of NF4, then that of scales in 8 bits.
#[cfg(feature = "cube")]
pub(crate) fn tables() -> Vec<f32> {
    [&nf4::TABLE[..], double::table()].concat()
}

/// The largest absolute value of each block of `length` numbers.
fn largest(values: &[f32], length: usize) -> Vec<f32> {
    let largest = |block: &[f32]| block.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    values.chunks(length).map(largest).collect()
}

/// What a block is multiplied by, so that its largest absolute value becomes 1; a block of zeros stays one.
fn inverse(largest: f32) -> f32 {
    if largest > 0.0 { 1.0 / largest } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantisation_reads_back_as_it_is_written() {
        for quantization in Quantization::ALL {
            assert_eq!(quantization.to_string().parse(), Ok(quantization));
            assert_eq!(serde_json::to_value(quantization).unwrap(), quantization.name());
        }
    }

    #[test]
    fn a_typo_lists_the_quantisations() {
        let error = "int4".parse::<Quantization>().expect_err("no such name");
        assert!(error.contains("int8, nf4 or nf4-double"), "{error}");
    }

    #[test]
    fn four_bits_take_half_a_byte_and_a_scale_a_block() {
        let bytes = Quantization::ALL.map(|quantization| quantization.bytes(1 << 20));
        let blocks = (1 << 20) / BLOCK;
        assert_eq!(
            bytes,
            [(1 << 20) + 4 * blocks, (1 << 19) + 4 * blocks, (1 << 19) + blocks + 4 * (64 + 1)]
        );
    }
}
