//! Tokenised data on disk, under a name that is the hash of everything it was made from.
//!
//! A file is a safetensors file: the tokens of all samples one after the other, the length of each, the ends of its
//! learned ranges, and the report; with a hash of all that, so that a damaged file is noticed and made anew.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nola_core::folder::{create_folders, order_metadata, write_atomically};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use super::{Origin, Packing, RowLocation, Sample, TextError, TextReport, TextSettings, TextSource};

/// Changes whenever the same data would become other samples.
const VERSION: u32 = 5;

/// The place of one data set in the cache folder.
pub(super) struct Cache {
    folder: PathBuf,
    key: String,
}

/// What the cache holds.
#[derive(Debug)]
pub(super) enum Found {
    /// The samples, where they are from, and their report.
    Samples(Vec<Sample>, Vec<Origin>, TextReport),
    /// Nothing.
    Nothing,
    /// A file that is not what was written.
    Damaged,
}

impl Cache {
    /// The place for what `source` makes of `files`, if the recipe names a cache folder.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn open(source: &TextSource, files: &[Arc<Path>]) -> Result<Option<Self>, TextError> {
        let folder = source.settings.cache.clone();
        if folder.as_os_str().is_empty() {
            return Ok(None);
        }
        let key = key(source, files)?;
        Ok(Some(Self { folder, key }))
    }

    fn file(&self) -> PathBuf {
        self.folder.join(format!("{}.safetensors", self.key))
    }

    /// What it holds.
    pub fn load(&self) -> Found {
        match std::fs::read(self.file()) {
            Ok(bytes) => self.parse(&bytes).unwrap_or(Found::Damaged),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
            Err(_) => Found::Damaged,
        }
    }

    /// Puts samples into it; a reader never sees half of them.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn save(&self, samples: &[Sample], origins: &[Origin], report: &TextReport) -> Result<(), TextError> {
        let failed = |source| TextError::Cache { folder: self.folder.clone(), source };
        let arrays = Arrays::of(samples, origins);
        let report = serde_json::to_string(report).expect("a report is made of numbers");
        let metadata = HashMap::from([
            ("sha256".to_owned(), self.digest(&report, &arrays)),
            ("report".to_owned(), report),
        ]);
        let bytes = arrays.named().map(|(name, array)| (name, bytes_of(array)));
        let views = bytes.iter().map(|(name, bytes)| {
            let view = TensorView::new(Dtype::U32, vec![bytes.len() / 4], bytes);
            (*name, view.expect("four bytes a number"))
        });
        let mut encoded =
            safetensors::serialize(views, Some(metadata)).map_err(io::Error::other).map_err(failed)?;
        order_metadata(&mut io::Cursor::new(&mut encoded)).map_err(failed)?;
        create_folders(&self.folder).map_err(failed)?;
        write_atomically(&self.file(), &encoded).map_err(io::Error::other).map_err(failed)
    }

    /// The samples in a file, unless it is damaged.
    fn parse(&self, bytes: &[u8]) -> Option<Found> {
        let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
        let metadata = header.metadata().as_ref()?;
        let tensors = SafeTensors::deserialize(bytes).ok()?;
        let array = |name| {
            let tensor = tensors.tensor(name).ok()?;
            (tensor.dtype() == Dtype::U32).then(|| numbers_of(tensor.data()))
        };
        let arrays = Arrays {
            ids: array("ids")?,
            lengths: array("lengths")?,
            ranges: array("ranges")?,
            ends: array("ends")?,
            origins: array("origins")?,
        };
        let report = metadata.get("report")?;
        if *metadata.get("sha256")? != self.digest(report, &arrays) {
            return None;
        }
        Some(Found::Samples(arrays.samples()?, arrays.origins()?, serde_json::from_str(report).ok()?))
    }

    fn digest(&self, report: &str, arrays: &Arrays) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{}\n{report}\n", self.key));
        for (name, array) in arrays.named() {
            hash.update(format!("{name} {}\n", array.len()));
            hash.update(bytes_of(array));
        }
        hex(&hash.finalize())
    }
}

/// The numbers of all samples, put together by what they mean.
struct Arrays {
    /// Tokens of all samples.
    ids: Vec<u32>,
    /// Number of tokens of each.
    lengths: Vec<u32>,
    /// Number of learned ranges of each.
    ranges: Vec<u32>,
    /// Start and end of each range.
    ends: Vec<u32>,
    /// File, row and line of each; 0 where it has no such number.
    origins: Vec<u32>,
}

