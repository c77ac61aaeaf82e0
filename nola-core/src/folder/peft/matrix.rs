//! Row-major matrices turned, taken apart and put side by side.

use std::ops::Range;

use super::ForeignModule;

/// The transpose of a matrix with `cols` columns.
pub(super) fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| values.iter().skip(col).step_by(cols).copied()).collect()
}

/// The columns `range` of a matrix with `cols` columns.
pub(super) fn columns(values: &[f32], cols: usize, range: Range<usize>) -> Vec<f32> {
    values.chunks(cols).flat_map(|row| &row[range.clone()]).copied().collect()
}

/// Matrices with `rows` rows, side by side.
pub(super) fn beside(matrices: &[&[f32]], rows: usize) -> Vec<f32> {
    let row = |matrix: &&'_ [f32], row: usize| {
        let cols = matrix.len() / rows;
        matrix[row * cols..(row + 1) * cols].to_vec()
    };
    (0..rows).flat_map(|index| matrices.iter().flat_map(move |matrix| row(matrix, index))).collect()
}

/// Our part of a whole matrix or vector in our order, which has `d_out` columns.
pub(super) fn part_of(whole: &[f32], d_out: usize, module: &ForeignModule) -> Vec<f32> {
    columns(whole, d_out, module.part.shares().range(d_out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_twice_changes_nothing() {
        let values: Vec<f32> = (0..6).map(|n| n as f32).collect();
        assert_eq!(transposed(&values, 3), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(transposed(&transposed(&values, 3), 2), values);
    }

    #[test]
    fn columns_put_side_by_side_are_the_matrix_again() {
        let values: Vec<f32> = (0..8).map(|n| n as f32).collect();
        let (left, right) = (columns(&values, 4, 0..1), columns(&values, 4, 1..4));
        assert_eq!(left, [0.0, 4.0]);
        assert_eq!(right, [1.0, 2.0, 3.0, 5.0, 6.0, 7.0]);
        assert_eq!(beside(&[&left, &right], 2), values);
    }
}
