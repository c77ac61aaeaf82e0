//! The decoded images of a data set: all checked once, as many as fit kept in memory.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use image::RgbImage;
use nola_models::image::{Encoded, decode};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::room::Room;
use super::{BadImage, DataError, Dataset, ImageSource};
use crate::data_hash::hex;

/// Bytes of an encoded image that are read at most.
const FILE_LIMIT: u64 = 256 << 20;

/// What happens to an image that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnBadImage {
    /// The run does not start; the first of such images are listed.
    Fail,
    /// Such images are left out; all of them are listed.
    Skip,
}

/// Images of a data set, each known to decode.
#[derive(Debug)]
pub struct Images {
    classes: Vec<String>,
    entries: Vec<Entry>,
    /// For images that are decoded later.
    room: Room,
}

#[derive(Debug)]
struct Entry {
    label: usize,
    source: ImageSource,
    part: usize,
    /// Hash of what the image was read from.
    sha256: [u8; 32],
    /// Absent where the cache was full, and for records, which are in memory anyway.
    decoded: Option<Arc<RgbImage>>,
}

impl Images {
    /// Decodes every image once, on all threads, and keeps the first `cache_bytes` of pixels.
    ///
    /// Returns the images that were left out, which are none unless `on_bad_image` says `skip`.
    ///
    /// # Errors
    /// With all images that cannot be decoded, or the classes of which none can.
    pub fn load(
        dataset: Dataset,
        on_bad_image: OnBadImage,
        cache_bytes: u64,
    ) -> Result<(Self, Vec<BadImage>), DataError> {
        let (used, room) = (AtomicU64::new(0), Room::default());
        let present: BTreeSet<usize> = dataset.samples.iter().map(|sample| sample.label).collect();
        let decoded: Vec<Result<Entry, BadImage>> = dataset
            .samples
            .into_par_iter()
            .map(|sample| {
                let (decoded, sha256) = match &sample.source {
                    ImageSource::Record { records, index } => {
                        (None, Sha256::digest(records.bytes(*index)).into())
                    }
                    ImageSource::File(file) => {
                        let (decoded, sha256) = decode_file(file, &room)?;
                        (Some(decoded), sha256)
                    }
                };
                let decoded =
                    decoded.filter(|image| reserve(&used, image.as_raw().len() as u64, cache_bytes));
                let decoded = decoded.map(Arc::new);
                Ok(Entry { label: sample.label, source: sample.source, part: sample.part, sha256, decoded })
            })
            .collect();
        let (mut entries, mut bad) = (Vec::with_capacity(decoded.len()), Vec::new());
        for result in decoded {
            match result {
                Ok(entry) => entries.push(entry),
                Err(image) => bad.push(image),
            }
        }
        if on_bad_image == OnBadImage::Fail && !bad.is_empty() {
            return Err(DataError::BadImages(bad));
        }
        let images = Self { classes: dataset.classes, entries, room };
        images.check_none_is_lost(present, &dataset.root)?;
        Ok((images, bad))
    }

    /// Requires a good image of every class that had any.
    fn check_none_is_lost(&self, mut present: BTreeSet<usize>, root: &Path) -> Result<(), DataError> {
        for entry in &self.entries {
            present.remove(&entry.label);
        }
        if present.is_empty() {
            return Ok(());
        }
        let classes = present.into_iter().map(|label| self.classes[label].clone()).collect();
        Err(DataError::EmptyClasses { root: root.into(), classes })
    }

    /// Names of the classes.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Index of an image's class.
    pub fn label(&self, index: usize) -> usize {
        self.entries[index].label
    }

    /// Which of several folders or files an image is of.
    pub fn part(&self, index: usize) -> usize {
        self.entries[index].part
    }

    /// Hash of the images of one part of the data, or of all, with their labels and the classes, in hexadecimal.
    pub fn sha256(&self, is_counted: impl Fn(usize) -> bool) -> String {
        let mut hash = Sha256::new();
        self.classes.iter().for_each(|class| hash.update(format!("{class}\n")));
        for entry in self.entries.iter().filter(|entry| is_counted(entry.part)) {
            hash.update((entry.label as u64).to_le_bytes());
            hash.update(entry.sha256);
        }
        hex(&hash.finalize())
    }

    /// What people call an image.
    pub fn name(&self, index: usize) -> String {
        self.entries[index].source.name()
    }

    /// An image's pixels.
    ///
    /// # Errors
    /// If its file has changed since it was checked.
    pub fn image(&self, index: usize) -> Result<Arc<RgbImage>, DataError> {
        let entry = &self.entries[index];
        if let Some(decoded) = &entry.decoded {
            return Ok(Arc::clone(decoded));
        }
        let image = match &entry.source {
            ImageSource::Record { records, index } => records.image(*index),
            ImageSource::File(file) => {
                decode_file(file, &self.room).map_err(|bad| DataError::BadImages(vec![bad]))?.0
            }
        };
        Ok(Arc::new(image))
    }
}

