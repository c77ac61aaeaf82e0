//! The frozen random matrices of NOLA, regenerated from a seed and never stored.
//!
//! `value(seed, site, stream, i, e)` is a pure function: the same 32-bit words on every device, in every
//! chunking, for every thread count. The generator is called [`GENERATOR`]; its layout is fixed for ever:
//!
//! - Philox4x32-10, key = (seed low, seed high), counter = (block, i, site, stream).
//! - [`Law::Uniform`]: eight 16-bit values a call; block = e / 8, half-word e mod 8 (low half of a word first),
//!   u = (h + 1/2)·2⁻¹⁵ − 1, exact in `f32`, symmetric, never 0.
//! - [`Law::Sign`]: 128 values a call; block = e / 128, word (e / 32) mod 4, bit e mod 32; 0 is +1, 1 is −1.
//!
//! This is the plain version of `expand` and `project`: the oracle every faster kernel must equal. A kernel
//! takes the place of [`Basis::expand`] and [`Basis::project`] and nothing else changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::philox::philox4x32_10_lanes;

/// Name of the generator; it stands in every adapter file, and a file with another name is refused.
pub const GENERATOR: &str = "nola-philox-1";

/// Elements that one task expands: a multiple of every block, and small enough to stay in the L1 cache.
const CHUNK: usize = 1024;
/// Philox calls made side by side.
const LANES: usize = 8;

/// Distribution of the basis entries before their scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Law {
    /// Uniform in (−1, 1), in steps of 2⁻¹⁵.
    #[default]
    Uniform,
    /// +1 or −1.
    Sign,
}

/// What a sequence of random numbers is for; the last word of the counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Basis of the factor A.
    A = 0,
    /// Basis of the factor B.
    B = 1,
    /// Frozen offset of A, and LoRA's initial A.
    OffsetA = 2,
    /// Frozen offset of B.
    OffsetB = 3,
    /// Initial coefficients.
    Coefficients = 4,
}

/// One family of random matrices: everything that `value` depends on but the indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generator {
    /// Distribution of the entries.
    pub law: Law,
    /// Seed of the adapter.
    pub seed: u64,
    /// Hash of the site's name, or of its shape if the basis is shared.
    pub site: u32,
    /// What the numbers are for.
    pub stream: Stream,
}

impl Generator {
    /// Writes the entries `start..start + values.len()` of basis matrix `index`.
    ///
    /// # Panics
    /// If `start` is no multiple of 128.
    pub fn fill(&self, index: u32, start: usize, values: &mut [f32]) {
        assert_eq!(start % 128, 0, "a chunk begins at a block of either law");
        match self.law {
            Law::Uniform => self.fill_with(index, start / 8, 8, values, uniform_of),
            Law::Sign => self.fill_with(index, start / 128, 128, values, sign_of),
        }
    }

    /// The entries `0..count` of basis matrix `index`.
    pub fn values(&self, index: u32, count: usize) -> Vec<f32> {
        let mut values = vec![0.0; count];
        self.fill(index, 0, &mut values);
        values
    }

    /// The four words of one block.
    pub fn words(&self, block: u32, index: u32) -> [u32; 4] {
        self.lanes::<1>(block, index).map(|[word]| word)
    }

    fn lanes<const N: usize>(&self, first_block: u32, index: u32) -> [[u32; N]; 4] {
        let blocks = std::array::from_fn(|lane| first_block.wrapping_add(lane as u32));
        let counters = [blocks, [index; N], [self.site; N], [self.stream as u32; N]];
        philox4x32_10_lanes(counters, [self.seed as u32, (self.seed >> 32) as u32])
    }

    fn fill_with(
        &self,
        index: u32,
        first_block: usize,
        values_per_block: usize,
        values: &mut [f32],
        value_of: impl Fn(&[u32; 4], usize) -> f32,
    ) {
        for (group, values) in values.chunks_mut(LANES * values_per_block).enumerate() {
            let lanes = self.lanes::<LANES>((first_block + group * LANES) as u32, index);
            for (lane, values) in values.chunks_mut(values_per_block).enumerate() {
                let words = lanes.map(|word| word[lane]);
                for (position, value) in values.iter_mut().enumerate() {
                    *value = value_of(&words, position);
                }
            }
        }
    }
}

