//! Model folders in the Hugging Face layout: `config.json`, and safetensors in one file or in shards with an index.
//!
//! Opening a folder maps the weights into memory and checks every header before anything is allocated. What lies there as
//! a model wants it is not copied on the CPU, but used where it lies; it takes memory that the system may share and take
//! back. What a tensor means is told by the [`KeyMap`] of a model; this module knows no model by name.

mod collect;
mod key_map;
mod mapped;
mod numbers;
mod writer;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nola_core::BaseIdentity;
use nola_core::foreign_json::MAX_CONFIG_BYTES;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::Error;
use crate::json::{self, WrongJson};
pub use collect::collect;
pub use key_map::{KeyMap, Part, Source};
use mapped::MappedFile;
pub use mapped::MappedFiles;
pub use writer::{NamedTensor, StoredDtype, save};

/// An index larger than this is refused, in bytes; the largest honest ones have 9 MB.
pub(crate) const MAX_INDEX_BYTES: u64 = 32 << 20;
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
}

/// Where a tensor lies.
#[derive(Debug, Clone)]
struct Stored {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a folder; the weights stay on disk until a model asks for them.
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
        };
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

    /// What an adapter remembers of its base: name, and hashes of the configuration and of sampled weights.
    ///
    /// The weights' hash covers name, type, shape and sampled bytes of every tensor in name order, so it does not
    /// depend on how the tensors are spread over files.
    pub fn identity(&self) -> BaseIdentity {
        let mut hash = Sha256::new();
        for (name, stored) in &self.tensors {
            hash.update(format!("{name} {} {:?}\n", stored.dtype, stored.shape));
            let bytes = self.bytes(stored);
            if bytes.len() <= HASHED_WHOLE_BYTES {
                hash.update(bytes);
                continue;
            }
            for sample in 0..SAMPLES {
                let start = (bytes.len() - SAMPLE_BYTES) * sample / (SAMPLES - 1);
                hash.update(&bytes[start..start + SAMPLE_BYTES]);
            }
        }
        BaseIdentity {
            name: self.name(),
            config_sha256: self.config_sha256.clone(),
            weights_sha256: hex(&hash.finalize()),
        }
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

    /// Maps one safetensors file and returns its tensors.
    fn map_shard(&mut self, file: &Path) -> Result<BTreeMap<String, Stored>, Error> {
        let io = |source| Error::Io { file: file.to_path_buf(), source };
        let opened = File::open(file).map_err(io)?;
        let bytes = opened.metadata().map_err(io)?.len();
        let damaged = |source| Error::Safetensors { file: file.to_path_buf(), bytes, source };
        // Mapping nothing is an error of its own on some systems.
        if bytes == 0 {
            return Err(damaged(safetensors::SafeTensorError::HeaderTooSmall));
        }
        let mapped = MappedFile::new(file, opened).map_err(io)?;
        let map = mapped.bytes();
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(damaged)?;
        let data = header + size_of::<u64>();
        let shard = self.shards.len();
        let stored = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
            let (start, end) = info.data_offsets;
            let bytes = data + start..data + end;
            (name, Stored { shard, dtype: info.dtype, shape: info.shape.clone(), bytes })
        };
        let tensors = metadata.tensors().into_iter().map(stored).collect();
        self.shards.push(map);
        self.files.0.push(Arc::downgrade(&mapped));
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

/// Reads a configuration file whole, if it is no larger than honest ones are.
///
/// # Errors
/// If it is absent or too large, or cannot be read.
pub fn read_bounded(file: &Path) -> Result<Vec<u8>, Error> {
    read_up_to(file, MAX_CONFIG_BYTES)
}

fn read_up_to(file: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let io = |source| Error::Io { file: file.to_path_buf(), source };
    if !file.exists() {
        return Err(Error::MissingFile { file: file.to_path_buf() });
    }
    let opened = File::open(file).map_err(io)?;
    let bytes = opened.metadata().map_err(io)?.len();
    let mut text = Vec::new();
    // A file that is no plain one does not tell its size.
    opened.take(limit + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > limit {
        return Err(Error::TooLarge { file: file.to_path_buf(), bytes, limit });
    }
    Ok(text)
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
        None => Error::MissingFile { file: expected },
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
