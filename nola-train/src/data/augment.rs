//! Random changes to training images; each is off unless it is named.

use image::{Rgb, RgbImage, imageops};
use nola_models::Preprocessor;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How training images are changed, in this order; nothing by default.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Augmentation {
    /// A random part of the image, resized to the model's input, in place of the whole.
    #[schemars(extend("x-default" = "the whole image"))]
    pub resized_crop: Option<ResizedCrop>,
    /// A random window of the input after black has been added on every side, for small images.
    #[schemars(extend("x-default" = "no window"))]
    pub padded_crop: Option<PaddedCrop>,
    /// Other brightness, contrast, saturation and hue.
    #[schemars(extend("x-default" = "the colours of the image"))]
    pub jitter: Option<Jitter>,
    /// Probability that colour is taken away.
    #[schemars(range(min = 0.0, max = 1.0), example = 0.2, extend("x-unit" = "probability"))]
    pub grey_probability: f64,
    /// Gaussian blur.
    #[schemars(extend("x-default" = "no blur"))]
    pub blur: Option<Blur>,
    /// Probability that left and right are exchanged.
    #[schemars(range(min = 0.0, max = 1.0), example = 0.5, extend("x-unit" = "probability"))]
    pub flip_probability: f64,
}

/// A random part of the image, resized to the model's input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResizedCrop {
    /// Least and greatest part of the image's area.
    #[schemars(
        example = [0.2, 1.0],
        extend(
            "items" = { "type": "number", "exclusiveMinimum": 0, "maximum": 1 },
            "x-range" = "each above 0 and at most 1, the first at most the second"
        )
    )]
    pub scale: [f64; 2],
    /// Least and greatest width divided by height.
    #[serde(default = "ResizedCrop::common_ratio")]
    #[schemars(
        example = [0.75, 1.333],
        extend(
            "items" = { "type": "number", "exclusiveMinimum": 0, "maximum": 100 },
            "x-range" = "each above 0 and at most 100, the first at most the second"
        )
    )]
    pub ratio: [f64; 2],
}

impl ResizedCrop {
    fn common_ratio() -> [f64; 2] {
        [3.0 / 4.0, 4.0 / 3.0]
    }
}

/// A random window of a padded image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PaddedCrop {
    /// Black added on each side.
    #[schemars(range(max = 1024), example = 4, extend("x-unit" = "pixels of the model's input"))]
    pub padding: u32,
}

/// Random colours, as by torchvision's `ColorJitter`: the four changes come in random order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Jitter {
    /// Greatest change of the factor of brightness, which is 1 without it.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0), example = 0.4)]
    pub brightness: f64,
    /// Greatest change of the factor of contrast, which is 1 without it.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0), example = 0.4)]
    pub contrast: f64,
    /// Greatest change of the factor of saturation, which is 1 without it.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0), example = 0.4)]
    pub saturation: f64,
    /// Greatest shift of the hue, either way.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.5), example = 0.1, extend("x-unit" = "parts of the colour circle"))]
    pub hue: f64,
    /// Probability that an image is changed at all.
    #[serde(default = "always")]
    #[schemars(range(min = 0.0, max = 1.0), example = 0.8, extend("x-unit" = "probability"))]
    pub probability: f64,
}

/// Gaussian blur.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Blur {
    /// Least and greatest standard deviation.
    #[schemars(
        example = [0.1, 2.0],
        extend(
            "items" = { "type": "number", "exclusiveMinimum": 0, "maximum": 100 },
            "x-unit" = "pixels of the model's input",
            "x-range" = "each above 0 and at most 100, the first at most the second"
        )
    )]
    pub sigma: [f64; 2],
    /// Probability that an image is blurred.
    #[serde(default = "always")]
    #[schemars(range(min = 0.0, max = 1.0), example = 0.5, extend("x-unit" = "probability"))]
    pub probability: f64,
}

/// A setting outside its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{setting}` is {found}; expected {expected}")]
pub struct OutOfRange {
    /// The setting, with the section it stands in.
    pub setting: &'static str,
    /// Its value.
    pub found: String,
    /// What may stand there.
    pub expected: &'static str,
}

