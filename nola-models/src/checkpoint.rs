//! Model folders in the Hugging Face layout: `config.json`, and safetensors in one file or in shards with an index; or one
//! GGUF file, which stands for such a folder.
//!
//! Opening a folder maps the weights into memory and checks every header before anything is allocated. What lies there as
//! a model wants it is not copied on the CPU, but used where it lies; it takes memory that the system may share and take
//! back. What a tensor means is told by the [`KeyMap`] of a model; this module knows no model by name.

mod bitsandbytes;
mod collect;
mod companions;
mod key_map;
mod low_rank;
mod mapped;
mod numbers;
mod part;
mod writer;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use nola_core::foreign_json::MAX_CONFIG_BYTES;
use nola_core::{BaseIdentity, Hollow};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::Error;
use crate::gguf::{self, Foreign};
use crate::json::{self, WrongJson};
pub use collect::collect;
pub use key_map::{KeyMap, Source};
use mapped::MappedFile;
pub use mapped::MappedFiles;
pub use part::{Part, Shares};
pub use writer::{ModelFolder, NamedTensor, save};

/// An index larger than this is refused, in bytes; the largest honest ones have 9 MB.
pub(crate) const MAX_INDEX_BYTES: u64 = 32 << 20;
/// More than a pointer to a file takes, in bytes.
const MAX_POINTER_BYTES: u64 = 1024;
/// Key of the hash over all tensors in the metadata of a `model.safetensors` that this program wrote.
const WRITTEN_SHA256: &str = "nola_tensors_sha256";
/// Bytes that one thread hashes at a time; part of what the hash is.
const HASHED_AT_ONCE: usize = 1 << 20;
/// A tensor longer than this is hashed by samples, in bytes.
const HASHED_WHOLE_BYTES: usize = 4096;
/// Number and length (in bytes) of the samples that stand for a longer tensor.
const SAMPLES: usize = 64;
const SAMPLE_BYTES: usize = 64;

/// An opened model folder: its configuration, and its weights still on disk.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    config: Value,
    config_sha256: String,
    shards: Vec<Bytes>,
    files: MappedFiles,
    tensors: BTreeMap<String, Stored>,
    /// Hash over all tensors, if this program wrote the file.
    written_sha256: Option<String>,
    identity: OnceLock<BaseIdentity>,
}

/// Where a tensor lies.
#[derive(Debug, Clone)]
struct Stored {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
    /// How GGUF stores it, if that is not as `dtype` and `shape` say.
    foreign: Option<Foreign>,
}

impl Stored {
    fn type_name(&self) -> String {
        self.foreign.as_ref().map_or(self.dtype.to_string(), Foreign::format)
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a folder or a GGUF file; the weights stay on disk until a model asks for them.
    ///
    /// The files must not be written to while the checkpoint, or a model on the CPU that it filled, is in use: they are
    /// mapped, not copied. Other files may take their place.
    ///
    /// # Errors
    /// If a file is absent, corrupt, cut short or only a pickle, or if index and shards contradict each other.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let config_file = folder.join("config.json");
        let text = read_bounded(&config_file)?;
        let config = parse_json(&config_file, &text)?;
        let mut checkpoint = Self {
            folder: folder.to_path_buf(),
            config,
            config_sha256: hex(&Sha256::digest(&text)),
            shards: Vec::new(),
            files: MappedFiles::default(),
            tensors: BTreeMap::new(),
            written_sha256: None,
            identity: OnceLock::new(),
        };
        if gguf::is_gguf(folder) {
            checkpoint.map_gguf()?;
            return Ok(checkpoint);
        }
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        if single.exists() {
            checkpoint.tensors = checkpoint.map_shard(&single)?;
        } else if index.exists() {
            checkpoint.map_indexed(&index)?;
        } else {
            return Err(no_weights(folder, single));
        }
        Ok(checkpoint)
    }

    /// Folder of the checkpoint.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The configuration file, for error messages.
    pub fn config_file(&self) -> PathBuf {
        self.folder.join("config.json")
    }

    /// The parsed `config.json`.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The files of the weights, to find out later whether somebody wrote to them.
    pub fn files(&self) -> &MappedFiles {
        &self.files
    }

