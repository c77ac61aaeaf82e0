//! The plain kernel: the oracle of the others, and what runs on processors that none of them knows.

use super::generator::{Generator, uniform_of};
use super::kernel::{Entries, Kernel, LANES, SIGN_BATCH, STEPS, Sums, Tile, Words};
use crate::instructions::Instructions;

/// Code for every processor.
#[derive(Debug)]
pub(super) struct Plain;

impl Kernel for Plain {
    fn instructions(&self) -> Instructions {
        Instructions::Plain
    }

    fn uniform(
        &self,
        generator: &Generator,
        tile: u32,
        first_index: u32,
        count: usize,
        entries: &mut Entries,
    ) {
        let blocks = std::array::from_fn(|lane| tile.wrapping_mul(LANES as u32).wrapping_add(lane as u32));
        for (index, tile) in (first_index..).zip(&mut entries[..count]) {
            let words = generator.lanes::<LANES>(blocks, [index; LANES]);
            for (pair, words) in tile.0.chunks_exact_mut(2).zip(&words) {
                let [low, high] = pair else { unreachable!("two half-words make a word") };
                for ((low, high), word) in low.iter_mut().zip(high).zip(words) {
                    (*low, *high) = (uniform_of(word & 0xFFFF), uniform_of(word >> 16));
                }
            }
        }
    }

    fn sign_words(
        &self,
        generator: &Generator,
        block: u32,
        first_index: u32,
        count: usize,
        words: &mut Words,
    ) {
        for start in (0..count.min(SIGN_BATCH)).step_by(LANES) {
            let indices = std::array::from_fn(|lane| first_index.wrapping_add((start + lane) as u32));
            let made = generator.lanes::<LANES>([block; LANES], indices);
            for (row, made) in words.0.iter_mut().zip(made) {
                row[start..start + LANES].copy_from_slice(&made);
            }
        }
    }

    fn mix_entries(&self, entries: &[Tile], coefficients: &[f32], sums: &mut Tile) {
        for (tile, &coefficient) in entries.iter().zip(coefficients) {
            for (sum, entry) in sums.0.as_flattened_mut().iter_mut().zip(tile.0.as_flattened()) {
                *sum += coefficient * entry;
            }
        }
    }

    fn mix_signs(&self, words: &Words, coefficients: &[f32], sums: &mut Tile) {
        for (index, &coefficient) in coefficients.iter().enumerate() {
            for (step, sums) in sums.0.iter_mut().enumerate() {
                let bits = signs(words, index, step);
                for (lane, sum) in sums.iter_mut().enumerate() {
                    let sign = (bits << (31 - lane)) & (1 << 31);
                    *sum += f32::from_bits(coefficient.to_bits() ^ sign);
                }
            }
        }
    }

    fn dot_entries(&self, entries: &[Tile], gradient: &Tile, sums: &mut [Sums]) {
        for (tile, sums) in entries.iter().zip(sums) {
            let mut lanes = [0.0; LANES];
            for (entries, gradient) in tile.0.iter().zip(&gradient.0) {
                for (sum, (entry, gradient)) in lanes.iter_mut().zip(entries.iter().zip(gradient)) {
                    *sum += entry * gradient;
                }
            }
            add_lanes(&lanes, sums);
        }
    }

    fn dot_signs(&self, words: &Words, gradient: &Tile, sums: &mut [Sums]) {
        for (index, sums) in sums.iter_mut().enumerate() {
            let mut lanes = [0.0; LANES];
            for (step, gradient) in gradient.0.iter().enumerate() {
                let bits = signs(words, index, step);
                for (lane, (sum, gradient)) in lanes.iter_mut().zip(gradient).enumerate() {
                    let chosen = ((bits >> lane) & 1).wrapping_neg();
                    *sum += f32::from_bits(gradient.to_bits() & chosen);
                }
            }
            add_lanes(&lanes, sums);
        }
    }
}

/// The sixteen signs of one row of lanes, in the low bits.
fn signs(words: &Words, index: usize, step: usize) -> u32 {
    const { assert!(STEPS == 8, "two rows of lanes a word") };
    words.0[step / 2][index] >> (LANES * (step % 2))
}

fn add_lanes(lanes: &[f32; LANES], sums: &mut Sums) {
    let (first, second) = lanes.split_at(LANES / 2);
    for (sum, (first, second)) in sums.0.iter_mut().zip(first.iter().zip(second)) {
        *sum += f64::from(first + second);
    }
}
