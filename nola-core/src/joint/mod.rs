//! Many LoRAs of one base in shared bases: joint diagonalization, as in "Compress then Serve".
//!
//! The update of adapter `i` at a weight is `D_i ≈ n_i · U·S_i·Vᵀ`: U and V are shared by all adapters of a cluster, S_i is a small core
//! of its own, and n_i the length of its update over all weights. No update is multiplied out; full cores take a square matrix of a side
//! of a weight, if that has up to 8,192 rows.
//!
//! # Source
//! Brüel-Gabrielsson et al.: *Compress then Serve: Serving Thousands of LoRA Adapters with Little Overhead* (2407.00066, ICML 2025),
//! section 3.

mod clusters;
mod diagonal;
mod full;
mod k_means;

use faer::{Mat, MatRef};

pub use clusters::{Compression, Options, Projection, compress, project};

/// A LoRA at one weight, `D = B·A`; its scale is in B.
#[derive(Debug, Clone)]
pub struct LoraFactors {
    /// `[rank, d_in]`.
    a: Mat<f64>,
    /// `[d_out, rank]`.
    b: Mat<f64>,
}

impl LoraFactors {
    /// Of row-major factors as this project has them: `ΔW = scale · A·B` with A `[d_in, rank]` and B `[rank, d_out]`.
    ///
    /// # Panics
    /// If the numbers do not fit the sizes, or are not finite.
    pub fn new(a: &[f32], b: &[f32], [d_in, d_out]: [usize; 2], scale: f64) -> Self {
        let rank = a.len() / d_in;
        assert_eq!((a.len(), b.len()), (rank * d_in, rank * d_out), "factors of one rank");
        assert!(a.iter().chain(b).all(|number| number.is_finite()), "finite numbers");
        Self {
            a: Mat::from_fn(rank, d_in, |row, column| a[column * rank + row].into()),
            b: Mat::from_fn(d_out, rank, |row, column| scale * f64::from(b[column * d_out + row])),
        }
    }

    /// `[d_in, d_out]` of its weight.
    pub fn sizes(&self) -> [usize; 2] {
        [self.a.ncols(), self.b.nrows()]
    }

    /// `D·x`, `[d_out, columns]`, of `x` `[d_in, columns]`.
    fn times(&self, x: MatRef<f64>) -> Mat<f64> {
        &self.b * (&self.a * x)
    }

    /// `Dᵀ·x`, `[d_in, columns]`, of `x` `[d_out, columns]`.
    fn transposed_times(&self, x: MatRef<f64>) -> Mat<f64> {
        self.a.transpose() * (self.b.transpose() * x)
    }

    /// Sum of the squares of D.
    fn square(&self) -> f64 {
        let (of_a, of_b) = (&self.a * self.a.transpose(), self.b.transpose() * &self.b);
        dot(of_a.as_ref(), of_b.as_ref())
    }

    fn scaled(mut self, factor: f64) -> Self {
        self.b *= faer::Scale(factor);
        self
    }
}

/// The core of an adapter at one weight.
#[derive(Debug, Clone)]
pub enum Core {
    /// S, `[rank, rank]`.
    Full(Mat<f64>),
    /// The diagonal of S.
    Diagonal(Vec<f64>),
}

impl Core {
    /// S, `[rank, rank]`.
    fn matrix(&self) -> Mat<f64> {
        match self {
            Self::Full(matrix) => matrix.clone(),
            Self::Diagonal(entries) => {
                Mat::from_fn(
                    entries.len(),
                    entries.len(),
                    |row, column| {
                        if row == column { entries[row] } else { 0.0 }
                    },
                )
            }
        }
    }

    /// Its numbers, row-major, or its diagonal.
    pub fn numbers(&self) -> Vec<f32> {
        match self {
            Self::Full(matrix) => row_major(matrix.as_ref()),
            Self::Diagonal(entries) => entries.iter().map(|&entry| entry as f32).collect(),
        }
    }

    /// What stands between `V` and `Uᵀ` where inputs are rows, of an update of the length `norm`: `norm · Sᵀ`, row-major, or its
    /// diagonal.
    pub fn of_rows(&self, norm: f64) -> Vec<f32> {
        match self {
            Self::Full(matrix) => row_major((matrix * faer::Scale(norm)).transpose()),
            Self::Diagonal(entries) => entries.iter().map(|entry| (norm * entry) as f32).collect(),
        }
    }
}

