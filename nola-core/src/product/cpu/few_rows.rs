//! Products of a few rows, such as single tokens, which memory bounds: each number of a weight is read once, and used as soon as it
//! is f32.

use rayon::prelude::*;

use super::operands::{Block, Operands, Part, Widen};
#[cfg(target_arch = "x86_64")]
use crate::instructions::{Instructions, Vectors};

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
/// Up to so many numbers a weight is read by one thread sooner than others wake up.
const MOST_ALONE: usize = 1 << 16;

/// # Panics
/// If there are more than [`FEW_ROWS`] rows.
pub(super) fn multiply(operands: &Operands, weight: &impl Widen) {
    let [rows, d_out] = operands.sums.sizes();
    assert!(rows <= FEW_ROWS, "a few rows");
    let add = fastest();
    let of_part = |scratch: &mut Scratch, part: Part| multiply_part(operands, weight, &part, add, scratch);
    let parts = operands.parts();
    if weight.inputs() * d_out <= MOST_ALONE {
        let mut scratch = Scratch::default();
        return parts.into_iter().for_each(|part| of_part(&mut scratch, part));
    }
    parts.into_par_iter().for_each_init(Scratch::default, of_part);
}

/// Memory of a thread.
struct Scratch {
    /// Of a tile.
    numbers: Vec<f32>,
    /// Of each row.
    sums: [[f32; LONG]; FEW_ROWS],
}

impl Default for Scratch {
    fn default() -> Self {
        Self { numbers: vec![0.0; TILE], sums: [[0.0; LONG]; FEW_ROWS] }
    }
}

/// Makes one part of the result, tile by tile of the weight.
fn multiply_part(operands: &Operands, weight: &impl Widen, part: &Part, add: Add, scratch: &mut Scratch) {
    let Scratch { numbers, sums } = scratch;
    let (width, depth) = if weight.lies_by_input() { (LONG, SHORT) } else { (SHORT, LONG) };
    operands.begin(part);
    for first in part.columns.clone().step_by(width) {
        let columns = first..part.columns.end.min(first + width);
        sums.as_flattened_mut().fill(0.0);
        for first in (0..weight.inputs()).step_by(depth) {
            let inputs = first..weight.inputs().min(first + depth);
            let tile = weight.widen(&inputs, &columns, numbers);
            for (row, sums) in part.rows.clone().zip(&mut *sums) {
                add(&operands.inputs_of(row)[inputs.clone()], tile, &mut sums[..columns.len()]);
            }
        }
        add_to(operands, &Part { rows: part.rows.clone(), columns }, sums);
    }
}

/// Adds the products of one row with a tile, in a fixed order.
#[inline(always)]
fn add(x: &[f32], tile: Block, sums: &mut [f32]) {
    let [of_inputs, of_outputs] = tile.strides;
    if of_inputs == 1 {
        for (output, sum) in sums.iter_mut().enumerate() {
            *sum += dot(x, &tile.numbers[output * of_outputs..][..x.len()]);
        }
        return;
    }
    for (input, x) in x.iter().enumerate() {
        let numbers = &tile.numbers[input * of_inputs..][..sums.len()];
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

type Add = fn(&[f32], Block, &mut [f32]);

/// [`add`] for the instructions that are allowed.
#[cfg(target_arch = "x86_64")]
fn fastest() -> Add {
    #[target_feature(enable = "avx512f")]
    fn avx512(x: &[f32], tile: Block, sums: &mut [f32]) {
        add(x, tile, sums);
    }
    #[target_feature(enable = "avx2")]
    fn avx2(x: &[f32], tile: Block, sums: &mut [f32]) {
        add(x, tile, sums);
    }
    match Instructions::allowed().vectors() {
        // SAFETY: instructions are allowed only where the processor has them; so below.
        Vectors::Avx512 => |x, tile, sums| unsafe { avx512(x, tile, sums) },
        Vectors::Avx2 => |x, tile, sums| unsafe { avx2(x, tile, sums) },
        Vectors::Plain => add,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn fastest() -> Add {
    add
}