    /// Names of all stored tensors, in order.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Shape of a stored tensor, if there is one of that name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|stored| stored.shape.as_slice())
    }

    /// How the numbers of a stored tensor are stored, as safetensors or ggml call it, if there is one of that name.
    pub fn stored_type(&self, name: &str) -> Option<String> {
        self.tensors.get(name).map(Stored::type_name)
    }

    /// What an adapter remembers of its base: name, and hashes of the configuration and of the weights. Reads every
    /// byte, but only once.
    ///
    /// The hashes of the weights cover name, type and shape of every tensor in name order and its bytes (all of them,
    /// and, for adapters written before there was such a hash, some of them), so they do not depend on how the tensors
    /// are spread over files.
    pub fn identity(&self) -> &BaseIdentity {
        self.identity.get_or_init(|| BaseIdentity {
            name: self.name(),
            config_sha256: self.config_sha256.clone(),
            weights_sha256: self.hash(sampled),
            tensors_sha256: Some(self.hash(whole)),
            quantization: None,
        })
    }

    /// Compares the weights with the hash that this program wrote beside them; nothing is read where there is none.
    ///
    /// # Errors
    /// If they are no longer what was written.
    pub fn check_intact(&self) -> Result<(), Error> {
        let (Some(written), folder) = (self.written_sha256.clone(), self.folder.clone()) else {
            return Ok(());
        };
        match self.identity().tensors_sha256.clone().unwrap_or_default() {
            found if found == written => Ok(()),
            found => Err(Error::Damaged { folder, written, found }),
        }
    }

    /// A hash over all tensors, of whose bytes `bytes` takes up what it wants.
    fn hash(&self, bytes: fn(&mut Sha256, &[u8])) -> String {
        let mut hash = Sha256::new();
        for (name, stored) in &self.tensors {
            hash.update(format!("{name} {} {:?}\n", stored.type_name(), stored.shape));
            bytes(&mut hash, self.bytes(stored));
        }
        hex(&hash.finalize())
    }

    /// `_name_or_path` where it is a name, else the name of the folder.
    fn name(&self) -> String {
        let stored = self.config["_name_or_path"]
            .as_str()
            .filter(|name| !name.is_empty() && !name.starts_with(['/', '.']));
        let folder = || {
            let resolved = self.folder.canonicalize().unwrap_or_else(|_| self.folder.clone());
            resolved.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        };
        stored.map_or_else(folder, str::to_string)
    }

    fn bytes(&self, stored: &Stored) -> &[u8] {
        &self.shards[stored.shard][stored.bytes.clone()]
    }

    /// Maps a file.
    fn map(&mut self, file: &Path) -> Result<Bytes, Error> {
        let io = |source| Error::Io { file: file.to_path_buf(), source };
        let opened = File::open(file).map_err(io)?;
        let mut start = Vec::new();
        (&opened).take(MAX_POINTER_BYTES).read_to_end(&mut start).map_err(io)?;
        // Mapping nothing is an error of its own on some systems.
        full(file, &start)?;
        let mapped = MappedFile::new(file, opened).map_err(io)?;
        self.shards.push(mapped.bytes());
        self.files.0.push(Arc::downgrade(&mapped));
        Ok(mapped.bytes())
    }

    /// Maps the GGUF file that stands for the folder.
    fn map_gguf(&mut self) -> Result<(), Error> {
        let file = self.folder.clone();
        let map = self.map(&file)?;
        let gguf::Weights { tensors, config_sha256 } = gguf::weights(&file, &map).map_err(Error::Gguf)?;
        let stored = |tensor: gguf::Tensor| {
            let gguf::Tensor { name, shape, plain, foreign, bytes } = tensor;
            (name, Stored { shard: 0, dtype: plain.unwrap_or(Dtype::F32), shape, bytes, foreign })
        };
        self.tensors = tensors.into_iter().map(stored).collect();
        // What this program makes of the metadata may change.
        self.config_sha256 = config_sha256;
        Ok(())
    }

    /// Maps one safetensors file and returns its tensors.
    fn map_shard(&mut self, file: &Path) -> Result<BTreeMap<String, Stored>, Error> {
        let shard = self.shards.len();
        let map = self.map(file)?;
        let bytes = map.len() as u64;
        let damaged = |source| Error::Safetensors { file: file.to_path_buf(), bytes, source };
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(damaged)?;
        let data = header + size_of::<u64>();
        let stored = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
            let (start, end) = info.data_offsets;
            let bytes = data + start..data + end;
            (name, Stored { shard, dtype: info.dtype, shape: info.shape.clone(), bytes, foreign: None })
        };
        let tensors = metadata.tensors().into_iter().map(stored).collect();
        self.written_sha256 =
            metadata.metadata().as_ref().and_then(|texts| texts.get(WRITTEN_SHA256)).cloned();
        Ok(tensors)
    }

    /// Maps every shard that the index names, and checks that index and shards agree.
    fn map_indexed(&mut self, file: &Path) -> Result<(), Error> {
        let Index { weight_map } = parse_json(file, &read_up_to(file, MAX_INDEX_BYTES)?)?;
        let mut shards: Vec<&String> = weight_map.values().collect();
        shards.sort();
        shards.dedup();
        if let Some(shard) = shards.iter().find(|shard| !is_plain_name(shard)) {
            return Err(Error::ShardName { file: file.to_path_buf(), shard: shard.to_string() });
        }
        let [mut missing_shards, mut absent, mut twice, mut unnamed] = [const { Vec::new() }; 4];
        for shard in shards {
            let path = self.folder.join(shard);
            if !path.exists() {
                missing_shards.push(shard.clone());
                continue;
            }
            let found = self.map_shard(&path)?;
            let named = weight_map.iter().filter(|(_, named)| *named == shard).map(|(tensor, _)| tensor);
            absent.extend(named.filter(|tensor| !found.contains_key(*tensor)).cloned());
            unnamed.extend(found.keys().filter(|tensor| !weight_map.contains_key(*tensor)).cloned());
            twice.extend(found.keys().filter(|tensor| self.tensors.contains_key(*tensor)).cloned());
            self.tensors.extend(found);
        }
        // A hash that came with one shard is not that of all.
        self.written_sha256 = None;
        let problems = vec![
            ("missing shards", missing_shards),
            ("tensors absent from their shard", absent),
            ("tensors in two shards", twice),
            ("tensors that the index does not name", unnamed),
        ];
        if problems.iter().all(|(_, names)| names.is_empty()) {
            return Ok(());
        }
        Err(Error::Shards { file: file.to_path_buf(), problems })
    }
}