fn always() -> f64 {
    1.0
}

impl Augmentation {
    /// The one of NOLA's few-shot experiments on ViT.
    ///
    /// # Source
    /// `vit/train_timm.py` of the authors' 2024 code.
    pub fn few_shot() -> Self {
        Self {
            resized_crop: Some(ResizedCrop { scale: [0.2, 1.0], ratio: ResizedCrop::common_ratio() }),
            padded_crop: None,
            jitter: Some(Jitter {
                brightness: 0.4,
                contrast: 0.4,
                saturation: 0.4,
                hue: 0.1,
                probability: 0.8,
            }),
            grey_probability: 0.2,
            blur: Some(Blur { sigma: [0.1, 2.0], probability: 0.5 }),
            flip_probability: 0.5,
        }
    }

    /// The usual one for training on images of 32 pixels from scratch: shifts of up to 4 pixels, and flips.
    pub fn small_images() -> Self {
        Self { padded_crop: Some(PaddedCrop { padding: 4 }), flip_probability: 0.5, ..Self::default() }
    }

    /// Checks every range; an error names the setting as recipes do.
    ///
    /// # Errors
    /// The first setting that lies outside.
    pub fn check(&self) -> Result<(), OutOfRange> {
        let outside = |setting, found: String, expected| Err(OutOfRange { setting, found, expected });
        let probabilities = [
            ("data.augment.grey_probability", self.grey_probability),
            ("data.augment.flip_probability", self.flip_probability),
            (
                "data.augment.jitter.probability",
                self.jitter.as_ref().map_or(0.0, |jitter| jitter.probability),
            ),
            ("data.augment.blur.probability", self.blur.as_ref().map_or(0.0, |blur| blur.probability)),
        ];
        for (setting, value) in probabilities {
            if !(0.0..=1.0).contains(&value) {
                return outside(setting, value.to_string(), "a probability, 0 to 1");
            }
        }
        let rising =
            |[low, high]: [f64; 2], least: f64, most: f64| least < low && low <= high && high <= most;
        if let Some(crop) = &self.resized_crop {
            if !rising(crop.scale, 0.0, 1.0) {
                return outside(
                    "data.augment.resized_crop.scale",
                    format!("{:?}", crop.scale),
                    "two rising parts of the area, each above 0 and at most 1",
                );
            }
            if !rising(crop.ratio, 0.0, 100.0) {
                return outside(
                    "data.augment.resized_crop.ratio",
                    format!("{:?}", crop.ratio),
                    "two rising ratios, each above 0 and at most 100",
                );
            }
        }
        if let Some(crop) = self.padded_crop.as_ref().filter(|crop| crop.padding > 1024) {
            return outside(
                "data.augment.padded_crop.padding",
                crop.padding.to_string(),
                "at most 1024 pixels",
            );
        }
        if let Some(blur) = self.blur.as_ref().filter(|blur| !rising(blur.sigma, 0.0, 100.0)) {
            return outside(
                "data.augment.blur.sigma",
                format!("{:?}", blur.sigma),
                "two rising deviations in pixels, each above 0 and at most 100",
            );
        }
        let Some(jitter) = &self.jitter else { return Ok(()) };
        let strengths = [
            ("data.augment.jitter.brightness", jitter.brightness, 1.0, "0 to 1"),
            ("data.augment.jitter.contrast", jitter.contrast, 1.0, "0 to 1"),
            ("data.augment.jitter.saturation", jitter.saturation, 1.0, "0 to 1"),
            ("data.augment.jitter.hue", jitter.hue, 0.5, "0 to 0.5"),
        ];
        match strengths.into_iter().find(|(_, value, most, _)| !(0.0..=*most).contains(value)) {
            Some((setting, value, _, expected)) => outside(setting, value.to_string(), expected),
            None => Ok(()),
        }
    }

