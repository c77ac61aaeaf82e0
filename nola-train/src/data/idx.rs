//! MNIST and Fashion-MNIST: IDX files of bytes, plain or gzipped.

use std::fs::File;
use std::io::{BufReader, Chain, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;

use super::error::ExpectedLength;
use super::{Colours, DataError, Dataset, Records};
use crate::portion::Split;

/// Bytes of unpacked pixels that are read at most; MNIST has 47 million.
const LIMIT: u64 = 1 << 30;

/// Largest side of an image, in pixels.
const SIDE_LIMIT: u32 = 4096;

/// What the images show.
#[derive(Debug, Clone, Copy)]
pub(super) enum Variant {
    /// MNIST.
    Digits,
    /// Fashion-MNIST.
    Fashion,
}

impl Variant {
    fn classes(self) -> [&'static str; 10] {
        match self {
            Self::Digits => ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
            Self::Fashion => [
                "t-shirt",
                "trouser",
                "pullover",
                "dress",
                "coat",
                "sandal",
                "shirt",
                "sneaker",
                "bag",
                "ankle boot",
            ],
        }
    }
}

/// Reads the file of images `path`, or the split's one in the folder `path`, and the file of labels beside it.
///
/// # Errors
/// If a file is absent, of another format or length, or the two do not belong together.
pub(super) fn read(path: &Path, variant: Variant, split: Split) -> Result<Dataset, DataError> {
    let images_file = if path.is_dir() { images_file_in(path, split)? } else { path.to_owned() };
    let labels_file = labels_file_of(&images_file)?;
    let ([count, height, width], pixels) = read_idx::<3>(&images_file)?;
    let ([_], labels) = read_idx::<1>(&labels_file)?;
    if count as usize != labels.len() {
        let (images, labels) = (count as usize, labels.len());
        return Err(DataError::CountsDiffer { images_file, labels_file, images, labels });
    }
    let classes = variant.classes();
    super::check_labels(&labels_file, &labels, classes.len())?;
    let (width, height) = (width as usize, height as usize);
    let records = Records {
        file: images_file,
        bytes: pixels,
        start: 0,
        stride: width * height,
        width,
        height,
        colours: Colours::Grey,
    };
    Ok(Dataset {
        root: path.into(),
        classes: classes.map(str::to_owned).to_vec(),
        samples: super::samples_of(Arc::new(records), &labels),
        links_outside: 0,
        notes: Vec::new(),
    })
}

fn images_file_in(folder: &Path, split: Split) -> Result<PathBuf, DataError> {
    let prefix = match split {
        Split::Train => "train",
        Split::Validation => "t10k",
    };
    // The second spelling is what some mirrors unpack to.
    let names = [format!("{prefix}-images-idx3-ubyte"), format!("{prefix}-images.idx3-ubyte")];
    first_file(folder, &names)
}

fn labels_file_of(images_file: &Path) -> Result<PathBuf, DataError> {
    let folder = images_file.parent().unwrap_or(Path::new("."));
    let name = images_file.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let names = [name.replace("images", "labels").replace("idx3", "idx1")];
    first_file(folder, &names)
}

/// The first of the names that exists, as it is or with `.gz`.
fn first_file(folder: &Path, names: &[String]) -> Result<PathBuf, DataError> {
    let spellings = names.iter().flat_map(|name| [folder.join(name), folder.join(format!("{name}.gz"))]);
    spellings.into_iter().find(|file| file.is_file()).ok_or_else(|| DataError::MissingFiles {
        folder: folder.into(),
        expected: format!("{} (or with .gz)", names.join(" or ")),
    })
}

/// Reads an IDX file of bytes with `D` dimensions: their sizes, and the bytes.
///
/// Never reads more than the header says, nor more than [`LIMIT`], whatever a gzip stream would unpack to.
fn read_idx<const D: usize>(file: &Path) -> Result<([u32; D], Vec<u8>), DataError> {
    let io = |source| DataError::Io { path: file.into(), source };
    let mut reader = open(file).map_err(io)?;
    let header = read_up_to(&mut reader, 4 + 4 * D as u64).map_err(io)?;
    let words: Vec<u32> =
        header.chunks_exact(4).map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]])).collect();
    let expected = 0x0800 + D as u32;
    if let Some(&found) = words.first().filter(|&&found| found != expected) {
        return Err(DataError::WrongMagic { file: file.into(), found, expected, dimensions: D as u32 });
    }
    let wrong_length = |found: u64, expected: u64| DataError::WrongLength {
        file: file.into(),
        found,
        expected: ExpectedLength::Exactly(expected),
    };
    let sizes: [u32; D] = words
        .get(1..)
        .and_then(|sizes| sizes.try_into().ok())
        .ok_or_else(|| wrong_length(header.len() as u64, 4 + 4 * D as u64))?;
    let total = checked_total(file, &sizes)?;
    let bytes = read_up_to(&mut reader, total + 1).map_err(io)?;
    if bytes.is_empty() || bytes.len() as u64 != total {
        let start = header.len() as u64;
        return Err(wrong_length(start + bytes.len() as u64, start + total));
    }
    Ok((sizes, bytes))
}

