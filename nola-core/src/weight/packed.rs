//! A packed weight as words of 32 bits, which lie in memory alike on every device.

use std::ops::Range;

use rayon::prelude::*;

use super::double::{self, NESTED_BLOCK, Nested};
use super::{BLOCK, Quantization, int8, largest, nf4};

/// Words before the codes: kind, `d_in`, `d_out`, numbers of a block.
pub(crate) const HEADER: usize = 4;

/// A weight in few bits.
///
/// # Shapes
/// The weight is `[d_in, d_out]`; its numbers are stored as those of PyTorch's `[d_out, d_in]`.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedWeight {
    words: Vec<u32>,
}

/// The scales of a packed weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scales<'a> {
    /// One a block.
    Plain(&'a [f32]),
    /// In 8 bits, in blocks with a scale of their own.
    Nested {
        /// One a block.
        codes: &'a [u8],
        /// One for 256 codes.
        largest: &'a [f32],
        /// What is added to each.
        offset: f32,
    },
}

/// What the blocks of a packed weight have.
#[derive(Debug, Clone, Copy)]
enum Blocks<'a> {
    Scaled(Scales<'a>),
    /// What a code is multiplied by, and what is added to the product: one of each a block.
    Affine {
        steps: &'a [f32],
        least: &'a [f32],
    },
}

/// What the codes of a packed weight mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codes {
    Quantized(Quantization),
    /// Whole numbers of 4 bits, two a byte, the first one in the high half.
    Affine4,
}

/// Parts that are not those of a packed weight.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {found}, where a weight of {d_out} x {d_in} has {expected}")]
pub struct WrongPacked {
    /// Which part.
    pub what: &'static str,
    /// How many there are.
    pub found: usize,
    /// How many there should be.
    pub expected: usize,
    /// Inputs of the weight.
    pub d_in: usize,
    /// Outputs of the weight.
    pub d_out: usize,
}

/// The first word of weights in int8.
pub(crate) const INT8: u32 = 1;
/// The first word of weights in NF4.
const NF4: u32 = 2;
/// The first word of weights in NF4 with scales in 8 bits.
pub(crate) const NF4_DOUBLE: u32 = 3;
/// The first word of weights whose codes are whole numbers of 4 bits.
pub(crate) const AFFINE4: u32 = 4;

impl Codes {
    const ALL: [Self; 4] = [
        Self::Quantized(Quantization::Int8),
        Self::Quantized(Quantization::Nf4),
        Self::Quantized(Quantization::Nf4Double),
        Self::Affine4,
    ];

    /// The first word of weights with such codes.
    fn word(self) -> u32 {
        match self {
            Self::Quantized(Quantization::Int8) => INT8,
            Self::Quantized(Quantization::Nf4) => NF4,
            Self::Quantized(Quantization::Nf4Double) => NF4_DOUBLE,
            Self::Affine4 => AFFINE4,
        }
    }

    /// # Panics
    /// If no packed weight begins with `first`.
    fn of(first: u32) -> Self {
        Self::ALL.into_iter().find(|codes| codes.word() == first).expect("the first word of a packed weight")
    }

    /// Bytes of `count` codes.
    fn bytes(self, count: usize) -> usize {
        match self {
            Self::Quantized(Quantization::Int8) => count,
            Self::Quantized(Quantization::Nf4 | Quantization::Nf4Double) | Self::Affine4 => count.div_ceil(2),
        }
    }
}

impl PackedWeight {
    /// Quantises the numbers of a weight `[d_out, d_in]`, row-major.
    ///
    /// # Panics
    /// If there are not as many numbers.
    pub fn quantize(quantization: Quantization, values: &[f32], [d_in, d_out]: [usize; 2]) -> Self {
        assert_eq!(values.len(), d_in * d_out, "a number for each input and output");
        let largest = largest(values, BLOCK);
        let (codes, nested) = match quantization {
            Quantization::Int8 => (int8::codes(values, &largest), None),
            Quantization::Nf4 => (nf4::codes(values, &largest), None),
            Quantization::Nf4Double => (nf4::codes(values, &largest), Some(double::nested(&largest))),
        };
        let scales = match &nested {
            None => Scales::Plain(&largest),
            Some(Nested { codes, largest, offset }) => Scales::Nested { codes, largest, offset: *offset },
        };
        let blocks = Blocks::Scaled(scales);
        Self::joined(Codes::Quantized(quantization), &codes, blocks, [d_in, d_out], BLOCK)
    }

    /// Quantises the numbers of a weight `[d_in, d_out]`, row-major.
    ///
    /// # Panics
    /// If there are not as many numbers.
    pub fn quantize_transposed(quantization: Quantization, values: &[f32], sizes: [usize; 2]) -> Self {
        Self::quantize(quantization, &transposed(values, sizes[1]), sizes)
    }

