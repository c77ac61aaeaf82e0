//! A part of a packed weight becomes numbers.

use cubecl::prelude::*;

use crate::weight::{AFFINE4, HEADER, INT8, NESTED_BLOCK, NF4_DOUBLE};

/// Numbers of NF4's table, before those of the table of scales.
pub(crate) const CODES: u32 = 16;

/// Writes the `count` numbers from `first` on of a packed weight `[d_out, d_in]`, a unit each.
///
/// `tables` holds NF4's sixteen numbers, then the 256 of scales in 8 bits.
#[cube(launch_unchecked)]
pub(crate) fn dequantize(words: &[u32], tables: &[f32], numbers: &mut [f32], first: u32, count: u32) {
    let at = ABSOLUTE_POS as u32;
    if at < count {
        let index = first + at;
        let kind = words[0usize];
        let total = words[1usize] * words[2usize];
        let block = words[3usize];
        let header = comptime!(HEADER as u32);
        let blocks = total.div_ceil(block);
        if kind == comptime!(INT8) {
            let word = words[(header + index / 4u32) as usize];
            // Moved to the top, so that its sign is that of the word.
            let top = word << (24u32 - (index % 4u32) * 8u32);
            let code = i32::reinterpret(top) >> 24i32;
            let scales = header + total.div_ceil(4u32);
            let largest = f32::reinterpret(words[(scales + index / block) as usize]);
            numbers[at as usize] = f32::cast_from(code) * (largest / 127.0f32);
        } else {
            let word = words[(header + index / 8u32) as usize];
            // Bytes in order, and of each byte the high half first.
            let shift = (index % 8u32) / 2u32 * 8u32 + (1u32 - index % 2u32) * 4u32;
            let code = (word >> shift) & 15u32;
            let number = tables[code as usize];
            let scales = header + total.div_ceil(8u32);
            let of = index / block;
            if kind == comptime!(AFFINE4) {
                let step = f32::reinterpret(words[(scales + of) as usize]);
                let least = f32::reinterpret(words[(scales + blocks + of) as usize]);
                numbers[at as usize] = f32::cast_from(code) * step + least;
            } else if kind == comptime!(NF4_DOUBLE) {
                let of_scale = (words[(scales + of / 4u32) as usize] >> ((of % 4u32) * 8u32)) & 255u32;
                let nested = scales + blocks.div_ceil(4u32);
                let factor = f32::reinterpret(words[(nested + of / comptime!(NESTED_BLOCK as u32)) as usize]);
                let offset = nested + blocks.div_ceil(comptime!(NESTED_BLOCK as u32));
                let mean = f32::reinterpret(words[offset as usize]);
                numbers[at as usize] =
                    number * (tables[(comptime!(CODES) + of_scale) as usize] * factor + mean);
            } else {
                numbers[at as usize] = number * f32::reinterpret(words[(scales + of) as usize]);
            }
        }
    }
}
