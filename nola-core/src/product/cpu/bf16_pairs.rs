//! For processors that multiply pairs of bf16 and add the products in f32: in registers (AVX-512 BF16), at twice the rate of f32 on AMD's,
//! or in tiles (AMX).
//!
//! `x` is rounded to bf16 for it, as PyTorch's autocast does; the sums are f32.

#![allow(
    unsafe_code,
    reason = "functions that are compiled for instructions of the processor, and rows that are written in place"
)]

mod pairs;
mod registers;
mod tiles;

use std::array::from_fn;
use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use self::pairs::{DEPTH, LANES, PAIRS, PanelPairs, RowPairs, interleave, round, round_all, turn};
use self::tiles::{Amx, SIDE, STEP, Tiles, add_square};
use super::operands::{Operands, PANEL, Part, Weight, Widen};
use crate::instructions::Instructions;

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

/// Where sums are made.
#[derive(Clone, Copy)]
enum Unit {
    Registers,
    Tiles(Amx),
    #[cfg(test)]
    Model(tiles::Model),
}

/// Proof that the processor has the instructions, those of AVX-512 BF16 at least.
#[derive(Clone, Copy)]
pub(super) struct Kernel(Unit);

impl Kernel {
    /// The kernel of these instructions, which the processor must have.
    pub(super) fn of(instructions: Instructions) -> Option<Self> {
        match instructions {
            Instructions::Plain | Instructions::Avx2 | Instructions::Avx512 => None,
            Instructions::Avx512Bf16 => Some(Self(Unit::Registers)),
            // SAFETY: instructions are named only where the processor has them.
            Instructions::Amx => Some(Self(Unit::Tiles(unsafe { Amx::assumed() }))),
        }
    }

    /// The kernel of tiles with a plain model of them, where the processor can lay out pairs.
    #[cfg(test)]
    pub(super) fn model() -> Option<Self> {
        (Instructions::most() >= Instructions::Avx512Bf16).then_some(Self(Unit::Model(tiles::Model)))
    }

    pub(super) fn multiply(self, operands: &Operands, weight: &Weight<bf16>) {
        self.multiply_with(operands, weight.d_in, |inputs, columns, _, panel| {
            self.prepare(weight, inputs, columns, panel);
        });
    }

