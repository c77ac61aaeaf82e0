//! NF4: sixteen quantiles of the normal distribution, two codes a byte, the first one in the high half.

#![allow(unsafe_code, reason = "kernels that need instructions of the processor")]

#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

use rayon::prelude::*;

use super::{BLOCK, inverse};
#[cfg(target_arch = "x86_64")]
use crate::instructions::{Instructions, Vectors};

/// The number of each code.
pub(crate) const TABLE: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The number of each code of NF4.
pub fn table() -> &'static [f32; 16] {
    &TABLE
}

/// What codes mean that are whole numbers.
pub(super) const WHOLE: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];

/// The code of zero.
const ZERO: u8 = 7;

/// The code of every number, given the largest absolute value of its block, as bytes of two.
pub(super) fn codes(values: &[f32], largest: &[f32]) -> Vec<u8> {
    let mut codes = vec![0; values.len().div_ceil(2)];
    let blocks = values.par_chunks(BLOCK).zip(codes.par_chunks_mut(BLOCK / 2)).zip(largest);
    blocks.for_each(|((values, codes), &largest)| {
        let factor = inverse(largest);
        for (code, pair) in codes.iter_mut().zip(values.chunks(2)) {
            let low = pair.get(1).map_or(ZERO, |value| nearest(value * factor));
            *code = nearest(pair[0] * factor) << 4 | low;
        }
    });
    codes
}

/// The code whose number is nearest to `value`.
fn nearest(value: f32) -> u8 {
    let middles = TABLE.windows(2).map(|pair| f32::midpoint(pair[0], pair[1]));
    middles.filter(|&middle| value > middle).count() as u8
}

/// The numbers of the codes at `range`, each `factor` times what the table has for it.
pub(super) fn decode(table: &[f32; 16], codes: &[u8], range: Range<usize>, factor: f32, numbers: &mut [f32]) {
    let done = if range.start.is_multiple_of(2) {
        decode_steps(table, &codes[range.start / 2..], factor, numbers)
    } else {
        0
    };
    decode_plain(table, codes, range.start + done..range.end, factor, &mut numbers[done..]);
}

/// The plain version, which the others equal.
fn decode_plain(table: &[f32; 16], codes: &[u8], range: Range<usize>, factor: f32, numbers: &mut [f32]) {
    for (number, index) in numbers.iter_mut().zip(range) {
        let pair = codes[index / 2];
        let code = if index.is_multiple_of(2) { pair >> 4 } else { pair & 15 };
        *number = table[usize::from(code)] * factor;
    }
}

/// Decodes as many numbers as fill the registers of this processor, from the first on, and returns how many.
#[cfg(target_arch = "x86_64")]
fn decode_steps(table: &[f32; 16], codes: &[u8], factor: f32, numbers: &mut [f32]) -> usize {
    let vectors = Instructions::allowed().vectors();
    if vectors == Vectors::Plain {
        return 0;
    }
    let (bytes, numbers) = (codes.as_chunks().0, numbers.as_chunks_mut().0);
    match vectors {
        Vectors::Plain => {}
        // SAFETY: instructions are allowed only where the processor has them.
        Vectors::Avx2 => unsafe { x86::avx2(table, bytes, factor, numbers) },
        // SAFETY: as above.
        Vectors::Avx512 => unsafe { x86::avx512(table, bytes, factor, numbers) },
    }
    numbers.len() * x86::STEP
}

#[cfg(not(target_arch = "x86_64"))]
fn decode_steps(_table: &[f32; 16], _codes: &[u8], _factor: f32, _numbers: &mut [f32]) -> usize {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_the_table_has_its_own_code() {
        for (code, &number) in TABLE.iter().enumerate() {
            assert_eq!(usize::from(nearest(number)), code);
        }
    }

    #[test]
    fn the_first_code_of_a_byte_is_in_its_high_half() {
        assert_eq!(codes(&[1.0, -1.0, 0.0], &[1.0]), [0xf0, 0x77]);
    }

    #[cfg(target_arch = "x86_64")]
    type Decode = unsafe fn(&[f32; 16], &[[u8; 16]], f32, &mut [[f32; x86::STEP]]);

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn every_processor_gives_the_numbers_of_the_plain_version() {
        let bytes: Vec<[u8; 16]> = (0..16).map(|n| std::array::from_fn(|m| (16 * n + m) as u8)).collect();
        let mut plain = vec![0.0; bytes.len() * x86::STEP];
        let count = plain.len();
        decode_plain(&TABLE, bytes.as_flattened(), 0..count, 0.37, &mut plain);
        let check = |decode: Decode| {
            let mut numbers = vec![[0.0; x86::STEP]; bytes.len()];
            // SAFETY: the processor has the instructions of what is checked.
            unsafe { decode(&TABLE, &bytes, 0.37, &mut numbers) };
            assert_eq!(numbers.as_flattened(), plain);
        };
        if Instructions::most() >= Instructions::Avx2 {
            check(x86::avx2);
        }
        if Instructions::most() >= Instructions::Avx512 {
            check(x86::avx512);
        }
    }
}
