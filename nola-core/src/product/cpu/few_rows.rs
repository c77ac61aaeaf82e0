//! Products of a few rows, such as single tokens, which memory bounds: each number of a narrow weight is used as soon as it is f32.

use rayon::prelude::*;

use super::operands::{Operands, Part, Widen};
#[cfg(target_arch = "x86_64")]
use crate::instructions::Instructions;

/// Up to this many rows a weight is not laid out for a kernel that multiplies many.
pub(super) const FEW_ROWS: usize = 4;
/// Numbers of a tile: 32 KiB of f32.
const TILE: usize = 8192;
/// The shorter side of a tile; the longer one is that in which numbers lie side by side.
const SHORT: usize = 16;
/// The longer side of a tile.
const LONG: usize = TILE / SHORT;
/// Sums that a processor makes side by side.
const LANES: usize = 16;

/// # Panics
/// If there are more than [`FEW_ROWS`] rows.
pub(super) fn multiply(operands: &Operands, weight: &impl Widen) {
    assert!(operands.sums.sizes()[0] <= FEW_ROWS, "a few rows");
    let add = fastest();
    let (width, depth) = if weight.lies_by_input() { (LONG, SHORT) } else { (SHORT, LONG) };
    operands.parts().into_par_iter().for_each_init(
        || (vec![0.0; TILE], [[0.0; LONG]; FEW_ROWS]),
        |(block, sums), part| {
            operands.begin(&part);
            for first in part.columns.clone().step_by(width) {
                let columns = first..part.columns.end.min(first + width);
                sums.as_flattened_mut().fill(0.0);
                for first in (0..weight.inputs()).step_by(depth) {
                    let inputs = first..weight.inputs().min(first + depth);
                    let strides = weight.widen(&inputs, &columns, block);
                    let tile = Tile { numbers: block, strides, columns: columns.len() };
                    for (row, sums) in part.rows.clone().zip(&mut *sums) {
                        add(&operands.inputs_of(row)[inputs.clone()], &tile, sums);
                    }
                }
                add_to(operands, &Part { rows: part.rows.clone(), columns }, sums);
            }
        },
    );
}

/// A part of a weight as f32.
struct Tile<'a> {
    numbers: &'a [f32],
    /// From one input to the next, and from one output to the next; one of them is 1.
    strides: [usize; 2],
    columns: usize,
}

/// Adds the products of one row with a tile, in a fixed order.
#[inline(always)]
fn add(x: &[f32], tile: &Tile, sums: &mut [f32; LONG]) {
    if tile.strides[0] == 1 {
        for (sum, numbers) in sums.iter_mut().zip(tile.numbers.chunks_exact(x.len())).take(tile.columns) {
            *sum += dot(x, numbers);
        }
        return;
    }
    for (x, numbers) in x.iter().zip(tile.numbers.chunks_exact(tile.columns)) {
        sums.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += x * number);
    }
}

#[inline(always)]
fn dot(left: &[f32], right: &[f32]) -> f32 {
    let (left_lanes, left_rest) = left.as_chunks::<LANES>();
    let (right_lanes, right_rest) = right.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (left, right) in left_lanes.iter().zip(right_lanes) {
        for lane in 0..LANES {
            sums[lane] += left[lane] * right[lane];
        }
    }
    let rest = left_rest.iter().zip(right_rest).map(|(left, right)| left * right);
    sums.iter().sum::<f32>() + rest.sum::<f32>()
}

/// Adds sums to a part that was begun and that nobody else uses meanwhile.
fn add_to(operands: &Operands, part: &Part, sums: &[[f32; LONG]; FEW_ROWS]) {
    let columns = part.columns.len();
    for (row, sums) in part.rows.clone().zip(sums) {
        let start = operands.sums.at(&Part { rows: row..row + 1, columns: part.columns.clone() });
        // SAFETY: the part was begun, is nobody else's, and has this many columns by the check of `at`.
        let found = unsafe { std::slice::from_raw_parts_mut(start, columns) };
        found.iter_mut().zip(sums).for_each(|(found, sum)| *found += sum);
    }
}

type Add = fn(&[f32], &Tile, &mut [f32; LONG]);

/// [`add`] for the instructions that are allowed.
#[cfg(target_arch = "x86_64")]
fn fastest() -> Add {
    #[target_feature(enable = "avx512f")]
    fn avx512(x: &[f32], tile: &Tile, sums: &mut [f32; LONG]) {
        add(x, tile, sums);
    }
    #[target_feature(enable = "avx2")]
    fn avx2(x: &[f32], tile: &Tile, sums: &mut [f32; LONG]) {
        add(x, tile, sums);
    }
    match Instructions::allowed() {
        // SAFETY: instructions are allowed only where the processor has them; so below.
        Instructions::Avx512 => |x, tile, sums| unsafe { avx512(x, tile, sums) },
        Instructions::Avx2 => |x, tile, sums| unsafe { avx2(x, tile, sums) },
        Instructions::Plain => add,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn fastest() -> Add {
    add
}
