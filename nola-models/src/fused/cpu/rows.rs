//! Normalisation of rows.

use nola_core::filled::filled;
use pulp::Arch;

use super::super::Norm;
use super::math::exp;

/// Rows that one task works on.
const ROWS: usize = 16;
/// Running sums of a row: as many as the widest registers hold, and the same on every machine.
const LANES: usize = 16;

pub(super) fn forward(x: &[f32], gamma: &[f32], beta: Option<&[f32]>, norm: Norm, epsilon: f32) -> Vec<f32> {
    let width = gamma.len();
    filled(x.len(), ROWS * width, |first, result| {
        Arch::new().dispatch(
            #[inline(always)]
            || {
                let rows = x[first..].chunks_exact(width);
                for (result, x) in result.chunks_exact_mut(width).zip(rows) {
                    let (mean, inverse) = statistics(x, norm, epsilon);
                    for ((result, &x), &gamma) in result.iter_mut().zip(x).zip(gamma) {
                        *result = (x - mean) * inverse * gamma;
                    }
                    if let Some(beta) = beta {
                        result.iter_mut().zip(beta).for_each(|(result, &beta)| *result += beta);
                    }
                }
            },
        );
    })
}

pub(super) fn backward([x, gradient]: [&[f32]; 2], gamma: &[f32], norm: Norm, epsilon: f32) -> Vec<f32> {
    let width = gamma.len();
    filled(x.len(), ROWS * width, |first, result| {
        Arch::new().dispatch(
            #[inline(always)]
            || {
                let rows = x[first..].chunks_exact(width).zip(gradient[first..].chunks_exact(width));
                for (result, (x, gradient)) in result.chunks_exact_mut(width).zip(rows) {
                    let (mean, inverse) = statistics(x, norm, epsilon);
                    for ((result, &gradient), &gamma) in result.iter_mut().zip(gradient).zip(gamma) {
                        *result = gradient * gamma;
                    }
                    // The part along the row itself cannot change it; nor can, for the layer norm, a shift.
                    let along = sum(result, x, |gradient, x| gradient * (x - mean) * inverse) / width as f32;
                    let shift = match norm {
                        Norm::Layer => sum(result, x, |gradient, _| gradient) / width as f32,
                        Norm::RootMeanSquare => 0.0,
                    };
                    for (result, &x) in result.iter_mut().zip(x) {
                        *result = inverse * (*result - shift - (x - mean) * inverse * along);
                    }
                }
            },
        );
    })
}

/// What is subtracted from a row, and by what it is multiplied then.
#[inline(always)]
fn statistics(row: &[f32], norm: Norm, epsilon: f32) -> (f32, f32) {
    let width = row.len() as f32;
    let mean = match norm {
        Norm::Layer => sum(row, row, |x, _| x) / width,
        Norm::RootMeanSquare => 0.0,
    };
    let square = sum(row, row, |x, _| (x - mean) * (x - mean)) / width;
    (mean, 1.0 / (square + epsilon).sqrt())
}

/// Σ `of(left, right)`, in one order on every machine.
#[inline(always)]
pub(super) fn sum(left: &[f32], right: &[f32], of: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left.iter().zip(right) {
        for lane in 0..LANES {
            sums[lane] += of(left[lane], right[lane]);
        }
    }
    for (lane, (&left, &right)) in left_rest.iter().zip(right_rest).enumerate() {
        sums[lane] += of(left, right);
    }
    let mut length = LANES / 2;
    while length > 0 {
        for lane in 0..length {
            sums[lane] += sums[lane + length];
        }
        length /= 2;
    }
    sums[0]
}

/// Cross-entropy of rows of logits.
///
/// # Panics
/// If a label is no class.
pub(super) fn cross_entropy(logits: &[f32], labels: &[usize], smoothing: f32) -> Vec<f32> {
    let classes = logits.len() / labels.len().max(1);
    filled(labels.len(), 1, |number, result| {
        let (row, label) = (&logits[number * classes..][..classes], labels[number]);
        Arch::new().dispatch(
            #[inline(always)]
            || {
                let (largest, total) = exponentials(row);
                let mean = if smoothing == 0.0 { 0.0 } else { sum(row, row, |x, _| x) / classes as f32 };
                let expected = (1.0 - smoothing) * (row[label] - largest) + smoothing * (mean - largest);
                result[0] = total.ln() - expected;
            },
        );
    })
}

/// Gradient of rows of logits, given the label of each row and the gradient of its cross-entropy.
///
/// # Panics
/// If a label is no class.
pub(super) fn cross_entropy_backward(logits: &[f32], of_rows: &[(usize, f32)], smoothing: f32) -> Vec<f32> {
    let classes = logits.len() / of_rows.len().max(1);
    filled(logits.len(), classes, |first, result| {
        let (row, (label, gradient)) = (&logits[first..][..classes], of_rows[first / classes]);
        Arch::new().dispatch(
            #[inline(always)]
            || {
                let (largest, total) = exponentials(row);
                let (factor, shift) = (gradient / total, gradient * smoothing / classes as f32);
                for (result, &x) in result.iter_mut().zip(row) {
                    *result = factor * exp(x - largest) - shift;
                }
                result[label] -= gradient * (1.0 - smoothing);
            },
        );
    })
}

/// The largest number of a row, and the sum of all e^(x − largest).
#[inline(always)]
fn exponentials(row: &[f32]) -> (f32, f32) {
    let largest = largest(row);
    (largest, sum(row, row, |x, _| exp(x - largest)))
}

/// The softmax of a row, in place.
#[inline(always)]
pub(super) fn softmax(row: &mut [f32]) {
    let largest = largest(row);
    row.iter_mut().for_each(|x| *x = exp(*x - largest));
    let inverse = 1.0 / sum(row, row, |x, _| x);
    row.iter_mut().for_each(|x| *x *= inverse);
}

#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}
