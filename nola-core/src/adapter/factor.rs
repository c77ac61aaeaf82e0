//! The matrices A and B of an update, and where their numbers come from.

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use rayon::prelude::*;

use crate::basis::{self, Basis};

/// A `[rows, cols]` matrix, however it is obtained.
#[derive(Debug, Clone)]
pub enum Factor {
    /// Trained itself; these are its initial values, row-major.
    Learned(Vec<f32>),
    /// Never trained.
    Frozen(FrozenMatrix),
    /// The identity: the other factor is the whole update, and nothing is multiplied by this one.
    Identity,
    /// Regenerated from trained coefficients once per optimizer step.
    Combined(LinearCombination),
}

impl Factor {
    /// The matrix at the start of training, row-major; none of the identity.
    pub(crate) fn initial(&self) -> Option<Vec<f32>> {
        match self {
            Self::Learned(values) => Some(values.clone()),
            Self::Frozen(frozen) => Some(frozen.values.to_vec()),
            Self::Identity => None,
            Self::Combined(combined) => Some(combined.at_start()),
        }
    }

    /// Trainable parameters behind the matrix.
    pub(super) fn trainable_parameters(&self) -> usize {
        match self {
            Self::Learned(values) => values.len(),
            Self::Frozen(_) | Self::Identity => 0,
            Self::Combined(combined) => combined.matrices.count(),
        }
    }

    /// What of it was computed from a weight, and so comes back from another processor with other last bits.
    pub(crate) fn computed(&self) -> Option<&FrozenMatrix> {
        let frozen = match self {
            Self::Learned(_) | Self::Identity => None,
            Self::Frozen(frozen) => Some(frozen),
            Self::Combined(combined) => combined.matrices.frozen(),
        };
        frozen.filter(|frozen| frozen.origin == Origin::Computed)
    }

    /// What tells it from the factor of another adapter, but for what is trained.
    pub(crate) fn check_text(&self) -> String {
        match self {
            Self::Learned(values) => values.len().to_string(),
            Self::Frozen(frozen) => frozen.check_text(),
            Self::Identity => "identity".to_owned(),
            Self::Combined(combined) => combined.matrices.check_text(),
        }
    }
}

/// A matrix that is never trained; sites may share it.
#[derive(Debug, Clone, PartialEq)]
pub struct FrozenMatrix {
    values: Arc<[f32]>,
    shape: [usize; 2],
    origin: Origin,
}

/// Whether a frozen matrix has the same bits wherever it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// It is given, or regenerated to the bit.
    Exact,
    /// It follows from a weight by linear algebra, whose last bits depend on the processor.
    Computed,
}

impl FrozenMatrix {
    /// The matrix of these values, row-major.
    ///
    /// # Panics
    /// If they are not `rows · cols`.
    pub fn new(values: impl Into<Arc<[f32]>>, [rows, cols]: [usize; 2]) -> Self {
        let values = values.into();
        assert_eq!(values.len(), rows * cols, "a number for each place");
        Self { values, shape: [rows, cols], origin: Origin::Exact }
    }

    /// The same of values that were computed from a weight: on another processor their last bits may differ, and a folder
    /// allows for that.
    ///
    /// # Panics
    /// If they are not `rows · cols`.
    pub fn computed(values: impl Into<Arc<[f32]>>, shape: [usize; 2]) -> Self {
        Self { origin: Origin::Computed, ..Self::new(values, shape) }
    }

    /// Its numbers, row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The matrix on `device`, in `f32`.
    pub(crate) fn on(&self, device: &Device) -> Tensor<2> {
        Tensor::from_data(TensorData::new(self.values.to_vec(), self.shape), (device, DType::F32))
    }

    /// Whether `other` is the same one in memory.
    pub(crate) fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.values, &other.values)
    }

    fn check_text(&self) -> String {
        let [rows, cols] = self.shape;
        let first_words: [u32; 4] = std::array::from_fn(|n| self.values.get(n).map_or(0, |v| v.to_bits()));
        format!("{rows}x{cols}:{first_words:08x?}")
    }
}

