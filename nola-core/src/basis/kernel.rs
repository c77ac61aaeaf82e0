//! What a kernel does to one tile of a basis, and the choice of the fastest kernel that this processor runs.
//!
//! A tile is [`TILE`] consecutive entries of a matrix. Every kernel gives the same bits as [`Plain`]: the words are
//! integers, an entry is exact, and the order of each sum is fixed here, lane by lane.

use super::generator::{Distribution, Generator, Stream};
use super::plain::Plain;
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

/// The kernels of this processor's instruction sets, the fastest first.
#[cfg(target_arch = "x86_64")]
fn vectorised() -> [Option<&'static dyn Kernel>; 2] {
    let avx512 = super::avx512::Avx512::detect().map(|kernel| kernel as &dyn Kernel);
    [avx512, super::avx2::Avx2::detect().map(|kernel| kernel as &dyn Kernel)]
}

#[cfg(not(target_arch = "x86_64"))]
fn vectorised() -> [Option<&'static dyn Kernel>; 2] {
    [None; 2]
}

/// The fastest kernel that this processor runs and that is allowed.
pub(super) fn fastest() -> &'static dyn Kernel {
    let allowed = Instructions::allowed();
    let mut of_processor = vectorised().into_iter().flatten();
    of_processor.find(|kernel| kernel.instructions() <= allowed).unwrap_or(&Plain)
}

/// The instruction set that [`Basis::expand`](super::Basis::expand) and its kin use here: `avx512`, `avx2` or `plain`.
pub fn instruction_set() -> &'static str {
    fastest().instructions().name()
}

/// Makes `count` words of the generator, or a few more, on this thread, and returns their exclusive or.
///
/// The speed limit of everything else here, for benchmarks.
pub fn philox_words(count: usize) -> u32 {
    let kernel = fastest();
    let generator = Generator { distribution: Distribution::Sign, seed: 0, site: 0, stream: Stream::A };
    let mut words = Words([[0; SIGN_BATCH]; 4]);
    let mut checksum = 0;
    for block in 0..count.div_ceil(4 * SIGN_BATCH) {
        kernel.sign_words(&generator, block as u32, 0, SIGN_BATCH, &mut words);
        checksum ^= words.0.as_flattened().iter().fold(0, |sum, word| sum ^ word);
    }
    checksum
}

/// Every kernel that this processor runs, the plain one first: for tests.
#[cfg(test)]
pub(super) fn available() -> Vec<&'static dyn Kernel> {
    let plain: &dyn Kernel = &Plain;
    std::iter::once(plain).chain(vectorised().into_iter().flatten()).collect()
}
