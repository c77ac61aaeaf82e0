//! QR and truncated singular value decompositions of weights, on the host, in `f64`.
//!
//! Weights are `[d_in, d_out]` here; what is decomposed is their transpose `M`, `[d_out, d_in]`, as PyTorch stores them: the two
//! have the same singular vectors, but not the same Q. No result depends on the number of threads.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;

use crate::Error;
use crate::basis::{Distribution, Generator, Stream};
use crate::site::Site;

/// Columns of a random sketch beyond the rank.
const OVERSAMPLING: usize = 16;
/// Products with `M·Mᵀ` that turn the sketch towards the largest singular vectors: as many as LoRA-XS's authors take.
const POWER_ITERATIONS: usize = 10;
/// Matrices whose smaller side is no larger are decomposed as a whole.
const WHOLE: usize = 512;
/// Rows or columns of a weight in a task; the same on every machine.
const PART: usize = 128;

/// A weight that can be decomposed with a rank.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weight<'a> {
    /// `[d_in, d_out]`, row-major.
    values: &'a [f32],
    d_in: usize,
    d_out: usize,
    rank: usize,
}

impl<'a> Weight<'a> {
    /// The weight of `site` with these numbers.
    ///
    /// # Errors
    /// If the rank is above one of the sides, or a number is not finite.
    pub(crate) fn new(values: &'a [f32], site: &Site, rank: usize) -> Result<Self, Error> {
        let &Site { d_in, d_out, .. } = site;
        if rank > d_in.min(d_out) {
            return Err(Error::RankAboveWeight { site: site.path.clone(), rank, d_in, d_out });
        }
        let count = values.iter().filter(|value| !value.is_finite()).count();
        if count > 0 {
            return Err(Error::WeightNotFinite { site: site.path.clone(), count });
        }
        Ok(Self { values, d_in, d_out, rank })
    }

    /// Columns that a decomposition keeps.
    pub(crate) fn rank(&self) -> usize {
        self.rank
    }

    /// The first columns of Q of `M = Q·R`, and R's first rows.
    pub(crate) fn qr(&self) -> Qr {
        // They depend on the first columns of M alone, which are our first rows.
        let first: Vec<f64> = self.values[..self.rank * self.d_out].iter().map(|&v| v.into()).collect();
        let q = thin_q(MatRef::from_column_major_slice(&first, self.d_out, self.rank));
        Qr { r: self.times(q.as_ref()), q }
    }

    /// The largest singular values and their vectors, to `f64`'s precision; where both sides are large, by subspace iteration
    /// from a fixed start: then vectors whose singular values nearly are the same may be mixed, the same way every time.
    ///
    /// # Source
    /// Halko, Martinsson, Tropp: *Finding structure with randomness* (SIAM Review 2011), algorithms 4.4 and 5.1.
    pub(crate) fn svd(&self) -> TruncatedSvd {
        let columns = self.rank + OVERSAMPLING;
        let least = self.d_in.min(self.d_out);
        if least <= WHOLE.max(2 * columns) { self.whole_svd() } else { self.sketched_svd(columns) }
    }

    fn whole_svd(&self) -> TruncatedSvd {
        let values: Vec<f64> = self.values.iter().map(|&value| value.into()).collect();
        TruncatedSvd::of(MatRef::from_column_major_slice(&values, self.d_out, self.d_in), self.rank)
    }

    fn sketched_svd(&self, columns: usize) -> TruncatedSvd {
        let start = random(self.d_in, columns);
        let mut q = thin_q(self.transposed_times(start.as_ref()).as_ref());
        for _ in 0..POWER_ITERATIONS {
            let right = thin_q(self.times(q.as_ref()).as_ref());
            q = thin_q(self.transposed_times(right.as_ref()).as_ref());
        }
        // QᵀM is small on one side.
        let inside = TruncatedSvd::of(self.times(q.as_ref()).transpose(), self.rank);
        let mut left = Mat::zeros(self.d_out, self.rank);
        matmul(left.as_mut(), Accum::Replace, q.as_ref(), inside.left.as_ref(), 1.0, Par::Seq);
        TruncatedSvd { left, ..inside }.with_signs()
    }