    /// The input of a model for a training image, changed at random.
    ///
    /// # Shapes
    /// - output: `[3, height, width]`, row-major
    pub fn input(&self, image: &RgbImage, preprocessor: &Preprocessor, rng: &mut impl Rng) -> Vec<f32> {
        let fitted = match self.resized_crop(image, rng) {
            Some(region) => preprocessor.stretched(&region),
            None => preprocessor.fitted(image),
        };
        preprocessor.normalised(&self.changed(fitted, rng))
    }

    /// A random part of the image, before it is resized; none if the whole is wanted.
    fn resized_crop(&self, image: &RgbImage, rng: &mut impl Rng) -> Option<RgbImage> {
        let crop = self.resized_crop.as_ref()?;
        let (width, height) = image.dimensions();
        let area = f64::from(width) * f64::from(height);
        // torchvision's way: ten tries, then the middle.
        for _ in 0..10 {
            let part = area * between(crop.scale, rng);
            let ratio = between(crop.ratio.map(f64::ln), rng).exp();
            let (wide, high) = ((part * ratio).sqrt().round() as u32, (part / ratio).sqrt().round() as u32);
            if (1..=width).contains(&wide) && (1..=height).contains(&high) {
                let (x, y) = (rng.random_range(0..=width - wide), rng.random_range(0..=height - high));
                return Some(imageops::crop_imm(image, x, y, wide, high).to_image());
            }
        }
        let [least, most] = crop.ratio;
        let (wide, high) = (f64::from(width), f64::from(height));
        let (wide, high) = (
            wide.min((high * most).round()).max(1.0) as u32,
            high.min((wide / least).round()).max(1.0) as u32,
        );
        Some(imageops::crop_imm(image, (width - wide) / 2, (height - high) / 2, wide, high).to_image())
    }

    /// The image after every change that keeps its size.
    fn changed(&self, mut image: RgbImage, rng: &mut impl Rng) -> RgbImage {
        if let Some(PaddedCrop { padding }) = self.padded_crop {
            image = shifted(&image, padding, rng);
        }
        if let Some(jitter) = self.jitter.as_ref().filter(|jitter| rng.random_bool(jitter.probability)) {
            image = jitter.apply(image, rng);
        }
        if rng.random_bool(self.grey_probability) {
            image = blended(&image, |pixel| [grey(pixel); 3], 0.0);
        }
        if let Some(blur) = self.blur.as_ref().filter(|blur| rng.random_bool(blur.probability)) {
            image = imageops::blur(&image, between(blur.sigma, rng) as f32);
        }
        if rng.random_bool(self.flip_probability) {
            imageops::flip_horizontal_in_place(&mut image);
        }
        image
    }
}

impl Jitter {
    fn apply(&self, mut image: RgbImage, rng: &mut impl Rng) -> RgbImage {
        let mut factor = |strength: f64| between([1.0 - strength, 1.0 + strength], rng) as f32;
        let brightness = factor(self.brightness);
        let contrast = factor(self.contrast);
        let saturation = factor(self.saturation);
        let turn = between([-self.hue, self.hue], rng) * 360.0;
        let mut order = [0, 1, 2, 3];
        order.shuffle(rng);
        for change in order {
            image = match change {
                0 => blended(&image, |_| [0.0; 3], brightness),
                1 => {
                    let sum: f64 = image.pixels().map(|pixel| f64::from(grey(pixel))).sum();
                    let mean = (sum / f64::from(image.width() * image.height())).round() as f32;
                    blended(&image, |_| [mean; 3], contrast)
                }
                2 => blended(&image, |pixel| [grey(pixel); 3], saturation),
                _ => imageops::huerotate(&image, turn.round() as i32),
            };
        }
        image
    }
}

/// `other + (pixel - other) * factor`, as PIL's `ImageEnhance` does.
fn blended(image: &RgbImage, other: impl Fn(&Rgb<u8>) -> [f32; 3], factor: f32) -> RgbImage {
    let mut changed = image.clone();
    for pixel in changed.pixels_mut() {
        let other = other(pixel);
        for (value, other) in pixel.0.iter_mut().zip(other) {
            // `as` clamps to 0..=255.
            *value = (other + (f32::from(*value) - other) * factor) as u8;
        }
    }
    changed
}

