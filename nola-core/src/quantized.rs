//! Coefficients in 32, 16, 8, 4, 3 or 2 bits.
//!
//! # Source
//! NOLA's quantised coefficients: symmetric, one scale per vector, q = round(c / scale) with scale = max|c| / S and
//! S = 2^(bits−1) − 1; ties go to the even integer. Stored, the scale is rounded up to a `bf16`, which halves what it takes and
//! costs at most 1/128 of a step; coefficients that were trained rounded keep theirs as `f32`.

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
    /// The same, two a byte, low half first.
    B4,
    /// The same, eight in three bytes, lowest bits first.
    B3,
    /// The same, four a byte, lowest bits first.
    B2,
}

impl TryFrom<u8> for CoefficientBits {
    type Error = String;

    fn try_from(bits: u8) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|known| u8::from(*known) == bits);
        found.ok_or_else(|| format!("{bits} bits per coefficient; use 32, 16, 8, 4, 3 or 2"))
    }
}

impl From<CoefficientBits> for u8 {
    fn from(bits: CoefficientBits) -> u8 {
        match bits {
            CoefficientBits::B32 => 32,
            CoefficientBits::B16 => 16,
            CoefficientBits::B8 => 8,
            CoefficientBits::B4 => 4,
            CoefficientBits::B3 => 3,
            CoefficientBits::B2 => 2,
        }
    }
}

/// How the scales of vectors are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScaleType {
    /// Rounded up.
    Bf16,
    /// As they are.
    F32,
}

/// Vectors as they are stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Packed {
    /// Vector after vector, each in whole bytes.
    pub bytes: Vec<u8>,
    /// One per vector, for 8 bits and fewer; else empty.
    pub scales: Vec<f32>,
}

impl CoefficientBits {
    /// Every width, from the widest on.
    pub const ALL: [Self; 6] = [Self::B32, Self::B16, Self::B8, Self::B4, Self::B3, Self::B2];

    /// Bytes of one stored vector of `count` coefficients.
    pub(crate) fn row_bytes(self, count: usize) -> usize {
        (count * usize::from(u8::from(self))).div_ceil(8)
    }

    /// The largest integer, for 8 bits and fewer.
    pub(crate) fn top(self) -> Option<f32> {
        match self {
            Self::B32 | Self::B16 => None,
            Self::B8 | Self::B4 | Self::B3 | Self::B2 => Some(((1 << (u8::from(self) - 1)) - 1) as f32),
        }
    }

    /// The vector as so many bits with an exact scale hold it; 16 and 32 bits leave it as it is.
    pub fn rounded(self, vector: &[f32]) -> Vec<f32> {
        let Some(top) = self.top() else { return vector.to_vec() };
        let scale = largest(vector) / top;
        vector.iter().map(|value| integer(*value, scale) * scale).collect()
    }

    /// Stores vectors of so many coefficients each, one after the other in `values`.
    pub(crate) fn pack(self, values: &[f32], counts: &[usize], scale_type: ScaleType) -> Packed {
        let mut packed = Packed { bytes: Vec::new(), scales: Vec::new() };
        let mut rest = values;
        for &count in counts {
            let (vector, behind) = rest.split_at(count);
            rest = behind;
            match self.top() {
                None if self == Self::B16 => {
                    packed.bytes.extend(vector.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()));
                }
                None => packed.bytes.extend(vector.iter().flat_map(|v| v.to_le_bytes())),
                Some(top) => {
                    let exact = largest(vector) / top;
                    let scale = match scale_type {
                        ScaleType::Bf16 => rounded_up(exact),
                        ScaleType::F32 => exact,
                    };
                    let integers = vector.iter().map(|value| integer(*value, scale) as i8);
                    packed.bytes.extend(self.joined(integers, count));
                    packed.scales.push(scale);
                }
            }
        }
        packed
    }

    /// The coefficients of stored vectors.
    pub(crate) fn unpack(self, packed: &Packed, counts: &[usize]) -> Vec<f32> {
        let mut values = Vec::new();
        let mut rest = packed.bytes.as_slice();
        for (row, &count) in counts.iter().enumerate() {
            let (bytes, behind) = rest.split_at(self.row_bytes(count));
            rest = behind;
            match self {
                Self::B32 => values.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
                Self::B16 => {
                    let halves = bytes.as_chunks::<2>().0.iter();
                    values.extend(halves.map(|b| f16::from_le_bytes(*b).to_f32()));
                }
                Self::B8 | Self::B4 | Self::B3 | Self::B2 => {
                    let scale = packed.scales[row];
                    values.extend((0..count).map(|n| f32::from(self.integer_at(bytes, n)) * scale));
                }
            }
        }
        values
    }

    /// Integers in as few bytes as they take, lowest bits first.
    fn joined(self, integers: impl Iterator<Item = i8>, count: usize) -> Vec<u8> {
        let width = usize::from(u8::from(self));
        let mut bytes = vec![0; self.row_bytes(count)];
        for (n, integer) in integers.enumerate() {
            let word = (u16::from(integer as u8) & ((1 << width) - 1)) << (n * width % 8);
            bytes[n * width / 8] |= word as u8;
            // Of 3 bits some lie in the next byte.
            if let Some(next) = bytes.get_mut(n * width / 8 + 1) {
                *next |= (word >> 8) as u8;
            }
        }
        bytes
    }

    /// The integer number `n` of a stored vector.
    fn integer_at(self, bytes: &[u8], n: usize) -> i8 {
        let width = usize::from(u8::from(self));
        let at = n * width / 8;
        let word = u16::from(bytes[at]) | u16::from(bytes.get(at + 1).copied().unwrap_or(0)) << 8;
        let low = (word >> (n * width % 8)) as u8;
        // The sign is the highest of its bits.
        (low << (8 - width)) as i8 >> (8 - width)
    }
}

