//! Image files to normalised pixels, as a model's `preprocessor_config.json` asks for.
//!
//! Pixels are those of PIL: decoded images become RGB as by `convert("RGB")` and are resized with its antialiasing.

mod config;
mod decode;
mod gif;
mod processors;
mod resize;

use std::ops::Range;

use image::{RgbImage, imageops};

pub use decode::{Encoded, MAX_BYTES, decode};
pub use resize::Filter;
use resize::{resize, resize_part};

/// How an image becomes the input of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessor {
    resize: Option<Resize>,
    filter: Filter,
    /// Height and width of what comes out, in pixels.
    output: [usize; 2],
    centre: Centre,
    /// Multiplies a value of 0 to 255; none to leave it.
    rescale: Option<f64>,
    /// Per channel, subtracted and divided by after rescaling; none to leave it.
    normalise: Option<[[f32; 3]; 2]>,
}

/// What an image is resized to before it is cropped to the output size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resize {
    /// Exactly this height and width, in pixels.
    Exact([usize; 2]),
    /// The shorter side this long, in pixels; the other keeps the proportion.
    ShortestEdge(usize),
}

/// How a centre crop halves an odd number of rows or columns that are too many, or too few.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Centre {
    /// Transformers' processors on NumPy: the cut is rounded down, the border up.
    Numpy,
    /// Transformers' fast processors: both are rounded down.
    Fast,
    /// torchvision's `CenterCrop`, which timm uses: the cut is rounded to the even number, the border down.
    Torchvision,
}

impl Centre {
    /// Which of `inner` places stay of `outer`, and where their first comes to lie.
    fn place(self, inner: usize, outer: usize) -> (Range<usize>, usize) {
        let (excess, lack) = (inner.saturating_sub(outer), outer.saturating_sub(inner));
        let cut = match self {
            Self::Numpy | Self::Fast => excess / 2,
            Self::Torchvision => excess / 2 + usize::from(excess % 4 == 3),
        };
        let border = match self {
            Self::Numpy => lack.div_ceil(2),
            Self::Fast | Self::Torchvision => lack / 2,
        };
        (cut..cut + inner.min(outer), border)
    }
}

impl Preprocessor {
    /// The one google/vit models use: bilinear to a square, values from -1 to 1.
    pub fn standard(image_size: usize) -> Self {
        Self {
            resize: Some(Resize::Exact([image_size; 2])),
            filter: Filter::Bilinear,
            output: [image_size; 2],
            centre: Centre::Numpy,
            rescale: Some(1.0 / 255.0),
            normalise: Some([[0.5; 3], [0.5; 3]]),
        }
    }

    /// The same for another input size of the model, in pixels a side; what is cropped away stays in proportion.
    pub fn resized(mut self, image_size: usize) -> Self {
        let scale =
            |side: usize, of: usize| (side as f64 * image_size as f64 / of.max(1) as f64).round() as usize;
        let [height, width] = self.output;
        self.resize = self.resize.map(|resize| match resize {
            Resize::Exact([high, wide]) => Resize::Exact([scale(high, height), scale(wide, width)]),
            Resize::ShortestEdge(side) => Resize::ShortestEdge(scale(side, height.min(width))),
        });
        self.output = [image_size; 2];
        self
    }

    /// Height and width of what comes out, in pixels.
    pub fn output_size(&self) -> [usize; 2] {
        self.output
    }

    /// The input of the model for an image, always the same.
    ///
    /// # Shapes
    /// - output: `[3, height, width]`, row-major
    pub fn evaluate(&self, image: &RgbImage) -> Vec<f32> {
        self.normalised(&self.fitted(image))
    }

    /// The whole image resized to the output size, whatever its proportion.
    pub fn stretched(&self, image: &RgbImage) -> RgbImage {
        let [height, width] = self.output;
        resize(image, width, height, self.filter)
    }

    /// Resized, and cropped (or padded with black) around the middle to the output size.
    pub fn fitted(&self, image: &RgbImage) -> RgbImage {
        let (from_width, from_height) = (image.width() as usize, image.height() as usize);
        let [width, height] = match self.resize {
            None => [from_width, from_height],
            Some(Resize::Exact([height, width])) => [width, height],
            // As PIL's users do: the longer side is rounded down.
            Some(Resize::ShortestEdge(side)) if from_width <= from_height => {
                [side, side * from_height / from_width.max(1)]
            }
            Some(Resize::ShortestEdge(side)) => [side * from_width / from_height.max(1), side],
        };
        let [out_height, out_width] = self.output;
        let (columns, x) = self.centre.place(width, out_width);
        let (rows, y) = self.centre.place(height, out_height);
        let part = resize_part(image, [width, height], [columns, rows], self.filter);
        if part.dimensions() == (out_width as u32, out_height as u32) {
            return part;
        }
        let mut output = RgbImage::new(out_width as u32, out_height as u32);
        imageops::replace(&mut output, &part, x as i64, y as i64);
        output
    }

    /// Rescaled, normalised, and channels first.
    ///
    /// # Shapes
    /// - output: `[3, height, width]` of the image, row-major
    pub fn normalised(&self, image: &RgbImage) -> Vec<f32> {
        let factor = self.rescale.unwrap_or(1.0);
        let [mean, std] = self.normalise.unwrap_or([[0.0; 3], [1.0; 3]]);
        let mut pixels = Vec::with_capacity(image.len());
        for channel in 0..3 {
            // A byte has 256 values, so each is worked out once.
            let table: [f32; 256] =
                std::array::from_fn(|byte| ((byte as f64 * factor) as f32 - mean[channel]) / std[channel]);
            pixels.extend(image.pixels().map(|pixel| table[usize::from(pixel[channel])]));
        }
        pixels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a crop of `outer` begins in `inner` places, below 0 where a border is added before it.
    fn start(centre: Centre, inner: usize, outer: usize) -> i64 {
        let (places, border) = centre.place(inner, outer);
        assert_eq!(places.len(), inner.min(outer));
        places.start as i64 - border as i64
    }

    #[test]
    fn an_odd_cut_is_halved_as_each_library_does() {
        // Excess of 1, 3, 5, 7 and 2: transformers 5.24 and 4.57; torchvision 0.29.
        for (excess, transformers, torchvision) in [(1, 0, 0), (3, 1, 2), (5, 2, 2), (7, 3, 4), (2, 1, 1)] {
            assert_eq!(start(Centre::Numpy, 8 + excess, 8), transformers);
            assert_eq!(start(Centre::Fast, 8 + excess, 8), transformers);
            assert_eq!(start(Centre::Torchvision, 8 + excess, 8), torchvision);
        }
    }

    #[test]
    fn an_odd_border_is_halved_as_each_library_does() {
        for (lack, numpy, others) in [(1, -1, 0), (3, -2, -1), (2, -1, -1)] {
            assert_eq!(start(Centre::Numpy, 8 - lack, 8), numpy);
            assert_eq!(start(Centre::Fast, 8 - lack, 8), others);
            assert_eq!(start(Centre::Torchvision, 8 - lack, 8), others);
        }
    }
}
