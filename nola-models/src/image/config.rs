//! Reading and writing of `preprocessor_config.json` and of timm's `pretrained_cfg`.

use std::path::Path;

use serde_json::{Value, json};

use super::processors::Defaults;
use super::{Centre, Filter, Preprocessor, Resize};
use crate::checkpoint::{parse_json, read_bounded};
use crate::fields::Fields;
use crate::{Checkpoint, Error};

/// Largest size of the model's input that a configuration may ask for, in pixels a side.
const MAX_OUTPUT: usize = 4096;

impl Preprocessor {
    /// The one that belongs to a checkpoint: of `preprocessor_config.json`, of timm's `pretrained_cfg`, or the
    /// [standard](Self::standard) one for `image_size` where there is neither.
    ///
    /// # Errors
    /// If the file holds a value that cannot be.
    pub fn of_checkpoint(checkpoint: &Checkpoint, image_size: usize) -> Result<Self, Error> {
        if let Some(read) = Self::of_folder(checkpoint.folder())? {
            return Ok(read);
        }
        let config = checkpoint.config();
        let of_hub = config["architecture"].as_str().is_some_and(is_of_timms_hub);
        match config.get("pretrained_cfg").filter(|timm| timm.is_object()) {
            Some(timm) => Self::from_timm(timm, &checkpoint.config_file(), image_size),
            None if of_hub => Self::from_timm(config, &checkpoint.config_file(), image_size),
            None => Ok(Self::standard(image_size)),
        }
    }

    /// That of the `preprocessor_config.json` in a folder, if there is one.
    ///
    /// # Errors
    /// As [`Preprocessor::from_json`].
    pub fn of_folder(folder: &Path) -> Result<Option<Self>, Error> {
        let file = folder.join("preprocessor_config.json");
        if !file.exists() {
            return Ok(None);
        }
        Self::from_json(&parse_json(&file, &read_bounded(&file)?)?, &file).map(Some)
    }

    /// Reads a `preprocessor_config.json`; absent keys have the defaults of the processor it names.
    ///
    /// # Errors
    /// If a value cannot be, or if images would come out in different sizes. The error names `file`.
    pub fn from_json(config: &Value, file: &Path) -> Result<Self, Error> {
        let fields = Fields { json: config, file };
        let defaults = Defaults::of(&fields)?;
        for field in ["do_pad", "do_flip_channel_order"] {
            fields.refuse_flag(field)?;
        }
        let size = sides(&fields, "size", defaults.of_number)?.unwrap_or(defaults.size);
        let rescale = fields
            .flag("do_rescale", true)?
            .then(|| fields.float("rescale_factor", 1.0 / 255.0))
            .transpose()?;
        let [mean, std] = defaults.normalise;
        let normalise = fields
            .flag("do_normalize", true)?
            .then(|| Ok([channels(&fields, "image_mean", mean)?, deviations(&fields, "image_std", std)?]));
        Ok(Self {
            resize: fields.flag("do_resize", true)?.then_some(size),
            filter: pil_filter(&fields, defaults.filter)?,
            output: output(&fields, size, defaults.crops)?,
            centre: defaults.centre,
            rescale,
            normalise: normalise.transpose()?,
        })
    }

    /// Reads timm's `pretrained_cfg`: the shorter side (or both, if squashed) to `size / crop_pct`, then the middle.
    fn from_timm(config: &Value, file: &Path, image_size: usize) -> Result<Self, Error> {
        let fields = Fields { json: config, file };
        let crop_pct = match fields.float("crop_pct", 0.875)? {
            // As timm does, whose absent value is falsy.
            0.0 => 0.875,
            crop_pct => crop_pct,
        };
        let side = (image_size as f64 / crop_pct) as usize;
        if !(1..=MAX_OUTPUT).contains(&side) {
            let expected =
                format!("a share that makes {image_size} pixels 1 to {MAX_OUTPUT} when divided by it");
            return Err(fields.wrong("crop_pct", &expected));
        }
        let resize = match word(&fields, "crop_mode", "center")? {
            "center" => Resize::ShortestEdge(side),
            "squash" => Resize::Exact([side; 2]),
            _ => return Err(fields.wrong("crop_mode", "`center` or `squash`")),
        };
        const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];
        Ok(Self {
            resize: Some(resize),
            filter: timm_filter(&fields)?,
            output: [image_size; 2],
            centre: Centre::Torchvision,
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
        let mut processor = "ViTImageProcessor".to_owned();
        if config["size"] != output {
            // Transformers' ViT processor knows no crop; CLIP's is the same one with it.
            processor = "CLIPImageProcessor".to_owned();
            config["do_center_crop"] = true.into();
            config["crop_size"] = output;
        }
        if self.centre == Centre::Fast {
            processor.push_str("Fast");
        }
        config["image_processor_type"] = processor.into();
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
            "interpolation": timm_name(self.filter),
            "crop_pct": crop_pct,
            "crop_mode": crop_mode,
            "mean": mean,
            "std": std,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        })
    }
}