/// `offset + Σᵢ coefficientᵢ · matrixᵢ` of frozen matrices.
#[derive(Debug, Clone)]
pub struct LinearCombination {
    /// Name of the coefficients in states and folders; all sites have the same.
    pub name: &'static str,
    /// The frozen matrices.
    pub matrices: Matrices,
    /// A frozen matrix that is always there, row-major; regenerated like the basis, never stored.
    pub offset: Option<Arc<[f32]>>,
    /// Coefficients at the start of training.
    pub initial: Vec<f32>,
}

/// What is combined.
#[derive(Debug, Clone)]
pub enum Matrices {
    /// Random matrices: NOLA, PRANC.
    Random(Basis),
    /// Those with one row of a frozen V in one of their `rows` rows, and zeros: the combination is C·V, and the coefficients
    /// are C `[rows, rows of V]`, row-major. LoRA-XS.
    Rows {
        /// Rows of the combination.
        rows: usize,
        /// V.
        frozen: FrozenMatrix,
    },
    /// Those with one column of a frozen V, and zeros: the combination is V·diag(coefficients). VeRA.
    Columns(FrozenMatrix),
}

impl Matrices {
    /// How many there are, and so coefficients.
    pub fn count(&self) -> usize {
        match self {
            Self::Random(basis) => basis.count(),
            Self::Rows { rows, frozen } => rows * frozen.shape[0],
            Self::Columns(frozen) => frozen.shape[1],
        }
    }

    /// Rows and columns of each, and of the combination.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Random(basis) => basis.shape(),
            Self::Rows { rows, frozen } => [*rows, frozen.shape[1]],
            Self::Columns(frozen) => frozen.shape,
        }
    }

    /// The combination on the host, row-major, with the same bits on every machine.
    pub(crate) fn expand(&self, coefficients: &[f32]) -> Vec<f32> {
        match self {
            Self::Random(basis) => basis.expand(coefficients),
            Self::Rows { frozen, .. } => {
                let [inner, cols] = frozen.shape;
                let row = |row: &[f32]| {
                    let mut sums = vec![0.0_f64; cols];
                    for (&coefficient, frozen) in row.iter().zip(frozen.values.chunks(cols)) {
                        let terms = frozen.iter().map(|&entry| f64::from(coefficient) * f64::from(entry));
                        sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
                    }
                    sums.into_iter().map(|sum| sum as f32).collect::<Vec<f32>>()
                };
                coefficients.par_chunks(inner).map(row).collect::<Vec<_>>().concat()
            }
            Self::Columns(frozen) => {
                let rows = frozen.values.chunks(frozen.shape[1]);
                rows.flat_map(|row| row.iter().zip(coefficients).map(|(entry, c)| entry * c)).collect()
            }
        }
    }

    /// What is frozen in them, unless they are random.
    pub fn frozen(&self) -> Option<&FrozenMatrix> {
        match self {
            Self::Random(_) => None,
            Self::Rows { frozen, .. } | Self::Columns(frozen) => Some(frozen),
        }
    }

    /// The basis, if they are random.
    pub(crate) fn random(&self) -> Option<&Basis> {
        match self {
            Self::Random(basis) => Some(basis),
            Self::Rows { .. } | Self::Columns(_) => None,
        }
    }

    /// The combination where its parts are; `frozen` is [`Matrices::frozen`] there.
    ///
    /// # Shapes
    /// - `coefficients`: `[1, count]`
    ///
    /// # Panics
    /// If the matrices are random: those are combined for all sites at once.
    pub(crate) fn expand_there(&self, coefficients: Tensor<2>, frozen: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Random(_) => panic!("random matrices are combined by the kernels of their basis"),
            Self::Rows { rows, .. } => coefficients.reshape([*rows, frozen.dims()[0]]).matmul(frozen),
            Self::Columns(_) => frozen * coefficients,
        }
    }

    /// The gradient of the coefficients, likewise.
    ///
    /// # Shapes
    /// - output: `[1, count]`
    ///
    /// # Panics
    /// If the matrices are random.
    pub(crate) fn project_there(&self, gradient: Tensor<2>, frozen: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Random(_) => {
                panic!("gradients are projected on random matrices by the kernels of their basis")
            }
            Self::Rows { .. } => gradient.matmul(frozen.transpose()).reshape([1, self.count()]),
            Self::Columns(_) => (gradient * frozen).sum_dim(0),
        }
    }

    fn check_text(&self) -> String {
        match self {
            Self::Random(basis) => basis.check_text(),
            Self::Rows { rows, frozen } => format!("{rows}:{}", frozen.check_text()),
            Self::Columns(frozen) => frozen.check_text(),
        }
    }
}

