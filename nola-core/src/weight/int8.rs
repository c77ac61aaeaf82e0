//! Integers from -127 to 127, one scale a block.

#![allow(unsafe_code, reason = "functions that are compiled for instructions of the processor")]

use std::ops::Range;

use rayon::prelude::*;

use super::{BLOCK, inverse};
#[cfg(target_arch = "x86_64")]
use crate::instructions::{Instructions, Vectors};

/// The largest integer.
const LARGEST: f32 = 127.0;

/// The code of every number, given the largest absolute value of its block: the nearest, to even between two.
pub(super) fn codes(values: &[f32], largest: &[f32]) -> Vec<u8> {
    let mut codes = vec![0; values.len()];
    let blocks = values.par_chunks(BLOCK).zip(codes.par_chunks_mut(BLOCK)).zip(largest);
    blocks.for_each(|((values, codes), &largest)| {
        let factor = LARGEST * inverse(largest);
        for (code, value) in codes.iter_mut().zip(values) {
            *code = ((value * factor).round_ties_even().clamp(-LARGEST, LARGEST) as i8).cast_unsigned();
        }
    });
    codes
}

/// What a code is multiplied by.
pub(super) fn step(largest: f32) -> f32 {
    largest / LARGEST
}

/// The numbers of the codes at `range`, all of one block.
#[inline]
pub(super) fn decode(codes: &[u8], range: Range<usize>, step: f32, numbers: &mut [f32]) {
    let codes = &codes[range];
    #[cfg(target_arch = "x86_64")]
    match Instructions::allowed().vectors() {
        Vectors::Plain => {}
        // SAFETY: instructions are allowed only where the processor has them.
        Vectors::Avx2 => return unsafe { decode_avx2(codes, step, numbers) },
        // SAFETY: as above.
        Vectors::Avx512 => return unsafe { decode_avx512(codes, step, numbers) },
    }
    decode_plain(codes, step, numbers);
}

#[inline(always)]
fn decode_plain(codes: &[u8], step: f32, numbers: &mut [f32]) {
    for (number, &code) in numbers.iter_mut().zip(codes) {
        *number = f32::from(code.cast_signed()) * step;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn decode_avx2(codes: &[u8], step: f32, numbers: &mut [f32]) {
    decode_plain(codes, step, numbers);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn decode_avx512(codes: &[u8], step: f32, numbers: &mut [f32]) {
    decode_plain(codes, step, numbers);
}
