//! `x` and a weight as pairs of bf16: what is multiplied in one go lies in one lane of 32 bits, two numbers of a row of `x`, and
//! the two numbers of the weight that belong to them.

#![allow(unsafe_code, reason = "intrinsics of the processor, and reads and writes of whole registers")]

use std::arch::x86_64::*;
use std::array::from_fn;

use half::bf16;

use super::super::operands::PANEL;

/// Pairs of inputs in a block: a panel of the weight then takes 32 KiB and fourteen rows of `x` 14, which share the L1 cache.
pub(super) const PAIRS: usize = 256;
/// Inputs of a block.
pub(super) const DEPTH: usize = 2 * PAIRS;
/// Lanes of a register.
pub(super) const LANES: usize = 16;

/// The pairs of one row of `x` in a block, zero beyond its end.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct RowPairs(pub(super) [u32; PAIRS]);

/// One pair of inputs for each column of a panel, zero beyond its end.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct PanelPairs(pub(super) [u32; PANEL]);

/// A bit for each of the first `count` lanes.
pub(super) fn mask(count: usize) -> u32 {
    if count < 32 { (1 << count) - 1 } else { u32::MAX }
}

/// Rounds a row of `x`, at most [`DEPTH`] numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn round(x: &[f32], pairs: &mut RowPairs) {
    for (x, pairs) in x.chunks(2 * LANES).zip(pairs.0.as_chunks_mut::<LANES>().0) {
        let mask = mask(x.len());
        // SAFETY: only numbers of `x` are read, and `pairs` has room for a register.
        unsafe {
            let low = _mm512_maskz_loadu_ps(mask as u16, x.as_ptr());
            let high = _mm512_maskz_loadu_ps((mask >> LANES) as u16, x.as_ptr().wrapping_add(LANES));
            let rounded: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(pairs.as_mut_ptr().cast(), rounded);
        }
    }
}

/// Rounds as many numbers as both have.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn round_all(wide: &[f32], narrow: &mut [bf16]) {
    for (wide, narrow) in wide.chunks(LANES).zip(narrow.chunks_mut(LANES)) {
        let mask = mask(wide.len().min(narrow.len())) as u16;
        // SAFETY: the mask leaves out what is beyond the numbers of either.
        unsafe {
            let rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, wide.as_ptr()));
            let words = _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(rounded));
            _mm512_mask_cvtepi32_storeu_epi16(narrow.as_mut_ptr().cast(), mask, words);
        }
    }
}

/// The numbers of two inputs for the same columns, pair by pair; no number is zero.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn interleave(first: &[bf16], second: &[bf16], pairs: &mut PanelPairs) {
    let load = |numbers: &[bf16]| {
        // SAFETY: only numbers of the slice are read.
        unsafe { _mm512_maskz_loadu_epi16(mask(numbers.len()), numbers.as_ptr().cast()) }
    };
    let (first, second) = (load(first), load(second));
    let join = |first, second| {
        _mm512_or_si512(_mm512_cvtepu16_epi32(first), _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(second)))
    };
    let low = join(_mm512_castsi512_si256(first), _mm512_castsi512_si256(second));
    let high = join(_mm512_extracti64x4_epi64::<1>(first), _mm512_extracti64x4_epi64::<1>(second));
    let (to_low, to_high) = pairs.0.split_at_mut(LANES);
    // SAFETY: both halves have room for a register.
    unsafe {
        _mm512_storeu_si512(to_low.as_mut_ptr().cast(), low);
        _mm512_storeu_si512(to_high.as_mut_ptr().cast(), high);
    }
}

/// Up to 32 inputs of sixteen outputs, whose pairs become a half of as many rows of a panel; no number is zero.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn turn(numbers: [&[bf16]; LANES], half: usize, panel: &mut [PanelPairs]) {
    let rows = numbers.map(|numbers| {
        // SAFETY: only numbers of the slice are read.
        unsafe { _mm512_maskz_loadu_epi16(mask(numbers.len()), numbers.as_ptr().cast()) }
    });
    for (turned, pairs) in transposed(rows).into_iter().zip(panel) {
        let to = &mut pairs.0[half * LANES..][..LANES];
        // SAFETY: there is room for a register.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), turned) };
    }
}

/// Sixteen rows of sixteen lanes as columns.
#[target_feature(enable = "avx512f")]
fn transposed(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    // Within each quarter of a register, four rows at a time: afterwards the quarter `q` of `fours[4 · i + j]` holds
    // column `4 · q + j` of the rows `4 · i` to `4 · i + 3`.
    let twos: [__m512i; LANES] = from_fn(|n| match n % 2 {
        0 => _mm512_unpacklo_epi32(rows[n], rows[n + 1]),
        _ => _mm512_unpackhi_epi32(rows[n - 1], rows[n]),
    });
    let fours: [__m512i; LANES] = from_fn(|n| {
        let from = n / 4 * 4 + n % 4 / 2;
        match n % 2 {
            0 => _mm512_unpacklo_epi64(twos[from], twos[from + 2]),
            _ => _mm512_unpackhi_epi64(twos[from], twos[from + 2]),
        }
    });
    // Then quarters change places: even ones and odd ones of two rows, and of these the first and the last.
    from_fn(|n| {
        let (quarter, j) = (n / 4, n % 4);
        let of_two = |first: __m512i, second: __m512i| match quarter % 2 {
            0 => _mm512_shuffle_i32x4::<0x88>(first, second),
            _ => _mm512_shuffle_i32x4::<0xdd>(first, second),
        };
        let (upper, lower) = (of_two(fours[j], fours[4 + j]), of_two(fours[8 + j], fours[12 + j]));
        match quarter / 2 {
            0 => _mm512_shuffle_i32x4::<0x88>(upper, lower),
            _ => _mm512_shuffle_i32x4::<0xdd>(upper, lower),
        }
    })
}