impl LinearCombination {
    /// The combined matrix, row-major, with the same bits on every machine.
    pub fn expand(&self, coefficients: &[f32]) -> Vec<f32> {
        self.with_offset(self.matrices.expand(coefficients))
    }

    /// The combinations of many sites' random matrices; a basis that sites share is generated once.
    pub(crate) fn expand_random(all: &[(&Self, &Basis, &[f32])]) -> Vec<Vec<f32>> {
        let sites: Vec<(&Basis, &[f32])> = all.iter().map(|(_, basis, row)| (*basis, *row)).collect();
        let matrices = basis::expand_all(&sites).into_iter().zip(all);
        matrices.map(|(matrix, (combined, _, _))| combined.with_offset(matrix)).collect()
    }

    /// The matrix at the start of training; zero coefficients, the usual B, cost nothing.
    fn at_start(&self) -> Vec<f32> {
        if self.initial.iter().any(|&coefficient| coefficient != 0.0) {
            return self.expand(&self.initial);
        }
        let [rows, cols] = self.matrices.shape();
        self.with_offset(vec![0.0; rows * cols])
    }

    fn with_offset(&self, mut matrix: Vec<f32>) -> Vec<f32> {
        if let Some(offset) = &self.offset {
            matrix.iter_mut().zip(offset.iter()).for_each(|(entry, offset)| *entry += offset);
        }
        matrix
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;

    fn tensor(values: &[f32], shape: [usize; 2]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), &Device::flex())
    }

    /// Expansion on the device is that on the host, and ⟨project(G), c⟩ = ⟨G, expand(c)⟩.
    fn check(matrices: &Matrices, coefficients: &[f32]) {
        let frozen = matrices.frozen().expect("frozen matrices");
        let (there, [rows, cols]) = (tensor(frozen.values(), frozen.shape()), matrices.shape());
        let row = tensor(coefficients, [1, matrices.count()]);
        let expanded = matrices.expand_there(row.clone(), there.clone());
        expanded.to_data().assert_approx_eq::<f32>(
            &TensorData::new(matrices.expand(coefficients), [rows, cols]),
            burn::tensor::Tolerance::absolute(1e-6),
        );
        let gradient: Vec<f32> = (0..rows * cols).map(|n| (n as f32 * 0.7).sin()).collect();
        let gradient = tensor(&gradient, [rows, cols]);
        let (left, right) = (
            (matrices.project_there(gradient.clone(), there) * row).sum().into_scalar::<f32>(),
            (gradient * expanded).sum().into_scalar::<f32>(),
        );
        assert!((left - right).abs() < 1e-5, "{left} {right}");
    }

    #[test]
    fn rows_of_a_frozen_matrix_are_combined_on_the_device_as_on_the_host() {
        let frozen = FrozenMatrix::new(vec![1.0, -2.0, 0.5, 3.0, 0.25, -1.0], [2, 3]);
        let matrices = Matrices::Rows { rows: 2, frozen };
        assert_eq!((matrices.count(), matrices.shape()), (4, [2, 3]));
        check(&matrices, &[0.5, -1.0, 2.0, 0.125]);
    }

    #[test]
    fn columns_of_a_frozen_matrix_are_scaled_on_the_device_as_on_the_host() {
        let matrices = Matrices::Columns(FrozenMatrix::new(vec![1.0, -2.0, 0.5, 3.0, 0.25, -1.0], [2, 3]));
        assert_eq!((matrices.count(), matrices.shape()), (3, [2, 3]));
        check(&matrices, &[0.5, -1.0, 2.0]);
    }
}