/// Whether an architecture is one of timm's, whose older files are a `pretrained_cfg` alone.
fn is_of_timms_hub(architecture: &str) -> bool {
    ["vit_", "deit"].iter().any(|beginning| architecture.starts_with(beginning))
}

/// Height and width of what comes out: of the crop, if there is one.
fn output(fields: &Fields, size: Resize, crops: bool) -> Result<[usize; 2], Error> {
    let square = |side| Resize::Exact([side; 2]);
    let crop = match fields.flag("do_center_crop", crops)? {
        true => Some(sides(fields, "crop_size", square)?.unwrap_or(square(224))),
        false => None,
    };
    match (crop, size) {
        (Some(Resize::Exact(output)), _) | (None, Resize::Exact(output)) => Ok(output),
        (Some(Resize::ShortestEdge(_)), _) => Err(fields.wrong("crop_size", "`height` and `width`")),
        (None, Resize::ShortestEdge(_)) => {
            Err(fields.wrong("size", "`height` and `width`, or `do_center_crop` with a `crop_size`"))
        }
    }
}

/// `size` as a number, `[height, width]`, `{height, width}` or `{shortest_edge}`.
fn sides(
    fields: &Fields,
    field: &'static str,
    of_number: fn(usize) -> Resize,
) -> Result<Option<Resize>, Error> {
    let Some(value) = fields.json.get(field).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let side = |value: &Value| {
        value.as_u64().filter(|side| (1..=MAX_OUTPUT as u64).contains(side)).map(|side| side as usize)
    };
    let exact = |height: &Value, width: &Value| Some(Resize::Exact([side(height)?, side(width)?]));
    let has = |keys: &[&str]| {
        value.as_object().is_some_and(|object| {
            object.iter().filter(|(_, value)| !value.is_null()).all(|(key, _)| keys.contains(&key.as_str()))
        })
    };
    let read = match value {
        Value::Array(sides) => match sides.as_slice() {
            [height, width] => exact(height, width),
            _ => None,
        },
        Value::Object(_) if has(&["height", "width"]) => exact(&value["height"], &value["width"]),
        Value::Object(_) if has(&["shortest_edge"]) => {
            side(&value["shortest_edge"]).map(Resize::ShortestEdge)
        }
        value => side(value).map(of_number),
    };
    read.map(Some).ok_or_else(|| {
        let expected = "a number, `height` and `width`, or `shortest_edge`";
        fields.wrong(field, &format!("{expected}, of 1 to {MAX_OUTPUT} pixels"))
    })
}

/// A text; `absent` where nothing stands.
fn word<'a>(fields: &Fields<'a>, field: &'static str, absent: &'a str) -> Result<&'a str, Error> {
    match fields.json.get(field).filter(|value| !value.is_null()) {
        None => Ok(absent),
        Some(value) => value.as_str().ok_or_else(|| fields.wrong(field, "a text")),
    }
}

/// Three finite numbers, or one for all three.
fn channels(fields: &Fields, field: &'static str, absent: [f32; 3]) -> Result<[f32; 3], Error> {
    let Some(value) = fields.json.get(field).filter(|value| !value.is_null()) else {
        return Ok(absent);
    };
    let number = |value: &Value| value.as_f64().map(|number| number as f32);
    let numbers = match value.as_array() {
        Some(values) => values
            .iter()
            .map(number)
            .collect::<Option<Vec<f32>>>()
            .and_then(|numbers| numbers.try_into().ok()),
        None => number(value).map(|number| [number; 3]),
    };
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
const TIMM_FILTERS: [(&str, Filter); 6] = [
    ("nearest", Filter::Nearest),
    ("bilinear", Filter::Bilinear),
    ("bicubic", Filter::Bicubic),
    ("lanczos", Filter::Lanczos),
    ("box", Filter::Box),
    ("hamming", Filter::Hamming),
];

fn timm_filter(fields: &Fields) -> Result<Filter, Error> {
    let name = word(fields, "interpolation", "bicubic")?;
    let filter = TIMM_FILTERS.iter().find(|(known, _)| *known == name).map(|(_, filter)| *filter);
    filter.ok_or_else(|| {
        let known = TIMM_FILTERS.map(|(name, _)| format!("`{name}`")).join(", ");
        fields.wrong("interpolation", &format!("one of {known}"))
    })
}

fn timm_name(filter: Filter) -> &'static str {
    TIMM_FILTERS.iter().find(|(_, known)| *known == filter).map_or("bilinear", |(name, _)| name)
}

fn pil_filter(fields: &Fields, absent: Filter) -> Result<Filter, Error> {
    let code = fields.number("resample", pil_code(absent), 0..=5)?;
    let filter = Filter::CODES.iter().find(|(known, _)| *known == code).map(|(_, filter)| *filter);
    filter.ok_or_else(|| {
        let known = "0 (nearest), 1 (Lanczos), 2 (bilinear), 3 (bicubic), 4 (box) or 5 (Hamming)";
        fields.wrong("resample", known)
    })
}