    /// NF4 as bitsandbytes stores it: two codes a byte, blocks of 64.
    ///
    /// # Errors
    /// If there are not as many codes or scales as such a weight has.
    pub fn of_nf4(codes: &[u8], scales: Scales, sizes: [usize; 2]) -> Result<Self, WrongPacked> {
        let kind = match scales {
            Scales::Plain(_) => Codes::Quantized(Quantization::Nf4),
            Scales::Nested { .. } => Codes::Quantized(Quantization::Nf4Double),
        };
        Self::checked(kind, codes, Blocks::Scaled(scales), sizes, BLOCK)
    }

    /// 8 bits as LLM.int8 stores them: one scale for the inputs of each output.
    ///
    /// # Errors
    /// If there are not as many codes or scales as such a weight has.
    pub fn of_int8_rows(codes: &[u8], scales: &[f32], sizes: [usize; 2]) -> Result<Self, WrongPacked> {
        Self::of_int8_blocks(codes, scales, sizes, sizes[0])
    }

    /// 8 bits in blocks of `block` numbers: each is its code times a 127th of the scale of its block.
    ///
    /// # Errors
    /// If there are not as many codes or scales as such a weight has.
    pub fn of_int8_blocks(
        codes: &[u8],
        scales: &[f32],
        sizes: [usize; 2],
        block: usize,
    ) -> Result<Self, WrongPacked> {
        let kind = Codes::Quantized(Quantization::Int8);
        Self::checked(kind, codes, Blocks::Scaled(Scales::Plain(scales)), sizes, block)
    }

    /// Whole numbers of 4 bits in blocks of `block` numbers, two codes a byte, the first one in the high half: each number is its
    /// code times the step of its block and its least number added.
    ///
    /// # Errors
    /// If there are not as many codes, steps or least numbers as such a weight has.
    pub fn of_affine4(
        codes: &[u8],
        [steps, least]: [&[f32]; 2],
        sizes: [usize; 2],
        block: usize,
    ) -> Result<Self, WrongPacked> {
        Self::checked(Codes::Affine4, codes, Blocks::Affine { steps, least }, sizes, block)
    }

    fn checked(
        kind: Codes,
        codes: &[u8],
        blocks: Blocks,
        [d_in, d_out]: [usize; 2],
        block: usize,
    ) -> Result<Self, WrongPacked> {
        let count = (d_in * d_out).div_ceil(block.max(1));
        let of_blocks = match blocks {
            Blocks::Scaled(Scales::Plain(scales)) => vec![("scales", scales.len(), count)],
            Blocks::Scaled(Scales::Nested { codes, largest, .. }) => vec![
                ("scales", codes.len(), count),
                ("scales of scales", largest.len(), count.div_ceil(NESTED_BLOCK)),
            ],
            Blocks::Affine { steps, least } => {
                vec![("steps", steps.len(), count), ("least numbers", least.len(), count)]
            }
        };
        let of_codes = ("bytes of codes", codes.len(), kind.bytes(d_in * d_out));
        for (what, found, expected) in [of_codes].into_iter().chain(of_blocks) {
            if found != expected {
                return Err(WrongPacked { what, found, expected, d_in, d_out });
            }
        }
        Ok(Self::joined(kind, codes, blocks, [d_in, d_out], block))
    }

    fn joined(kind: Codes, codes: &[u8], blocks: Blocks, [d_in, d_out]: [usize; 2], block: usize) -> Self {
        assert!(
            u32::try_from(d_in * d_out).is_ok(),
            "a weight of fewer than 2^32 numbers, which GPUs count in 32 bits"
        );
        let size = |size: usize| u32::try_from(size).expect("a side of the weight");
        let mut words = vec![kind.word(), size(d_in), size(d_out), size(block)];
        extend_bytes(&mut words, codes);
        match blocks {
            Blocks::Scaled(Scales::Plain(scales)) => words.extend(scales.iter().map(|scale| scale.to_bits())),
            Blocks::Scaled(Scales::Nested { codes, largest, offset }) => {
                extend_bytes(&mut words, codes);
                words.extend(largest.iter().map(|scale| scale.to_bits()));
                words.push(offset.to_bits());
            }
            Blocks::Affine { steps, least } => {
                words.extend(steps.iter().chain(least).map(|scale| scale.to_bits()));
            }
        }
        Self { words }
    }

    /// What lies in memory.
    pub fn into_words(self) -> Vec<u32> {
        self.words
    }

    /// Its numbers as `[d_out, d_in]`, row-major.
    pub fn dequantized(&self) -> Vec<f32> {
        PackedView::of(&self.words).all()
    }
}

/// Columns that are read together, since they share lines of the cache.
const TOGETHER: usize = 16;

/// The transpose of a row-major matrix with `columns` columns.
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns.max(1);
    let mut turned = vec![0.0; values.len()];
    turned.par_chunks_mut((TOGETHER * rows).max(1)).enumerate().for_each(|(tile, turned)| {
        for (row, values) in values.chunks_exact(columns).enumerate() {
            let values = values.iter().skip(tile * TOGETHER).take(TOGETHER);
            values.enumerate().for_each(|(column, &value)| turned[column * rows + row] = value);
        }
    });
    turned
}

