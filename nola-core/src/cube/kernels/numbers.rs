//! The numbers of a basis as a GPU regenerates them: the words of the plain version, and the same bits.

use cubecl::prelude::*;

use super::Terms;
use crate::philox::{MULTIPLIERS, ROUNDS, WEYL};

/// The four words of one call.
#[cube]
pub(super) fn philox(block: u32, index: u32, site: u32, terms: &Terms) -> Vector<u32, Const<4>> {
    let mut c0 = block;
    let mut c1 = index;
    let mut c2 = site;
    let mut c3 = terms.stream;
    #[unroll]
    for round in 0..ROUNDS {
        let low_0 = c0 * comptime!(MULTIPLIERS[0]);
        let high_0 = u32::mul_hi(c0, comptime!(MULTIPLIERS[0]));
        let low_1 = c2 * comptime!(MULTIPLIERS[1]);
        let high_1 = u32::mul_hi(c2, comptime!(MULTIPLIERS[1]));
        c0 = high_1 ^ c1 ^ (terms.seed_low + comptime!(WEYL[0].wrapping_mul(round as u32)));
        c1 = low_1;
        c2 = high_0 ^ c3 ^ (terms.seed_high + comptime!(WEYL[1].wrapping_mul(round as u32)));
        c3 = low_0;
    }
    let mut words = Vector::<u32, Const<4>>::empty();
    words.insert(0usize, c0);
    words.insert(1usize, c1);
    words.insert(2usize, c2);
    words.insert(3usize, c3);
    words
}

/// The four uniform numbers of two words: 2 + h·2⁻¹⁵ has `h` in its fraction bits, and taking 3 − 2⁻¹⁶ away is exact.
#[cube]
pub(super) fn uniform(first: u32, second: u32) -> Vector<f32, Const<4>> {
    let fraction = 0x007F_FF80u32;
    let mut bits = Vector::<u32, Const<4>>::empty();
    bits.insert(0usize, (first << 7u32) & fraction);
    bits.insert(1usize, (first >> 9u32) & fraction);
    bits.insert(2usize, (second << 7u32) & fraction);
    bits.insert(3usize, (second >> 9u32) & fraction);
    let numbers = Vector::<f32, Const<4>>::reinterpret(bits | Vector::new(0x4000_0000u32));
    numbers - Vector::new(comptime!(3.0 - 1.0 / 65536.0f32))
}

/// `numbers` with the signs that the bits `4·part..` of `word` give them.
#[cube]
pub(super) fn signed(
    numbers: Vector<f32, Const<4>>,
    word: u32,
    #[comptime] part: u32,
) -> Vector<f32, Const<4>> {
    let mut signs = Vector::<u32, Const<4>>::empty();
    #[unroll]
    for n in 0..4u32 {
        let shift = comptime!(31 - 4 * part - n);
        signs.insert(comptime!(n as usize), word << shift);
    }
    let signs = signs & Vector::new(0x8000_0000u32);
    Vector::<f32, Const<4>>::reinterpret(Vector::<u32, Const<4>>::reinterpret(numbers) ^ signs)
}