fn pil_code(filter: Filter) -> usize {
    Filter::CODES.iter().find(|(_, known)| *known == filter).map_or(2, |(code, _)| *code)
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;

    /// The image the golden pixels were made from.
    fn pattern(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            Rgb([0, 1, 2].map(|c| ((x * 37 + y * 91 + c * 53 + x * y * 7) % 256) as u8))
        })
    }

    fn preprocessor(config: Value) -> Result<Preprocessor, Error> {
        Preprocessor::from_json(&config, Path::new("preprocessor_config.json"))
    }

    #[test]
    fn pixels_come_out_channels_first_rescaled_and_normalised() {
        let config = json!({ "size": { "height": 1, "width": 2 }, "image_mean": [0.5, 0.0, 0.0], "image_std": [0.5, 1.0, 2.0] });
        let image = RgbImage::from_raw(2, 1, vec![0, 51, 102, 255, 0, 255]).unwrap();
        let pixels = preprocessor(config).unwrap().evaluate(&image);
        assert_eq!(pixels, [-1.0, 1.0, 0.2, 0.0, 0.2, 0.5]);
    }

    #[test]
    fn each_step_can_be_left_out() {
        let config = json!({ "size": 2, "do_resize": false, "do_rescale": false, "do_normalize": false });
        let image = pattern(2, 2);
        let pixels = preprocessor(config).unwrap().evaluate(&image);
        assert_eq!(pixels[..4], image.pixels().map(|pixel| f32::from(pixel[0])).collect::<Vec<_>>());
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
            (json!({ "resample": 7 }), "`resample`"),
            (json!({ "do_pad": true }), "`do_pad`"),
            (json!({ "image_processor_type": "ConvNextImageProcessor" }), "`image_processor_type`"),
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
            assert_eq!(Preprocessor { centre: Centre::Numpy, ..timm.unwrap() }, written);
        }
    }

    #[test]
    fn a_file_without_values_has_the_defaults_of_its_processor() {
        for (processor, resize, filter, crops) in [
            ("ViTImageProcessor", Resize::Exact([224; 2]), Filter::Bilinear, false),
            ("ViTFeatureExtractor", Resize::Exact([224; 2]), Filter::Bilinear, false),
            ("DeiTImageProcessor", Resize::Exact([256; 2]), Filter::Bicubic, true),
            ("CLIPImageProcessorFast", Resize::ShortestEdge(224), Filter::Bicubic, true),
            ("BitImageProcessor", Resize::ShortestEdge(224), Filter::Bicubic, true),
            ("SiglipImageProcessor", Resize::Exact([224; 2]), Filter::Bicubic, false),
        ] {
            let read = preprocessor(json!({ "image_processor_type": processor })).unwrap();
            assert_eq!((read.resize, read.filter, read.output), (Some(resize), filter, [224; 2]));
            assert_eq!(read.to_json().get("crop_size").is_some(), crops, "{processor}");
        }
    }

    #[test]
    fn a_number_is_the_shorter_side_of_clip_and_both_sides_of_vit() {
        let read = |processor: &str| {
            let config = json!({ "image_processor_type": processor, "size": 96, "crop_size": 64 });
            preprocessor(config).unwrap()
        };
        assert_eq!(read("CLIPImageProcessor").resize, Some(Resize::ShortestEdge(96)));
        assert_eq!(read("DeiTImageProcessor").resize, Some(Resize::Exact([96; 2])));
        assert_eq!(read("CLIPImageProcessor").output, [64; 2]);
    }

    #[test]
    fn one_number_may_stand_for_all_channels() {
        let read = preprocessor(json!({ "image_mean": 0.25, "image_std": 0.5 })).unwrap();
        assert_eq!(read.normalise, Some([[0.25; 3], [0.5; 3]]));
    }

    #[test]
    fn the_processor_decides_how_an_odd_border_is_halved() {
        let centre = |processor: &str| {
            preprocessor(json!({ "image_processor_type": processor })).map(|read| read.centre).unwrap()
        };
        assert_eq!(centre("CLIPImageProcessor"), Centre::Numpy);
        assert_eq!(centre("CLIPImageProcessorPil"), Centre::Numpy);
        assert_eq!(centre("CLIPImageProcessorFast"), Centre::Fast);
    }

    #[test]
    fn timm_says_how_large_an_image_becomes() {
        let read = |config: Value| Preprocessor::from_timm(&config, Path::new("config.json"), 8);
        let resize = |config: Value| read(config).unwrap().resize;
        assert_eq!(resize(json!({})), Some(Resize::ShortestEdge(9)));
        assert_eq!(resize(json!({ "crop_pct": 0.5 })), Some(Resize::ShortestEdge(16)));
        assert_eq!(resize(json!({ "crop_pct": 1.25 })), Some(Resize::ShortestEdge(6)));
        assert_eq!(resize(json!({ "crop_pct": 1.0, "crop_mode": "squash" })), Some(Resize::Exact([8; 2])));
        assert_eq!(read(json!({})).unwrap().filter, Filter::Bicubic);
        for refused in [json!({ "crop_mode": "border" }), json!({ "crop_mode": 3 })] {
            assert!(read(refused).unwrap_err().to_string().contains("`crop_mode`"));
        }
        assert!(read(json!({ "interpolation": "random" })).is_err());
    }
}