fn uniform_of(words: &[u32; 4], position: usize) -> f32 {
    let half_word = (words[position / 2] >> (16 * (position % 2))) & 0xFFFF;
    (half_word as f32 + 0.5) * (1.0 / 32768.0) - 1.0
}

fn sign_of(words: &[u32; 4], position: usize) -> f32 {
    let bit = (words[position / 32] >> (position % 32)) & 1;
    1.0 - 2.0 * bit as f32
}

/// Where the entries of a basis come from.
#[derive(Debug, Clone)]
enum Source {
    Generated(Generator),
    /// `[count, rows, cols]`, for bases that somebody else drew.
    Given(Arc<[f32]>),
}

/// Numbers of `expand` and `project` calls made so far.
#[derive(Debug, Default)]
struct Calls {
    expand: AtomicUsize,
    project: AtomicUsize,
}

/// `count` frozen matrices of one shape, each entry times `entry_scale`.
#[derive(Debug, Clone)]
pub struct Basis {
    source: Source,
    count: usize,
    rows: usize,
    cols: usize,
    entry_scale: f32,
    calls: Arc<Calls>,
}

impl Basis {
    /// A basis that is regenerated from `generator` whenever it is needed.
    pub fn generated(generator: Generator, count: usize, [rows, cols]: [usize; 2], entry_scale: f32) -> Self {
        Self { source: Source::Generated(generator), count, rows, cols, entry_scale, calls: Arc::default() }
    }

    /// A basis whose matrices are given, one after the other, in final values.
    ///
    /// # Panics
    /// If `values` is not a whole number of matrices.
    pub fn given(values: Vec<f32>, [rows, cols]: [usize; 2]) -> Self {
        assert_eq!(values.len() % (rows * cols), 0, "whole matrices");
        Self {
            count: values.len() / (rows * cols),
            source: Source::Given(values.into()),
            rows,
            cols,
            entry_scale: 1.0,
            calls: Arc::default(),
        }
    }

    /// Number of matrices.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Rows and columns of one matrix.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// How often `expand` and `project` were called on this basis and its clones.
    pub fn calls(&self) -> [usize; 2] {
        [&self.calls.expand, &self.calls.project].map(|calls| calls.load(Ordering::Relaxed))
    }

    /// Mixes the basis into one matrix, row-major: `scale · Σᵢ coefficientᵢ · basisᵢ`.
    ///
    /// Each product and each sum is rounded to `f32`, for `i` ascending, and the scale comes last: the bits do
    /// not depend on the number of threads.
    ///
    /// # Shapes
    /// - `coefficients`: `[count]`
    /// - output: `[rows · cols]`
    ///
    /// # Panics
    /// If `coefficients` is not `count` long.
    ///
    /// # Source
    /// NOLA (Koohpayegani et al., ICLR 2024), section 2, equation 1.
    pub fn expand(&self, coefficients: &[f32]) -> Vec<f32> {
        assert_eq!(coefficients.len(), self.count, "one coefficient per matrix");
        self.calls.expand.fetch_add(1, Ordering::Relaxed);
        let mut matrix = vec![0.0_f32; self.rows * self.cols];
        matrix.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, sums)| {
            let mut entries = [0.0; CHUNK];
            let entries = &mut entries[..sums.len()];
            for (index, &coefficient) in coefficients.iter().enumerate() {
                self.fill(index, chunk * CHUNK, entries);
                for (sum, entry) in sums.iter_mut().zip(entries.iter()) {
                    *sum += coefficient * entry;
                }
            }
            sums.iter_mut().for_each(|sum| *sum *= self.entry_scale);
        });
        matrix
    }

    /// The gradient of the coefficients, given the gradient of the mixed matrix: `⟨basisᵢ, gradient⟩`.
    ///
    /// Sums run in `f64`, in one order, whatever the number of threads.
    ///
    /// # Shapes
    /// - `gradient`: `[rows · cols]`, row-major
    /// - output: `[count]`
    ///
    /// # Panics
    /// If `gradient` has another size.
    pub fn project(&self, gradient: &[f32]) -> Vec<f32> {
        assert_eq!(gradient.len(), self.rows * self.cols, "one gradient per entry");
        self.calls.project.fetch_add(1, Ordering::Relaxed);
        (0..self.count)
            .into_par_iter()
            .map(|index| {
                let mut entries = [0.0; CHUNK];
                let sum: f64 = (gradient.chunks(CHUNK).enumerate())
                    .map(|(chunk, gradient)| {
                        let entries = &mut entries[..gradient.len()];
                        self.fill(index, chunk * CHUNK, entries);
                        dot(entries, gradient)
                    })
                    .sum();
                (sum * f64::from(self.entry_scale)) as f32
            })
            .collect()
    }

    /// Adds to `hash` what tells this basis from another one: its shape and the first words of its first matrix.
    pub(crate) fn check_text(&self) -> String {
        let first_words = match &self.source {
            Source::Generated(generator) => generator.words(0, 0),
            Source::Given(values) => std::array::from_fn(|n| values.get(n).map_or(0, |v| v.to_bits())),
        };
        format!("{}x{}x{}:{first_words:08x?}", self.count, self.rows, self.cols)
    }

    fn fill(&self, index: usize, start: usize, entries: &mut [f32]) {
        match &self.source {
            Source::Generated(generator) => generator.fill(index as u32, start, entries),
            Source::Given(values) => {
                let from = index * self.rows * self.cols + start;
                entries.copy_from_slice(&values[from..from + entries.len()]);
            }
        }
    }
}

