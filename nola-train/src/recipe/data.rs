//! `[data]`.

use std::path::PathBuf;

use nola_models::Augmentation;
use serde::{Deserialize, Serialize};

use super::error::{Findings, Problem};
use super::format::{DataFormat, PictureFormat, Subject};
use super::{MAX_SAMPLES, require_path};
use crate::text::TextSettings;
use crate::{Error, assets};

/// `[data]`: pictures or text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataRecipe {
    /// Layout of the files.
    pub format: DataFormat,
    /// What is learned from: a folder, or a file of the format.
    pub train: PathBuf,
    /// What scores are made with, likewise.
    pub validation: PathBuf,
    /// Training pictures of each class; 0: all.
    pub shots: usize,
    /// Seed of the choice of these pictures.
    pub shots_seed: u64,
    /// What happens to a picture that cannot be decoded.
    pub on_bad_image: OnBadImage,
    /// Host memory for decoded pictures, in MiB; the others are decoded each time they are needed.
    pub cache_mib: usize,
    /// Random changes of the training pictures.
    pub augment: Augmentation,
    /// How rows of text become samples.
    pub text: TextSettings,
}

/// What happens to a picture that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBadImage {
    /// The run does not start; all of them are listed.
    Fail,
    /// They are left out; all of them are listed.
    Skip,
}

impl Default for DataRecipe {
    fn default() -> Self {
        Self {
            format: DataFormat::Pictures(PictureFormat::Folder),
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
        require_path("data.train", &self.train, "what to learn from", findings);
        require_path("data.validation", &self.validation, "what to score with", findings);
        match self.format.subject() {
            Subject::Pictures => self.check_no_text(findings),
            Subject::Text => self.check_no_pictures(findings),
        }
        findings.require("data.shots", self.shots as f64, self.shots <= MAX_SAMPLES, "at most 1048576");
        match self.augment.check() {
            Ok(()) => {}
            Err(nola_models::Error::Setting { setting, found, expected }) => {
                findings.add(setting, Problem::NotAllowed { found, range: expected });
            }
            Err(other) => {
                findings
                    .add("data.augment", Problem::NotAllowed { found: other.to_string(), range: "usable" });
            }
        }
    }

    fn check_no_text(&self, findings: &mut Findings) {
        if self.text != TextSettings::default() {
            findings.add("data.text", Problem::NoEffect { because: "a format of pictures" });
        }
    }

    fn check_no_pictures(&self, findings: &mut Findings) {
        if self.shots != 0 {
            findings
                .add("data.shots", Problem::NoEffect { because: "a format of text; use data.text.limit" });
        }
        if self.augment != Augmentation::default() {
            findings.add("data.augment", Problem::NoEffect { because: "a format of text" });
        }
    }
}
