//! Weights of a GGUF file in the forms of few bits that kernels read; their numbers are ggml's, each rounded as there.

use std::ops::Range;

use nola_core::weight::PackedWeight;
use rayon::prelude::*;

use super::blocks::{Format, SMALL, eight_scales, five_bits, half_at, nibble};
use super::dense::Foreign;

/// What kernels read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Integers of 8 bits and a scale for 32 of them.
    EightBits,
    /// Whole numbers of 4 bits, a step and a least number for 32 of them.
    FourBits,
}

impl Form {
    /// Bytes of `count` codes.
    fn bytes(self, count: usize) -> usize {
        match self {
            Self::EightBits => count,
            Self::FourBits => count / 2,
        }
    }
}

/// 32 numbers in such a form.
struct Group<'a> {
    codes: &'a mut [u8],
    /// 127 times what a code of 8 bits is multiplied by, or what one of 4 bits is.
    scale: &'a mut f32,
    /// What is added to the numbers of codes of 4 bits.
    least: &'a mut f32,
}

impl Format {
    /// The form that holds the numbers of this format exactly; none if no kernel reads them.
    fn form(self) -> Option<Form> {
        match self {
            Self::Q8_0 | Self::Q5_0 => Some(Form::EightBits),
            Self::Q4_0 | Self::Q4_1 | Self::Q4K => Some(Form::FourBits),
            Self::F32 | Self::F16 | Self::Bf16 | Self::Q5_1 | Self::Q5K | Self::Q6K => None,
        }
    }

    /// Brings the numbers of whole blocks into their form; of other formats nothing.
    fn regroup<'a>(self, stored: &[u8], mut groups: impl Iterator<Item = Group<'a>>) {
        let (numbers, bytes) = self.block();
        for block in stored.chunks_exact(bytes) {
            let groups = groups.by_ref().take(numbers / SMALL);
            match self {
                Self::Q8_0 => groups.for_each(|group| of_8_bits(block, group)),
                Self::Q5_0 => groups.for_each(|group| of_5_bits(block, group)),
                Self::Q4_0 => groups.for_each(|group| {
                    let scale = half_at(block, 0);
                    of_4_bits(group, [scale, -8.0 * scale], |n| small_nibble(&block[2..], n));
                }),
                Self::Q4_1 => groups.for_each(|group| {
                    let scales = [half_at(block, 0), half_at(block, 2)];
                    of_4_bits(group, scales, |n| small_nibble(&block[4..], n));
                }),
                Self::Q4K => {
                    let (scales, codes) = eight_scales(block);
                    for (part, (group, (scale, least))) in groups.zip(scales).enumerate() {
                        of_4_bits(group, [scale, -least], |n| nibble(codes, part, n));
                    }
                }
                Self::F32 | Self::F16 | Self::Bf16 | Self::Q5_1 | Self::Q5K | Self::Q6K => {}
            }
        }
    }
}

fn of_8_bits(block: &[u8], group: Group) {
    // Of 18 bits, so that it is exact, and so is the 127th of it.
    *group.scale = 127.0 * half_at(block, 0);
    group.codes.copy_from_slice(&block[2..]);
}

fn of_5_bits(block: &[u8], group: Group) {
    *group.scale = 127.0 * half_at(block, 0);
    let mut codes = [0.0; SMALL];
    five_bits(&block[2..], &mut codes, |code| f32::from(code) - 16.0);
    let of_code = |(byte, code): (&mut u8, f32)| *byte = (code as i8).cast_unsigned();
    group.codes.iter_mut().zip(codes).for_each(of_code);
}

/// Two codes a byte, the first one in the high half.
fn of_4_bits(group: Group, [scale, least]: [f32; 2], code: impl Fn(usize) -> u8) {
    (*group.scale, *group.least) = (scale, least);
    let pairs = group.codes.iter_mut().enumerate();
    pairs.for_each(|(pair, byte)| *byte = code(2 * pair) << 4 | code(2 * pair + 1));
}