fn largest(vector: &[f32]) -> f32 {
    vector.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()))
}

/// How many steps of `scale` a coefficient is; a vector of zeros has the scale 0.
fn integer(value: f32, scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { (value / scale).round_ties_even() }
}

/// The smallest `bf16` that is not below a number of at least 0.
fn rounded_up(value: f32) -> f32 {
    let nearest = bf16::from_f32(value);
    let up = if nearest.to_f32() < value { bf16::from_bits(nearest.to_bits() + 1) } else { nearest };
    up.to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Vectors of several lengths, one after the other.
    fn vectors() -> impl Strategy<Value = (Vec<f32>, Vec<usize>)> {
        prop::collection::vec(prop::collection::vec(-10.0_f32..10.0, 1..12), 1..5).prop_map(|vectors| {
            let counts = vectors.iter().map(Vec::len).collect();
            (vectors.concat(), counts)
        })
    }

    proptest! {
        #[test]
        fn every_width_returns_each_coefficient_to_half_a_step((values, counts) in vectors()) {
            for bits in CoefficientBits::ALL {
                for scale_type in [ScaleType::Bf16, ScaleType::F32] {
                    let packed = bits.pack(&values, &counts, scale_type);
                    let stored: usize = counts.iter().map(|count| bits.row_bytes(*count)).sum();
                    prop_assert_eq!(packed.bytes.len(), stored);
                    let back = bits.unpack(&packed, &counts);
                    prop_assert_eq!(back.len(), values.len());
                    let rows = counts.iter().enumerate().flat_map(|(row, count)| std::iter::repeat_n(row, *count));
                    for ((row, before), after) in rows.zip(&values).zip(&back) {
                        let step = match bits {
                            CoefficientBits::B32 => 0.0,
                            CoefficientBits::B16 => 10.0 / 1024.0,
                            _ => packed.scales[row],
                        };
                        // Half a step, and the rounding of up to 127 steps, by which a number halfway may be rounded the other way.
                        let most = step * (0.5 + 127.0 * f32::EPSILON);
                        prop_assert!((before - after).abs() <= most, "{bits:?}: {before} became {after}");
                    }
                }
            }
        }

        #[test]
        fn an_exact_scale_stores_a_vector_as_it_is_rounded(vector in prop::collection::vec(-10.0_f32..10.0, 1..40)) {
            for bits in [CoefficientBits::B8, CoefficientBits::B4, CoefficientBits::B3, CoefficientBits::B2] {
                let counts = [vector.len()];
                let back = bits.unpack(&bits.pack(&vector, &counts, ScaleType::F32), &counts);
                prop_assert_eq!(back, bits.rounded(&vector));
            }
        }
    }

    #[test]
    fn the_largest_coefficient_survives_four_bits() {
        let packed = CoefficientBits::B4.pack(&[0.0, -3.5, 0.5], &[3], ScaleType::Bf16);
        assert_eq!(CoefficientBits::B4.unpack(&packed, &[3]), [0.0, -3.5, 0.5]);
    }

    #[test]
    fn eight_numbers_of_three_bits_are_three_bytes() {
        let vector = [3.0, -3.0, 0.0, 1.0, -1.0, 2.0, -2.0, 3.0];
        let packed = CoefficientBits::B3.pack(&vector, &[8], ScaleType::Bf16);
        // 011, 101, 000, 001, 111, 010, 110, 011, from the lowest bit on.
        assert_eq!(packed.bytes, [0b0010_1011, 0b0111_0010, 0b0111_1001]);
        assert_eq!(CoefficientBits::B3.unpack(&packed, &[8]), vector);
    }

    #[test]
    fn a_vector_of_zeros_stays_zero() {
        for bits in CoefficientBits::ALL {
            let packed = bits.pack(&[0.0; 4], &[4], ScaleType::Bf16);
            assert_eq!(bits.unpack(&packed, &[4]), [0.0; 4]);
            assert_eq!(bits.rounded(&[0.0; 4]), [0.0; 4]);
        }
    }

    #[test]
    fn ties_go_to_the_even_integer() {
        assert_eq!(CoefficientBits::B3.rounded(&[3.0, 0.5, 1.5, 2.5, -0.5]), [3.0, 0.0, 2.0, 2.0, 0.0]);
    }
}
