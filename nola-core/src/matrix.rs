//! Small matrix products on one thread, for tasks that share the threads among them.

#![allow(unsafe_code, reason = "the matrix product of a crate, which takes pointers")]

use std::ops::Range;

/// Numbers as a matrix.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    sizes: [usize; 2],
    strides: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// Rows of `cols` numbers, each row `stride` after the one before.
    ///
    /// # Panics
    /// If there are not as many numbers.
    pub fn new(values: &'a [f32], [rows, cols]: [usize; 2], stride: usize) -> Self {
        let matrix = Self { values, sizes: [rows, cols], strides: [stride, 1] };
        assert!(rows == 0 || cols == 0 || matrix.last() < values.len(), "a number for each place");
        matrix
    }

    /// Index of the last number.
    fn last(&self) -> usize {
        (self.sizes[0] - 1) * self.strides[0] + (self.sizes[1] - 1) * self.strides[1]
    }

    /// Some of the rows.
    ///
    /// # Panics
    /// If they do not exist.
    pub fn rows(self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.sizes[0], "rows of the matrix");
        let values = &self.values[rows.start * self.strides[0]..];
        Self { values, sizes: [rows.len(), self.sizes[1]], ..self }
    }

    /// Rows as columns.
    pub fn transposed(self) -> Self {
        let ([rows, cols], [row, col]) = (self.sizes, self.strides);
        Self { values: self.values, sizes: [cols, rows], strides: [col, row] }
    }
}

/// Whether a product replaces what its place holds, or is added to it (BLAS: beta 0 or 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accumulate {
    /// They are overwritten.
    Overwrite,
    /// They are added to.
    Add,
}

/// `result = factor · left · right`, plus what `result` holds if `accumulate` says so; row-major.
///
/// # Panics
/// If the sizes do not fit.
pub fn multiply(result: &mut [f32], accumulate: Accumulate, factor: f32, left: Matrix, right: Matrix) {
    let ([rows, inner], [right_rows, cols]) = (left.sizes, right.sizes);
    assert_eq!((inner, rows * cols), (right_rows, result.len()), "sizes of a product");
    if result.is_empty() || inner == 0 {
        return;
    }
    let [left_strides, right_strides] = [left, right].map(|m| m.strides.map(|stride| stride as isize));
    // SAFETY: both matrices were checked to lie in their slices when they were made, or are parts of such; the result
    // has `rows · cols` numbers, by the assertion, and is borrowed for writing.
    unsafe {
        gemm::gemm(
            rows,
            cols,
            inner,
            result.as_mut_ptr(),
            1,
            cols as isize,
            accumulate == Accumulate::Add,
            left.values.as_ptr(),
            left_strides[1],
            left_strides[0],
            right.values.as_ptr(),
            right_strides[1],
            right_strides[0],
            1.0_f32,
            factor,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
