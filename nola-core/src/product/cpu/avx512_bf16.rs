//! For processors that multiply pairs of bf16 and add the products in f32 (AVX-512 BF16), at twice the rate of f32.
//!
//! What is multiplied in one go lies in one lane of 32 bits: two numbers of a row of `x`, and the two numbers of the weight
//! that belong to them. `x` is rounded to bf16 for it, as PyTorch's autocast does; the sums are f32.

#![allow(unsafe_code, reason = "intrinsics of the processor, and reads and writes of whole registers")]

use std::arch::x86_64::*;
use std::array::from_fn;
use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::operands::{Operands, PANEL, Part, Weight, Widen};

/// Pairs of inputs in a block: a panel of the weight then takes 32 KiB and a tile's rows of `x` 14, which share the L1 cache.
const PAIRS: usize = 256;
/// Inputs of a block.
const DEPTH: usize = 2 * PAIRS;
/// Rows of a tile: their sums stay in registers, two for each row, and leave some for the weight.
const ROWS: usize = 14;
/// Lanes of a register.
const LANES: usize = 16;

/// The pairs of one row of `x` in a block, zero beyond its end.
#[derive(Clone, Copy)]
struct RowPairs([u32; PAIRS]);

/// One pair of inputs for each column of a panel, zero beyond its end.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct PanelPairs([u32; PANEL]);

/// A block of a weight on its way to a panel.
struct Scratch {
    wide: Vec<f32>,
    narrow: Vec<bf16>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { wide: vec![0.0; DEPTH * PANEL], narrow: vec![bf16::ZERO; DEPTH * PANEL] }
    }
}

/// Proof that the processor has the instructions.
#[derive(Clone, Copy)]
pub(super) struct Kernel(());