/// Reads the `config.json` of a folder that may hold no weights.
///
/// # Errors
/// If it is absent, too large or no JSON.
pub fn read_config(folder: &Path) -> Result<Value, Error> {
    let file = folder.join("config.json");
    parse_json(&file, &read_bounded(&file)?)
}

/// The files of `names` that a model folder has.
pub fn files(folder: &Path, names: &[&str]) -> Vec<PathBuf> {
    let files = names.iter().map(|name| folder.join(name));
    let is_there = |file: &PathBuf| match gguf::inside(file) {
        // An error is that of whoever reads it.
        Some(inside) => !matches!(inside, Ok(None)),
        None => file.is_file(),
    };
    files.filter(is_there).collect()
}

/// A file of a model folder, whatever its size.
pub(crate) fn read_whole(file: &Path) -> Result<Vec<u8>, Error> {
    let missing = || Error::MissingFile { file: file.to_path_buf() };
    match gguf::inside(file) {
        Some(inside) => inside.map_err(Error::Gguf)?.ok_or_else(missing),
        None => std::fs::read(file).map_err(|source| Error::Io { file: file.to_path_buf(), source }),
    }
}

/// Reads a configuration file whole, if it is no larger than honest ones are.
///
/// # Errors
/// If it is absent or too large, or cannot be read.
pub fn read_bounded(file: &Path) -> Result<Vec<u8>, Error> {
    read_up_to(file, MAX_CONFIG_BYTES)
}

fn read_up_to(file: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let io = |source| Error::Io { file: file.to_path_buf(), source };
    let missing = || Error::MissingFile { file: file.to_path_buf() };
    if let Some(inside) = gguf::inside(file) {
        return inside.map_err(Error::Gguf)?.ok_or_else(missing);
    }
    if !file.exists() {
        return Err(missing());
    }
    let opened = File::open(file).map_err(io)?;
    let bytes = opened.metadata().map_err(io)?.len();
    let mut text = Vec::new();
    // A file that is no plain one does not tell its size.
    opened.take(limit + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > limit {
        return Err(Error::TooLarge { file: file.to_path_buf(), bytes, limit });
    }
    full(file, &text)?;
    Ok(text)
}

/// Refuses a file with these first bytes if they are none of what it should hold.
fn full(file: &Path, start: &[u8]) -> Result<(), Error> {
    Hollow::of(start).map_or(Ok(()), |what| Err(Error::Hollow { file: file.to_path_buf(), what }))
}

/// Parses JSON; an error names the field.
pub(crate) fn parse_json<T: DeserializeOwned>(file: &Path, text: &[u8]) -> Result<T, Error> {
    json::parse(text).map_err(|WrongJson { field, source }| Error::Json {
        file: file.to_path_buf(),
        field,
        source,
    })
}

/// Whether `name` is one plain file name on every system: no folder, drive, or way upwards.
fn is_plain_name(name: &str) -> bool {
    let one = matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    one && !name.contains(['/', '\\', ':', '\0'])
}

/// The error for a folder without safetensors: a pickle is named, if there is one.
fn no_weights(folder: &Path, expected: PathBuf) -> Error {
    let is_pickle = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("bin" | "pt" | "pth" | "ckpt" | "pkl"))
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    match entries.filter(is_pickle).min() {
        Some(file) => Error::PickleOnly { file },
        None => match gguf::files_in(folder).into_iter().next() {
            Some(file) => Error::GgufOnly { file },
            None => Error::MissingFile { file: expected },
        },
    }
}