/// ITU-R 601-2 luma, rounded as PIL's `convert("L")` gives it.
fn grey(pixel: &Rgb<u8>) -> f32 {
    let [red, green, blue] = pixel.0.map(u32::from);
    ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16) as f32
}

/// A window of the image's size, anywhere in the image with `padding` black pixels on each side.
fn shifted(image: &RgbImage, padding: u32, rng: &mut impl Rng) -> RgbImage {
    let mut offset = || i64::from(padding) - i64::from(rng.random_range(0..=2 * padding));
    let (x, y) = (offset(), offset());
    let mut window = RgbImage::new(image.width(), image.height());
    imageops::replace(&mut window, image, x, y);
    window
}

/// Uniform in a closed range.
fn between([low, high]: [f64; 2], rng: &mut impl Rng) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn pattern() -> RgbImage {
        RgbImage::from_fn(32, 32, |x, y| Rgb([(x * 8) as u8, (y * 8) as u8, (x * y) as u8]))
    }

    fn trained(augmentation: &Augmentation, seed: u64) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        augmentation.input(&pattern(), &Preprocessor::standard(16), &mut random)
    }

    fn each_alone() -> Vec<Augmentation> {
        let Augmentation { resized_crop, jitter, blur, .. } = Augmentation::few_shot();
        let none = Augmentation::default;
        vec![
            Augmentation { resized_crop, ..none() },
            Augmentation { padded_crop: Some(PaddedCrop { padding: 4 }), ..none() },
            Augmentation { jitter, ..none() },
            Augmentation { grey_probability: 0.5, ..none() },
            Augmentation { blur, ..none() },
            Augmentation { flip_probability: 0.5, ..none() },
        ]
    }

    #[test]
    fn by_default_a_training_image_is_an_evaluation_image() {
        assert_eq!(trained(&Augmentation::default(), 1), Preprocessor::standard(16).evaluate(&pattern()));
    }

    #[test]
    fn each_change_changes_some_images_by_itself() {
        for augmentation in each_alone() {
            let plain = trained(&Augmentation::default(), 0);
            assert!((0..20).any(|seed| trained(&augmentation, seed) != plain), "{augmentation:?}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_image_and_another_seed_another() {
        let all = Augmentation::few_shot();
        assert_eq!(trained(&all, 3), trained(&all, 3));
        assert_ne!(trained(&all, 3), trained(&all, 4));
    }

    #[test]
    fn a_crop_lies_inside_even_the_thinnest_image() {
        let augmentation = Augmentation::few_shot();
        for (width, height) in [(1, 1), (500, 1), (1, 500), (3, 2)] {
            for seed in 0..50 {
                let image = RgbImage::new(width, height);
                let crop = augmentation.resized_crop(&image, &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
                assert!((1..=width).contains(&crop.width()) && (1..=height).contains(&crop.height()));
            }
        }
    }

    #[test]
    fn a_shifted_image_keeps_its_size_and_moves_by_at_most_the_padding() {
        let mut marked = RgbImage::new(9, 9);
        marked.put_pixel(4, 4, Rgb([255; 3]));
        for seed in 0..50 {
            let window = shifted(&marked, 2, &mut ChaCha8Rng::seed_from_u64(seed));
            let (x, y, _) = window.enumerate_pixels().find(|(_, _, pixel)| pixel[0] == 255).unwrap();
            assert!((2..=6).contains(&x) && (2..=6).contains(&y));
        }
    }

    #[test]
    fn a_setting_out_of_range_is_refused_by_name() {
        let mut augmentation = Augmentation { flip_probability: 1.5, ..Augmentation::default() };
        assert!(
            augmentation.check().unwrap_err().to_string().contains("`data.augment.flip_probability` is 1.5")
        );
        augmentation = Augmentation::few_shot();
        augmentation.resized_crop = Some(ResizedCrop { scale: [0.5, 0.2], ratio: [0.75, 1.33] });
        assert!(augmentation.check().unwrap_err().to_string().contains("`data.augment.resized_crop.scale`"));
        assert!(Augmentation::few_shot().check().is_ok() && Augmentation::small_images().check().is_ok());
    }
}
