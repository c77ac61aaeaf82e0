//! Sums in tiles, for processors with AMX: one instruction multiplies sixteen pairs of sixteen rows of `x` with those of sixteen columns.

#![allow(unsafe_code, reason = "instructions of the processor that have no intrinsics yet")]

use std::arch::asm;

use super::Target;
use super::pairs::{LANES, PanelPairs, RowPairs};

/// Rows and columns of a square of sums: two tiles each way, so that every tile that is loaded is used twice.
pub(super) const SIDE: usize = 32;
/// Pairs of inputs that one instruction multiplies.
pub(super) const STEP: usize = 16;

/// What multiplies tiles: the processor, or its plain model.
pub(super) trait Tiles: Copy + Sync {
    /// Prepares this thread for [`add`](Self::add); once before the first one of a part.
    fn begin(self);

    /// Undoes [`begin`](Self::begin), so that the system has no tiles to keep for this thread.
    fn end(self);

    /// Adds the products of [`SIDE`] rows of `x` with a panel to what a whole square begins with.
    ///
    /// # Safety
    /// The target must have [`SIDE`] columns and lie in memory that nobody else uses, and the thread must be prepared.
    unsafe fn add(self, x: &[RowPairs; SIDE], panel: &[[PanelPairs; STEP]], target: Target);
}

/// Adds the products of up to [`SIDE`] rows with a panel; the rows of `x` beyond them are read and have no effect.
///
/// At the edges a square of its own is filled and copied back, so that every sum is made in the same order wherever parts end.
///
/// # Safety
/// The target must lie in memory that nobody else uses, and the thread must be prepared.
pub(super) unsafe fn add_square(
    tiles: impl Tiles,
    x: &[RowPairs; SIDE],
    panel: &[[PanelPairs; STEP]],
    target: Target,
    rows: usize,
) {
    if [rows, target.columns] == [SIDE, SIDE] {
        // SAFETY: as the caller promised.
        return unsafe { tiles.add(x, panel, target) };
    }
    let mut square = [0.0; SIDE * SIDE];
    for (row, sums) in square.chunks_exact_mut(SIDE).enumerate().take(rows) {
        let found = target.from.wrapping_add(row * target.from_pitch);
        // SAFETY: the target has these rows and columns.
        unsafe { found.copy_to_nonoverlapping(sums.as_mut_ptr(), target.columns) };
    }
    // SAFETY: the square is this function's, and the caller promised the rest.
    unsafe { tiles.add(x, panel, Target::whole(&mut square)) };
    for (row, sums) in square.chunks_exact(SIDE).enumerate().take(rows) {
        let found = target.start.wrapping_add(row * target.pitch);
        // SAFETY: as above.
        unsafe { found.copy_from_nonoverlapping(sums.as_ptr(), target.columns) };
    }
}

impl Target {
    /// A square that begins with what it holds.
    fn whole(square: &mut [f32; SIDE * SIDE]) -> Self {
        let start = square.as_mut_ptr();
        Self { start, pitch: SIDE, columns: SIDE, from: start, from_pitch: SIDE }
    }
}

/// The tiles of the processor; there is one only where [`crate::instructions`] found them.
#[derive(Clone, Copy)]
pub(super) struct Amx(());

impl Amx {
    /// # Safety
    /// The processor must have AMX for bf16, and the system must let this process use it.
    pub(super) unsafe fn assumed() -> Self {
        Self(())
    }
}

/// How all eight tiles are set up: sixteen rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static WHOLE_TILES: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

impl Tiles for Amx {
    fn begin(self) {
        // SAFETY: `self` exists only where the instructions do; so in every method.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE_TILES, options(nostack, readonly)) };
    }

    fn end(self) {
        // SAFETY: as above.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }

    unsafe fn add(self, x: &[RowPairs; SIDE], panel: &[[PanelPairs; STEP]], target: Target) {
        let half = SIDE / 2;
        // SAFETY: each address is that of a whole tile: of the square, of rows of `x`, or of a step of the panel.
        unsafe {
            asm!(
                "tileloadd tmm0, [{from} + {from_pitch} * 1]",
                "tileloadd tmm1, [{from} + {from_pitch} * 1 + 64]",
                "tileloadd tmm2, [{lower_from} + {from_pitch} * 1]",
                "tileloadd tmm3, [{lower_from} + {from_pitch} * 1 + 64]",
                "test {steps}, {steps}",
                "jz 3f",
                "2:",
                "tileloadd tmm4, [{x} + {x_pitch} * 1]",
                "tileloadd tmm6, [{panel} + {panel_pitch} * 1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{panel} + {panel_pitch} * 1 + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{lower_x} + {x_pitch} * 1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {x}, 64",
                "add {lower_x}, 64",
                "add {panel}, {step_bytes}",
                "dec {steps}",
                "jnz 2b",
                "3:",
                "tilestored [{sums} + {pitch} * 1], tmm0",
                "tilestored [{sums} + {pitch} * 1 + 64], tmm1",
                "tilestored [{lower_sums} + {pitch} * 1], tmm2",
                "tilestored [{lower_sums} + {pitch} * 1 + 64], tmm3",
                from = in(reg) target.from,
                lower_from = in(reg) target.from.wrapping_add(half * target.from_pitch),
                from_pitch = in(reg) target.from_pitch * size_of::<f32>(),
                sums = in(reg) target.start,
                lower_sums = in(reg) target.start.wrapping_add(half * target.pitch),
                pitch = in(reg) target.pitch * size_of::<f32>(),
                x = inout(reg) x.as_ptr() => _,
                lower_x = inout(reg) x[half..].as_ptr() => _,
                x_pitch = in(reg) size_of::<RowPairs>(),
                panel = inout(reg) panel.as_ptr() => _,
                panel_pitch = in(reg) size_of::<PanelPairs>(),
                steps = inout(reg) panel.len() => _,
                step_bytes = const size_of::<[PanelPairs; STEP]>(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

/// What the instructions do, in plain Rust: the pairs of a step, one after the other, are added to each sum in f32.
#[cfg(test)]
#[derive(Clone, Copy)]
pub(super) struct Model;

#[cfg(test)]
impl Tiles for Model {
    fn begin(self) {}

    fn end(self) {}

    unsafe fn add(self, x: &[RowPairs; SIDE], panel: &[[PanelPairs; STEP]], target: Target) {
        for (row, x) in x.iter().enumerate() {
            for column in 0..SIDE {
                let from = target.from.wrapping_add(row * target.from_pitch + column);
                let place = target.start.wrapping_add(row * target.pitch + column);
                let pairs = x.0.iter().zip(panel.as_flattened());
                // SAFETY: as the caller promised.
                unsafe { *place = pairs.fold(*from, |sum, (&x, panel)| with_pair(sum, x, panel.0[column])) };
            }
        }
    }
}

#[cfg(test)]
fn with_pair(sum: f32, left: u32, right: u32) -> f32 {
    let low = |pair: u32| f32::from_bits(pair << 16);
    let high = |pair: u32| f32::from_bits(pair & 0xffff_0000);
    sum + low(left) * low(right) + high(left) * high(right)
}

const _: () = assert!(SIDE == 2 * LANES && size_of::<Configuration>() == 64);
