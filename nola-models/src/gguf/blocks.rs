//! The types that GGUF stores numbers in: plain ones, and blocks that share scales.

use std::fmt;

use half::{bf16, f16};
use safetensors::Dtype;

/// How the numbers of a tensor are stored. Those that are no plain floats lie in blocks, whose scales are f16.
///
/// # Source
/// `ggml-common.h` and `dequantize_row_*` in `ggml-quants.c` of ggml, whose numbers these are to the bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    F32,
    F16,
    Bf16,
    /// 32 numbers of 4 bits: scale.
    Q4_0,
    /// 32 numbers of 4 bits: scale and minimum.
    Q4_1,
    /// 32 numbers of 5 bits: scale.
    Q5_0,
    /// 32 numbers of 5 bits: scale and minimum.
    Q5_1,
    /// 32 numbers of 8 bits: scale.
    Q8_0,
    /// 256 numbers of 4 bits: 8 scales and minima of 6 bits, with a scale each.
    Q4K,
    /// The same of 5 bits.
    Q5K,
    /// 256 numbers of 6 bits: 16 scales of 8 bits, with a scale.
    Q6K,
}

/// All of them with ggml's number and name, in the order in which errors list them.
const ALL: [(Format, u32, &str); 11] = [
    (Format::F32, 0, "F32"),
    (Format::F16, 1, "F16"),
    (Format::Bf16, 30, "BF16"),
    (Format::Q4_0, 2, "Q4_0"),
    (Format::Q4_1, 3, "Q4_1"),
    (Format::Q5_0, 6, "Q5_0"),
    (Format::Q5_1, 7, "Q5_1"),
    (Format::Q8_0, 8, "Q8_0"),
    (Format::Q4K, 12, "Q4_K"),
    (Format::Q5K, 13, "Q5_K"),
    (Format::Q6K, 14, "Q6_K"),
];

