//! Image files to normalised pixels, as a model's `preprocessor_config.json` asks for.
//!
//! Pixels are those of PIL: decoded pictures become RGB as by `convert("RGB")` and are resized with its antialiasing.

mod resize;

use std::io::Cursor;
use std::ops::Range;
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits, RgbImage, imageops};
use rand::Rng;
use serde_json::{Value, json};

use crate::checkpoint::{parse_json, read_bounded};
use crate::fields::Fields;
use crate::{Augmentation, Checkpoint, Error};
pub use resize::Filter;
use resize::{resize, resize_part};

/// Longest side that is decoded, in pixels.
const MAX_SIDE: u32 = 16384;
/// Memory a decoded picture may take, in bytes.
const MAX_BYTES: u64 = 256 << 20;
/// Largest size of the model's input that a configuration may ask for, in pixels a side.
const MAX_OUTPUT: usize = 4096;

/// Decodes a picture whose format is told by its content, whatever `file`, which only names it, ends in.
///
/// The result is upright (EXIF rotation is applied) and RGB: grey is repeated, palettes are looked up, alpha is dropped
/// as PIL's `convert("RGB")` does, 16-bit values are scaled to 8 bits; of an animation it is the first picture.
///
/// # Errors
/// If it is no picture, cut short, or too large to be one.
pub fn decode(bytes: &[u8], file: &Path) -> Result<RgbImage, Error> {
    let failed = |source| match source {
        ImageError::Limits(_) => too_large(file),
        source => Error::Image { file: file.to_path_buf(), source },
    };
    if is_cut_short(bytes) {
        return Err(Error::ImageCutShort { file: file.to_path_buf() });
    }
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MAX_SIDE), Some(MAX_SIDE));
    limits.max_alloc = Some(MAX_BYTES);
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| failed(ImageError::IoError(error)))?;
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(failed)?;
    if decoder.total_bytes() > MAX_BYTES {
        return Err(too_large(file));
    }
    // A picture whose EXIF block cannot be read is still a picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(failed)?;
    picture.apply_orientation(orientation);
    Ok(picture.into_rgb8())
}

fn too_large(file: &Path) -> Error {
    Error::ImageTooLarge { file: file.to_path_buf(), max_side: MAX_SIDE, max_bytes: MAX_BYTES }
}

/// Whether a JPEG lacks its end marker; the decoder would fill the rest with grey.
fn is_cut_short(bytes: &[u8]) -> bool {
    let Some(mut rest) = bytes.strip_prefix(&[0xff, 0xd8]) else {
        return false;
    };
    // Walk the segments up to the first scan, since an embedded thumbnail has an end marker of its own.
    while let &[0xff, marker, high, low, ..] = rest {
        if marker == 0xda {
            return !rest.windows(2).any(|pair| pair == [0xff, 0xd9]);
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        // Fill bytes before a marker are allowed.
        let step = if marker == 0xff { 1 } else { 2 + length };
        rest = rest.get(step..).unwrap_or_default();
    }
    true
}

/// How a picture becomes the input of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessor {
    resize: Option<Resize>,
    filter: Filter,
    /// Height and width of what comes out, in pixels.
    output: [usize; 2],
    /// Multiplies a value of 0 to 255; none to leave it.
    rescale: Option<f64>,
    /// Per channel, subtracted and divided by after rescaling; none to leave it.
    normalise: Option<[[f32; 3]; 2]>,
}

/// What a picture is resized to before it is cropped to the output size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resize {
    /// Exactly this height and width, in pixels.
    Exact([usize; 2]),
    /// The shorter side this long, in pixels; the other keeps the proportion.
    ShortestEdge(usize),
}

impl Preprocessor {
    /// The one google/vit models use: bilinear to a square, values from -1 to 1.
    pub fn standard(image_size: usize) -> Self {
        Self {
            resize: Some(Resize::Exact([image_size; 2])),
            filter: Filter::Bilinear,
            output: [image_size; 2],
            rescale: Some(1.0 / 255.0),
            normalise: Some([[0.5; 3], [0.5; 3]]),
        }
    }