/// Of a small block: low nibbles are its first half, high ones the second.
fn small_nibble(bytes: &[u8], n: usize) -> u8 {
    let half = SMALL / 2;
    if n < half { bytes[n] & 15 } else { bytes[n - half] >> 4 }
}

impl Foreign {
    /// Some rows of a matrix as a packed weight whose outputs they are; none if no kernel reads this format, or it is no matrix.
    pub(crate) fn packed(&self, stored: &[u8], rows: Range<usize>) -> Option<PackedWeight> {
        let (form, columns) = (self.format.form()?, self.columns());
        let count = rows.len() * columns;
        // A packed weight counts its numbers in 32 bits.
        if self.shape.len() != 2 || count == 0 || u32::try_from(count).is_err() {
            return None;
        }
        let sizes = [columns, rows.len()];
        let (mut codes, groups) = (vec![0; form.bytes(count)], count / SMALL);
        let [mut scales, mut least] = [(); 2].map(|()| vec![0.0; groups]);
        let of_row = codes
            .par_chunks_exact_mut(form.bytes(columns))
            .zip(scales.par_chunks_exact_mut(columns / SMALL))
            .zip(least.par_chunks_exact_mut(columns / SMALL));
        of_row.zip(rows).for_each(|(((codes, scales), least), row)| {
            let parts = codes.chunks_exact_mut(form.bytes(SMALL)).zip(scales).zip(least);
            let groups = parts.map(|((codes, scale), least)| Group { codes, scale, least });
            self.format.regroup(self.row_at(stored, row), groups);
        });
        let packed = match form {
            Form::EightBits => PackedWeight::of_int8_blocks(&codes, &scales, sizes, SMALL),
            Form::FourBits => PackedWeight::of_affine4(&codes, [&scales, &least], sizes, SMALL),
        };
        Some(packed.expect("there are as many as the weight has"))
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::gguf::names::Layout;

    /// A matrix of the format whose bytes are anything but for finite scales.
    fn matrix(format: Format, [rows, columns]: [usize; 2], layout: Layout) -> (Foreign, Vec<u8>) {
        let (_, block_bytes) = format.block();
        let mut stored: Vec<u8> =
            (0..rows * format.row_bytes(columns)).map(|n| (n * 89 % 251) as u8).collect();
        for (n, block) in stored.chunks_exact_mut(block_bytes).enumerate() {
            let scale = |n: usize| f16::from_f32(0.03 * (n as f32).sin()).to_le_bytes();
            block[..2].copy_from_slice(&scale(n));
            if matches!(format, Format::Q4_1 | Format::Q4K) {
                block[2..4].copy_from_slice(&scale(n + 1));
            }
        }
        (Foreign { format, layout, shape: vec![rows, columns] }, stored)
    }

    #[test]
    fn packed_numbers_are_the_dense_ones() {
        for format in [Format::Q8_0, Format::Q5_0, Format::Q4_0, Format::Q4_1, Format::Q4K] {
            for layout in [Layout::AsStored, Layout::Interleaved { heads: 2 }] {
                let (foreign, stored) = matrix(format, [8, 512], layout);
                let dense: Vec<f32> =
                    foreign.dense(&stored).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
                for rows in [0..8, 2..5] {
                    let expected = &dense[rows.start * 512..rows.end * 512];
                    let packed = foreign.packed(&stored, rows).expect("a format that kernels read");
                    assert_eq!(packed.dequantized(), expected, "{format}");
                }
            }
        }
    }

    #[test]
    fn what_no_kernel_reads_is_not_packed() {
        for format in [Format::F16, Format::Q5_1, Format::Q5K, Format::Q6K] {
            let (foreign, stored) = matrix(format, [2, 256], Layout::AsStored);
            assert_eq!(foreign.packed(&stored, 0..2), None, "{format}");
        }
        let (vector, stored) = matrix(Format::Q8_0, [1, 256], Layout::AsStored);
        assert_eq!(Foreign { shape: vec![256], ..vector }.packed(&stored, 0..1), None);
    }
}
