//! The update on the CPU, some rows at a time, which rayon's threads share.
//!
//! Everything of the width of the rank is kept transposed: its rows are then long, as the product wants them.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::TensorData;
use rayon::prelude::*;

use super::{Asked, LowRankGradients, LowRankUpdate, State};
use crate::filled::zeros;
use crate::matrix::{Accumulate, Matrix, multiply};

/// Rows of a task; the same on every machine, since it decides in which order gradients are summed.
const ROWS: usize = 128;

impl LowRankUpdate for Flex {
    fn low_rank_updated(
        y: FlexTensor,
        x: FlexTensor,
        a: FlexTensor,
        b: FlexTensor,
        scale: f64,
    ) -> FlexTensor {
        // The result of a product has its memory for itself, so it is added to where it lies.
        let is_whole = y.is_contiguous() && y.storage::<f32>().len() == y.layout().num_elements();
        let mut y = if is_whole { y } else { y.to_contiguous() };
        let [x, a, b] = [x, a, b].map(|tensor| tensor.to_contiguous());
        Factors::of(&a, &b, scale).add(numbers(&x), y.storage_mut());
        y
    }
}

impl LowRankGradients for Flex {
    fn low_rank_gradients(state: State<Self>, gradient: FlexTensor, asked: Asked) -> [Option<FlexTensor>; 3] {
        let State { x, a, b, scale } = state;
        let [x, a, b, gradient] = [x, a, b, gradient].map(|tensor| tensor.to_contiguous());
        let found = Factors::of(&a, &b, scale).gradients(numbers(&x), numbers(&gradient), asked);
        let [of_x, of_a, of_b] = found;
        [
            asked.x.then(|| shaped_as(&x, of_x)),
            asked.a.then(|| shaped_as(&a, of_a)),
            asked.b.then(|| shaped_as(&b, of_b)),
        ]
    }
}

fn numbers(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("it was made contiguous")
}

fn shaped_as(tensor: &FlexTensor, numbers: Vec<f32>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(numbers, tensor.layout().shape().clone()))
}

/// The factors of one adapter.
struct Factors<'a> {
    /// `[d_in, rank]`
    a: Matrix<'a>,
    /// `[rank, d_out]`
    b: Matrix<'a>,
    d_in: usize,
    rank: usize,
    d_out: usize,
    scale: f32,
}

impl<'a> Factors<'a> {
    fn of(a: &'a FlexTensor, b: &'a FlexTensor, scale: f64) -> Self {
        let (d_in, rank, d_out) = (a.layout().shape()[0], a.layout().shape()[1], b.layout().shape()[1]);
        let (a, b) =
            (Matrix::new(numbers(a), [d_in, rank], rank), Matrix::new(numbers(b), [rank, d_out], d_out));
        Self { a, b, d_in, rank, d_out, scale: scale as f32 }
    }

    /// `scale·(x·a)ᵀ` for some rows.
    fn narrowed(&self, x: Matrix, rows: usize) -> Vec<f32> {
        let mut narrowed = vec![0.0; self.rank * rows];
        multiply(&mut narrowed, Accumulate::Overwrite, self.scale, self.a.transposed(), x.transposed());
        narrowed
    }

    fn add(&self, x: &[f32], y: &mut [f32]) {
        let parts = y.par_chunks_mut(ROWS * self.d_out).zip(x.par_chunks(ROWS * self.d_in));
        parts.for_each(|(y, x)| {
            let rows = y.len() / self.d_out;
            let narrowed = self.narrowed(Matrix::new(x, [rows, self.d_in], self.d_in), rows);
            let narrowed = Matrix::new(&narrowed, [self.rank, rows], rows);
            multiply(y, Accumulate::Add, 1.0, narrowed.transposed(), self.b);
        });
    }

    /// Gradients of `x`, `a` and `b`; zeros in place of those that are not asked for.
    fn gradients(&self, x: &[f32], gradient: &[f32], asked: Asked) -> [Vec<f32>; 3] {
        let mut of_x = zeros(x.len());
        let parts = of_x.par_chunks_mut(ROWS * self.d_in).zip(x.par_chunks(ROWS * self.d_in));
        let parts = parts.zip(gradient.par_chunks(ROWS * self.d_out));
        let of_factors: Vec<[Vec<f32>; 2]> =
            parts.map(|((of_x, x), gradient)| self.gradients_of_rows(x, gradient, of_x, asked)).collect();
        let (mut of_a, mut of_b) = (vec![0.0; self.d_in * self.rank], vec![0.0; self.rank * self.d_out]);
        for [part_of_a, part_of_b] in of_factors {
            for (n, part) in part_of_a.chunks_exact(self.d_in).enumerate() {
                let column = of_a.iter_mut().skip(n).step_by(self.rank);
                column.zip(part).for_each(|(sum, part)| *sum += part);
            }
            of_b.iter_mut().zip(part_of_b).for_each(|(sum, part)| *sum += part);
        }
        [of_x, of_a, of_b]
    }

    /// Writes the gradient of some rows of `x`; returns what they add to those of `aᵀ` and `b`, nothing to those that are not
    /// asked for.
    fn gradients_of_rows(
        &self,
        x: &[f32],
        gradient: &[f32],
        of_x: &mut [f32],
        asked: Asked,
    ) -> [Vec<f32>; 2] {
        let rows = x.len() / self.d_in;
        let x = Matrix::new(x, [rows, self.d_in], self.d_in);
        let gradient = Matrix::new(gradient, [rows, self.d_out], self.d_out);
        let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
        if asked.b {
            let narrowed = self.narrowed(x, rows);
            let narrowed = Matrix::new(&narrowed, [self.rank, rows], rows);
            of_b = vec![0.0; self.rank * self.d_out];
            multiply(&mut of_b, Accumulate::Overwrite, 1.0, narrowed, gradient);
        }
        if asked.x || asked.a {
            let mut of_narrowed = vec![0.0; self.rank * rows];
            multiply(&mut of_narrowed, Accumulate::Overwrite, self.scale, self.b, gradient.transposed());
            let of_narrowed = Matrix::new(&of_narrowed, [self.rank, rows], rows);
            if asked.x {
                multiply(of_x, Accumulate::Overwrite, 1.0, of_narrowed.transposed(), self.a.transposed());
            }
            if asked.a {
                of_a = vec![0.0; self.rank * self.d_in];
                multiply(&mut of_a, Accumulate::Overwrite, 1.0, of_narrowed, x);
            }
        }
        [of_a, of_b]
    }
}
