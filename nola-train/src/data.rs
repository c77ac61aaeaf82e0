//! Images with labels: where they lie, which are used, in which order, and how they become batches.

pub mod augment;
mod batches;
mod cifar;
mod classes;
mod error;
mod folder;
mod idx;
mod images;
mod order;
mod prefetch;
mod room;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;
use nola_models::hub::DatasetName;

pub use augment::Augmentation;
pub use batches::{HostBatch, TrainingPlan, evaluation_batch, evaluation_batches, training_batches};
pub use classes::{Matched, composed};
pub use error::{BadImage, DataError, bad_images, few};
pub use folder::{FolderImages, images_in};
pub use images::{ImageReader, Images, OnBadImage};
pub use order::{Order, WeightedSamples};
pub use prefetch::Prefetch;

use crate::portion::{Drawn, DrawnUnit, HoldOut, Split};
use crate::random::{Purpose, permutation, random};
use crate::settings::ImageFormat;

/// The labelled images of one split; a list of places, not yet decoded.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Where it was read from, for messages.
    pub root: PathBuf,
    /// Names of the classes; a label is an index into them.
    pub classes: Vec<String>,
    /// The images, in an order that depends on their names alone.
    pub samples: Vec<Sample>,
    /// Symbolic links that leave `root` and were not followed.
    pub links_outside: usize,
    /// What else a user should hear of it.
    pub notes: Vec<String>,
}

/// One labelled image.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Index of its class.
    pub label: usize,
    /// Where it lies.
    pub source: ImageSource,
    /// Which of several folders or files it is of.
    pub part: usize,
}

/// Where an image lies.
#[derive(Debug, Clone)]
pub enum ImageSource {
    /// An encoded image.
    File(PathBuf),
    /// A record of a file of raw images, which is in memory.
    Record {
        /// The file.
        records: Arc<Records>,
        /// The record, counted from 0.
        index: usize,
    },
}

impl ImageSource {
    /// What people call it: its path, and the record in it.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Record { records, index } => format!("{} record {index}", records.file.display()),
        }
    }
}

/// A file of raw images of one size.
#[derive(Debug)]
pub struct Records {
    file: PathBuf,
    bytes: Vec<u8>,
    /// Bytes before the first image.
    start: usize,
    /// Bytes from one image to the next.
    stride: usize,
    width: usize,
    height: usize,
    colours: Colours,
}

/// How the bytes of a raw image follow each other.
#[derive(Debug, Clone, Copy)]
enum Colours {
    /// One byte a pixel.
    Grey,
    /// All red bytes, all green, all blue.
    Planes,
}

impl Records {
    /// The bytes of a record, which must exist.
    fn bytes(&self, index: usize) -> &[u8] {
        let start = self.start + index * self.stride;
        &self.bytes[start..self.bytes.len().min(start + self.stride)]
    }

    /// The image of a record, which must exist.
    fn image(&self, index: usize) -> RgbImage {
        let area = self.width * self.height;
        let planes = match self.colours {
            Colours::Grey => [0, 0, 0],
            Colours::Planes => [0, area, 2 * area],
        };
        let pixels = &self.bytes[self.start + index * self.stride..];
        let bytes = (0..area).flat_map(|pixel| planes.map(|plane| pixels[plane + pixel])).collect();
        RgbImage::from_raw(self.width as u32, self.height as u32, bytes)
            .expect("three bytes a pixel were collected")
    }
}

/// One sample for each record.
fn samples_of(records: Arc<Records>, labels: &[u8]) -> Vec<Sample> {
    let samples = labels.iter().enumerate().map(|(index, &label)| Sample {
        label: label.into(),
        source: ImageSource::Record { records: Arc::clone(&records), index },
        part: 0,
    });
    samples.collect()
}

/// Requires every label to be a class.
fn check_labels(file: &Path, labels: &[u8], classes: usize) -> Result<(), DataError> {
    match labels.iter().position(|&label| usize::from(label) >= classes) {
        None => Ok(()),
        Some(record) => {
            Err(DataError::WrongLabel { file: file.into(), record, label: labels[record], classes })
        }
    }
}

/// Where labelled images lie.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageSources {
    /// The layout.
    pub format: ImageFormat,
    /// Folders or files that are learned from, with the same classes.
    pub train: Vec<PathBuf>,
    /// Those that scores are computed on.
    pub scored_on: ScoredOn,
}