/// What the adapters of a cluster share at one weight.
#[derive(Debug, Clone)]
pub struct SharedBasis {
    /// U, `[d_out, rank]`.
    pub u: Mat<f64>,
    /// V, `[d_in, rank]`.
    pub v: Mat<f64>,
}

impl SharedBasis {
    /// Of row-major numbers as this project has factors: V `[d_in, rank]` and Uᵀ `[rank, d_out]`.
    ///
    /// # Panics
    /// If the numbers do not fit the sizes.
    pub fn of_factors(v: &[f32], u_transposed: &[f32], [d_in, d_out]: [usize; 2]) -> Self {
        let rank = v.len() / d_in;
        assert_eq!((v.len(), u_transposed.len()), (rank * d_in, rank * d_out), "factors of one rank");
        Self {
            u: Mat::from_fn(d_out, rank, |row, column| u_transposed[column * d_out + row].into()),
            v: Mat::from_fn(d_in, rank, |row, column| v[row * rank + column].into()),
        }
    }

    /// V `[d_in, rank]` and Uᵀ `[rank, d_out]`, row-major.
    pub fn factors(&self) -> [Vec<f32>; 2] {
        [row_major(self.v.as_ref()), row_major(self.u.transpose())]
    }

    /// The best core of an adapter in this basis: of a member, its own.
    fn core(&self, kind: Kind, factors: &LoraFactors) -> Core {
        match kind {
            Kind::Full => Core::Full(self.u.transpose() * factors.times(self.v.as_ref())),
            Kind::Diagonal => Core::Diagonal(diagonal::core(self, factors)),
        }
    }

    /// `|D - U·S·Vᵀ|²`, without a matrix of the weight's size: of `[B | U·S]` and `[Aᵀ | -V]` only the triangles of their QR
    /// decompositions count.
    fn error(&self, core: &Core, factors: &LoraFactors) -> f64 {
        let left = beside(factors.b.as_ref(), (&self.u * core.matrix()).as_ref());
        let right = beside(factors.a.transpose(), (&self.v * faer::Scale(-1.0)).as_ref());
        let product = triangle(left.as_ref()) * triangle(right.as_ref()).transpose();
        product.norm_l2().powi(2)
    }

    /// The same with the best core, faster and less precisely: a difference of numbers that may be nearly equal.
    fn loss(&self, kind: Kind, factors: &LoraFactors) -> f64 {
        factors.square() - self.kept(kind, factors)
    }

    /// Sum of the squares of the best `U·S·Vᵀ`.
    fn kept(&self, kind: Kind, factors: &LoraFactors) -> f64 {
        match self.core(kind, factors) {
            Core::Full(core) => core.norm_l2().powi(2),
            Core::Diagonal(entries) => diagonal::kept(self, factors, &entries),
        }
    }
}

/// The two forms of cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// S has all its entries; U and V have orthonormal columns.
    Full,
    /// S is diagonal.
    Diagonal,
}

/// The first of the smallest values.
fn smallest(values: &[f64]) -> usize {
    let mut best = 0;
    for (place, value) in values.iter().enumerate() {
        if *value < values[best] {
            best = place;
        }
    }
    best
}

/// The numbers of a matrix, one row after the other.
fn row_major(matrix: MatRef<f64>) -> Vec<f32> {
    let places = (0..matrix.nrows()).flat_map(|row| (0..matrix.ncols()).map(move |column| (row, column)));
    places.map(|(row, column)| matrix[(row, column)] as f32).collect()
}

/// Two matrices side by side.
fn beside(left: MatRef<f64>, right: MatRef<f64>) -> Mat<f64> {
    let width = left.ncols();
    Mat::from_fn(left.nrows(), width + right.ncols(), |row, column| {
        if column < width { left[(row, column)] } else { right[(row, column - width)] }
    })
}

/// R of a QR decomposition.
fn triangle(matrix: MatRef<f64>) -> Mat<f64> {
    matrix.qr().thin_R().to_owned()
}

/// Orthonormal columns that span those of `matrix`.
fn orthonormal(matrix: MatRef<f64>) -> Mat<f64> {
    matrix.qr().compute_thin_Q()
}

/// The sum of the products of the entries.
fn dot(left: MatRef<f64>, right: MatRef<f64>) -> f64 {
    let columns = left.col_iter().zip(right.col_iter());
    columns.map(|(left, right)| left.iter().zip(right.iter()).map(|(l, r)| l * r).sum::<f64>()).sum()
}

#[cfg(test)]
mod tests;