/// All bytes of a tensor: the hashes of its pieces, which threads share out.
fn whole(hash: &mut Sha256, bytes: &[u8]) {
    let pieces: Vec<_> = bytes.par_chunks(HASHED_AT_ONCE).map(Sha256::digest).collect();
    pieces.iter().for_each(|piece| hash.update(piece));
}

/// A short tensor as it is, and of a longer one some bytes, spread evenly.
fn sampled(hash: &mut Sha256, bytes: &[u8]) {
    if bytes.len() <= HASHED_WHOLE_BYTES {
        return hash.update(bytes);
    }
    for sample in 0..SAMPLES {
        let start = (bytes.len() - SAMPLE_BYTES) * sample / (SAMPLES - 1);
        hash.update(&bytes[start..start + SAMPLE_BYTES]);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::WeightDtype;

    const FILE: &str = "model.safetensors";

    /// A folder with a long and a short tensor.
    fn written() -> TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let long: Vec<f32> = (0..600_000).map(|n| (n as f32).sin()).collect();
        let tensor = |name: &str, values: Vec<f32>| NamedTensor {
            name: name.to_owned(),
            shape: vec![values.len()],
            values,
        };
        let tensors = [tensor("long", long), tensor("short", vec![1.0, 2.0])];
        let config = json!({"model_type": "llama"});
        let dtype = WeightDtype::F32;
        let model =
            ModelFolder { config: &config, preprocessor: None, tensors: &tensors, dtype, companions: &[] };
        save(folder.path(), &model).expect("an empty folder");
        folder
    }

    fn edit(folder: &TempDir, edit: impl FnOnce(&mut Vec<u8>)) {
        let file = folder.path().join(FILE);
        let mut bytes = std::fs::read(&file).expect("a file");
        edit(&mut bytes);
        std::fs::write(&file, bytes).expect("a written file");
    }

    /// The same weights, in a file that says nothing of them.
    fn foreign() -> TempDir {
        let folder = written();
        edit(&folder, |bytes| {
            let place =
                bytes.windows(WRITTEN_SHA256.len()).position(|text| text == WRITTEN_SHA256.as_bytes());
            bytes[place.expect("the key")] = b'x';
        });
        folder
    }

    fn opened(folder: &TempDir) -> Checkpoint {
        Checkpoint::open(folder.path()).expect("a whole folder")
    }

    fn identity(folder: &TempDir) -> BaseIdentity {
        opened(folder).identity().clone()
    }

    #[test]
    fn every_byte_of_the_weights_decides_the_identity() {
        let before = BaseIdentity { name: String::new(), ..identity(&foreign()) };
        let written = BaseIdentity { name: String::new(), ..identity(&written()) };
        assert_eq!(before, written, "the same tensors");
        // Bytes from the end: of the short tensor, and of the long one at places that are no samples.
        for place in [1, 8, 9, 1000, 100_000, 1_234_567, 2_399_000] {
            let folder = foreign();
            edit(&folder, |bytes| {
                let place = bytes.len() - place;
                bytes[place] ^= 1;
            });
            opened(&folder).check_intact().expect("nothing says what they were");
            let after = identity(&folder);
            assert_ne!(after.tensors_sha256, before.tensors_sha256, "{place} bytes before the end");
            assert_eq!(after.config_sha256, before.config_sha256);
        }
    }

    #[test]
    fn weights_that_are_not_those_that_were_written_are_damaged() {
        opened(&written()).check_intact().expect("whole weights");
        for place in [1, 50_000, 1_000_000] {
            let folder = written();
            edit(&folder, |bytes| {
                let end = bytes.len() - place;
                bytes[end] ^= 0x55;
            });
            let error = opened(&folder).check_intact().expect_err("a byte was changed").to_string();
            assert!(error.contains("damaged") && error.contains("fetch or merge the model again"), "{error}");
        }
    }

    #[test]
    fn the_hash_is_the_same_for_every_number_of_threads() {
        let folder = written();
        let hashed = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| identity(&folder))
        };
        assert_eq!(hashed(1), hashed(3));
    }
}
