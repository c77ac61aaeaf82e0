//! Position embeddings: the fixed ones, and learned ones stretched over another grid.

use burn::tensor::{Tensor, TensorData};

/// The sharpness of the cubic kernel in PyTorch.
const CUBIC: f32 = -0.75;

/// Sines and cosines of column and row, `[1 + grid², d_model]` row-major; the class token's row is zero.
///
/// # Source
/// `get_2d_sincos_pos_embed` of MAE: the first half of a row tells the column, the second half the row.
pub(super) fn sine_cosine(d_model: usize, grid: usize) -> Vec<f32> {
    let quarter = d_model / 4;
    let frequency = |index: usize| 10000f64.powf(-(index as f64) / quarter as f64);
    let axis = |place: usize| {
        let angle = move |index| place as f64 * frequency(index);
        (0..quarter)
            .map(move |index| angle(index).sin())
            .chain((0..quarter).map(move |index| angle(index).cos()))
    };
    let patches = (0..grid).flat_map(|row| (0..grid).map(move |column| (row, column)));
    let encoded = patches.flat_map(|(row, column)| axis(column).chain(axis(row)));
    std::iter::repeat_n(0.0, d_model)
        .chain(encoded)
        .map(|value| value as f32)
        .collect()
}

/// Positions of a `from` x `from` grid on a `to` x `to` grid; the class token's stays.
///
/// # Shapes
/// - `positions`: `[1, 1 + from², d_model]`
/// - output: `[1, 1 + to², d_model]`
pub(super) fn interpolated(positions: Tensor<3>, from: usize, to: usize) -> Tensor<3> {
    let [_, _, d_model] = positions.dims();
    let device = positions.device();
    let requires_grad = positions.is_require_grad();
    let mut values: Vec<f32> = positions
        .into_data_as::<f32>()
        .try_into_vec()
        .expect("the type was asked for");
    let patches = bicubic(&values.split_off(d_model), d_model, from, to);
    values.extend(patches);
    Tensor::from_data(TensorData::new(values, [1, 1 + to * to, d_model]), &device)
        .set_require_grad(requires_grad)
}

/// Bicubic interpolation of a square image `[from, from, depth]` to `[to, to, depth]`.
///
/// # Source
/// PyTorch's `interpolate(mode="bicubic", align_corners=False, antialias=False)`.
pub(super) fn bicubic(image: &[f32], depth: usize, from: usize, to: usize) -> Vec<f32> {
    let taps: Vec<_> = (0..to).map(|place| cubic_taps(place, from, to)).collect();
    let mut resized = Vec::with_capacity(to * to * depth);
    for (rows, row_weights) in &taps {
        for (columns, column_weights) in &taps {
            for channel in 0..depth {
                let in_row = |row: usize| -> f32 {
                    let at = |column: usize| image[(row * from + column) * depth + channel];
                    columns
                        .iter()
                        .zip(column_weights)
                        .map(|(&column, weight)| at(column) * weight)
                        .sum()
                };
                resized.push(
                    rows.iter()
                        .zip(row_weights)
                        .map(|(&row, weight)| in_row(row) * weight)
                        .sum(),
                );
            }
        }
    }
    resized
}

/// The four source places that an output place mixes, and their weights; places beyond the edge repeat it.
fn cubic_taps(place: usize, from: usize, to: usize) -> ([usize; 4], [f32; 4]) {
    let centre = (place as f32 + 0.5) * (from as f32 / to as f32) - 0.5;
    let t = centre - centre.floor();
    let near = |x: f32| ((CUBIC + 2.0) * x - (CUBIC + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((CUBIC * x - 5.0 * CUBIC) * x + 8.0 * CUBIC) * x - 4.0 * CUBIC;
    let first = centre.floor() as isize - 1;
    let places =
        std::array::from_fn(|tap| (first + tap as isize).clamp(0, from as isize - 1) as usize);
    (places, [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)])
}