impl Kernel {
    pub(super) fn detect() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16");
        has_all.then_some(Self(()))
    }

    pub(super) fn multiply(self, operands: &Operands, weight: &Weight<bf16>) {
        self.multiply_with(operands, weight.d_in, |inputs, columns, _, panel| {
            self.prepare(weight, inputs, columns, panel);
        });
    }

    /// The product with a weight that becomes f32 first, and is then rounded to bf16.
    pub(super) fn multiply_widened(self, operands: &Operands, weight: &impl Widen) {
        self.multiply_with(operands, weight.inputs(), |inputs, columns, scratch, panel| {
            let strides = weight.widen(inputs, columns, &mut scratch.wide);
            let count = inputs.len() * columns.len();
            // SAFETY: `self` exists only where the processor has the instructions; so in every method.
            unsafe { round_all(&scratch.wide[..count], &mut scratch.narrow[..count]) };
            let block = Weight::of_block(&scratch.narrow[..count], inputs.len(), strides);
            self.prepare(&block, &(0..inputs.len()), &(0..columns.len()), panel);
        });
    }

    /// The product with a weight of which `prepare` lays out a panel.
    fn multiply_with(
        self,
        operands: &Operands,
        d_in: usize,
        prepare: impl Fn(&Range<usize>, &Range<usize>, &mut Scratch, &mut [PanelPairs]) + Sync,
    ) {
        let blocks = self.rounded(operands);
        operands.parts().into_par_iter().for_each_init(Default::default, |(panels, scratch), part| {
            let panels: &mut Vec<PanelPairs> = panels;
            operands.begin(&part);
            panels.resize(part.columns.len().div_ceil(PANEL) * PAIRS, PanelPairs([0; PANEL]));
            for (block, first) in blocks.iter().zip((0..d_in).step_by(DEPTH)) {
                let inputs = first..d_in.min(first + DEPTH);
                for (columns, panel) in panels_of(&part.columns).zip(panels.chunks_exact_mut(PAIRS)) {
                    prepare(&inputs, &columns, scratch, panel);
                }
                self.add_products(operands, &part, block, panels, inputs.len().div_ceil(2));
            }
        });
    }

    /// `x` as pairs, block after block.
    fn rounded(self, operands: &Operands) -> Vec<Vec<RowPairs>> {
        let d_in = operands.d_in();
        let block = |first: usize| {
            let row = |row: &[f32]| {
                let mut pairs = RowPairs([0; PAIRS]);
                // SAFETY: `self` exists only where the processor has the instructions; so in every method.
                unsafe { round(&row[first..d_in.min(first + DEPTH)], &mut pairs) };
                pairs
            };
            operands.x.par_chunks_exact(d_in.max(1)).with_min_len(LANES).map(row).collect()
        };
        (0..d_in).step_by(DEPTH).map(block).collect()
    }

    /// Lays a panel of the weight out in pairs.
    fn prepare(
        self,
        weight: &Weight<bf16>,
        inputs: &Range<usize>,
        columns: &Range<usize>,
        panel: &mut [PanelPairs],
    ) {
        if weight.is_straight() {
            for (first, pairs) in inputs.clone().step_by(2).zip(panel) {
                let numbers = |input| {
                    if input < inputs.end { weight.of_input(input, columns) } else { Default::default() }
                };
                // SAFETY: as above.
                unsafe { interleave(numbers(first), numbers(first + 1), pairs) };
            }
            return;
        }
        for (half, outputs) in columns.clone().step_by(LANES).enumerate() {
            for (first, pairs) in inputs.clone().step_by(2 * LANES).zip(panel.chunks_mut(LANES)) {
                let inputs = first..inputs.end.min(first + 2 * LANES);
                let numbers = from_fn(|lane| {
                    let output = outputs + lane;
                    if output < columns.end { weight.of_output(output, &inputs) } else { Default::default() }
                });
                // SAFETY: as above.
                unsafe { turn(numbers, half, pairs) };
            }
        }
    }

    /// Adds the products of one block to a part that nobody else uses meanwhile.
    fn add_products(
        self,
        operands: &Operands,
        part: &Part,
        block: &[RowPairs],
        panels: &[PanelPairs],
        pairs: usize,
    ) {
        for first in part.rows.clone().step_by(ROWS) {
            let rows = first..part.rows.end.min(first + ROWS);
            for (columns, panel) in panels_of(&part.columns).zip(panels.chunks_exact(PAIRS)) {
                let tile = Part { rows: rows.clone(), columns };
                let target = Target {
                    start: operands.sums.at(&tile),
                    pitch: operands.sums.sizes()[1],
                    columns: tile.columns.len(),
                };
                // SAFETY: as above; the tile is within the part, which is nobody else's.
                unsafe { add_tile_of(&block[rows.clone()], &panel[..pairs], target) };
            }
        }
    }
}

fn panels_of(columns: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = columns.end;
    columns.clone().step_by(PANEL).map(move |first| first..end.min(first + PANEL))
}

/// Where the sums of a tile are.
#[derive(Clone, Copy)]
struct Target {
    start: *mut f32,
    /// From one row to the next.
    pitch: usize,
    columns: usize,
}

/// A bit for each of the first `count` lanes.
fn mask(count: usize) -> u32 {
    if count < 32 { (1 << count) - 1 } else { u32::MAX }
}

/// Rounds a row of `x`, at most [`DEPTH`] numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn round(x: &[f32], pairs: &mut RowPairs) {
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
fn round_all(wide: &[f32], narrow: &mut [bf16]) {
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
fn interleave(first: &[bf16], second: &[bf16], pairs: &mut PanelPairs) {
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
fn turn(numbers: [&[bf16]; LANES], half: usize, panel: &mut [PanelPairs]) {
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

/// Adds to a tile the products of rows of `x` with a panel.
///
/// # Safety
/// The tile must lie in memory that nobody else uses.
///
/// # Panics
/// If there are more than [`ROWS`] rows.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn add_tile_of(x: &[RowPairs], panel: &[PanelPairs], target: Target) {
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
    // SAFETY: the masks leave out what is beyond the columns of the tile, and the caller promised the rest.
    let mut sums: [[__m512; 2]; M] =
        from_fn(|row| from_fn(|half| unsafe { _mm512_maskz_loadu_ps(masks[half], place(row, half)) }));
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