    /// The one that belongs to a checkpoint: of `preprocessor_config.json`, of timm's `pretrained_cfg`, or the
    /// [standard](Self::standard) one for `image_size` where there is neither.
    ///
    /// # Errors
    /// If the file holds a value that cannot be.
    pub fn of_checkpoint(checkpoint: &Checkpoint, image_size: usize) -> Result<Self, Error> {
        let file = checkpoint.folder().join("preprocessor_config.json");
        if file.exists() {
            return Self::from_json(&parse_json(&file, &read_bounded(&file)?)?, &file);
        }
        match checkpoint.config().get("pretrained_cfg") {
            Some(timm) if timm.is_object() => Self::from_timm(timm, &checkpoint.config_file(), image_size),
            Some(_) | None => Ok(Self::standard(image_size)),
        }
    }

    /// Reads a `preprocessor_config.json`; absent keys have the defaults of `ViTImageProcessor`.
    ///
    /// # Errors
    /// If a value cannot be, or if pictures would come out in different sizes. The error names `file`.
    pub fn from_json(config: &Value, file: &Path) -> Result<Self, Error> {
        let fields = Fields { json: config, file };
        let size = sides(&fields, "size")?.unwrap_or(Resize::Exact([224; 2]));
        let crop = match fields.flag("do_center_crop", false)? {
            true => sides(&fields, "crop_size")?.or(Some(Resize::Exact([224; 2]))),
            false => None,
        };
        let output = match (crop, size) {
            (Some(Resize::Exact(output)), _) | (None, Resize::Exact(output)) => output,
            (Some(Resize::ShortestEdge(_)), _) => {
                return Err(fields.wrong("crop_size", "`height` and `width`"));
            }
            (None, Resize::ShortestEdge(_)) => {
                return Err(
                    fields.wrong("size", "`height` and `width`, or `do_center_crop` with a `crop_size`")
                );
            }
        };
        let rescale = fields
            .flag("do_rescale", true)?
            .then(|| fields.float("rescale_factor", 1.0 / 255.0))
            .transpose()?;
        let normalise = fields.flag("do_normalize", true)?.then(|| {
            Ok([channels(&fields, "image_mean", [0.5; 3])?, deviations(&fields, "image_std", [0.5; 3])?])
        });
        Ok(Self {
            resize: fields.flag("do_resize", true)?.then_some(size),
            filter: pil_filter(&fields)?,
            output,
            rescale,
            normalise: normalise.transpose()?,
        })
    }

