//! What a kernel does to one tile of a basis.
//!
//! A tile is [`TILE`] consecutive entries of a matrix. Every kernel gives the same bits as [`Plain`](super::plain::Plain): the words are
//! integers, an entry is exact, and the order of each sum is fixed here, lane by lane.

use super::generator::Generator;
use crate::instructions::Instructions;

/// Entries of a tile: one block of the sign distribution, sixteen blocks of the uniform distribution.
pub(super) const TILE: usize = LANES * STEPS;
/// Numbers side by side in a tile.
pub(super) const LANES: usize = 16;
/// Rows of lanes in a tile.
pub(super) const STEPS: usize = 8;
/// Matrices of which a tile is generated before it is used: 16 KiB of entries, which stay in the L1 cache.
pub(super) const BATCH: usize = 32;
/// Likewise for the sign distribution: 2 KiB of words.
pub(super) const SIGN_BATCH: usize = 128;

/// One tile of a matrix, in the order of the kernel's lanes.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(super) struct Tile(pub(super) [[f32; LANES]; STEPS]);

impl Tile {
    pub(super) const ZERO: Self = Self([[0.0; LANES]; STEPS]);
}

/// One tile of each matrix of a batch.
pub(super) type Entries = [Tile; BATCH];

/// The words of one block of the sign distribution in each matrix of a batch: word `w` of matrix `i` stands at `[w][i]`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(super) struct Words(pub(super) [[u32; SIGN_BATCH]; 4]);

/// Running sums of one dot product.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(super) struct Sums(pub(super) [f64; LANES / 2]);

impl Sums {
    pub(super) const ZERO: Self = Self([0.0; LANES / 2]);

    pub(super) fn total(&self) -> f64 {
        self.0.iter().sum()
    }
}

/// The work on one tile. Slices have one element per matrix of the batch, [`BATCH`] or [`SIGN_BATCH`] at most.
pub(super) trait Kernel: Sync {
    /// The instruction set.
    fn instructions(&self) -> Instructions;

    /// Entries of the uniform distribution for `count` matrices, or some more: lane = block of the tile, step = position in
    /// the block.
    fn uniform(
        &self,
        generator: &Generator,
        tile: u32,
        first_index: u32,
        count: usize,
        entries: &mut Entries,
    );

    /// Words of the sign distribution for `count` matrices, or some more.
    fn sign_words(
        &self,
        generator: &Generator,
        block: u32,
        first_index: u32,
        count: usize,
        words: &mut Words,
    );

    /// `sums += coefficient · entries`, matrix after matrix, each product and each sum rounded.
    fn mix_entries(&self, entries: &[Tile], coefficients: &[f32], sums: &mut Tile);

    /// The same with the signs that `words` hold; the entries of a block stand in natural order.
    fn mix_signs(&self, words: &Words, coefficients: &[f32], sums: &mut Tile);

    /// Adds to the sums of each matrix the products of its entries with `gradient`.
    ///
    /// Each lane adds its eight products in `f32`, lane `n + 8` is added to lane `n`, and the eight results to the
    /// sums in `f64`: at most nine roundings to `f32` stand between a product and the result.
    fn dot_entries(&self, entries: &[Tile], gradient: &Tile, sums: &mut [Sums]);

    /// Likewise the sum of `gradient` where the sign is −1: half of what is missing to the plain sum.
    fn dot_signs(&self, words: &Words, gradient: &Tile, sums: &mut [Sums]);
}
