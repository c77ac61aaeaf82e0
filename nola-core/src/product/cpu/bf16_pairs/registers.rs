//! Sums in registers, for processors with AVX-512 BF16: one instruction multiplies a pair of `x` with the pairs of sixteen columns.

#![allow(unsafe_code, reason = "intrinsics of the processor, and reads and writes of whole registers")]

use std::arch::x86_64::*;
use std::array::from_fn;

use super::Target;
use super::pairs::{LANES, PanelPairs, RowPairs, mask};

/// Rows of a tile: their sums stay in registers, two for each row, and leave some for the weight.
pub(super) const ROWS: usize = 14;

/// Adds to a tile the products of rows of `x` with a panel.
///
/// # Safety
/// The tile must lie in memory that nobody else uses.
///
/// # Panics
/// If there are more than [`ROWS`] rows.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn add_tile_of(x: &[RowPairs], panel: &[PanelPairs], target: Target) {
    macro_rules! of_rows {
        ($($rows:literal)*) => {
            match x.len() {
                // SAFETY: as the caller promised.
                $($rows => unsafe { add_tile::<$rows>(x.try_into().expect("as many rows"), panel, target) },)*
                rows => panic!("{rows} rows in a tile"),
            }
        };
    }
    of_rows!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

/// [`add_tile_of`] with the number of rows known, so that all sums are in registers.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn add_tile<const M: usize>(x: &[RowPairs; M], panel: &[PanelPairs], target: Target) {
    let mask = mask(target.columns);
    let masks = [mask as u16, (mask >> LANES) as u16];
    let place = |row: usize, half: usize| target.start.wrapping_add(row * target.pitch + half * LANES);
    let from = |row: usize, half: usize| target.from.wrapping_add(row * target.from_pitch + half * LANES);
    // SAFETY: the masks leave out what is beyond the columns of the tile, and the caller promised the rest.
    let mut sums: [[__m512; 2]; M] =
        from_fn(|row| from_fn(|half| unsafe { _mm512_maskz_loadu_ps(masks[half], from(row, half)) }));
    for (n, pairs) in panel.iter().enumerate() {
        let (low, high) = pairs.0.split_at(LANES);
        // SAFETY: both halves fill a register.
        let halves = [low, high].map(|half| unsafe { as_pairs(_mm512_load_si512(half.as_ptr().cast())) });
        for (sums, x) in sums.iter_mut().zip(x) {
            let x = as_pairs(_mm512_set1_epi32(x.0[n].cast_signed()));
            for (sum, half) in sums.iter_mut().zip(halves) {
                *sum = _mm512_dpbf16_ps(*sum, x, half);
            }
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        for (half, sum) in sums.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm512_mask_storeu_ps(place(row, half), masks[half], sum) };
        }
    }
}

fn as_pairs(lanes: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without a form of their own.
    unsafe { std::mem::transmute(lanes) }
}