    /// Reads timm's `pretrained_cfg`: the shorter side (or both, if squashed) to `size / crop_pct`, then the middle.
    fn from_timm(config: &Value, file: &Path, image_size: usize) -> Result<Self, Error> {
        let fields = Fields { json: config, file };
        let crop_pct = fields.float("crop_pct", 0.875)?;
        if crop_pct <= 0.0 || crop_pct > 1.0 {
            return Err(fields.wrong("crop_pct", "more than 0, at most 1"));
        }
        let name = config["interpolation"].as_str().unwrap_or("bilinear");
        let filter = TIMM_FILTERS.iter().find(|(known, _)| *known == name).map(|(_, filter)| *filter);
        let filter = filter.ok_or_else(|| {
            fields.wrong("interpolation", "`bilinear`, `bicubic`, `lanczos`, `box` or `hamming`")
        })?;
        let side = (image_size as f64 / crop_pct) as usize;
        let resize = match config["crop_mode"].as_str() {
            Some("center") | None => Resize::ShortestEdge(side),
            Some("squash") => Resize::Exact([side; 2]),
            Some(_) => return Err(fields.wrong("crop_mode", "`center` or `squash`")),
        };
        const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];
        Ok(Self {
            resize: Some(resize),
            filter,
            output: [image_size; 2],
            rescale: Some(1.0 / 255.0),
            normalise: Some([
                channels(&fields, "mean", IMAGENET[0])?,
                deviations(&fields, "std", IMAGENET[1])?,
            ]),
        })
    }

    /// The `preprocessor_config.json` of this.
    pub fn to_json(&self) -> Value {
        let mut config = json!({
            "image_processor_type": "ViTImageProcessor",
            "do_resize": self.resize.is_some(),
            "resample": pil_code(self.filter),
            "do_rescale": self.rescale.is_some(),
            "do_normalize": self.normalise.is_some(),
        });
        let output = json!({ "height": self.output[0], "width": self.output[1] });
        config["size"] = match self.resize {
            Some(Resize::ShortestEdge(side)) => json!({ "shortest_edge": side }),
            Some(Resize::Exact([height, width])) => json!({ "height": height, "width": width }),
            None => output.clone(),
        };
        if config["size"] != output {
            // Transformers' ViT processor knows no crop; CLIP's is the same one with it.
            config["image_processor_type"] = "CLIPImageProcessor".into();
            config["do_center_crop"] = true.into();
            config["crop_size"] = output;
        }
        if let Some(factor) = self.rescale {
            config["rescale_factor"] = factor.into();
        }
        if let Some([mean, std]) = self.normalise {
            (config["image_mean"], config["image_std"]) = (json!(plain(mean)), json!(plain(std)));
        }
        config
    }

    /// timm's `pretrained_cfg` of this, which timm reads from `config.json`.
    pub fn to_timm_json(&self) -> Value {
        let [height, width] = self.output;
        let (crop_pct, crop_mode) = match self.resize {
            Some(Resize::ShortestEdge(side)) => (height.min(width) as f64 / side as f64, "center"),
            Some(Resize::Exact(_)) | None => (1.0, "squash"),
        };
        let [mean, std] = self.normalise.unwrap_or([[0.0; 3], [1.0; 3]]).map(plain);
        json!({
            "input_size": [3, height, width],
            "interpolation": timm_filter(self.filter),
            "crop_pct": crop_pct,
            "crop_mode": crop_mode,
            "mean": mean,
            "std": std,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        })
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

    /// The input of the model for a picture, always the same.
    ///
    /// # Shapes
    /// - output: `[3, height, width]`, row-major
    pub fn evaluate(&self, picture: &RgbImage) -> Vec<f32> {
        self.normalised(&self.fitted(picture))
    }

    /// The input of the model for a training picture, changed at random.
    ///
    /// # Shapes
    /// - output: `[3, height, width]`, row-major
    pub fn train(&self, picture: &RgbImage, augmentation: &Augmentation, rng: &mut impl Rng) -> Vec<f32> {
        let [height, width] = self.output;
        let fitted = match augmentation.resized_crop(picture, rng) {
            Some(region) => resize(&region, width, height, self.filter),
            None => self.fitted(picture),
        };
        self.normalised(&augmentation.changed(fitted, rng))
    }

    /// Resized, and cropped (or padded with black) around the middle to the output size.
    fn fitted(&self, picture: &RgbImage) -> RgbImage {
        let (from_width, from_height) = (picture.width() as usize, picture.height() as usize);
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
        let (columns, x) = middle(width, out_width);
        let (rows, y) = middle(height, out_height);
        let part = resize_part(picture, [width, height], [columns, rows], self.filter);
        if part.dimensions() == (out_width as u32, out_height as u32) {
            return part;
        }
        let mut output = RgbImage::new(out_width as u32, out_height as u32);
        imageops::replace(&mut output, &part, x, y);
        output
    }

    /// Rescaled, normalised, and channels first.
    fn normalised(&self, picture: &RgbImage) -> Vec<f32> {
        let factor = self.rescale.unwrap_or(1.0);
        let [mean, std] = self.normalise.unwrap_or([[0.0; 3], [1.0; 3]]);
        let mut pixels = Vec::with_capacity(picture.len());
        for channel in 0..3 {
            // A byte has 256 values, so each is worked out once.
            let table: [f32; 256] =
                std::array::from_fn(|byte| ((byte as f64 * factor) as f32 - mean[channel]) / std[channel]);
            pixels.extend(picture.pixels().map(|pixel| table[usize::from(pixel[channel])]));
        }
        pixels
    }
}

