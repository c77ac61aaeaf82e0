//! Cores with all their entries: bases by singular vectors of all updates side by side.

use faer::{Mat, MatRef, Side};

use super::{LoraFactors, SharedBasis, dot};

/// Longest side of a weight of which the products of rows with each other are added up, though they take more room than
/// what is decomposed: that is faster. Of a vocabulary they would take tens of gigabytes.
const MOST_PRODUCTS_SIDE: usize = 1 << 13;

/// Fits U and V to all of `updates`, from the columns of `v`; calls `fitted` with the basis after each iteration.
///
/// The squared error falls with each iteration.
pub(super) fn fit(
    updates: &[&LoraFactors],
    mut v: Mat<f64>,
    iterations: usize,
    mut fitted: impl FnMut(&SharedBasis),
) -> SharedBasis {
    let rank = v.ncols();
    let mut u = Mat::zeros(0, 0);
    for _ in 0..iterations.max(1) {
        u = leading(updates.iter().map(|update| update.times(v.as_ref())).collect(), rank);
        v = leading(updates.iter().map(|update| update.transposed_times(u.as_ref())).collect(), rank);
        fitted(&SharedBasis { u: u.clone(), v: v.clone() });
    }
    SharedBasis { u, v }
}

/// The first left singular vectors of matrices side by side.
fn leading(parts: Vec<Mat<f64>>, rank: usize) -> Mat<f64> {
    let rows = parts[0].nrows();
    let columns: usize = parts.iter().map(Mat::ncols).sum();
    if is_decomposed_whole(rows, columns) {
        let width = parts[0].ncols();
        let all = Mat::from_fn(rows, columns, |row, column| parts[column / width][(row, column % width)]);
        let svd = all.thin_svd().expect("the singular values of finite numbers are found");
        return filled(svd.U(), rank);
    }
    // Of many columns only their products with each other count.
    let mut gram = Mat::<f64>::zeros(rows, rows);
    parts.iter().for_each(|part| gram += part * part.transpose());
    let eigen = gram.self_adjoint_eigen(Side::Lower).expect("the eigenvalues of finite numbers are found");
    // They ascend.
    Mat::from_fn(rows, rank.min(rows), |row, column| eigen.U()[(row, rows - 1 - column)])
}

/// Whether so many columns are decomposed as they are, and not the products of their rows with each other.
fn is_decomposed_whole(rows: usize, columns: usize) -> bool {
    columns <= 4 * rows.min(512) || (rows > MOST_PRODUCTS_SIDE && columns < rows)
}

/// The first `rank` columns; where there are fewer, unit columns that are orthogonal to them.
fn filled(columns: MatRef<f64>, rank: usize) -> Mat<f64> {
    if columns.ncols() >= rank {
        return columns.subcols(0, rank).to_owned();
    }
    let (rows, given) = (columns.nrows(), columns.ncols());
    let wide = Mat::from_fn(rows, rank, |row, column| match column.checked_sub(given) {
        None => columns[(row, column)],
        Some(more) => {
            f64::from(u8::from(row == (more * 7 + 3) % rows)) + 1e-3 * ((row * 31 + more) as f64).sin()
        }
    });
    let q = super::orthonormal(wide.as_ref());
    // The decomposition may turn the first columns round.
    Mat::from_fn(rows, rank, |row, column| {
        let turned = column < given && dot(q.subcols(column, 1), columns.subcols(column, 1)) < 0.0;
        if turned { -q[(row, column)] } else { q[(row, column)] }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_never_take_much_more_room_than_what_is_decomposed() {
        for (rows, columns, is_whole) in [
            (4096, 2048, true),
            (4096, 2049, false),
            (64, 10_000, false),
            (128_000, 5700, true),
            (128_000, 200_000, false),
        ] {
            assert_eq!(is_decomposed_whole(rows, columns), is_whole, "{rows} x {columns}");
        }
    }
}