    /// The product with a weight whose parts become f32 side by side first, and are then rounded to bf16.
    pub(super) fn multiply_widened(self, operands: &Operands, weight: &impl Widen) {
        self.multiply_with(operands, weight.inputs(), |inputs, columns, scratch, panel| {
            let wide = weight.widen(inputs, columns, &mut scratch.wide);
            let count = inputs.len() * columns.len();
            // SAFETY: `self` exists only where the processor has the instructions; so in every method.
            unsafe { round_all(&wide.numbers[..count], &mut scratch.narrow[..count]) };
            let block = Weight::of_block(&scratch.narrow[..count], inputs.len(), wide.strides);
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
        if d_in == 0 {
            return operands.parts().iter().for_each(|part| operands.begin(part));
        }
        let blocks = self.rounded(operands);
        operands.parts().into_par_iter().for_each_init(Default::default, |(panels, scratch), part| {
            let panels: &mut Vec<PanelPairs> = panels;
            panels.resize(part.columns.len().div_ceil(PANEL) * PAIRS, PanelPairs([0; PANEL]));
            for (block, first) in blocks.iter().zip((0..d_in).step_by(DEPTH)) {
                let inputs = first..d_in.min(first + DEPTH);
                for (columns, panel) in panels_of(&part.columns).zip(panels.chunks_exact_mut(PAIRS)) {
                    prepare(&inputs, &columns, scratch, panel);
                    // What an earlier block left there would be multiplied in whole steps of tiles.
                    let pairs = inputs.len().div_ceil(2);
                    panel[pairs..pairs.next_multiple_of(STEP)].fill(PanelPairs([0; PANEL]));
                }
                let begins_with = if first == 0 { Begin::Bias } else { Begin::Sums };
                let pairs = inputs.len().div_ceil(2);
                self.add_products(&Product { operands, part: &part, block, panels, pairs, begins_with });
            }
        });
    }

    /// `x` as pairs, block after block, each with as many more rows of zeros as let a whole square begin at the last row.
    fn rounded(self, operands: &Operands) -> Vec<Vec<RowPairs>> {
        let (d_in, count) = (operands.d_in(), operands.sums.sizes()[0]);
        let block = |first: usize| {
            let inputs = first..d_in.min(first + DEPTH);
            let mut rows = Vec::with_capacity(count + SIDE - 1);
            let places = rows.spare_capacity_mut()[..count + SIDE - 1].par_iter_mut().with_min_len(LANES);
            places.enumerate().for_each(|(row, place)| {
                let pairs = place.write(RowPairs([0; PAIRS]));
                if row < count {
                    // SAFETY: `self` exists only where the processor has the instructions; so in every method.
                    unsafe { round(&operands.inputs_of(row)[inputs.clone()], pairs) };
                }
            });
            // SAFETY: every place was written.
            unsafe { rows.set_len(count + SIDE - 1) };
            rows
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
    fn add_products(self, product: &Product) {
        match self.0 {
            Unit::Registers => product.in_registers(),
            Unit::Tiles(tiles) => product.in_tiles(tiles),
            #[cfg(test)]
            Unit::Model(model) => product.in_tiles(model),
        }
    }
}

/// What the products of a block are added to.
#[derive(Clone, Copy)]
enum Begin {
    /// The bias, by the first block, so that nothing has to be written there before.
    Bias,
    /// The sums that lie in the result.
    Sums,
}

/// The product of a block of `x` with the panels of a part.
struct Product<'a> {
    operands: &'a Operands<'a>,
    part: &'a Part,
    block: &'a [RowPairs],
    panels: &'a [PanelPairs],
    /// Pairs of each panel that are multiplied.
    pairs: usize,
    begins_with: Begin,
}

impl Product<'_> {
    fn in_registers(&self) {
        self.each_tile(registers::ROWS, |rows, panel, target| {
            // SAFETY: the kernel exists only where the processor has the instructions; the tile is within the part, which is nobody else's.
            unsafe { registers::add_tile_of(&self.block[rows], &panel[..self.pairs], target) };
        });
    }

    fn in_tiles(&self, tiles: impl Tiles) {
        tiles.begin();
        self.each_tile(SIDE, |rows, panel, target| {
            let x = self.block[rows.start..].first_chunk().expect("rows of zeros follow");
            let steps = &panel.as_chunks().0[..self.pairs.div_ceil(STEP)];
            // SAFETY: the thread was prepared, and the tile is within the part, which is nobody else's.
            unsafe { add_square(tiles, x, steps, target, rows.len()) };
        });
        tiles.end();
    }

    /// Calls `add` for each panel beside each `height` rows.
    fn each_tile(&self, height: usize, add: impl Fn(Range<usize>, &[PanelPairs], Target)) {
        for first in self.part.rows.clone().step_by(height) {
            let rows = first..self.part.rows.end.min(first + height);
            for (columns, panel) in panels_of(&self.part.columns).zip(self.panels.chunks_exact(PAIRS)) {
                add(rows.clone(), panel, self.target(&Part { rows: rows.clone(), columns }));
            }
        }
    }

    fn target(&self, tile: &Part) -> Target {
        let (start, pitch) = (self.operands.sums.at(tile), self.operands.sums.sizes()[1]);
        let (from, from_pitch) = match (self.begins_with, self.operands.bias) {
            (Begin::Bias, Some(bias)) => (bias[tile.columns.clone()].as_ptr(), 0),
            (Begin::Bias, None) => (NO_BIAS.as_ptr(), 0),
            (Begin::Sums, _) => (start.cast_const(), pitch),
        };
        Target { start, pitch, columns: tile.columns.len(), from, from_pitch }
    }
}

fn panels_of(columns: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = columns.end;
    columns.clone().step_by(PANEL).map(move |first| first..end.min(first + PANEL))
}

static NO_BIAS: [f32; PANEL] = [0.0; PANEL];

/// Where the sums of a tile go, and what they begin with.
#[derive(Clone, Copy)]
struct Target {
    start: *mut f32,
    /// From one row to the next.
    pitch: usize,
    columns: usize,
    from: *const f32,
    /// From one row to the next; none if all rows begin alike.
    from_pitch: usize,
}
