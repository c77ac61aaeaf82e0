//! Position embeddings: the fixed ones, and learned ones stretched over another grid.

use burn::tensor::{Tensor, TensorData};

use super::family::Interpolation;

/// Sharpness of PyTorch's cubic kernel.
const PLAIN: f32 = -0.75;
/// The same with `antialias`, where it is Pillow's.
const ANTIALIASED: f32 = -0.5;

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

/// Positions of a `from` x `from` grid on a `to` x `to` grid; those of the first `n_prefix` tokens stay.
///
/// # Shapes
/// - `positions`: `[1, n_prefix + from², d_model]`
/// - output: `[1, n_prefix + to², d_model]`
pub(super) fn interpolated(
    positions: Tensor<3>,
    n_prefix: usize,
    [from, to]: [usize; 2],
    interpolation: Interpolation,
) -> Tensor<3> {
    let [_, _, d_model] = positions.dims();
    let options = (&positions.device(), positions.dtype());
    let requires_grad = positions.is_require_grad();
    let mut values: Vec<f32> =
        positions.into_data_as::<f32>().try_into_vec().expect("the type was asked for");
    let patches = bicubic(&values.split_off(n_prefix * d_model), d_model, [from, to], interpolation);
    values.extend(patches);
    Tensor::from_data(TensorData::new(values, [1, n_prefix + to * to, d_model]), options)
        .set_require_grad(requires_grad)
}

/// Bicubic interpolation of a square image `[from, from, depth]` to `[to, to, depth]`.
///
/// # Source
/// PyTorch's `interpolate(mode="bicubic", align_corners=False)`, with `antialias` or without.
fn bicubic(image: &[f32], depth: usize, [from, to]: [usize; 2], interpolation: Interpolation) -> Vec<f32> {
    let taps: Vec<Taps> = (0..to).map(|place| taps(place, [from, to], interpolation)).collect();
    let mut resized = Vec::with_capacity(to * to * depth);
    for rows in &taps {
        for columns in &taps {
            for channel in 0..depth {
                let in_row = |row: usize| -> f32 {
                    columns
                        .iter()
                        .map(|&(column, weight)| image[(row * from + column) * depth + channel] * weight)
                        .sum()
                };
                resized.push(rows.iter().map(|&(row, weight)| in_row(row) * weight).sum());
            }
        }
    }
    resized
}

/// The source places that an output place mixes, with their weights.
type Taps = Vec<(usize, f32)>;

fn taps(place: usize, [from, to]: [usize; 2], interpolation: Interpolation) -> Taps {
    let scale = from as f32 / to as f32;
    match interpolation {
        Interpolation::Plain => plain_taps(place, from, scale),
        Interpolation::Antialiased => antialiased_taps(place, from, scale),
    }
}

/// The four nearest places; those beyond the edge repeat it.
fn plain_taps(place: usize, from: usize, scale: f32) -> Taps {
    let centre = (place as f32 + 0.5) * scale - 0.5;
    let t = centre - centre.floor();
    let first = centre.floor() as isize - 1;
    let place = |tap: isize| (first + tap).clamp(0, from as isize - 1) as usize;
    let distances = [t + 1.0, t, 1.0 - t, 2.0 - t];
    (0..).zip(distances).map(|(tap, distance)| (place(tap), cubic(distance, PLAIN))).collect()
}

/// The places inside the image that a kernel reaches which widens where the grid shrinks.
fn antialiased_taps(place: usize, from: usize, scale: f32) -> Taps {
    let (centre, widening) = ((place as f32 + 0.5) * scale, scale.max(1.0));
    let support = 2.0 * widening;
    // `as` clamps to 0, as PyTorch does.
    let first = (centre - support + 0.5) as usize;
    let end = ((centre + support + 0.5) as usize).min(from);
    let weight = |place: usize| cubic((place as f32 - centre + 0.5) / widening, ANTIALIASED);
    let sum: f32 = (first..end).map(weight).sum();
    (first..end).map(|place| (place, weight(place) / sum)).collect()
}

/// Weight of a place at distance `x`, of a cubic kernel with this sharpness.
fn cubic(x: f32, sharpness: f32) -> f32 {
    match x.abs() {
        x if x <= 1.0 => ((sharpness + 2.0) * x - (sharpness + 3.0)) * x * x + 1.0,
        x if x < 2.0 => ((sharpness * x - 5.0 * sharpness) * x + 8.0 * sharpness) * x - 4.0 * sharpness,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: [f32; 16] = [1., 5., -2., 3., 0.5, 2., 7., -1., 4., -3., 0., 6., 2., 2.5, -6., 1.];

    /// Golden: torch 2.15.0 in float64, `interpolate(IMAGE, size, mode="bicubic", align_corners=False)`.
    fn assert_interpolates_to<const N: usize>(to: usize, golden: [f64; N]) {
        assert_gives(to, Interpolation::Plain, golden);
    }

    /// Golden: the same with `antialias=True`.
    fn assert_antialiases_to<const N: usize>(to: usize, golden: [f64; N]) {
        assert_gives(to, Interpolation::Antialiased, golden);
    }

    fn assert_gives<const N: usize>(to: usize, interpolation: Interpolation, golden: [f64; N]) {
        for (found, golden) in bicubic(&IMAGE, 1, [4, to], interpolation).into_iter().zip(golden) {
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
    fn with_antialias_a_smaller_grid_mixes_more_places() {
        assert_antialiases_to(2, [2.00857182, 2.17766888, 0.86102384, 0.39887986]);
    }

    #[test]
    fn with_antialias_a_larger_grid_takes_the_values_of_pytorch() {
        let five = [
            0.84387713,
            4.51259718,
            1.27929687,
            -1.36404228,
            3.41376202,
            0.26946498,
            2.28390491,
            4.59532538,
            3.59805699,
            -0.60759862,
            2.48978365,
            -0.47370334,
            1.609375,
            4.3009422,
            2.48137019,
            3.92608785,
            -0.24245054,
            -2.7963827,
            -0.16641063,
            5.41041566,
            1.87778523,
            3.14769963,
            -2.14948918,
            -4.92398463,
            1.08841069,
        ];
        assert_antialiases_to(5, five);
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
