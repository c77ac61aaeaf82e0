//! Resizing with the bits of Pillow.
//!
//! Models were trained on Pillow's pixels; the resizing crates round otherwise (fast_image_resize 6.1 and Pillow 13
//! differ in a fifth of the bytes of a bicubic reduction and by up to 21 in an enlargement), so this is its algorithm.

use std::borrow::Cow;
use std::f64::consts::PI;
use std::ops::Range;

use image::RgbImage;

/// Fraction bits of Pillow's fixed-point weights.
const PRECISION: u32 = 22;

/// What a pixel is mixed from; the names and numbers are Pillow's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// The pixel under the middle, and no other.
    Nearest,
    /// Windowed sinc over six pixels.
    Lanczos,
    /// Triangle over two pixels.
    Bilinear,
    /// Cubic over four pixels, sharpness -0.5.
    Bicubic,
    /// The plain mean.
    Box,
    /// Raised cosine over two pixels.
    Hamming,
}

impl Filter {
    /// Every filter with Pillow's number for it.
    pub(super) const CODES: [(usize, Self); 6] = [
        (0, Self::Nearest),
        (1, Self::Lanczos),
        (2, Self::Bilinear),
        (3, Self::Bicubic),
        (4, Self::Box),
        (5, Self::Hamming),
    ];

    /// How far it reaches, in pixels.
    fn support(self) -> f64 {
        match self {
            Self::Lanczos => 3.0,
            Self::Bicubic => 2.0,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Box | Self::Nearest => 0.5,
        }
    }

    /// Weight of a pixel at distance `x`.
    fn weight(self, x: f64) -> f64 {
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
        match self {
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Bicubic if x.abs() < 1.0 => (1.5 * x.abs() - 2.5) * x * x + 1.0,
            Self::Bicubic if x.abs() < 2.0 => (((x.abs() - 5.0) * x.abs() + 8.0) * x.abs() - 4.0) * -0.5,
            Self::Bilinear if x.abs() < 1.0 => 1.0 - x.abs(),
            Self::Box if x > -0.5 && x <= 0.5 => 1.0,
            Self::Hamming if x.abs() < 1.0 => sinc(x) * (0.54 + 0.46 * (x * PI).cos()),
            Self::Nearest | Self::Lanczos | Self::Bicubic | Self::Bilinear | Self::Box | Self::Hamming => 0.0,
        }
    }
}

/// Which pixels of a line an output pixel mixes: the first, and a fixed-point weight for each.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

/// Resizes to `width` x `height` pixels; when reducing, the filter widens with the reduction.
///
/// # Source
/// `Resample.c` of Pillow 13: across, then down, or the other way where that is less work; rounded to bytes in between.
pub(crate) fn resize(image: &RgbImage, width: usize, height: usize, filter: Filter) -> RgbImage {
    let (width, height) = (width.max(1), height.max(1));
    resize_part(image, [width, height], [0..width, 0..height], filter)
}

/// The `columns` and `rows` of the image resized to `width` x `height` pixels; the rest of it is never made.
pub(crate) fn resize_part(
    image: &RgbImage,
    [width, height]: [usize; 2],
    [columns, rows]: [Range<usize>; 2],
    filter: Filter,
) -> RgbImage {
    let (from_width, from_height) = (image.width() as usize, image.height() as usize);
    let (part_width, part_height) = (columns.len(), rows.len());
    let is_as_wide = width == from_width && part_width == from_width;
    let is_as_high = height == from_height && part_height == from_height;
    let columns = windows(from_width, width, columns, filter);
    let rows = windows(from_height, height, rows, filter);
    let mut pixels = Cow::Borrowed(image.as_raw().as_slice());
    let is_down_first = is_down_first([from_width, from_height], [width, height]);
    if is_down_first && !is_as_high {
        pixels = down(&pixels, 3 * from_width, &rows).into();
    }
    if !is_as_wide {
        pixels = across(&pixels, from_width, &columns).into();
    }
    if !is_down_first && !is_as_high {
        pixels = down(&pixels, 3 * part_width, &rows).into();
    }
    RgbImage::from_raw(part_width as u32, part_height as u32, pixels.into_owned())
        .expect("three bytes a pixel")
}

/// Whether Pillow resizes down before it resizes across: where the height shrinks by more than twice what the width does.
fn is_down_first([from_width, from_height]: [usize; 2], [width, height]: [usize; 2]) -> bool {
    let shrinks = |from: usize, to: usize| from as i64 - to as i64;
    let by_height = shrinks(from_height, height);
    by_height > 0 && by_height > 2 * shrinks(from_width, width)
}

/// The windows of the output `places`, of `to` in all.
fn windows(from: usize, to: usize, places: Range<usize>, filter: Filter) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    if filter == Filter::Nearest {
        return nearest(scale, from, places);
    }
    let widening = scale.max(1.0);
    let support = filter.support() * widening;
    let window = |place: usize| {
        let centre = (place as f64 + 0.5) * scale;
        // `as` clamps to 0, as Pillow does.
        let first = (centre - support + 0.5) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let distance = |pixel: usize| (pixel as f64 - centre + 0.5) / widening;
        let weights: Vec<f64> = (first..end).map(|pixel| filter.weight(distance(pixel))).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: f64| (weight / sum * f64::from(1 << PRECISION)).round() as i32;
        Window { first, weights: weights.into_iter().map(fixed).collect() }
    };
    places.map(window).collect()
}