impl Arrays {
    fn of(samples: &[Sample], origins: &[Origin]) -> Self {
        let ends = samples.iter().flat_map(|sample| &sample.trained);
        Self {
            ids: samples.iter().flat_map(|sample| sample.ids.iter().copied()).collect(),
            lengths: samples.iter().map(|sample| sample.ids.len() as u32).collect(),
            ranges: samples.iter().map(|sample| sample.trained.len() as u32).collect(),
            ends: ends.flat_map(|range| [range.start as u32, range.end as u32]).collect(),
            origins: origins.iter().flat_map(origin_numbers).collect(),
        }
    }

    fn named(&self) -> [(&'static str, &[u32]); 5] {
        [
            ("ids", &self.ids),
            ("lengths", &self.lengths),
            ("ranges", &self.ranges),
            ("ends", &self.ends),
            ("origins", &self.origins),
        ]
    }

    /// Where the samples are from, if it is known of each.
    fn origins(&self) -> Option<Vec<Origin>> {
        let (origins, rest) = self.origins.as_chunks::<3>();
        (rest.is_empty() && origins.len() == self.lengths.len())
            .then(|| origins.iter().map(origin_of).collect())
    }

    /// The samples, if the arrays fit each other.
    fn samples(&self) -> Option<Vec<Sample>> {
        let (mut ids, mut ends) = (self.ids.as_slice(), self.ends.chunks_exact(2));
        let sample = |(&length, &ranges): (&u32, &u32)| {
            let (own, others) = ids.split_at_checked(length as usize)?;
            ids = others;
            let ranges = ends.by_ref().take(ranges as usize);
            let trained = ranges.map(|ends| ends[0] as usize..ends[1] as usize).collect();
            Some(Sample { ids: own.to_vec(), trained })
        };
        self.lengths.iter().zip(&self.ranges).map(sample).collect()
    }
}

/// File, row and line.
fn origin_numbers(origin: &Origin) -> [u32; 3] {
    let (row, line) = match origin.row {
        RowLocation::Line(line) => (0, line),
        RowLocation::Row(row) => (row, 0),
        RowLocation::RowAtLine { row, line } => (row, line),
    };
    [origin.file, row, line].map(|number| u32::try_from(number).unwrap_or(u32::MAX))
}

fn origin_of(numbers: &[u32; 3]) -> Origin {
    let [file, row, line] = numbers.map(|number| number as usize);
    let row = match (row, line) {
        (0, line) => RowLocation::Line(line),
        (row, 0) => RowLocation::Row(row),
        (row, line) => RowLocation::RowAtLine { row, line },
    };
    Origin { file, row }
}

/// The hash of everything that samples depend on.
fn key(source: &TextSource, files: &[Arc<Path>]) -> Result<String, TextError> {
    let TextSource { data, format, settings, tokenizer, chat, embeddings, .. } = source;
    // These say what becomes of the samples later.
    let settings = TextSettings {
        cache: PathBuf::new(),
        packing: Packing::Off,
        group_by_length: false,
        ..(*settings).clone()
    };
    let settings = serde_json::to_string(&settings).expect("settings are text and numbers");
    let (bos, ends) = (tokenizer.bos(), tokenizer.ends());
    let template = chat.map(|chat| chat.fingerprint());
    let made_by = (
        VERSION,
        format,
        settings,
        tokenizer.fingerprint(),
        bos,
        ends,
        template,
        embeddings,
        data.portion,
        data.most,
    );
    let mut hash = Sha256::new();
    hash.update(format!("{made_by:?}\n"));
    for file in files {
        let kind = super::FileKind::of(file);
        hash.update(format!("{kind:?} {}\n", hash_of(file)?));
    }
    Ok(hex(&hash.finalize()))
}

fn hash_of(file: &Path) -> Result<String, TextError> {
    let io = |source| TextError::Io { file: file.into(), source };
    let mut hash = Sha256::new();
    io::copy(&mut File::open(file).map_err(io)?, &mut Hashing(&mut hash)).map_err(io)?;
    Ok(hex(&hash.finalize()))
}

/// A writer into a hash.
struct Hashing<'a>(&'a mut Sha256);

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn numbers_of(bytes: &[u8]) -> Vec<u32> {
    let (numbers, _) = bytes.as_chunks();
    numbers.iter().map(|&number| u32::from_le_bytes(number)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Case, Template};
    use super::*;
    use crate::text::{CacheUse, TextFormat};

    fn cache(folder: &Path) -> Cache {
        Cache { folder: folder.to_owned(), key: "k".to_owned() }
    }

    fn samples() -> Vec<Sample> {
        let twice = Sample { ids: vec![4, 5, 6, 7], trained: vec![0..1, 2..4] };
        vec![Sample::learned_from(1, vec![1, 2, 3]), twice, Sample::learned_from(0, vec![8, 9])]
    }

    fn origins() -> Vec<Origin> {
        let rows = [RowLocation::Line(7), RowLocation::Row(1), RowLocation::RowAtLine { row: 2, line: 3 }];
        rows.into_iter().enumerate().map(|(file, row)| Origin { file, row }).collect()
    }

    #[test]
    fn what_is_saved_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(&folder.path().join("new"));
        let report = TextReport { rows: 3, longest: 3, ..TextReport::default() };
        assert!(matches!(cache.load(), Found::Nothing));
        cache.save(&samples(), &origins(), &report).unwrap();
        let Found::Samples(found, of, found_report) = cache.load() else { panic!("not found") };
        assert_eq!((found, of, found_report), (samples(), origins(), report));
    }

    #[test]
    fn a_change_of_any_byte_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        cache.save(&samples(), &origins(), &TextReport::default()).unwrap();
        let bytes = std::fs::read(cache.file()).unwrap();
        // The first eight bytes say how long the header is; a blank in the header changes nothing.
        for position in (0..bytes.len()).filter(|&position| bytes[position] != b' ') {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1;
            std::fs::write(cache.file(), damaged).unwrap();
            assert!(matches!(cache.load(), Found::Damaged), "byte {position}");
        }
    }

    #[test]
    fn a_file_cut_short_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        cache.save(&samples(), &origins(), &TextReport::default()).unwrap();
        let bytes = std::fs::read(cache.file()).unwrap();
        for length in 0..bytes.len() {
            std::fs::write(cache.file(), &bytes[..length]).unwrap();
            assert!(matches!(cache.load(), Found::Damaged), "{length} bytes");
        }
    }

    #[test]
    fn a_file_under_the_name_of_another_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let first = cache(folder.path());
        first.save(&samples(), &origins(), &TextReport::default()).unwrap();
        let other = Cache { key: "other".to_owned(), ..cache(folder.path()) };
        std::fs::rename(first.file(), other.file()).unwrap();
        assert!(matches!(other.load(), Found::Damaged));
    }

    #[test]
    fn a_folder_that_cannot_be_written_names_the_setting() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let message =
            cache(&file).save(&samples(), &origins(), &TextReport::default()).unwrap_err().to_string();
        assert!(message.contains("data.text.cache"), "{message}");
    }

    fn cached(text: &str) -> Case {
        let mut case = Case::new("a.txt", text, TextFormat::E2e);
        case.settings.cache = case.folder.path().join("cache");
        case
    }

    #[test]
    fn the_second_run_takes_the_same_samples_from_the_cache() {
        let case = cached("a||b\nc||de\n");
        let (first, second) = (case.prepare().unwrap(), case.prepare().unwrap());
        assert_eq!((first.cache, second.cache), (CacheUse::Made, CacheUse::Hit));
        assert_eq!((first.samples, first.report), (second.samples, second.report));
        assert_eq!(first.origins, second.origins);
    }

    #[test]
    fn what_samples_depend_on_makes_them_anew() {
        let mut case = cached("a||b\nc||de\n");
        case.prepare().unwrap();
        case.settings.max_tokens = 4;
        assert_eq!(case.prepare().unwrap().cache, CacheUse::Made);
        case.tokenizer.fingerprint = "other";
        assert_eq!(case.prepare().unwrap().cache, CacheUse::Made);
        case.chat = Some(Template { end: "." });
        assert_eq!(case.prepare().unwrap().cache, CacheUse::Made);
        std::fs::write(&case.file, "a||b\nc||dd\n").unwrap();
        assert_eq!(case.prepare().unwrap().cache, CacheUse::Made);
        assert_eq!(case.prepare().unwrap().cache, CacheUse::Hit);
    }

    #[test]
    fn what_samples_do_not_depend_on_keeps_them() {
        let mut case = cached("a||b\nc||de\n");
        case.prepare().unwrap();
        case.settings.packing = Packing::On;
        case.settings.group_by_length = true;
        let renamed = case.folder.path().join("renamed.txt");
        std::fs::rename(&case.file, &renamed).unwrap();
        case.file = renamed;
        assert_eq!(case.prepare().unwrap().cache, CacheUse::Hit);
    }

    #[test]
    fn a_damaged_cache_is_repaired() {
        let case = cached("a||b\n");
        let first = case.prepare().unwrap();
        let file = std::fs::read_dir(&case.settings.cache).unwrap().next().unwrap().unwrap().path();
        std::fs::write(&file, "nonsense").unwrap();
        let second = case.prepare().unwrap();
        assert_eq!((second.cache, second.samples), (CacheUse::Repaired, first.samples));
        assert_eq!(case.prepare().unwrap().cache, CacheUse::Hit);
    }
}