/// A dot product with eight running sums, so that it vectorises without changing its order.
fn dot(left: &[f32], right: &[f32]) -> f64 {
    let mut sums = [0.0_f64; 8];
    for (left, right) in left.chunks(8).zip(right.chunks(8)) {
        for (sum, (l, r)) in sums.iter_mut().zip(left.iter().zip(right)) {
            *sum += f64::from(*l) * f64::from(*r);
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn basis(law: Law, count: usize, shape: [usize; 2]) -> Basis {
        let generator = Generator { law, seed: 0xDEAD_BEEF_CAFE, site: 77, stream: Stream::A };
        Basis::generated(generator, count, shape, 0.25)
    }

    fn with_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("a pool of a few threads").install(work)
    }

    fn laws() -> impl Strategy<Value = Law> {
        prop_oneof![Just(Law::Uniform), Just(Law::Sign)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn thread_count_does_not_change_a_bit(
            law in laws(), count in 1_usize..9, rows in 1_usize..200, cols in 1_usize..20, threads in 2_usize..6,
        ) {
            let basis = basis(law, count, [rows, cols]);
            let coefficients: Vec<f32> = (0..count).map(|i| (i as f32).sin()).collect();
            let gradient: Vec<f32> = (0..rows * cols).map(|e| (e as f32).cos()).collect();
            let work = || (basis.expand(&coefficients), basis.project(&gradient));
            prop_assert_eq!(with_threads(1, work), with_threads(threads, work));
        }

        #[test]
        fn project_is_the_adjoint_of_expand(
            law in laws(), count in 1_usize..9, rows in 1_usize..70, cols in 1_usize..40,
        ) {
            let basis = basis(law, count, [rows, cols]);
            let coefficients: Vec<f32> = (0..count).map(|i| 0.5 + (i as f32).sin()).collect();
            let gradient: Vec<f32> = (0..rows * cols).map(|e| (e as f32).cos()).collect();
            let left = dot(&basis.expand(&coefficients), &gradient);
            let right = dot(&coefficients, &basis.project(&gradient));
            prop_assert!((left - right).abs() <= 1e-5 * (1.0 + left.abs()) * (rows * cols) as f64 / 16.0);
        }
    }

    #[test]
    fn one_hot_coefficients_show_one_matrix_of_the_basis() {
        for law in [Law::Uniform, Law::Sign] {
            let basis = basis(law, 3, [50, 41]);
            let Source::Generated(generator) = &basis.source else { unreachable!("it was generated") };
            let expected: Vec<f32> = generator.values(1, 50 * 41).iter().map(|v| v * 0.25).collect();
            assert_eq!(basis.expand(&[0.0, 1.0, 0.0]), expected);
        }
    }

    #[test]
    fn uniform_entries_are_symmetric_and_never_zero() {
        let words = [0x0000_FFFF, 0x8000_7FFF, 0, 0];
        let values: Vec<f32> = (0..4).map(|position| uniform_of(&words, position)).collect();
        let step = 1.0 / 65536.0;
        assert_eq!(values, [1.0 - step, step - 1.0, -step, step]);
    }
}