/// What scores are computed on.
#[derive(Debug, Clone, PartialEq)]
pub enum ScoredOn {
    /// Folders or files of their own.
    Paths(Vec<PathBuf>),
    /// A part of what there is to learn from.
    HeldOut(HoldOut),
}

impl Dataset {
    /// Lists the images of both splits, and says how many are held out; a subset of a few shots is not yet taken.
    ///
    /// # Errors
    /// If a folder or file is absent, empty, or not of the format; or nothing can be learned of them, or held out.
    pub fn splits(sources: &ImageSources) -> Result<(Self, Self, Option<Drawn>), DataError> {
        let train = Self::joined(sources.format, &sources.train, Split::Train)?;
        train.check_learnable()?;
        match &sources.scored_on {
            ScoredOn::HeldOut(hold_out) => {
                let (train, held_out, drawn) = train.parted(*hold_out)?;
                Ok((train, held_out, Some(drawn)))
            }
            ScoredOn::Paths(paths) => {
                let validation = Self::joined(sources.format, paths, Split::Validation)?;
                validation.check_learnable()?;
                Self::check_same_classes(&train, &validation)?;
                Ok((train, validation, None))
            }
        }
    }

    /// Lists the images that scores are computed on.
    ///
    /// # Errors
    /// As [`Dataset::splits`].
    pub fn scored_on(sources: &ImageSources) -> Result<(Self, Option<Drawn>), DataError> {
        match &sources.scored_on {
            ScoredOn::HeldOut(_) => {
                let (_, held_out, drawn) = Self::splits(sources)?;
                Ok((held_out, drawn))
            }
            ScoredOn::Paths(paths) => Ok((Self::joined(sources.format, paths, Split::Validation)?, None)),
        }
    }

    /// The images of several folders or files with the same classes, as one.
    fn joined(format: ImageFormat, paths: &[PathBuf], split: Split) -> Result<Self, DataError> {
        let mut whole: Option<Self> = None;
        for (part, path) in paths.iter().enumerate() {
            let mut more = Self::open(format, path, split)?;
            more.samples.iter_mut().for_each(|sample| sample.part = part);
            let Some(whole) = &mut whole else {
                whole = Some(more);
                continue;
            };
            Self::check_same_classes(whole, &more)?;
            whole.samples.extend(more.samples);
            whole.links_outside += more.links_outside;
            whole.notes.extend(more.notes);
        }
        whole.ok_or(DataError::NoPath)
    }

    fn open(format: ImageFormat, path: &Path, split: Split) -> Result<Self, DataError> {
        if DatasetName::is_url(&path.to_string_lossy()) {
            return Err(DataError::OnHub { name: path.to_owned() });
        }
        match format {
            ImageFormat::Folder => folder::read(path),
            ImageFormat::Cifar10 => cifar::read(path, cifar::Variant::Ten, split),
            ImageFormat::Cifar100 => cifar::read(path, cifar::Variant::Hundred, split),
            ImageFormat::Mnist => idx::read(path, idx::Variant::Digits, split),
            ImageFormat::FashionMnist => idx::read(path, idx::Variant::Fashion, split),
        }
    }

    /// What is kept and what is held out, the same share of each class.
    fn parted(self, hold_out: HoldOut) -> Result<(Self, Self, Drawn), DataError> {
        let mut is_held_out = vec![false; self.samples.len()];
        let mut alone = Vec::new();
        for (place, class) in self.classes.iter().enumerate() {
            let members = self.samples.iter().enumerate().filter(|(_, sample)| sample.label == place);
            let members: Vec<usize> = members.map(|(index, _)| index).collect();
            if members.len() == 1 {
                alone.push(class.clone());
            }
            let chosen = HoldOut { place, ..hold_out }.chosen(members.len());
            members.into_iter().zip(chosen).for_each(|(index, is_chosen)| is_held_out[index] = is_chosen);
        }
        if !alone.is_empty() {
            return Err(DataError::TooFewToHoldOut { root: self.root, classes: alone });
        }
        let drawn = Drawn::of(&is_held_out, DrawnUnit::Images);
        let of = |wanted: bool| {
            let samples = self.samples.iter().zip(&is_held_out).filter(|(_, is_held)| **is_held == wanted);
            Self { samples: samples.map(|(sample, _)| sample.clone()).collect(), ..self.clone() }
        };
        Ok((of(false), of(true), drawn))
    }

