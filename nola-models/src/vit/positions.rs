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
    std::iter::repeat_n(0.0, d_model).chain(encoded).map(|value| value as f32).collect()
}

/// Positions of a `from` x `from` grid on a `to` x `to` grid; the class token's stays.
///
/// # Shapes
/// - `positions`: `[1, 1 + from², d_model]`
/// - output: `[1, 1 + to², d_model]`
pub(super) fn interpolated(positions: Tensor<3>, from: usize, to: usize) -> Tensor<3> {
    let [_, _, d_model] = positions.dims();
    let options = (&positions.device(), positions.dtype());
    let requires_grad = positions.is_require_grad();
    let mut values: Vec<f32> =
        positions.into_data_as::<f32>().try_into_vec().expect("the type was asked for");
    let patches = bicubic(&values.split_off(d_model), d_model, from, to);
    values.extend(patches);
    Tensor::from_data(TensorData::new(values, [1, 1 + to * to, d_model]), options)
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
                    columns.iter().zip(column_weights).map(|(&column, weight)| at(column) * weight).sum()
                };
                resized.push(rows.iter().zip(row_weights).map(|(&row, weight)| in_row(row) * weight).sum());
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
    let places = std::array::from_fn(|tap| (first + tap as isize).clamp(0, from as isize - 1) as usize);
    (places, [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)])
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: [f32; 16] = [1., 5., -2., 3., 0.5, 2., 7., -1., 4., -3., 0., 6., 2., 2.5, -6., 1.];

    /// Golden: torch 2.15.0 in float64, `interpolate(IMAGE, size, mode="bicubic", align_corners=False)`.
    fn assert_interpolates_to<const N: usize>(to: usize, golden: [f64; N]) {
        for (found, golden) in bicubic(&IMAGE, 1, 4, to).into_iter().zip(golden) {
            assert!((f64::from(found) - golden).abs() < 1e-5, "{found} is not {golden}");
        }
        assert_eq!(N, to * to);
    }

    #[test]
    fn a_smaller_grid_takes_the_values_of_pytorch() {
        assert_interpolates_to(2, [2.271484375, 1.673828125, 1.580078125, -0.025390625]);
        let three = [
            1.50226188,
            2.11887002,
            1.79843402,
            1.75370741,
            1.67578125,
            3.03332853,
            2.36341882,
            -2.55173731,
            0.70068783,
        ];
        assert_interpolates_to(3, three);
    }

    #[test]
    fn a_larger_grid_takes_the_values_of_pytorch() {
        let five = [
            0.77814859,
            4.87599913,
            1.16419922,
            -1.783532,
            3.59472731,
            0.06319653,
            2.3072465,
            5.17304297,
            3.81648963,
            -1.01517738,
            2.61464063,
            -0.95195703,
            1.67578125,
            4.94495703,
            2.45326563,
            4.18293597,
            -0.33880238,
            -3.51254297,
            -0.31056975,
            5.85196688,
            1.82044578,
            3.58165403,
            -2.33754297,
            -5.40869916,
            1.12519056,
        ];
        assert_interpolates_to(5, five);
    }

    #[test]
    fn fixed_positions_tell_the_column_then_the_row() {
        // d_model 4: one frequency, so a row is sin x, cos x, sin y, cos y.
        let table = sine_cosine(4, 2);
        let (sin, cos) = (1f64.sin() as f32, 1f64.cos() as f32);
        assert_eq!(table[..4], [0.0; 4]);
        assert_eq!(table[4..8], [0.0, 1.0, 0.0, 1.0]);
        assert_eq!(table[8..12], [sin, cos, 0.0, 1.0]);
        assert_eq!(table[12..16], [0.0, 1.0, sin, cos]);
    }
}