/// Types of ggml that are not read, for messages.
const OTHERS: [(u32, &str); 19] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (26, "I32"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

/// Numbers of a small block, and of a large one.
pub(super) const SMALL: usize = 32;
const LARGE: usize = 256;
/// Bytes of the scales and minima of a large block of 4 or 5 bits.
const SCALES: usize = 12;

impl Format {
    /// That of ggml's number, if it is read.
    pub(super) fn of(number: u32) -> Option<Self> {
        ALL.iter().find(|(_, id, _)| *id == number).map(|(format, ..)| *format)
    }

    /// Names of all of them, for messages.
    pub(super) fn names() -> String {
        ALL.map(|(.., name)| name).join(", ")
    }

    /// What a message calls the type of ggml's number.
    pub(super) fn describe(number: u32) -> String {
        let known = OTHERS.iter().find(|(id, _)| *id == number);
        known.map_or(format!("the unknown type {number}"), |(_, name)| (*name).to_owned())
    }

    /// What safetensors call it, if they have it.
    pub(super) fn plain(self) -> Option<Dtype> {
        match self {
            Self::F32 => Some(Dtype::F32),
            Self::F16 => Some(Dtype::F16),
            Self::Bf16 => Some(Dtype::BF16),
            Self::Q4_0
            | Self::Q4_1
            | Self::Q5_0
            | Self::Q5_1
            | Self::Q8_0
            | Self::Q4K
            | Self::Q5K
            | Self::Q6K => None,
        }
    }

    /// Numbers of a block, and its bytes.
    pub(super) fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4_0 => (SMALL, 2 + SMALL / 2),
            Self::Q4_1 => (SMALL, 4 + SMALL / 2),
            Self::Q5_0 => (SMALL, 2 + 4 + SMALL / 2),
            Self::Q5_1 => (SMALL, 4 + 4 + SMALL / 2),
            Self::Q8_0 => (SMALL, 2 + SMALL),
            Self::Q4K => (LARGE, 4 + SCALES + LARGE / 2),
            Self::Q5K => (LARGE, 4 + SCALES + LARGE / 8 + LARGE / 2),
            Self::Q6K => (LARGE, LARGE / 2 + LARGE / 4 + LARGE / 16 + 2),
        }
    }

    /// Bytes of a tensor with these axes, the last of which must be whole blocks; none if it is not, or too large.
    pub(super) fn bytes(self, shape: &[u64]) -> Option<u64> {
        let (numbers, bytes) = self.block();
        let last = shape.last().filter(|last| last.is_multiple_of(numbers as u64))?;
        let all =
            shape.iter().rev().skip(1).try_fold(last / numbers as u64, |all, size| all.checked_mul(*size));
        all?.checked_mul(bytes as u64)
    }

    /// Bytes of a row of `numbers`.
    pub(super) fn row_bytes(self, numbers: usize) -> usize {
        let (of_block, bytes) = self.block();
        numbers / of_block * bytes
    }

    /// The numbers of whole blocks.
    ///
    /// # Panics
    /// If there are others in `stored` than `numbers` has room for.
    pub(super) fn dequantize(self, stored: &[u8], numbers: &mut [f32]) {
        let (of_block, bytes) = self.block();
        assert_eq!(stored.len() / bytes, numbers.len() / of_block, "the bytes of so many numbers");
        let blocks = stored.chunks_exact(bytes).zip(numbers.chunks_exact_mut(of_block));
        match self {
            Self::F32 => blocks.for_each(|(b, out)| out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Self::F16 => blocks.for_each(|(b, out)| out[0] = half_at(b, 0)),
            Self::Bf16 => blocks.for_each(|(b, out)| out[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32()),
            Self::Q4_0 => blocks.for_each(|(block, out)| q4_0(block, out)),
            Self::Q4_1 => blocks.for_each(|(block, out)| q4_1(block, out)),
            Self::Q5_0 => blocks.for_each(|(block, out)| q5_0(block, out)),
            Self::Q5_1 => blocks.for_each(|(block, out)| q5_1(block, out)),
            Self::Q8_0 => blocks.for_each(|(block, out)| q8_0(block, out)),
            Self::Q4K => blocks.for_each(|(block, out)| q4_k(block, out)),
            Self::Q5K => blocks.for_each(|(block, out)| q5_k(block, out)),
            Self::Q6K => blocks.for_each(|(block, out)| q6_k(block, out)),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = ALL.iter().find(|(format, ..)| format == self);
        f.write_str(found.map_or("", |(.., name)| name))
    }
}

pub(super) fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Low nibbles are the first half of a small block, high ones the second.
fn halves(out: &mut [f32]) -> (&mut [f32], &mut [f32]) {
    out.split_at_mut(SMALL / 2)
}

fn q4_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    let (low, high) = halves(out);
    for (n, byte) in block[2..].iter().enumerate() {
        low[n] = (f32::from(byte & 15) - 8.0) * scale;
        high[n] = (f32::from(byte >> 4) - 8.0) * scale;
    }
}

fn q4_1(block: &[u8], out: &mut [f32]) {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    let (low, high) = halves(out);
    for (n, byte) in block[4..].iter().enumerate() {
        low[n] = f32::from(byte & 15) * scale + least;
        high[n] = f32::from(byte >> 4) * scale + least;
    }
}

/// The numbers of 32 codes of 5 bits: the fifth ones together in four bytes, then the others.
pub(super) fn five_bits(codes: &[u8], out: &mut [f32], number: impl Fn(u8) -> f32) {
    let fifth = u32::from_le_bytes([codes[0], codes[1], codes[2], codes[3]]);
    let bit = |n: usize| ((fifth >> n) as u8 & 1) << 4;
    let (low, high) = halves(out);
    for (n, byte) in codes[4..].iter().enumerate() {
        low[n] = number(byte & 15 | bit(n));
        high[n] = number(byte >> 4 | bit(n + SMALL / 2));
    }
}

fn q5_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    five_bits(&block[2..], out, |code| (f32::from(code) - 16.0) * scale);
}

fn q5_1(block: &[u8], out: &mut [f32]) {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    five_bits(&block[4..], out, |code| f32::from(code) * scale + least);
}

fn q8_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    for (number, byte) in out.iter_mut().zip(&block[2..]) {
        *number = f32::from(byte.cast_signed()) * scale;
    }
}

/// Scale and minimum number `n` of 8, in 6 bits each.
fn scale_and_least(packed: &[u8], n: usize) -> (f32, f32) {
    let (scale, least) = match n {
        0..4 => (packed[n] & 63, packed[n + 4] & 63),
        _ => (packed[n + 4] & 15 | (packed[n - 4] >> 6) << 4, packed[n + 4] >> 4 | (packed[n] >> 6) << 4),
    };
    (f32::from(scale), f32::from(least))
}

