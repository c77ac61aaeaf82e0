//! `[data]`.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::{Findings, Problem};
use super::paths::{PathItem, TrainingItem, TrainingPaths, ValidationPaths, Written, repeated};
use crate::data::augment::OutOfRange;
use crate::data::{Augmentation, DataError, ImageSources, OnBadImage, ScoredOn};
use crate::portion::{DataSource, HoldOut, Portion, Split};
use crate::settings::{DataFormat, ImageFormat, MAX_SAMPLES, Modality};
use crate::text::{TextFormat, TextSettings};

/// The data: images or text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend(
    "required" = ["train"],
    "anyOf" = [{ "required": ["validation"] }, { "required": ["validation_split"] }]
))]
pub struct DataRecipe {
    /// Layout of the files; it also says whether they hold images or text.
    #[schemars(example = &"alpaca")]
    pub format: DataFormat,
    /// Training data: a folder, or a file of the format; for text also a data set of the Hugging Face hub, as
    /// `hf://datasets/OWNER/NAME`, or `OWNER/NAME` where there is no such file or folder. Behind the name may stand
    /// `@REVISION`, then `/CONFIGURATION`, `/SPLIT` or both, and behind `hf://` also a file, a pattern of files such as
    /// `data/train-*.parquet`, or a folder. Or a list of them, each as text or as a table
    /// `{ path = "a.jsonl", weight = 2 }`. The weight says how often its rows come in an epoch: with 2 each of them twice, with
    /// 0.5 half of them, drawn anew for every epoch; without one it is 1. Folders of images in a list have the same classes.
    #[schemars(
        with = "Written<TrainingItem>",
        example = &"images/train",
        extend(
            "minLength" = 1,
            "x-unit" = "file, folder or hub name",
            "x-type" = "text, or a list of texts and of tables `{ path, weight }`",
            "x-range" = "a weight is above 0 and at most 1000"
        )
    )]
    pub train: TrainingPaths,
    /// Validation data, likewise but without weights: scores are computed on it.
    #[serde(skip_serializing_if = "ValidationPaths::is_empty")]
    #[schemars(
        with = "Written<PathItem>",
        example = &"images/val",
        extend(
            "minLength" = 1,
            "x-unit" = "file, folder or hub name",
            "x-type" = "text or a list of texts",
            "x-default" = "none; this or `validation_split` is required"
        )
    )]
    pub validation: ValidationPaths,
    /// Share of the training data that is held out for validation, where there is no other: so much of the rows of each file,
    /// or of the images of each class, rounded and at least one, drawn by `train.seed`. It is held out before `shots` are
    /// taken. Of running text in plain files, pieces of `data.text.max_tokens` are held out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        example = 0.1,
        extend(
            "exclusiveMinimum" = 0,
            "exclusiveMaximum" = 1,
            "x-unit" = "share of the training data",
            "x-default" = "nothing is held out"
        )
    )]
    pub validation_split: Option<f64>,
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

/// How a template and its completion are written.
const TEMPLATE_EXAMPLE: &str = r#"template = "Question: {question}\nAnswer:", completion = " {answer}""#;

/// 1 PiB; a larger number is a typo.
const MAX_MIB: usize = 1 << 30;

