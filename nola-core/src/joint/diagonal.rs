//! Diagonal cores: bases by alternating least squares.

use faer::linalg::solvers::Solve;
use faer::{Mat, MatRef};

use super::{LoraFactors, SharedBasis};

/// Fits U and V to all of `updates`, from the basis `start`; calls `fitted` with the basis after each iteration.
///
/// The squared error falls with each iteration, slower than with full cores.
pub(super) fn fit(
    updates: &[&LoraFactors],
    start: SharedBasis,
    iterations: usize,
    mut fitted: impl FnMut(&SharedBasis),
) -> SharedBasis {
    let mut basis = start;
    for _ in 0..iterations.max(1) {
        let cores: Vec<Vec<f64>> = updates.iter().map(|update| core(&basis, update)).collect();
        let v = basis.v.as_ref();
        let u = side(updates.iter().map(|update| update.times(v)).collect(), &cores, v);
        let of_u = updates.iter().map(|update| update.transposed_times(u.as_ref())).collect();
        let v = side(of_u, &cores, u.as_ref());
        // Else they drift apart, and the equations become singular.
        basis = SharedBasis { u: unit_columns(u), v: unit_columns(v) };
        fitted(&basis);
    }
    basis
}

/// The diagonal whose `U·diag(s)·Vᵀ` is nearest to an update.
pub(super) fn core(basis: &SharedBasis, update: &LoraFactors) -> Vec<f64> {
    let SharedBasis { u, v } = basis;
    let (of_u, of_v) = (u.transpose() * u, v.transpose() * v);
    let matrix =
        Mat::from_fn(of_u.nrows(), of_u.ncols(), |row, column| of_u[(row, column)] * of_v[(row, column)]);
    let target = seen(basis, update);
    let target = Mat::from_fn(target.len(), 1, |row, _| target[row]);
    solvable(matrix).full_piv_lu().solve(&target).col(0).iter().copied().collect()
}

/// Sum of the squares of `U·diag(s)·Vᵀ`, where s is the best one: its product with what it is to be equals that.
pub(super) fn kept(basis: &SharedBasis, update: &LoraFactors, entries: &[f64]) -> f64 {
    entries.iter().zip(seen(basis, update)).map(|(entry, seen)| entry * seen).sum()
}

/// `uₖᵀ·D·vₖ` of each pair of columns.
fn seen(basis: &SharedBasis, update: &LoraFactors) -> Vec<f64> {
    let of_v = update.times(basis.v.as_ref());
    let columns = basis.u.col_iter().zip(of_v.col_iter());
    columns.map(|(u, v)| u.iter().zip(v.iter()).map(|(left, right)| left * right).sum()).collect()
}

/// `(Σ seen_i·diag(s_i)) · (Σ diag(s_i)·(otherᵀ·other)·diag(s_i))⁻¹`.
fn side(seen: Vec<Mat<f64>>, cores: &[Vec<f64>], other: MatRef<f64>) -> Mat<f64> {
    let (rows, rank) = (seen[0].nrows(), other.ncols());
    let gram = other.transpose() * other;
    let target = Mat::from_fn(rows, rank, |row, column| {
        seen.iter().zip(cores).map(|(seen, core)| seen[(row, column)] * core[column]).sum::<f64>()
    });
    let matrix = Mat::from_fn(rank, rank, |row, column| {
        gram[(row, column)] * cores.iter().map(|core| core[row] * core[column]).sum::<f64>()
    });
    solvable(matrix).full_piv_lu().solve(target.transpose().to_owned()).transpose().to_owned()
}

/// A matrix that is not singular: a direction in which nothing lies stays at 0.
fn solvable(mut matrix: Mat<f64>) -> Mat<f64> {
    let largest = (0..matrix.nrows()).map(|place| matrix[(place, place)].abs()).fold(0.0, f64::max);
    for place in 0..matrix.nrows() {
        let entry = &mut matrix[(place, place)];
        *entry = if *entry <= largest * 1e-14 { largest.max(1.0) } else { *entry * (1.0 + 1e-14) };
    }
    matrix
}

fn unit_columns(mut matrix: Mat<f64>) -> Mat<f64> {
    for column in 0..matrix.ncols() {
        let length = matrix.col(column).norm_l2();
        if length > 0.0 {
            matrix.col_mut(column).iter_mut().for_each(|entry| *entry /= length);
        }
    }
    matrix
}
