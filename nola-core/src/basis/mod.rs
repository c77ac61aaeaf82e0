//! The frozen random matrices of NOLA, regenerated from a seed and never stored.
//!
//! `value(seed, site, stream, i, e)` is a pure function: the same 32-bit words on every device, in every
//! chunking, for every thread count. The generator is called [`GENERATOR`]; its layout is fixed for ever:
//!
//! - Philox4x32-10, key = (seed low, seed high), counter = (block, i, site, stream).
//! - [`Distribution::Uniform`]: eight 16-bit values a call; block = e / 8, half-word e mod 8 (low half of a word first),
//!   u = (h + 1/2)·2⁻¹⁵ − 1, exact in `f32`, symmetric, never 0.
//! - [`Distribution::Sign`]: 128 values a call; block = e / 128, word (e / 32) mod 4, bit e mod 32; 0 is +1, 1 is −1.
//!
//! A [`Basis`] is cut into tiles of 128 entries. A kernel generates one tile of some tens of matrices at a time and
//! mixes it into a matrix or multiplies it with a gradient before it leaves the cache, for every site whose basis it
//! is. There is a kernel for AVX-512, one for AVX2 and a plain one; the processor decides which one runs, and all
//! give the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod fastest;
mod generator;
mod kernel;
mod plain;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use fastest::{instruction_set, philox_words};
pub use generator::{Distribution, Generator, Stream};
pub use work::{expand_all, project_all};

/// Name of the generator; it stands in every adapter file, and a file with another name is refused.
pub const GENERATOR: &str = "nola-philox-1";

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

    /// Entries of one matrix.
    fn size(&self) -> usize {
        self.rows * self.cols
    }

    /// What regenerates the matrices, unless they are given.
    pub fn generator(&self) -> Option<&Generator> {
        match &self.source {
            Source::Generated(generator) => Some(generator),
            Source::Given(_) => None,
        }
    }

    /// What every entry is multiplied with.
    pub fn entry_scale(&self) -> f32 {
        self.entry_scale
    }

    /// Counts an `expand` that was computed elsewhere.
    pub(crate) fn count_expand(&self) {
        self.calls.expand.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a `project` that was computed elsewhere.
    pub(crate) fn count_project(&self) {
        self.calls.project.fetch_add(1, Ordering::Relaxed);
    }

    /// How often `expand` and `project` were called for this basis and its clones.
    pub fn calls(&self) -> [usize; 2] {
        [&self.calls.expand, &self.calls.project].map(|calls| calls.load(Ordering::Relaxed))
    }

    /// Mixes the basis into one matrix, row-major: `scale · Σᵢ coefficientᵢ · basisᵢ`.
    ///
    /// Each product and each sum is rounded to `f32`, for `i` ascending, and the scale comes last: the bits do
    /// not depend on the processor or on the number of threads.
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
        expand_all(&[(self, coefficients)]).pop().expect("one matrix for one site")
    }

    /// The gradient of the coefficients, given the gradient of the mixed matrix: `⟨basisᵢ, gradient⟩`.
    ///
    /// Products are added in `f32` sixteen at a time and then in `f64`, in one order whatever the processor and the
    /// number of threads; the error is at most 10⁻⁶ of the sum of their magnitudes.
    ///
    /// # Shapes
    /// - `gradient`: `[rows · cols]`, row-major
    /// - output: `[count]`
    ///
    /// # Panics
    /// If `gradient` has another size.
    pub fn project(&self, gradient: &[f32]) -> Vec<f32> {
        project_all(&[(self, gradient)]).pop().expect("one row for one site")
    }

    /// Whether `other` has the same matrices, entry by entry.
    fn equals(&self, other: &Self) -> bool {
        let same_source = match (&self.source, &other.source) {
            (Source::Generated(left), Source::Generated(right)) => left == right,
            (Source::Given(left), Source::Given(right)) => Arc::ptr_eq(left, right),
            (Source::Generated(_), Source::Given(_)) | (Source::Given(_), Source::Generated(_)) => false,
        };
        same_source
            && self.count == other.count
            && self.shape() == other.shape()
            && self.entry_scale == other.entry_scale
    }

    /// What tells this basis from another one: its shape and the first words of its first matrix.
    pub(crate) fn check_text(&self) -> String {
        let first_words = match &self.source {
            Source::Generated(generator) => generator.words(0, 0),
            Source::Given(values) => std::array::from_fn(|n| values.get(n).map_or(0, |v| v.to_bits())),
        };
        format!("{}x{}x{}:{first_words:08x?}", self.count, self.rows, self.cols)
    }
}

#[cfg(test)]
mod tests;
