//! What the weights of a model take in memory.

use nola_models::Precision;

use crate::sizes::{Place, Weight};

/// Bytes of a weight that is stored in `precision`: where that is quantised, linear layers in blocks are.
pub(crate) fn bytes(precision: Precision, weight: Weight) -> usize {
    let unquantized = precision.dtype.bytes() * weight.numbers;
    match weight.place {
        Place::Linear => precision.quantization.map_or(unquantized, |kind| kind.bytes(weight.numbers)),
        Place::Classifier => size_of::<f32>() * weight.numbers,
        Place::Elsewhere => unquantized,
    }
}

#[cfg(test)]
mod tests {
    use nola_models::WeightDtype;

    use super::*;

    const NUMBERS: usize = 64 * 256 * 2 + 1;

    fn at(precision: Precision, place: Place) -> usize {
        bytes(precision, Weight { numbers: NUMBERS, place })
    }

    #[test]
    fn a_matrix_takes_its_numbers_and_its_scales() {
        let expected = [
            4 * NUMBERS,
            2 * NUMBERS,
            2 * NUMBERS,
            NUMBERS + 4 * 513,
            NUMBERS / 2 + 1 + 4 * 513,
            NUMBERS / 2 + 1 + 513 + 4 * 3 + 4,
        ];
        assert_eq!(Precision::ALL.map(|precision| at(precision, Place::Linear)), expected);
    }

    #[test]
    fn embeddings_and_heads_are_not_quantised() {
        let halves = at(WeightDtype::Bf16.into(), Place::Elsewhere);
        for precision in &Precision::ALL[3..] {
            assert_eq!(at(*precision, Place::Elsewhere), halves, "{}", precision.name());
            assert_eq!(at(*precision, Place::Classifier), 2 * halves, "{}", precision.name());
        }
    }
}