fn checked_total(file: &Path, sizes: &[u32]) -> Result<u64, DataError> {
    let total = sizes.iter().try_fold(1u64, |total, &size| total.checked_mul(size.into()));
    let sides = sizes.get(1..).unwrap_or_default();
    match total {
        Some(total) if total <= LIMIT && sides.iter().all(|&side| side <= SIDE_LIMIT) => Ok(total),
        Some(_) | None => Err(DataError::TooLarge {
            file: file.into(),
            count: sizes.first().copied().unwrap_or(0),
            height: sides.first().copied().unwrap_or(1),
            width: sides.get(1).copied().unwrap_or(1),
            limit: LIMIT,
        }),
    }
}

/// Opens a file, unpacking it if it starts as gzip does.
fn open(file: &Path) -> std::io::Result<Box<dyn Read>> {
    let mut reader = BufReader::new(File::open(file)?);
    let start = read_up_to(&mut reader, 2)?;
    let is_gzip = start == [0x1f, 0x8b];
    let whole: Chain<Cursor<Vec<u8>>, BufReader<File>> = Cursor::new(start).chain(reader);
    Ok(if is_gzip { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) })
}

fn read_up_to(reader: &mut impl Read, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.by_ref().take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;
    use crate::data::ImageSource;

    fn images(count: u32, side: u32) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            [0x0803, count, side, side].iter().flat_map(|word: &u32| word.to_be_bytes()).collect();
        bytes.extend((0..count * side * side).map(|value| value as u8));
        bytes
    }

    fn labels(labels: &[u8]) -> Vec<u8> {
        let words = [0x0801, labels.len() as u32];
        words.iter().flat_map(|word| word.to_be_bytes()).chain(labels.iter().copied()).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    fn message(images: &[u8], labels: &[u8]) -> String {
        let folder = folder(&[("t10k-images-idx3-ubyte", images), ("t10k-labels-idx1-ubyte", labels)]);
        read(folder.path(), Variant::Digits, Split::Validation).unwrap_err().to_string()
    }

    #[test]
    fn plain_and_gzipped_files_give_the_same_images() {
        let (images, labels) = (images(2, 3), labels(&[7, 1]));
        let plain = folder(&[("train-images-idx3-ubyte", &images), ("train-labels-idx1-ubyte", &labels)]);
        let packed = folder(&[
            ("train-images-idx3-ubyte.gz", &gzip(&images)),
            ("train-labels-idx1-ubyte.gz", &gzip(&labels)),
        ]);
        for folder in [plain, packed] {
            let dataset = read(folder.path(), Variant::Digits, Split::Train).unwrap();
            assert_eq!(dataset.samples.iter().map(|sample| sample.label).collect::<Vec<_>>(), [7, 1]);
            let ImageSource::Record { records, index } = &dataset.samples[1].source else {
                panic!("not a record")
            };
            assert_eq!(records.image(*index).get_pixel(2, 1).0, [14, 14, 14]);
        }
    }

    #[test]
    fn a_wrong_magic_number_is_shown() {
        let message = message(&labels(&[1]), &labels(&[1]));
        assert!(message.contains("0x00000801") && message.contains("0x00000803"), "{message}");
    }

    #[test]
    fn a_file_that_is_too_short_or_too_long_is_refused() {
        let whole = images(2, 3);
        let longer = [&whole[..], &[0]].concat();
        for bytes in [&whole[..whole.len() - 1], &whole[..9], &whole[..16], &longer] {
            let message = message(bytes, &labels(&[7, 1]));
            assert!(message.contains("t10k-images-idx3-ubyte") && message.contains("cut short"), "{message}");
        }
    }

    #[test]
    fn a_header_that_claims_too_much_is_refused_before_reading() {
        let mut bytes = images(1, 3);
        bytes[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(message(&gzip(&bytes), &labels(&[1])).contains("the limit is"));
    }

    #[test]
    fn a_gzip_bomb_is_read_no_further_than_its_header_says() {
        let bomb = [images(1, 3), vec![0; 64 << 20]].concat();
        let message = message(&gzip(&bomb), &labels(&[1]));
        assert!(message.contains("26 bytes, not the 25"), "{message}");
    }

    #[test]
    fn labels_of_another_file_are_refused() {
        assert!(message(&images(2, 3), &labels(&[7])).contains("1 labels for the 2 images"));
    }

    #[test]
    fn a_label_that_is_no_class_is_refused() {
        assert!(message(&images(1, 3), &labels(&[10])).contains("record 0 has label 10"));
    }

    #[test]
    fn missing_labels_are_named() {
        let folder = folder(&[("t10k-images-idx3-ubyte", &images(1, 3))]);
        let message = read(folder.path(), Variant::Digits, Split::Validation).unwrap_err().to_string();
        assert!(message.contains("t10k-labels-idx1-ubyte"), "{message}");
    }
}
