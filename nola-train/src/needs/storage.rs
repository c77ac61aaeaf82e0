//! How the weights of a model lie in memory, and what they take there.

use nola_models::WeightDtype;

use crate::sizes::{Place, Weight};

/// Numbers that share one scale.
const BLOCK: usize = 64;
/// Scales that share one scale of their own, in double quantisation.
const SCALES: usize = 256;

/// How the weights of a model lie in memory. Where they are quantised, those of linear layers in blocks are, and all others
/// are bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    F32,
    Bf16,
    F16,
    /// A byte a number, and an f32 for each 64 of them.
    Int8,
    /// Half a byte a number, and an f32 for each 64 of them.
    Nf4,
    /// Half a byte a number, a byte for each 64 of them, an f32 for each 256 of those bytes, and one more.
    Nf4DoubleQuantised,
}

impl From<WeightDtype> for Storage {
    fn from(dtype: WeightDtype) -> Self {
        match dtype {
            WeightDtype::F32 => Self::F32,
            WeightDtype::Bf16 => Self::Bf16,
            WeightDtype::F16 => Self::F16,
        }
    }
}

impl Storage {
    /// All of them, the largest first.
    pub(crate) const ALL: [Self; 6] =
        [Self::F32, Self::Bf16, Self::F16, Self::Int8, Self::Nf4, Self::Nf4DoubleQuantised];

    /// Its name in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Nf4 => "nf4",
            Self::Nf4DoubleQuantised => "nf4-double-quant",
        }
    }

    /// Bytes of a weight.
    pub(crate) fn bytes(self, weight: Weight) -> usize {
        match weight.place {
            Place::Linear => self.of_linear(weight.numbers),
            Place::Classifier => size_of::<f32>() * weight.numbers,
            Place::Elsewhere => self.unquantised().of_linear(weight.numbers),
        }
    }

    /// What weights are stored in that are not quantised.
    fn unquantised(self) -> Self {
        match self {
            Self::F32 | Self::Bf16 | Self::F16 => self,
            Self::Int8 | Self::Nf4 | Self::Nf4DoubleQuantised => Self::Bf16,
        }
    }

    /// Bytes of a matrix of so many numbers.
    fn of_linear(self, numbers: usize) -> usize {
        let blocks = numbers.div_ceil(BLOCK);
        let scale = size_of::<f32>();
        match self {
            Self::F32 => 4 * numbers,
            Self::Bf16 | Self::F16 => 2 * numbers,
            Self::Int8 => numbers + scale * blocks,
            Self::Nf4 => numbers.div_ceil(2) + scale * blocks,
            Self::Nf4DoubleQuantised => {
                numbers.div_ceil(2) + blocks + scale * blocks.div_ceil(SCALES) + scale
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(storage: Storage, place: Place) -> usize {
        storage.bytes(Weight { numbers: 64 * 256 * 2 + 1, place })
    }

    #[test]
    fn a_matrix_takes_its_numbers_and_its_scales() {
        let numbers = 64 * 256 * 2 + 1;
        let expected = [
            4 * numbers,
            2 * numbers,
            2 * numbers,
            numbers + 4 * 513,
            numbers / 2 + 1 + 4 * 513,
            numbers / 2 + 1 + 513 + 4 * 3 + 4,
        ];
        assert_eq!(Storage::ALL.map(|storage| bytes(storage, Place::Linear)), expected);
    }

    #[test]
    fn embeddings_and_heads_are_not_quantised() {
        let halves = bytes(Storage::Bf16, Place::Elsewhere);
        for storage in [Storage::Int8, Storage::Nf4, Storage::Nf4DoubleQuantised] {
            assert_eq!(bytes(storage, Place::Elsewhere), halves, "{}", storage.name());
            assert_eq!(bytes(storage, Place::Classifier), 2 * halves, "{}", storage.name());
        }
    }
}