/// Which of `inner` places the middle `outer` of them are, and where their first comes to lie.
fn middle(inner: usize, outer: usize) -> (Range<usize>, i64) {
    let offset = (outer as i64 - inner as i64).div_euclid(2);
    let first = offset.min(0).unsigned_abs() as usize;
    (first..inner.min(first + outer), offset.max(0))
}

/// `size` as a number, `{height, width}` or `{shortest_edge}`.
fn sides(fields: &Fields, field: &'static str) -> Result<Option<Resize>, Error> {
    let Some(value) = fields.json.get(field).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let side = |value: &Value| {
        value.as_u64().filter(|side| (1..=MAX_OUTPUT as u64).contains(side)).map(|side| side as usize)
    };
    let exact = || Some(Resize::Exact([side(&value["height"])?, side(&value["width"])?]));
    let shortest = || {
        side(&value["shortest_edge"])
            .filter(|_| value.get("longest_edge").is_none())
            .map(Resize::ShortestEdge)
    };
    // `ViTImageProcessor` takes a bare number as both sides.
    let square = || side(value).map(|side| Resize::Exact([side; 2]));
    exact().or_else(shortest).or_else(square).map(Some).ok_or_else(|| {
        fields.wrong(
            field,
            &format!("a number, `height` and `width`, or `shortest_edge`, of 1 to {MAX_OUTPUT} pixels"),
        )
    })
}

/// Three finite numbers.
fn channels(fields: &Fields, field: &'static str, absent: [f32; 3]) -> Result<[f32; 3], Error> {
    let Some(value) = fields.json.get(field).filter(|value| !value.is_null()) else {
        return Ok(absent);
    };
    let numbers =
        value.as_array().into_iter().flatten().map(|number| number.as_f64().map(|number| number as f32));
    let numbers =
        numbers.collect::<Option<Vec<f32>>>().and_then(|numbers| <[f32; 3]>::try_from(numbers).ok());
    numbers
        .filter(|numbers| numbers.iter().all(|number| number.is_finite()))
        .ok_or_else(|| fields.wrong(field, "three numbers"))
}

/// Three numbers to divide by.
fn deviations(fields: &Fields, field: &'static str, absent: [f32; 3]) -> Result<[f32; 3], Error> {
    let numbers = channels(fields, field, absent)?;
    let positive = numbers.iter().all(|&number| number > 0.0);
    positive.then_some(numbers).ok_or_else(|| fields.wrong(field, "three numbers above 0"))
}

/// Numbers as they were written: 0.485 as f32 would otherwise come out as 0.48500001430511475.
fn plain(values: [f32; 3]) -> [f64; 3] {
    values.map(|value| value.to_string().parse::<f64>().unwrap_or(value.into()))
}

/// Every filter with timm's name for it.
const TIMM_FILTERS: [(&str, Filter); 5] = [
    ("bilinear", Filter::Bilinear),
    ("bicubic", Filter::Bicubic),
    ("lanczos", Filter::Lanczos),
    ("box", Filter::Box),
    ("hamming", Filter::Hamming),
];

fn timm_filter(filter: Filter) -> &'static str {
    TIMM_FILTERS.iter().find(|(_, known)| *known == filter).map_or("bilinear", |(name, _)| name)
}

fn pil_filter(fields: &Fields) -> Result<Filter, Error> {
    let code = fields.number("resample", 2, 0..=5)?;
    let filter = Filter::CODES.iter().find(|(known, _)| *known == code).map(|(_, filter)| *filter);
    filter.ok_or_else(|| {
        fields.wrong("resample", "1 (Lanczos), 2 (bilinear), 3 (bicubic), 4 (box) or 5 (Hamming)")
    })
}