impl Default for DataRecipe {
    fn default() -> Self {
        Self {
            format: DataFormat::Images(ImageFormat::Folder),
            train: TrainingPaths::default(),
            validation: ValidationPaths::default(),
            validation_split: None,
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
    /// Where its images lie; `seed` is that of the run.
    ///
    /// # Errors
    /// If the format is one of text.
    pub fn images(&self, seed: u64) -> Result<ImageSources, DataError> {
        let DataFormat::Images(format) = self.format else {
            return Err(DataError::NoImages { format: self.format });
        };
        let owned = |paths: &mut dyn Iterator<Item = &Path>| paths.map(Path::to_owned).collect();
        let scored_on = match self.validation_split {
            Some(share) => ScoredOn::HeldOut(HoldOut { share, seed, place: 0 }),
            None => ScoredOn::Paths(owned(&mut self.validation.paths())),
        };
        Ok(ImageSources { format, train: owned(&mut self.train.paths()), scored_on })
    }

    /// What is learned from, the parts in the order of the recipe; `seed` is that of the run.
    pub fn learned_from(&self, seed: u64) -> Vec<DataSource> {
        match self.validation_split {
            Some(share) => self.portions(|place| Portion::Kept(HoldOut { share, seed, place })),
            None => self.portions(|_| Portion::Whole),
        }
    }

    /// What scores are computed on, likewise.
    pub fn scored_on(&self, seed: u64) -> Vec<DataSource> {
        match self.validation_split {
            Some(share) => self.portions(|place| Portion::HeldOut(HoldOut { share, seed, place })),
            None => self.validation.paths().map(DataSource::whole).collect(),
        }
    }

    /// Which split of a data set of the hub scores are computed on.
    pub fn scored_split(&self) -> Split {
        match self.validation_split {
            Some(_) => Split::Train,
            None => Split::Validation,
        }
    }

    fn portions(&self, portion: impl Fn(usize) -> Portion) -> Vec<DataSource> {
        let source = |(place, path)| DataSource::part(path, portion(place));
        self.train.paths().enumerate().map(source).collect()
    }

    /// What scores are computed on, for messages.
    pub fn scored_on_name(&self) -> String {
        match self.validation_split {
            Some(_) => "the data that is held out for validation".to_owned(),
            None => self.validation.to_string(),
        }
    }

    pub(super) fn check(&self, findings: &mut Findings) {
        match self.format.modality() {
            Modality::Images => self.check_no_text(findings),
            Modality::Text => self.check_no_images(findings),
        }
        self.check_paths(findings);
        self.check_template(findings);
        if let Err(OutOfRange { setting, found, expected }) = self.augment.check() {
            findings.add(setting, Problem::NotAllowed { found, range: expected.to_owned() });
        }
    }

    fn check_paths(&self, findings: &mut Findings) {
        let (given, held_out) = (!self.validation.is_empty(), self.validation_split.is_some());
        match (given, held_out) {
            (true, false) | (false, true) => {}
            (true, true) => {
                findings.add("data.validation_split", Problem::NoEffect { because: "data.validation" });
            }
            (false, false) => {
                let example = "validation = \"images/val\", or hold out a share of the training data with \
                               validation_split = 0.1";
                findings.add("data.validation", Problem::Missing { example: example.to_owned() });
            }
        }
        let twice = [
            ("data.train", repeated(self.train.paths())),
            ("data.validation", repeated(self.validation.paths())),
        ];
        for (key, path) in twice {
            let Some(path) = path else { continue };
            let (found, range) =
                (format!("`{}` twice", path.display()), "a list of different paths".to_owned());
            findings.add(key, Problem::NotAllowed { found, range });
        }
    }

    fn check_no_text(&self, findings: &mut Findings) {
        if self.text != TextSettings::default() {
            findings.add("data.text", Problem::NoEffect { because: "a format of images" });
        }
    }

    fn check_template(&self, findings: &mut Findings) {
        let keys =
            [("data.text.template", &self.text.template), ("data.text.completion", &self.text.completion)];
        let is_template = self.format == DataFormat::Text(TextFormat::Template);
        for (key, template) in keys {
            match (is_template, template.is_empty()) {
                (true, true) => findings.add(key, Problem::Missing { example: TEMPLATE_EXAMPLE.to_owned() }),
                (false, false) => {
                    findings.add(key, Problem::NoEffect { because: "a format other than \"template\"" });
                }
                (true, false) | (false, true) => {}
            }
        }
        let completion = &self.text.completion;
        if is_template && !completion.is_empty() && completion.columns().is_empty() {
            let (found, range) =
                (format!("{:?}", completion.text()), "a text with a column in braces".to_owned());
            findings.add("data.text.completion", Problem::NotAllowed { found, range });
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