/// Adds bytes, filled up to whole words.
fn extend_bytes(words: &mut Vec<u32>, bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks::<4>();
    words.reserve(whole.len() + 1);
    words.extend(whole.iter().map(|bytes| u32::from_ne_bytes(*bytes)));
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        words.push(u32::from_ne_bytes(last));
    }
}

/// A packed weight where it lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackedView<'a> {
    kind: Codes,
    /// Inputs of the weight.
    pub(crate) d_in: usize,
    /// Outputs of the weight.
    pub(crate) d_out: usize,
    block: usize,
    codes: &'a [u8],
    blocks: Blocks<'a>,
}

impl<'a> PackedView<'a> {
    /// # Panics
    /// If these are not the words of a packed weight.
    pub(crate) fn of(words: &'a [u32]) -> Self {
        let (&[kind, d_in, d_out, block], rest) =
            words.split_first_chunk::<HEADER>().expect("a packed weight");
        let kind = Codes::of(kind);
        let [d_in, d_out, block] = [d_in, d_out, block].map(|size| size as usize);
        let count = d_in * d_out;
        let n_blocks = count.div_ceil(block.max(1));
        let (codes, rest) = rest.split_at(kind.bytes(count).div_ceil(4));
        let codes = &bytemuck::cast_slice::<u32, u8>(codes)[..kind.bytes(count)];
        let blocks = match kind {
            Codes::Quantized(Quantization::Int8 | Quantization::Nf4) => {
                Blocks::Scaled(Scales::Plain(&bytemuck::cast_slice(rest)[..n_blocks]))
            }
            Codes::Quantized(Quantization::Nf4Double) => {
                let (nested, rest) = rest.split_at(n_blocks.div_ceil(4));
                let (&offset, largest) = rest.split_last().expect("the mean of the scales");
                Blocks::Scaled(Scales::Nested {
                    codes: &bytemuck::cast_slice(nested)[..n_blocks],
                    largest: bytemuck::cast_slice(largest),
                    offset: f32::from_bits(offset),
                })
            }
            Codes::Affine4 => {
                let (steps, least) = rest.split_at(n_blocks);
                let least = &bytemuck::cast_slice(least)[..n_blocks];
                Blocks::Affine { steps: bytemuck::cast_slice(steps), least }
            }
        };
        Self { kind, d_in, d_out, block, codes, blocks }
    }

    /// All numbers as `[d_out, d_in]`, row-major.
    pub(crate) fn all(&self) -> Vec<f32> {
        let mut numbers = vec![0.0; self.d_in * self.d_out];
        let rows = numbers.par_chunks_mut(self.d_in.max(1)).enumerate();
        rows.for_each(|(output, row)| self.read(output * self.d_in..(output + 1) * self.d_in, row));
        numbers
    }

    /// All numbers as `[d_in, d_out]`, row-major.
    pub(crate) fn transposed(&self) -> Vec<f32> {
        transposed(&self.all(), self.d_in)
    }

    /// The numbers at `range` of `[d_out, d_in]`.
    pub(crate) fn read(&self, range: Range<usize>, numbers: &mut [f32]) {
        let (mut first, mut rest) = (range.start, numbers);
        while first < range.end {
            let block = first / self.block;
            let end = range.end.min((block + 1) * self.block);
            let (now, later) = rest.split_at_mut(end - first);
            self.decode(first..end, block, now);
            (first, rest) = (end, later);
        }
    }

    /// The numbers at `range`, all of this block.
    fn decode(&self, range: Range<usize>, block: usize, numbers: &mut [f32]) {
        let (codes, scale) = (self.codes, self.scale(block));
        match self.kind {
            Codes::Quantized(Quantization::Int8) => int8::decode(codes, range, int8::step(scale), numbers),
            Codes::Quantized(Quantization::Nf4 | Quantization::Nf4Double) => {
                nf4::decode(&nf4::TABLE, codes, range, scale, numbers);
            }
            Codes::Affine4 => {
                nf4::decode(&nf4::WHOLE, codes, range, scale, numbers);
                let least = self.least(block);
                numbers.iter_mut().for_each(|number| *number += least);
            }
        }
    }

    /// The largest absolute value of a block, or its step.
    fn scale(&self, block: usize) -> f32 {
        match self.blocks {
            Blocks::Scaled(Scales::Plain(scales)) | Blocks::Affine { steps: scales, .. } => scales[block],
            Blocks::Scaled(Scales::Nested { codes, largest, offset }) => {
                double::table()[usize::from(codes[block])] * largest[block / NESTED_BLOCK] + offset
            }
        }
    }

    /// What is added to the numbers of a block.
    fn least(&self, block: usize) -> f32 {
        match self.blocks {
            Blocks::Affine { least, .. } => least[block],
            Blocks::Scaled(_) => 0.0,
        }
    }
}

#[cfg(test)]
mod tests;
