//! `[data]`.

use std::path::PathBuf;

use nola_models::Augmentation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::MAX_SAMPLES;
use super::error::{Findings, Problem};
use super::format::{DataFormat, ImageFormat, Modality};
use crate::text::TextSettings;
use crate::{Error, assets};

/// The data: images or text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["train", "validation"]))]
pub struct DataRecipe {
    /// Layout of the files; it also says whether they hold images or text.
    #[schemars(example = &"alpaca")]
    pub format: DataFormat,
    /// Training data: a folder, or a file of the format.
    #[schemars(length(min = 1), example = &"images/train", extend("x-unit" = "file or folder"))]
    pub train: PathBuf,
    /// Validation data, likewise: scores are computed on it.
    #[schemars(length(min = 1), example = &"images/val", extend("x-unit" = "file or folder"))]
    pub validation: PathBuf,
    /// Training images taken of each class; 0 takes all. Images only; for text there is `data.text.limit`.
    #[schemars(range(max = MAX_SAMPLES), example = 10, extend("x-unit" = "images of a class"))]
    pub shots: usize,
    /// Seed of the choice of these images.
    #[schemars(example = 1)]
    pub shots_seed: u64,
    /// What happens to an image that cannot be decoded.
    #[schemars(example = &"skip")]
    pub on_bad_image: OnBadImage,
    /// Host memory for decoded images; those beyond it are decoded each time they are needed.
    #[schemars(range(max = MAX_MIB), example = 4096, extend("x-unit" = "MiB"))]
    pub cache_mib: usize,
    /// Random changes of the training images; each is off unless it is named.
    pub augment: Augmentation,
    /// How rows of text become samples; text only.
    pub text: TextSettings,
}

/// What happens to an image that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnBadImage {
    /// The run does not start; all such images are listed.
    Fail,
    /// Such images are left out; all of them are listed.
    Skip,
}

/// 1 PiB; a larger number is a typo.
const MAX_MIB: usize = 1 << 30;

impl Default for DataRecipe {
    fn default() -> Self {
        Self {
            format: DataFormat::Images(ImageFormat::Folder),
            train: PathBuf::new(),
            validation: PathBuf::new(),
            shots: 0,
            shots_seed: 0,
            on_bad_image: OnBadImage::Fail,
            cache_mib: 1024,
            augment: Augmentation::default(),
            text: TextSettings::default(),
        }
    }
}

impl DataRecipe {
    /// The same with the places of shipped files, where the working directory does not have them.
    ///
    /// # Errors
    /// If the shipped files cannot be unpacked.
    pub fn located(&self) -> Result<Self, Error> {
        let [train, validation] = [&self.train, &self.validation].map(|path| assets::located(path));
        Ok(Self { train: train?, validation: validation?, ..self.clone() })
    }

    pub(super) fn check(&self, findings: &mut Findings) {
        match self.format.modality() {
            Modality::Images => self.check_no_text(findings),
            Modality::Text => self.check_no_images(findings),
        }
        match self.augment.check() {
            Ok(()) => {}
            Err(nola_models::Error::Setting { setting, found, expected }) => {
                findings.add(setting, Problem::NotAllowed { found, range: expected.to_owned() });
            }
            Err(other) => {
                let (found, range) = (other.to_string(), "usable".to_owned());
                findings.add("data.augment", Problem::NotAllowed { found, range });
            }
        }
    }

    fn check_no_text(&self, findings: &mut Findings) {
        if self.text != TextSettings::default() {
            findings.add("data.text", Problem::NoEffect { because: "a format of images" });
        }
    }

    fn check_no_images(&self, findings: &mut Findings) {
        if self.shots != 0 {
            findings
                .add("data.shots", Problem::NoEffect { because: "a format of text; use data.text.limit" });
        }
        if self.augment != Augmentation::default() {
            findings.add("data.augment", Problem::NoEffect { because: "a format of text" });
        }
    }
}