    /// `W·x = Mᵀ·x`.
    ///
    /// # Shapes
    /// - `x`: `[d_out, columns]`
    /// - output: `[d_in, columns]`
    fn times(&self, x: MatRef<f64>) -> Mat<f64> {
        let part = |rows: &[f32]| {
            let values: Vec<f64> = rows.iter().map(|&value| value.into()).collect();
            product(MatRef::from_row_major_slice(&values, rows.len() / self.d_out, self.d_out), x)
        };
        let parts: Vec<Mat<f64>> = self.values.par_chunks(PART * self.d_out).map(part).collect();
        stacked(&parts, self.d_in, x.ncols())
    }

    /// `Wᵀ·x = M·x`.
    ///
    /// # Shapes
    /// - `x`: `[d_in, columns]`
    /// - output: `[d_out, columns]`
    fn transposed_times(&self, x: MatRef<f64>) -> Mat<f64> {
        let part = |first: usize| {
            let columns = first..(first + PART).min(self.d_out);
            let rows = self.values.chunks(self.d_out);
            let values: Vec<f64> =
                rows.flat_map(|row| row[columns.clone()].iter().map(|&value| value.into())).collect();
            product(MatRef::from_column_major_slice(&values, columns.len(), self.d_in), x)
        };
        let firsts: Vec<usize> = (0..self.d_out).step_by(PART).collect();
        let parts: Vec<Mat<f64>> = firsts.into_par_iter().map(part).collect();
        stacked(&parts, self.d_out, x.ncols())
    }
}

/// The first columns of Q and rows of R.
#[derive(Debug)]
pub(crate) struct Qr {
    /// `[d_out, rank]`, orthonormal columns.
    q: Mat<f64>,
    /// `Rᵀ`, `[d_in, rank]`.
    r: Mat<f64>,
}

impl Qr {
    /// `Rᵀ` `[d_in, rank]` and `Qᵀ` `[rank, d_out]`, row-major, each number rounded once.
    pub(crate) fn factors(&self) -> [Vec<f32>; 2] {
        [row_major(self.r.as_ref(), |_| 1.0), column_major(self.q.as_ref(), |_| 1.0)]
    }
}

/// The largest singular values of `M = U·S·Vᵀ` and their vectors; of each column of U the entry of largest absolute value is
/// positive, the first of equals.
#[derive(Debug)]
pub(crate) struct TruncatedSvd {
    /// U, `[d_out, rank]`.
    left: Mat<f64>,
    /// S, descending.
    singular: Vec<f64>,
    /// V, `[d_in, rank]`.
    right: Mat<f64>,
}

impl TruncatedSvd {
    fn of(matrix: MatRef<f64>, rank: usize) -> Self {
        let svd = matrix.thin_svd().expect("the singular values of finite numbers are found");
        let singular = svd.S().column_vector().iter().take(rank).copied().collect();
        let [left, right] = [svd.U(), svd.V()].map(|vectors| vectors.subcols(0, rank).to_owned());
        Self { left, singular, right }.with_signs()
    }

    fn with_signs(mut self) -> Self {
        for column in 0..self.singular.len() {
            let entries = self.left.col(column);
            let largest = entries.iter().fold(
                0.0_f64,
                |most, &entry| {
                    if entry.abs() > most.abs() { entry } else { most }
                },
            );
            if largest < 0.0 {
                self.left.col_mut(column).iter_mut().for_each(|entry| *entry = -*entry);
                self.right.col_mut(column).iter_mut().for_each(|entry| *entry = -*entry);
            }
        }
        self
    }

    /// `V·diag(share(S))` `[d_in, rank]` and `diag(S / share(S))·Uᵀ` `[rank, d_out]`, row-major, each number rounded once.
    pub(crate) fn factors(&self, share: impl Fn(f64) -> [f64; 2]) -> [Vec<f32>; 2] {
        let shares: Vec<[f64; 2]> = self.singular.iter().map(|&singular| share(singular)).collect();
        [
            row_major(self.right.as_ref(), |column| shares[column][0]),
            column_major(self.left.as_ref(), |column| shares[column][1]),
        ]
    }
}

/// The numbers of a matrix, row by row, each column multiplied by its factor.
fn row_major(matrix: MatRef<f64>, factor: impl Fn(usize) -> f64) -> Vec<f32> {
    let row = |row| (0..matrix.ncols()).map(move |column| (row, column));
    let places = (0..matrix.nrows()).flat_map(row);
    places.map(|(row, column)| (matrix[(row, column)] * factor(column)) as f32).collect()
}

/// The same, column by column.
fn column_major(matrix: MatRef<f64>, factor: impl Fn(usize) -> f64) -> Vec<f32> {
    let columns = (0..matrix.ncols()).map(|column| (factor(column), matrix.col(column)));
    columns.flat_map(|(factor, column)| column.iter().map(move |entry| (entry * factor) as f32)).collect()
}