/// One pixel each; like Pillow, which adds up the step, so that roundings are those of the sum.
fn nearest(scale: f64, from: usize, places: Range<usize>) -> Vec<Window> {
    let middles = std::iter::successors(Some(0.5 * scale), |middle| Some(middle + scale));
    let window =
        |middle: f64| Window { first: (middle as usize).min(from - 1), weights: vec![1 << PRECISION] };
    middles.skip(places.start).take(places.len()).map(window).collect()
}

fn across(pixels: &[u8], from_width: usize, windows: &[Window]) -> Vec<u8> {
    let mut resized = Vec::with_capacity(pixels.len() / from_width * windows.len());
    for row in pixels.chunks_exact(3 * from_width) {
        for Window { first, weights } in windows {
            let mut sums = [HALF; 3];
            for (pixel, weight) in row[3 * first..].as_chunks::<3>().0.iter().zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            resized.extend(sums.map(byte));
        }
    }
    resized
}

/// `row` is the length of a row in bytes.
fn down(pixels: &[u8], row: usize, windows: &[Window]) -> Vec<u8> {
    let mut resized = Vec::with_capacity(row * windows.len());
    let mut sums = vec![HALF; row];
    for Window { first, weights } in windows {
        sums.fill(HALF);
        for (line, weight) in pixels[first * row..].chunks_exact(row).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(line) {
                *sum += i32::from(value) * weight;
            }
        }
        resized.extend(sums.iter().map(|&sum| byte(sum)));
    }
    resized
}

/// One half, so that the shift rounds.
const HALF: i32 = 1 << (PRECISION - 1);

fn byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    /// The image the golden pixels were made from.
    fn pattern(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            Rgb([0, 1, 2].map(|c| ((x * 37 + y * 91 + c * 53 + x * y * 7) % 256) as u8))
        })
    }

    // Golden: Pillow 13.0.0, `Image.fromarray(pattern).resize((width, height), filter)`.

    #[test]
    fn bilinear_reduction_gives_the_pixels_of_pil() {
        let golden =
            [83, 120, 153, 121, 141, 133, 116, 122, 175, 121, 127, 117, 119, 139, 148, 157, 132, 137];
        assert_eq!(resize(&pattern(5, 4), 3, 2, Filter::Bilinear).into_raw(), golden);
    }

    #[test]
    fn a_height_that_shrinks_much_more_than_the_width_is_resized_first() {
        let bicubic = [102, 138, 129, 125, 134, 138, 122, 125, 132, 125, 135, 139];
        assert_eq!(resize(&pattern(3, 9), 2, 2, Filter::Bicubic).into_raw(), bicubic);
        let bilinear = [
            82, 135, 124, 111, 124, 153, 121, 134, 151, 109, 162, 119, 108, 161, 129, 113, 149, 116, 130,
            133, 122, 153, 120, 145, 134, 123, 144, 127, 96, 137, 119, 112, 141, 111, 164, 153,
        ];
        assert_eq!(resize(&pattern(3, 9), 4, 3, Filter::Bilinear).into_raw(), bilinear);
        let lanczos = [
            110, 129, 135, 130, 132, 155, 116, 150, 124, 137, 127, 122, 133, 112, 138, 142, 116, 140, 156,
            114, 130, 134, 127, 107,
        ];
        assert_eq!(resize(&pattern(5, 13), 2, 4, Filter::Lanczos).into_raw(), lanczos);
    }

    #[test]
    fn bicubic_reduction_gives_the_pixels_of_pil() {
        let golden =
            [79, 121, 156, 126, 141, 130, 113, 120, 177, 125, 127, 114, 119, 139, 150, 159, 134, 135];
        assert_eq!(resize(&pattern(5, 4), 3, 2, Filter::Bicubic).into_raw(), golden);
    }

    #[test]
    fn bilinear_enlargement_gives_the_pixels_of_pil() {
        let golden = [
            0, 53, 106, 15, 68, 121, 37, 90, 143, 59, 112, 165, 74, 127, 180, 23, 76, 129, 39, 92, 145, 62,
            115, 168, 85, 138, 152, 100, 153, 142, 68, 121, 174, 86, 139, 192, 111, 164, 217, 136, 189, 127,
            153, 206, 67, 91, 144, 197, 109, 162, 215, 135, 188, 241, 161, 214, 114, 179, 232, 29,
        ];
        assert_eq!(resize(&pattern(3, 2), 5, 4, Filter::Bilinear).into_raw(), golden);
    }

    #[test]
    fn bicubic_enlargement_gives_the_pixels_of_pil() {
        let golden = [
            0, 42, 95, 3, 56, 108, 28, 81, 134, 54, 107, 175, 68, 121, 198, 18, 69, 122, 30, 83, 139, 57,
            110, 163, 84, 137, 156, 99, 152, 148, 70, 122, 175, 85, 138, 200, 115, 168, 221, 145, 198, 118,
            160, 213, 48, 96, 149, 202, 112, 165, 231, 144, 197, 250, 175, 228, 99, 191, 244, 0,
        ];
        assert_eq!(resize(&pattern(3, 2), 5, 4, Filter::Bicubic).into_raw(), golden);
    }

    #[test]
    fn nearest_takes_the_pixels_that_pil_takes() {
        let columns = |from: u32, to: usize| -> Vec<u8> {
            let image = RgbImage::from_fn(from, 1, |x, _| Rgb([x as u8; 3]));
            resize(&image, to, 1, Filter::Nearest).pixels().map(|pixel| pixel[0]).collect()
        };
        assert_eq!(columns(7, 3), [1, 3, 5]);
        assert_eq!(columns(10, 4), [1, 3, 6, 8]);
        assert_eq!(columns(3, 8), [0, 0, 0, 1, 1, 2, 2, 2]);
    }
}