    /// A subset with `shots` images of each class: the first of a permutation of the class; 0 keeps all.
    ///
    /// # Errors
    /// If a class has fewer.
    ///
    /// # Source
    /// The protocol of NOLA's few-shot tables (Koohpayegani et al., ICLR 2024).
    pub fn few_shot(&self, shots: usize, seed: u64) -> Result<Self, DataError> {
        if shots == 0 {
            return Ok(self.clone());
        }
        let mut samples = Vec::with_capacity(shots * self.classes.len());
        for (label, class) in self.classes.iter().enumerate() {
            let members: Vec<&Sample> = self.samples.iter().filter(|sample| sample.label == label).collect();
            if members.len() < shots {
                return Err(DataError::TooFewShots {
                    root: self.root.clone(),
                    class: class.clone(),
                    found: members.len(),
                    wanted: shots,
                });
            }
            let order = permutation(members.len(), &mut random(seed, Purpose::Shots, label as u64, 0));
            samples.extend(order[..shots].iter().map(|&index| members[index].clone()));
        }
        Ok(Self { samples, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn dataset(classes: &[&str], per_class: usize) -> Dataset {
        let samples = (0..classes.len() * per_class)
            .map(|index| Sample {
                label: index % classes.len(),
                source: ImageSource::File(format!("{index}.png").into()),
                part: 0,
            })
            .collect();
        Dataset {
            root: "data".into(),
            classes: classes.iter().map(|&class| class.to_owned()).collect(),
            samples,
            links_outside: 0,
            notes: Vec::new(),
        }
    }

    fn names(dataset: &Dataset) -> Vec<String> {
        dataset.samples.iter().map(|sample| sample.source.name()).collect()
    }

    #[test]
    fn few_shot_takes_as_many_of_each_class() {
        let subset = dataset(&["a", "b", "c"], 20).few_shot(5, 1).unwrap();
        for label in 0..3 {
            assert_eq!(subset.samples.iter().filter(|sample| sample.label == label).count(), 5);
        }
        assert_eq!(names(&subset).into_iter().collect::<BTreeSet<_>>().len(), 15);
    }

    #[test]
    fn few_shot_depends_on_its_seed_alone() {
        let all = dataset(&["a", "b"], 50);
        assert_eq!(names(&all.few_shot(5, 1).unwrap()), names(&all.few_shot(5, 1).unwrap()));
        assert_ne!(names(&all.few_shot(5, 1).unwrap()), names(&all.few_shot(5, 2).unwrap()));
    }

    #[test]
    fn more_shots_keep_the_images_of_fewer() {
        let all = dataset(&["a"], 50);
        assert_eq!(names(&all.few_shot(10, 3).unwrap())[..5], names(&all.few_shot(5, 3).unwrap()));
    }

    #[test]
    fn a_class_with_too_few_images_is_named() {
        let message = dataset(&["a"], 3).few_shot(5, 0).unwrap_err().to_string();
        assert!(message.contains("`a` has 3") && message.contains("data.shots"), "{message}");
    }

    fn hold_out(share: f64) -> HoldOut {
        HoldOut { share, seed: 1, place: 0 }
    }

    #[test]
    fn the_same_share_of_every_class_is_held_out() {
        let all = dataset(&["a", "b", "c"], 20);
        let (kept, held_out, drawn) = all.clone().parted(hold_out(0.1)).unwrap();
        assert_eq!(drawn.to_string(), "6 of 60 images");
        for label in 0..3 {
            assert_eq!(held_out.samples.iter().filter(|sample| sample.label == label).count(), 2);
        }
        let both: BTreeSet<String> = names(&kept).into_iter().chain(names(&held_out)).collect();
        assert_eq!((both.len(), kept.samples.len()), (60, 54));
    }

    #[test]
    fn a_small_share_takes_one_image_of_each_class_and_a_large_one_leaves_one() {
        for (share, held) in [(0.01, 1), (0.99, 4)] {
            let (kept, held_out, _) = dataset(&["a", "b"], 5).parted(hold_out(share)).unwrap();
            assert_eq!((kept.samples.len(), held_out.samples.len()), (2 * (5 - held), 2 * held));
        }
    }

    #[test]
    fn a_class_of_one_image_is_named() {
        let mut all = dataset(&["a", "b"], 3);
        all.samples.retain(|sample| sample.label == 0 || sample.source.name() == "1.png");
        let message = all.parted(hold_out(0.5)).unwrap_err().to_string();
        assert!(message.contains("only one image in b") && message.contains("data.validation"), "{message}");
    }
}