/// Takes `bytes` of the cache, if they are left.
fn reserve(used: &AtomicU64, bytes: u64, limit: u64) -> bool {
    let take = |used: u64| used.checked_add(bytes).filter(|&used| used <= limit);
    used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
}

/// Reads image files, on all threads together in bounded memory.
#[derive(Debug, Default)]
pub struct ImageReader {
    room: Room,
}

impl ImageReader {
    /// The pixels of one image file.
    ///
    /// # Errors
    /// If it cannot be read or decoded.
    pub fn decoded(&self, file: &Path) -> Result<RgbImage, BadImage> {
        Ok(decode_file(file, &self.room)?.0)
    }
}

/// The image in a file, and the hash of the file.
fn decode_file(file: &Path, room: &Room) -> Result<(RgbImage, [u8; 32]), BadImage> {
    let size = size_of(file)?;
    let mut part = room.enter(size);
    let bytes = read(file)?;
    let sha256 = Sha256::digest(&bytes).into();
    let encoded = Encoded::open(&bytes, file)?;
    let memory = encoded.memory();
    if part.grow(memory) {
        return Ok((encoded.decode()?, sha256));
    }
    // Nobody waits while holding a part; the file is read once more, most often from the system's cache.
    drop(encoded);
    drop(bytes);
    drop(part);
    let _whole = room.enter(size.saturating_add(memory));
    Ok((decode(&read(file)?, file)?, sha256))
}

fn size_of(file: &Path) -> Result<u64, BadImage> {
    let bytes = fs::metadata(file).map_err(|source| BadImage::Read { file: file.into(), source })?.len();
    match bytes {
        0 => Err(BadImage::Empty { file: file.into() }),
        1..=FILE_LIMIT => Ok(bytes),
        _ => Err(BadImage::TooLarge { file: file.into(), bytes, limit: FILE_LIMIT }),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, BadImage> {
    fs::read(file).map_err(|source| BadImage::Read { file: file.into(), source })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::data::folder;

    fn image(colour: u8) -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        RgbImage::from_pixel(4, 4, image::Rgb([colour; 3]))
            .write_to(&mut bytes, image::ImageFormat::Png)
            .unwrap();
        bytes.into_inner()
    }

    fn dataset(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Dataset) {
        let root = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path: PathBuf = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let dataset = folder::read(root.path()).unwrap();
        (root, dataset)
    }

    #[test]
    fn a_wrong_extension_does_not_matter() {
        let (_root, dataset) = dataset(&[("a/png.jpg", &image(9))]);
        let (images, bad) = Images::load(dataset, OnBadImage::Fail, 1 << 20).unwrap();
        assert!(bad.is_empty());
        assert_eq!(images.image(0).unwrap().get_pixel(1, 1).0, [9; 3]);
    }

    #[test]
    fn all_bad_images_are_listed_at_once() {
        let good = image(9);
        let (_root, dataset) = dataset(&[
            ("a/0.png", &good),
            ("a/cut.png", &good[..40]),
            ("a/empty.png", b""),
            ("b/text.png", b"hello"),
        ]);
        let message = Images::load(dataset, OnBadImage::Fail, 1 << 20).unwrap_err().to_string();
        for part in ["3 images", "cut.png", "empty.png: the file is empty", "text.png", "on_bad_image"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn equal_images_are_counted_and_named_in_one_line() {
        let (_root, dataset) = dataset(&[("a/0.png", b""), ("a/1.png", b""), ("a/2.png", b"")]);
        let message = Images::load(dataset, OnBadImage::Fail, 1 << 20).unwrap_err().to_string();
        let line = message.lines().nth(1).unwrap();
        assert!(line.starts_with("  3 images: the file is empty (") && line.ends_with("2.png)"), "{message}");
    }

    #[test]
    fn skipping_leaves_bad_images_out_and_reports_them() {
        let (_root, dataset) = dataset(&[("a/0.png", &image(9)), ("a/1.png", b"")]);
        let (images, bad) = Images::load(dataset, OnBadImage::Skip, 1 << 20).unwrap();
        assert_eq!((images.len(), bad.len()), (1, 1));
    }

    #[test]
    fn skipping_a_whole_class_is_an_error() {
        let (_root, dataset) = dataset(&[("a/0.png", &image(9)), ("b/1.png", b"")]);
        let message = Images::load(dataset, OnBadImage::Skip, 1 << 20).unwrap_err().to_string();
        assert!(message.contains("no images in b"), "{message}");
    }

    #[test]
    fn the_cache_holds_no_more_than_it_may() {
        let (_root, dataset) =
            dataset(&[("a/0.png", &image(1)), ("a/1.png", &image(2)), ("a/2.png", &image(3))]);
        let (images, _) = Images::load(dataset, OnBadImage::Fail, 2 * 48).unwrap();
        assert_eq!(images.entries.iter().filter(|entry| entry.decoded.is_some()).count(), 2);
        let colours: Vec<u8> =
            (0..3).map(|index| images.image(index).unwrap().get_pixel(0, 0).0[0]).collect();
        assert_eq!(colours, [1, 2, 3]);
    }
}