/// Scale and minimum of each of the 8 parts of a large block of codes, and the bytes behind them.
pub(super) fn eight_scales(block: &[u8]) -> (impl Iterator<Item = (f32, f32)>, &[u8]) {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    let (packed, codes) = block[4..].split_at(SCALES);
    let of_part = move |part| {
        let (of_part, least_of_part) = scale_and_least(packed, part);
        (scale * of_part, least * least_of_part)
    };
    ((0..8).map(of_part), codes)
}

/// The numbers of a large block of codes, whose `code(bytes, part, n)` gives the one at `n` in part `part` of 8.
fn eight_parts(block: &[u8], out: &mut [f32], code: impl Fn(&[u8], usize, usize) -> u8) {
    let (scales, codes) = eight_scales(block);
    for (part, (numbers, (scale, least))) in out.chunks_exact_mut(SMALL).zip(scales).enumerate() {
        for (n, number) in numbers.iter_mut().enumerate() {
            *number = scale * f32::from(code(codes, part, n)) - least;
        }
    }
}

/// Nibbles: two parts share 32 bytes, the first of them the low ones.
pub(super) fn nibble(bytes: &[u8], part: usize, n: usize) -> u8 {
    (bytes[part / 2 * SMALL + n] >> (4 * (part % 2))) & 15
}

fn q4_k(block: &[u8], out: &mut [f32]) {
    eight_parts(block, out, nibble);
}

fn q5_k(block: &[u8], out: &mut [f32]) {
    eight_parts(block, out, |bytes, part, n| {
        let (fifth, codes) = bytes.split_at(LARGE / 8);
        nibble(codes, part, n) | ((fifth[n] >> part) & 1) << 4
    });
}

fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, rest) = block.split_at(LARGE / 2);
    let (high, rest) = rest.split_at(LARGE / 4);
    let scale = half_at(rest, LARGE / 16);
    for (n, number) in out.iter_mut().enumerate() {
        // Each half of the block has four parts of 32.
        let (half, part, at) = (n / 128, n % 128 / SMALL, n % SMALL);
        let nibble = low[64 * half + SMALL * (part % 2) + at] >> (4 * (part / 2)) & 15;
        let two = high[SMALL * half + at] >> (2 * part) & 3;
        let of_part = f32::from(rest[n / 16].cast_signed());
        *number = scale * of_part * (f32::from(nibble | two << 4) - 32.0);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn bytes_of(hex: &Value) -> Vec<u8> {
        let hex = hex.as_str().expect("a text").as_bytes().as_chunks::<2>().0;
        let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16);
        hex.iter().map(|pair| byte(pair).expect("a byte")).collect()
    }

    #[test]
    fn blocks_mean_the_numbers_of_ggml_to_the_bit() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/golden/gguf/blocks.json");
        let golden: Value =
            serde_json::from_slice(&std::fs::read(file).expect("a golden file")).expect("JSON");
        for (format, _, name) in ALL.into_iter().filter(|(format, ..)| format.block().0 > 1) {
            let [stored, expected] = ["stored", "numbers"].map(|field| bytes_of(&golden[name][field]));
            let mut numbers = vec![0.0; expected.len() / 4];
            format.dequantize(&stored, &mut numbers);
            let bits = numbers.iter().map(|number: &f32| number.to_bits());
            let expected = expected.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
            assert!(bits.eq(expected), "{name}");
        }
    }

    #[test]
    fn a_block_of_eight_bits_is_its_scale_times_each_number() {
        let mut stored = f16::from_f32(0.5).to_le_bytes().to_vec();
        stored.extend((0..32).map(|n: u8| n.wrapping_sub(16)));
        let mut numbers = [0.0; 32];
        Format::Q8_0.dequantize(&stored, &mut numbers);
        assert_eq!((numbers[0], numbers[16], numbers[31]), (-8.0, 0.0, 7.5));
    }

    #[test]
    fn a_scale_that_is_no_number_makes_numbers_that_are_none() {
        let mut stored = vec![0; 18];
        stored[..2].copy_from_slice(&f16::NAN.to_le_bytes());
        let mut numbers = [0.0; 32];
        Format::Q4_0.dequantize(&stored, &mut numbers);
        assert!(numbers.iter().all(|number| number.is_nan()));
    }

    #[test]
    fn only_whole_blocks_have_bytes() {
        assert_eq!(Format::Q4K.bytes(&[3, 512]), Some(3 * 2 * 144));
        assert_eq!(Format::Q4K.bytes(&[256, 96]), None);
        assert_eq!(Format::F32.bytes(&[u64::MAX, 2]), None);
        assert_eq!(Format::Q6K.bytes(&[1, 256]), Some(210));
    }
}
