//! CIFAR-10 and CIFAR-100, binary version: one or two label bytes, then 32 x 32 pixels in three planes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::ExpectedLength;
use super::{Colours, DataError, Dataset, Records, Sample};
use crate::portion::Split;

/// Pixels of a side.
const SIDE: usize = 32;

/// Which of the two.
#[derive(Debug, Clone, Copy)]
pub(super) enum Variant {
    /// One label byte.
    Ten,
    /// A coarse and a fine label byte.
    Hundred,
}

impl Variant {
    fn classes(self) -> &'static [&'static str] {
        match self {
            Self::Ten => &CIFAR10,
            Self::Hundred => &CIFAR100,
        }
    }

    /// Bytes before the pixels; the last of them is the label.
    fn label_bytes(self) -> usize {
        match self {
            Self::Ten => 1,
            Self::Hundred => 2,
        }
    }

    /// Names of a split's files.
    fn files(self, split: Split) -> &'static [&'static str] {
        match (self, split) {
            (Self::Ten, Split::Train) => &[
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
            ],
            (Self::Ten, Split::Validation) => &["test_batch.bin"],
            (Self::Hundred, Split::Train) => &["train.bin"],
            (Self::Hundred, Split::Validation) => &["test.bin"],
        }
    }
}

/// Reads one file, or the split's files of a folder.
///
/// # Errors
/// If none is there, or one has a wrong length or label.
pub(super) fn read(path: &Path, variant: Variant, split: Split) -> Result<Dataset, DataError> {
    let names = variant.files(split);
    let (files, notes) = match path.is_dir() {
        true => files_in(path, names)?,
        false => (vec![path.to_owned()], Vec::new()),
    };
    let mut samples = Vec::new();
    for file in files {
        samples.extend(read_file(file, variant)?);
    }
    let classes = variant.classes().iter().map(|&class| class.to_owned()).collect();
    Ok(Dataset { root: path.into(), classes, samples, links_outside: 0, notes })
}

/// The files that are there, and what is to be said of those that are not.
fn files_in(folder: &Path, names: &[&str]) -> Result<(Vec<PathBuf>, Vec<String>), DataError> {
    let files: Vec<PathBuf> =
        names.iter().map(|name| folder.join(name)).filter(|file| file.is_file()).collect();
    if files.is_empty() {
        return Err(DataError::MissingFiles { folder: folder.into(), expected: names.join(", ") });
    }
    let is_whole = files.len() == names.len();
    let lacks = || format!("{} holds only {} of {}", folder.display(), files.len(), names.join(", "));
    let notes = if is_whole { Vec::new() } else { vec![lacks()] };
    Ok((files, notes))
}

fn read_file(file: PathBuf, variant: Variant) -> Result<Vec<Sample>, DataError> {
    let label_bytes = variant.label_bytes();
    let stride = label_bytes + 3 * SIDE * SIDE;
    let io = |source| DataError::Io { path: file.clone(), source };
    // The length is checked first: a file of another kind need not fit in memory.
    let found = fs::metadata(&file).map_err(io)?.len();
    if found == 0 || !found.is_multiple_of(stride as u64) {
        return Err(DataError::WrongLength {
            file,
            found,
            expected: ExpectedLength::MultipleOf(stride as u64),
        });
    }
    let bytes = fs::read(&file).map_err(io)?;
    let labels: Vec<u8> = bytes.chunks_exact(stride).map(|record| record[label_bytes - 1]).collect();
    super::check_labels(&file, &labels, variant.classes().len())?;
    let colours = Colours::Planes;
    let records = Records { file, bytes, start: label_bytes, stride, width: SIDE, height: SIDE, colours };
    Ok(super::samples_of(Arc::new(records), &labels))
}

const CIFAR10: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

#[rustfmt::skip]
const CIFAR100: [&str; 100] = [
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur",
    "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard",
    "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket",
    "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
    "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ImageSource;

    fn record(labels: &[u8], red: u8, green: u8, blue: u8) -> Vec<u8> {
        let mut record = labels.to_vec();
        for plane in [red, green, blue] {
            record.extend([plane; SIDE * SIDE]);
        }
        record
    }

    fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    fn first_pixel(sample: &Sample) -> [u8; 3] {
        let ImageSource::Record { records, index } = &sample.source else { panic!("not a record") };
        records.image(*index).get_pixel(0, 0).0
    }

    #[test]
    fn a_record_is_a_label_and_three_planes() {
        let bytes = [record(&[3], 1, 2, 3), record(&[9], 4, 5, 6)].concat();
        let (folder, path) = file("data_batch_1.bin", &bytes);
        for source in [path.as_path(), folder.path()] {
            let dataset = read(source, Variant::Ten, Split::Train).unwrap();
            assert_eq!(dataset.samples.iter().map(|sample| sample.label).collect::<Vec<_>>(), [3, 9]);
            assert_eq!(dataset.samples.iter().map(first_pixel).collect::<Vec<_>>(), [[1, 2, 3], [4, 5, 6]]);
        }
    }

    #[test]
    fn the_label_of_cifar100_is_the_fine_one() {
        let (_folder, path) = file("train.bin", &record(&[7, 99], 1, 2, 3));
        let dataset = read(&path, Variant::Hundred, Split::Train).unwrap();
        assert_eq!(dataset.samples[0].label, 99);
        assert_eq!(dataset.classes.len(), 100);
        assert!(dataset.classes.is_sorted());
    }

    #[test]
    fn a_file_that_was_cut_short_is_named_with_its_length() {
        for bytes in [&record(&[0], 0, 0, 0)[..3000], &[]] {
            let (_folder, path) = file("test_batch.bin", bytes);
            let message = read(&path, Variant::Ten, Split::Validation).unwrap_err().to_string();
            assert!(message.contains("test_batch.bin") && message.contains("3073"), "{message}");
        }
    }

    #[test]
    fn a_label_that_is_no_class_is_refused() {
        let (_folder, path) = file("test_batch.bin", &record(&[10], 0, 0, 0));
        let message = read(&path, Variant::Ten, Split::Validation).unwrap_err().to_string();
        assert!(message.contains("record 0 has label 10"), "{message}");
    }

    #[test]
    fn a_folder_without_the_files_lists_them() {
        let (folder, _) = file("other.bin", b"");
        let message = read(folder.path(), Variant::Ten, Split::Validation).unwrap_err().to_string();
        assert!(message.contains("test_batch.bin"), "{message}");
    }
}
