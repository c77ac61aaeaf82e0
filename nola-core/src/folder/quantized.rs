//! Coefficients in 32, 16, 8 or 4 bits.
//!
//! # Source
//! NOLA's quantised coefficients: symmetric, one scale per vector, q = round(c·S / max|c|) with S = 2^(bits−1) − 1.
//! The scale max|c| / S is rounded up to a `bf16`, which halves what it takes and costs at most 1/128 of a step.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// Bits per stored coefficient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(try_from = "u8", into = "u8")]
pub enum CoefficientBits {
    /// `f32`.
    #[default]
    B32,
    /// `f16`.
    B16,
    /// Signed integers and one scale per vector.
    B8,
    /// Two signed integers a byte, low half first, and one scale per vector.
    B4,
}

impl TryFrom<u8> for CoefficientBits {
    type Error = String;

    fn try_from(bits: u8) -> Result<Self, String> {
        match bits {
            32 => Ok(Self::B32),
            16 => Ok(Self::B16),
            8 => Ok(Self::B8),
            4 => Ok(Self::B4),
            other => Err(format!("{other} bits per coefficient; use 32, 16, 8 or 4")),
        }
    }
}

impl From<CoefficientBits> for u8 {
    fn from(bits: CoefficientBits) -> u8 {
        match bits {
            CoefficientBits::B32 => 32,
            CoefficientBits::B16 => 16,
            CoefficientBits::B8 => 8,
            CoefficientBits::B4 => 4,
        }
    }
}

/// Vectors as they are stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Packed {
    /// Row after row.
    pub bytes: Vec<u8>,
    /// One per row, for 8 and 4 bits; else empty.
    pub scales: Vec<bf16>,
}

impl CoefficientBits {
    /// Bytes of one stored row of `count` coefficients.
    pub(super) fn row_bytes(self, count: usize) -> usize {
        match self {
            Self::B32 => 4 * count,
            Self::B16 => 2 * count,
            Self::B8 => count,
            Self::B4 => count.div_ceil(2),
        }
    }

    /// The largest integer, for 8 and 4 bits.
    fn top(self) -> Option<f32> {
        match self {
            Self::B32 | Self::B16 => None,
            Self::B8 => Some(127.0),
            Self::B4 => Some(7.0),
        }
    }

    /// Stores rows of `count` coefficients.
    pub(super) fn pack(self, values: &[f32], count: usize) -> Packed {
        let mut packed = Packed { bytes: Vec::new(), scales: Vec::new() };
        for row in values.chunks(count) {
            let largest = row.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let stored_scale = self.top().map_or(bf16::ONE, |top| rounded_up(largest / top));
            let scale = stored_scale.to_f32();
            let integer = |value: f32| if scale == 0.0 { 0 } else { (value / scale).round() as i8 };
            match self {
                Self::B32 => packed.bytes.extend(row.iter().flat_map(|v| v.to_le_bytes())),
                Self::B16 => {
                    packed.bytes.extend(row.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()));
                }
                Self::B8 => packed.bytes.extend(row.iter().map(|v| integer(*v) as u8)),
                Self::B4 => packed.bytes.extend(row.chunks(2).map(|pair| {
                    let nibble = |n: usize| pair.get(n).map_or(0, |v| integer(*v) as u8 & 0x0F);
                    nibble(0) | nibble(1) << 4
                })),
            }
            if self.top().is_some() {
                packed.scales.push(stored_scale);
            }
        }
        packed
    }

    /// The coefficients of stored rows.
    pub(super) fn unpack(self, packed: &Packed, count: usize) -> Vec<f32> {
        let mut values = Vec::new();
        for (row, bytes) in packed.bytes.chunks(self.row_bytes(count)).enumerate() {
            let scale = packed.scales.get(row).map_or(1.0, |scale| scale.to_f32());
            match self {
                Self::B32 => values.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
                Self::B16 => {
                    let halves = bytes.as_chunks::<2>().0.iter();
                    values.extend(halves.map(|b| f16::from_le_bytes(*b).to_f32()));
                }
                Self::B8 => values.extend(bytes.iter().map(|b| f32::from(*b as i8) * scale)),
                Self::B4 => {
                    let signed = |nibble: u8| f32::from((nibble << 4) as i8 >> 4) * scale;
                    let pairs = bytes.iter().flat_map(|b| [signed(b & 0x0F), signed(b >> 4)]);
                    values.extend(pairs.take(count));
                }
            }
        }
        values
    }
}

/// The smallest `bf16` that is not below a number of at least 0.
fn rounded_up(value: f32) -> bf16 {
    let nearest = bf16::from_f32(value);
    if nearest.to_f32() < value { bf16::from_bits(nearest.to_bits() + 1) } else { nearest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows() -> impl Strategy<Value = (Vec<f32>, usize)> {
        (1_usize..9, 1_usize..5).prop_flat_map(|(count, rows)| {
            (prop::collection::vec(-10.0_f32..10.0, count * rows), Just(count))
        })
    }

    proptest! {
        #[test]
        fn every_width_returns_each_coefficient_to_half_a_step((values, count) in rows()) {
            for bits in [CoefficientBits::B32, CoefficientBits::B16, CoefficientBits::B8, CoefficientBits::B4] {
                let packed = bits.pack(&values, count);
                prop_assert_eq!(packed.bytes.len(), bits.row_bytes(count) * (values.len() / count));
                let back = bits.unpack(&packed, count);
                for (row, (before, after)) in values.chunks(count).zip(back.chunks(count)).enumerate() {
                    let step = match bits {
                        CoefficientBits::B32 => 0.0,
                        CoefficientBits::B16 => 10.0 / 1024.0,
                        CoefficientBits::B8 | CoefficientBits::B4 => packed.scales[row].to_f32(),
                    };
                    for (b, a) in before.iter().zip(after) {
                        prop_assert!((b - a).abs() <= step * 0.500_001, "{bits:?}: {b} became {a}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_largest_coefficient_survives_four_bits() {
        let packed = CoefficientBits::B4.pack(&[0.0, -3.5, 0.5], 3);
        assert_eq!(CoefficientBits::B4.unpack(&packed, 3), [0.0, -3.5, 0.5]);
    }

    #[test]
    fn a_vector_of_zeros_stays_zero() {
        let packed = CoefficientBits::B8.pack(&[0.0; 4], 4);
        assert_eq!(CoefficientBits::B8.unpack(&packed, 4), [0.0; 4]);
    }
}