fn product(left: MatRef<f64>, right: MatRef<f64>) -> Mat<f64> {
    let mut product = Mat::zeros(left.nrows(), right.ncols());
    matmul(product.as_mut(), Accum::Replace, left, right, 1.0, Par::Seq);
    product
}

/// Matrices with `columns` columns and altogether `rows` rows, one below the other.
fn stacked(parts: &[Mat<f64>], rows: usize, columns: usize) -> Mat<f64> {
    Mat::from_fn(rows, columns, |row, column| parts[row / PART][(row % PART, column)])
}

/// Orthonormal columns that span those of `matrix`.
fn thin_q(matrix: MatRef<f64>) -> Mat<f64> {
    matrix.qr().compute_thin_Q()
}

/// The fixed start of a subspace iteration.
fn random(rows: usize, columns: usize) -> Mat<f64> {
    let generator =
        Generator { distribution: Distribution::Uniform, seed: 0, site: 0, stream: Stream::OffsetB };
    let columns: Vec<Vec<f32>> = (0..columns as u32).map(|index| generator.values(index, rows)).collect();
    Mat::from_fn(rows, columns.len(), |row, column| columns[column][row].into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(d_in: usize, d_out: usize) -> Site {
        Site::linear("blocks.0.mlp.up", d_in, d_out)
    }

    /// Numbers of full rank, row-major.
    fn numbers(d_in: usize, d_out: usize) -> Vec<f32> {
        let generator =
            Generator { distribution: Distribution::Uniform, seed: 7, site: 1, stream: Stream::A };
        generator.values(3, d_in * d_out)
    }

    /// Square, wide and tall.
    const SHAPES: [[usize; 2]; 3] = [[9, 9], [12, 5], [5, 12]];

    fn is_orthonormal(matrix: &Mat<f64>) -> bool {
        let gram = matrix.transpose() * matrix;
        let is_near = |row, column| (gram[(row, column)] - f64::from(u8::from(row == column))).abs() < 1e-12;
        (0..gram.nrows()).all(|row| (0..gram.ncols()).all(|column| is_near(row, column)))
    }

    fn largest_difference(left: &Mat<f64>, right: &Mat<f64>) -> f64 {
        (left - right).norm_max()
    }

    /// M in `f64`.
    fn torch_weight(values: &[f32], [d_in, d_out]: [usize; 2]) -> Mat<f64> {
        Mat::from_fn(d_out, d_in, |row, column| values[column * d_out + row].into())
    }

    #[test]
    fn the_first_columns_of_q_are_those_of_the_whole_decomposition() {
        for [d_in, d_out] in SHAPES {
            let values = numbers(d_in, d_out);
            let whole = torch_weight(&values, [d_in, d_out]).qr();
            for rank in [1, 3, 5] {
                let weight = Weight::new(&values, &site(d_in, d_out), rank).expect("a rank that exists");
                let qr = weight.qr();
                assert!(is_orthonormal(&qr.q));
                let expected = whole.compute_thin_Q().subcols(0, rank) * whole.thin_R().subrows(0, rank);
                let found = &qr.q * qr.r.transpose();
                assert!(largest_difference(&found, &expected) < 1e-12, "{d_in} x {d_out}, rank {rank}");
            }
        }
    }

    #[test]
    fn singular_vectors_of_full_rank_give_the_matrix_again() {
        for [d_in, d_out] in SHAPES {
            let values = numbers(d_in, d_out);
            let rank = d_in.min(d_out);
            let svd = Weight::new(&values, &site(d_in, d_out), rank).expect("a full rank").svd();
            assert!(is_orthonormal(&svd.left) && is_orthonormal(&svd.right));
            assert!(svd.singular.is_sorted_by(|left, right| left >= right));
            let scaled = Mat::from_fn(d_out, rank, |row, n| svd.left[(row, n)] * svd.singular[n]);
            let found = scaled * svd.right.transpose();
            assert!(largest_difference(&found, &torch_weight(&values, [d_in, d_out])) < 1e-12);
        }
    }

    #[test]
    fn the_largest_entry_of_every_left_vector_is_positive() {
        let values = numbers(30, 20);
        let svd = Weight::new(&values, &site(30, 20), 20).expect("a full rank").svd();
        for column in svd.left.col_iter() {
            let (least, most) = column.iter().fold((0.0_f64, 0.0_f64), |(l, m), &v| (l.min(v), m.max(v)));
            assert!(most >= -least, "{least} {most}");
        }
    }

    #[test]
    fn a_sketch_finds_the_singular_vectors_of_the_whole_decomposition() {
        // Singular values that fall by a fifth each time, as those of trained weights do at first.
        let [d_in, d_out, rank] = [90, 130, 4];
        let falling = |vectors: &Mat<f64>| {
            Mat::from_fn(vectors.nrows(), 40, |row, n| vectors[(row, n)] * 0.8_f64.powi(n as i32 / 2))
        };
        let [left, right] = [d_out, d_in].map(|rows| falling(&thin_q(random(rows, 40).as_ref())));
        let matrix = left * right.transpose();
        let values: Vec<f32> = (0..d_in * d_out).map(|n| matrix[(n % d_out, n / d_out)] as f32).collect();
        let weight_site = site(d_in, d_out);
        let weight = Weight::new(&values, &weight_site, rank).expect("a rank that exists");
        let (whole, sketched) = (weight.whole_svd(), weight.sketched_svd(rank + OVERSAMPLING));
        for (whole, sketched) in [(&whole.left, &sketched.left), (&whole.right, &sketched.right)] {
            // Pairs of equal singular values share a plane.
            let planes = |vectors: &Mat<f64>| vectors * vectors.transpose();
            assert!(largest_difference(&planes(whole), &planes(sketched)) < 1e-6);
        }
        for (whole, sketched) in whole.singular.iter().zip(&sketched.singular) {
            assert!((whole - sketched).abs() < 1e-9, "{whole} {sketched}");
        }
    }

    #[test]
    fn factors_share_the_singular_values_as_they_are_told() {
        let values = numbers(6, 4);
        let svd = Weight::new(&values, &site(6, 4), 4).expect("a full rank").svd();
        for share in [|s: f64| [s, 1.0], |s: f64| [s.sqrt(), s.sqrt()]] {
            let [a, b] = svd.factors(share);
            for (n, value) in values.iter().enumerate() {
                let product: f32 = (0..4).map(|r| a[n / 4 * 4 + r] * b[r * 4 + n % 4]).sum();
                assert!((product - value).abs() < 1e-6, "{product} {value}");
            }
        }
    }

    #[test]
    fn a_weight_of_zeros_has_finite_factors() {
        let zeros = vec![0.0; 20];
        let weight_site = site(5, 4);
        let weight = Weight::new(&zeros, &weight_site, 2).expect("a rank that exists");
        let all = [weight.svd().factors(|s| [s, 1.0]), weight.qr().factors()];
        assert!(all.iter().flatten().flatten().all(|value| value.is_finite()));
    }

    #[test]
    fn a_weight_with_a_nan_is_refused_with_its_site_and_the_cure() {
        let mut values = numbers(5, 4);
        (values[3], values[7]) = (f32::NAN, f32::INFINITY);
        let error = Weight::new(&values, &site(5, 4), 2).expect_err("NaN").to_string();
        for part in ["`blocks.0.mlp.up`", "2 numbers that are not finite", "load a base"] {
            assert!(error.contains(part), "no {part}: {error}");
        }
    }

    /// `cargo test --release -p nola-core --lib -- --ignored --nocapture llama`
    #[test]
    #[ignore = "it measures seconds"]
    fn planning_llama_2_7b_takes_less_than_ten_minutes() {
        let layer = [([4096, 4096], 4), ([4096, 11008], 2), ([11008, 4096], 1)];
        let seconds = |rank: usize, of: &dyn Fn(&Weight)| -> f64 {
            let of_shape = layer.map(|([d_in, d_out], count)| {
                let (values, site) = (numbers(d_in, d_out), site(d_in, d_out));
                let start = std::time::Instant::now();
                of(&Weight::new(&values, &site, rank).expect("a rank that exists"));
                32.0 * f64::from(count) * start.elapsed().as_secs_f64()
            });
            of_shape.iter().sum()
        };
        for rank in [16, 64] {
            let svd = seconds(rank, &|weight| drop(weight.svd().factors(|s| [s, 1.0])));
            let qr = seconds(rank, &|weight| drop(weight.qr().factors()));
            println!("rank {rank}: SVD {svd:.0} s, QR {qr:.0} s for 224 weights");
            assert!(svd < 600.0 && qr < 600.0);
        }
    }
}