fn pil_code(filter: Filter) -> usize {
    Filter::CODES.iter().find(|(_, known)| *known == filter).map_or(2, |(code, _)| *code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ImageFormat, Luma, LumaA, Rgb, Rgba};

    /// The picture the golden pixels were made from.
    fn pattern(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            Rgb([0, 1, 2].map(|c| ((x * 37 + y * 91 + c * 53 + x * y * 7) % 256) as u8))
        })
    }

    fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn decoded(bytes: &[u8]) -> Result<RgbImage, Error> {
        decode(bytes, Path::new("a.png"))
    }

    fn preprocessor(config: Value) -> Result<Preprocessor, Error> {
        Preprocessor::from_json(&config, Path::new("preprocessor_config.json"))
    }

    #[test]
    fn a_picture_is_told_by_its_content_not_its_name() {
        let bytes = encoded(pattern(5, 4), ImageFormat::Png);
        assert_eq!(decode(&bytes, Path::new("named.jpg")).unwrap(), pattern(5, 4));
    }

    #[test]
    fn grey_becomes_three_equal_channels() {
        let grey = image::GrayImage::from_pixel(2, 2, Luma([77]));
        assert_eq!(decoded(&encoded(grey, ImageFormat::Png)).unwrap().into_raw(), [77; 12]);
    }

    #[test]
    fn alpha_is_dropped_and_leaves_the_colour_under_it() {
        let clear = image::RgbaImage::from_pixel(1, 1, Rgba([10, 20, 30, 0]));
        assert_eq!(decoded(&encoded(clear, ImageFormat::Png)).unwrap().into_raw(), [10, 20, 30]);
        let clear = image::GrayAlphaImage::from_pixel(1, 1, LumaA([10, 0]));
        assert_eq!(decoded(&encoded(clear, ImageFormat::Png)).unwrap().into_raw(), [10; 3]);
    }

    #[test]
    fn sixteen_bits_are_scaled_to_eight() {
        let deep =
            image::ImageBuffer::<Luma<u16>, _>::from_fn(3, 1, |x, _| Luma([[0, 0x8080, 0xffff][x as usize]]));
        assert_eq!(
            decoded(&encoded(deep, ImageFormat::Png)).unwrap().into_raw(),
            [0, 0, 0, 128, 128, 128, 255, 255, 255]
        );
    }

    #[test]
    fn a_palette_is_looked_up() {
        // A 2x1 GIF of red and blue, since the encoder here writes its own palettes.
        let picture =
            RgbImage::from_fn(2, 1, |x, _| if x == 0 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) });
        let rgba = DynamicImage::from(picture.clone()).into_rgba8();
        assert_eq!(decoded(&encoded(rgba, ImageFormat::Gif)).unwrap(), picture);
    }

    #[test]
    fn exif_rotation_is_applied() {
        let mut bytes = encoded(RgbImage::from_pixel(16, 8, Rgb([9, 9, 9])), ImageFormat::Jpeg);
        // One EXIF entry: orientation (0x0112), short, 6 = turn by a quarter to the right.
        let exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let mut segment = vec![0xff, 0xe1];
        segment.extend(u16::to_be_bytes(exif.len() as u16 + 2));
        segment.extend(exif);
        bytes.splice(2..2, segment);
        assert_eq!(decoded(&bytes).unwrap().dimensions(), (8, 16));
    }

    #[test]
    fn every_picture_that_is_cut_short_is_refused() {
        for format in
            [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff]
        {
            let whole = encoded(pattern(32, 32), format);
            assert!(decoded(&whole).is_ok(), "{format:?}");
            for part in [0, 1, 9, whole.len() / 2, whole.len() - 20] {
                let error = decoded(&whole[..part]).expect_err(&format!("{format:?} cut to {part} bytes"));
                assert!(error.to_string().starts_with("a.png: "), "{error}");
            }
        }
    }

    #[test]
    fn a_bomb_is_refused_by_its_header() {
        let mut bytes = encoded(pattern(2, 2), ImageFormat::Bmp);
        bytes[18..22].copy_from_slice(&60_000u32.to_le_bytes());
        bytes[22..26].copy_from_slice(&60_000u32.to_le_bytes());
        assert!(matches!(decoded(&bytes), Err(Error::ImageTooLarge { .. })));
        bytes[18..22].copy_from_slice(&16_000u32.to_le_bytes());
        bytes[22..26].copy_from_slice(&16_000u32.to_le_bytes());
        assert!(matches!(decoded(&bytes), Err(Error::ImageTooLarge { .. })));
    }

    #[test]
    fn text_that_calls_itself_a_picture_is_refused() {
        assert!(matches!(decoded(b"<html>not found</html>"), Err(Error::Image { .. })));
    }

    #[test]
    fn pixels_come_out_channels_first_rescaled_and_normalised() {
        let config = json!({ "size": { "height": 1, "width": 2 }, "image_mean": [0.5, 0.0, 0.0], "image_std": [0.5, 1.0, 2.0] });
        let picture = RgbImage::from_raw(2, 1, vec![0, 51, 102, 255, 0, 255]).unwrap();
        let pixels = preprocessor(config).unwrap().evaluate(&picture);
        assert_eq!(pixels, [-1.0, 1.0, 0.2, 0.0, 0.2, 0.5]);
    }

    #[test]
    fn each_step_can_be_left_out() {
        let config = json!({ "size": 2, "do_resize": false, "do_rescale": false, "do_normalize": false });
        let picture = pattern(2, 2);
        let pixels = preprocessor(config).unwrap().evaluate(&picture);
        assert_eq!(pixels[..4], picture.pixels().map(|pixel| f32::from(pixel[0])).collect::<Vec<_>>());
    }

    #[test]
    fn the_three_forms_of_a_size_are_read() {
        let sized = |size: Value| preprocessor(json!({ "size": size })).map(|read| read.output_size());
        assert_eq!(sized(json!(32)).unwrap(), [32, 32]);
        assert_eq!(sized(json!({ "height": 24, "width": 48 })).unwrap(), [24, 48]);
        assert!(
            sized(json!({ "shortest_edge": 32 })).is_err(),
            "without a crop the output has no fixed size"
        );
        let crop = json!({ "height": 28, "width": 28 });
        let read = preprocessor(
            json!({ "size": { "shortest_edge": 32 }, "do_center_crop": true, "crop_size": crop }),
        );
        assert_eq!(read.unwrap().output_size(), [28, 28]);
    }

    #[test]
    fn the_middle_is_cropped_after_the_shorter_side_is_fitted() {
        let config = json!({ "size": { "shortest_edge": 4 }, "do_center_crop": true, "crop_size": 4, "do_rescale": false, "do_normalize": false });
        let striped = RgbImage::from_fn(8, 4, |x, _| Rgb([x as u8, 0, 0]));
        let pixels = preprocessor(config).unwrap().evaluate(&striped);
        assert_eq!(pixels[..4], [2.0, 3.0, 4.0, 5.0]);
    }

    #[test]
    fn a_value_that_cannot_be_is_refused_by_name() {
        for (config, field) in [
            (json!({ "size": { "height": 0, "width": 32 } }), "`size`"),
            (json!({ "size": 1_000_000 }), "`size`"),
            (json!({ "image_std": [0.0, 1.0, 1.0] }), "`image_std`"),
            (json!({ "image_mean": [0.5] }), "`image_mean`"),
            (json!({ "resample": 0 }), "`resample`"),
            (json!({ "do_rescale": "yes" }), "`do_rescale`"),
        ] {
            let message = preprocessor(config).unwrap_err().to_string();
            assert!(
                message.starts_with("preprocessor_config.json: ") && message.contains(field),
                "{message}"
            );
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let cropped = json!({ "size": { "shortest_edge": 256 }, "resample": 3, "do_center_crop": true, "crop_size": 224, "image_mean": [0.485, 0.456, 0.406] });
        for written in [Preprocessor::standard(32), preprocessor(cropped).unwrap()] {
            assert_eq!(preprocessor(written.to_json()).unwrap(), written);
            let [size, _] = written.output_size();
            let timm = Preprocessor::from_timm(&written.to_timm_json(), Path::new("config.json"), size);
            assert_eq!(timm.unwrap(), written);
        }
    }
}
