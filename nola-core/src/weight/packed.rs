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

/// The first word of weights that are quantised so.
fn word(quantization: Quantization) -> u32 {
    match quantization {
        Quantization::Int8 => INT8,
        Quantization::Nf4 => NF4,
        Quantization::Nf4Double => NF4_DOUBLE,
    }
}

/// # Panics
/// If no packed weight begins with `first`.
fn quantization_of(first: u32) -> Quantization {
    let known = Quantization::ALL.into_iter().find(|quantization| word(*quantization) == first);
    known.expect("the first word of a packed weight")
}

/// Bytes of `count` codes.
fn code_bytes(quantization: Quantization, count: usize) -> usize {
    match quantization {
        Quantization::Int8 => count,
        Quantization::Nf4 | Quantization::Nf4Double => count.div_ceil(2),
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
        Self::joined(quantization, &codes, scales, [d_in, d_out], BLOCK)
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
            Scales::Plain(_) => Quantization::Nf4,
            Scales::Nested { .. } => Quantization::Nf4Double,
        };
        Self::checked(kind, codes, scales, sizes, BLOCK)
    }

    /// 8 bits as LLM.int8 stores them: one scale for the inputs of each output.
    ///
    /// # Errors
    /// If there are not as many codes or scales as such a weight has.
    pub fn of_int8_rows(codes: &[u8], scales: &[f32], sizes: [usize; 2]) -> Result<Self, WrongPacked> {
        Self::checked(Quantization::Int8, codes, Scales::Plain(scales), sizes, sizes[0])
    }

    fn checked(
        kind: Quantization,
        codes: &[u8],
        scales: Scales,
        [d_in, d_out]: [usize; 2],
        block: usize,
    ) -> Result<Self, WrongPacked> {
        let blocks = (d_in * d_out).div_ceil(block.max(1));
        let of_scales = match scales {
            Scales::Plain(scales) => vec![("scales", scales.len(), blocks)],
            Scales::Nested { codes, largest, .. } => vec![
                ("scales", codes.len(), blocks),
                ("scales of scales", largest.len(), blocks.div_ceil(NESTED_BLOCK)),
            ],
        };
        let of_codes = ("bytes of codes", codes.len(), code_bytes(kind, d_in * d_out));
        for (what, found, expected) in [of_codes].into_iter().chain(of_scales) {
            if found != expected {
                return Err(WrongPacked { what, found, expected, d_in, d_out });
            }
        }
        Ok(Self::joined(kind, codes, scales, [d_in, d_out], block))
    }

    fn joined(
        kind: Quantization,
        codes: &[u8],
        scales: Scales,
        [d_in, d_out]: [usize; 2],
        block: usize,
    ) -> Self {
        assert!(
            u32::try_from(d_in * d_out).is_ok(),
            "a weight of at most 2^32 numbers, which GPUs count in 32 bits"
        );
        let size = |size: usize| u32::try_from(size).expect("a side of the weight");
        let mut words = vec![word(kind), size(d_in), size(d_out), size(block)];
        extend_bytes(&mut words, codes);
        match scales {
            Scales::Plain(scales) => words.extend(scales.iter().map(|scale| scale.to_bits())),
            Scales::Nested { codes, largest, offset } => {
                extend_bytes(&mut words, codes);
                words.extend(largest.iter().map(|scale| scale.to_bits()));
                words.push(offset.to_bits());
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
    kind: Quantization,
    /// Inputs of the weight.
    pub(crate) d_in: usize,
    /// Outputs of the weight.
    pub(crate) d_out: usize,
    block: usize,
    codes: &'a [u8],
    scales: Scales<'a>,
}

impl<'a> PackedView<'a> {
    /// # Panics
    /// If these are not the words of a packed weight.
    pub(crate) fn of(words: &'a [u32]) -> Self {
        let (&[kind, d_in, d_out, block], rest) =
            words.split_first_chunk::<HEADER>().expect("a packed weight");
        let kind = quantization_of(kind);
        let [d_in, d_out, block] = [d_in, d_out, block].map(|size| size as usize);
        let count = d_in * d_out;
        let blocks = count.div_ceil(block.max(1));
        let of_codes = code_bytes(kind, count).div_ceil(4);
        let (codes, rest) = rest.split_at(of_codes);
        let codes = &bytemuck::cast_slice::<u32, u8>(codes)[..code_bytes(kind, count)];
        let scales = match kind {
            Quantization::Int8 | Quantization::Nf4 => Scales::Plain(&bytemuck::cast_slice(rest)[..blocks]),
            Quantization::Nf4Double => {
                let (nested, rest) = rest.split_at(blocks.div_ceil(4));
                let (&offset, largest) = rest.split_last().expect("the mean of the scales");
                Scales::Nested {
                    codes: &bytemuck::cast_slice(nested)[..blocks],
                    largest: bytemuck::cast_slice(largest),
                    offset: f32::from_bits(offset),
                }
            }
        };
        Self { kind, d_in, d_out, block, codes, scales }
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
            self.decode(first..end, self.scale(block), now);
            (first, rest) = (end, later);
        }
    }

    /// The numbers at `range`, all of one block.
    fn decode(&self, range: Range<usize>, scale: f32, numbers: &mut [f32]) {
        match self.kind {
            Quantization::Int8 => int8::decode(self.codes, range, int8::step(scale), numbers),
            Quantization::Nf4 | Quantization::Nf4Double => nf4::decode(self.codes, range, scale, numbers),
        }
    }

    /// The largest absolute value of a block.
    fn scale(&self, block: usize) -> f32 {
        match self.scales {
            Scales::Plain(scales) => scales[block],
            Scales::Nested { codes, largest, offset } => {
                double::table()[usize::from(codes[block])] * largest[block / NESTED_BLOCK] + offset
            }
        }
    }
}

#[cfg(test)]
mod tests;
