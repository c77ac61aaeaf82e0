//! GGUF files, the format of llama.cpp, as model folders: one file holds configuration, tokenizer and weights.
//!
//! A file `model.gguf` is read as the folder that it was converted from. Its metadata becomes what Hugging Face's files say, so
//! that whoever reads `config.json`, `tokenizer.json` or `tokenizer_config.json` of a folder reads them here too, under the
//! path `model.gguf/config.json`. The weights keep their place in the file and are made dense one by one.
//!
//! # Source
//! `docs/gguf.md` of ggml, for versions 2 and 3.

mod blocks;
mod config;
mod dense;
mod error;
mod header;
mod names;
mod packed;
mod reader;
mod tokenizer;
mod value;

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub(crate) use dense::Foreign;
pub use error::GgufError;

use config::{Settings, Tensors, config};
use header::{Beginning, Header, StoredTensor};
use names::{HEAD, Layout, ModelKind, TOKENS};

/// Ending of the files.
const EXTENSION: &str = "gguf";
/// Bytes of two tensors that are compared at a time.
const COMPARED: usize = 1 << 20;

/// Whether a path leads to a GGUF file, by its name or by its first bytes.
pub fn is_gguf(path: &Path) -> bool {
    let begins = || -> std::io::Result<bool> {
        let mut magic = [0; 4];
        std::io::Read::read_exact(&mut fs::File::open(path)?, &mut magic)?;
        Ok(magic == *b"GGUF")
    };
    path.is_file() && (is_named(path) || begins().unwrap_or(false))
}

/// Whether a path is named as a GGUF file is, whether there is one or not.
pub(crate) fn is_named(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(EXTENSION))
}

/// The one GGUF file of a folder that holds no model or adapter besides; else the folder itself.
///
/// # Errors
/// If it holds several.
pub fn in_folder(folder: &Path) -> Result<PathBuf, GgufError> {
    if ["config.json", "adapter_config.json"].iter().any(|name| folder.join(name).exists()) {
        return Ok(folder.to_owned());
    }
    let mut files = files_in(folder);
    match files.len() {
        0 => Ok(folder.to_owned()),
        1 => Ok(files.remove(0)),
        _ => {
            let name = |file: PathBuf| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let files = files.into_iter().map(name).collect();
            Err(GgufError::Several { folder: folder.to_owned(), files })
        }
    }
}

/// The GGUF files of a folder, in the order of their names.
pub(crate) fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = entries.filter(|path| is_named(path)).collect();
    files.sort();
    files
}

/// The file at `path`, if its folder is a GGUF file: `Some(None)` if there is none of its name in what that stands for.
pub(crate) fn inside(path: &Path) -> Option<Result<Option<Vec<u8>>, GgufError>> {
    let file = path.parent().filter(|file| file.is_file())?;
    let name = path.file_name()?.to_str()?;
    Some(named(file, name))
}

fn named(file: &Path, name: &str) -> Result<Option<Vec<u8>>, GgufError> {
    let is_known =
        ["config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"].contains(&name);
    if !is_known {
        return Ok(None);
    }
    let beginning = Beginning::read(file)?;
    let header = beginning.header(file)?;
    let json = |value: serde_json::Value| Some(format!("{value:#}\n").into_bytes());
    match name {
        "config.json" => config_of(&beginning, &header).map(json),
        "tokenizer_config.json" => tokenizer::settings(&header).map(json),
        "tokenizer.json" => tokenizer::json(&header),
        _ => tokenizer::model(&header),
    }
}

fn config_of(beginning: &Beginning, header: &Header) -> Result<serde_json::Value, GgufError> {
    let io = |source| GgufError::Io { file: header.file.to_owned(), source };
    let numbers = |name: &str| -> Result<Vec<f32>, GgufError> {
        let Some(tensor) = header.tensor(name) else { return Ok(Vec::new()) };
        let mut numbers = vec![0.0; tensor.shape.iter().product()];
        tensor.format.dequantize(&beginning.at(tensor.bytes.clone()).map_err(io)?, &mut numbers);
        Ok(numbers)
    };
    let tied = match (header.tensor(HEAD), header.tensor(TOKENS)) {
        (Some(head), Some(tokens)) => is_same(beginning, head, tokens).map_err(io)?,
        (Some(_), None) => false,
        (None, _) => true,
    };
    config(header, &Tensors { numbers: &numbers, tied })
}

/// Whether two tensors are one, as old conversions of tied heads wrote them.
fn is_same(beginning: &Beginning, one: &StoredTensor, other: &StoredTensor) -> std::io::Result<bool> {
    if one.format != other.format || one.shape != other.shape {
        return Ok(false);
    }
    let length = one.bytes.len();
    for start in (0..length).step_by(COMPARED) {
        let part = |of: &Range<usize>| of.start + start..of.start + (start + COMPARED).min(length);
        if beginning.at(part(&one.bytes))? != beginning.at(part(&other.bytes))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A tensor of a file as Hugging Face names and shapes it.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// Its type, if it lies in the file as it is there.
    pub(crate) plain: Option<safetensors::Dtype>,
    /// How it lies there else.
    pub(crate) foreign: Option<Foreign>,
    /// Its place in the file.
    pub(crate) bytes: Range<usize>,
}

/// The weights of a file.
#[derive(Debug)]
pub(crate) struct Weights {
    pub(crate) tensors: Vec<Tensor>,
    /// SHA-256 of what the file says of the model beside its weights.
    pub(crate) config_sha256: String,
}

/// The weights of a file whose bytes are `bytes`.
///
/// # Errors
/// If it is damaged, or holds a model that is not read.
pub(crate) fn weights(file: &Path, bytes: &[u8]) -> Result<Weights, GgufError> {
    let header = Header::of(file, bytes)?;
    let kind = ModelKind::of(&header)?;
    let heads = Settings { header: &header, kind }.heads()?;
    let mut tensors: Vec<Tensor> = Vec::with_capacity(header.tensors.len());
    let mut names = BTreeSet::new();
    let mut beside = Vec::new();
    for stored in &header.tensors {
        let Some((name, layout)) = kind.tensor(stored.name, heads) else {
            beside.push(&bytes[stored.bytes.clone()]);
            continue;
        };
        check_layout(&header, stored, layout)?;
        if !names.insert(name.clone()) {
            let found = format!("another tensor under the name `{name}`");
            return Err(header.wrong_value(stored.name, found, "each weight once"));
        }
        tensors.push(tensor(name, stored, layout));
    }
    Ok(Weights { tensors, config_sha256: header.config_sha256(kind.name(), &beside) })
}

fn tensor(name: String, stored: &StoredTensor, layout: Layout) -> Tensor {
    let StoredTensor { format, ref shape, ref bytes, .. } = *stored;
    let plain = if layout == Layout::AsStored { format.plain() } else { None };
    let foreign = plain.is_none().then(|| Foreign { format, layout, shape: shape.clone() });
    let mut shape = shape.clone();
    if layout == Layout::Transposed {
        shape.reverse();
    }
    Tensor { name, shape, plain, foreign, bytes: bytes.clone() }
}

/// What is turned must have rows to turn.
fn check_layout(header: &Header, stored: &StoredTensor, layout: Layout) -> Result<(), GgufError> {
    let shape = &stored.shape;
    let (fits, expected) = match layout {
        Layout::AsStored => return Ok(()),
        Layout::Transposed => (shape.len() == 2, "a matrix".to_owned()),
        Layout::Interleaved { heads } => {
            let halves = heads.checked_mul(2);
            let fits = shape.len() <= 2 && halves.is_some_and(|halves| shape[0].is_multiple_of(halves));
            (fits, format!("rows for {heads} heads of an even width"))
        }
    };
    match fits {
        true => Ok(()),
        false => Err(header.wrong_value(stored.name, format!("{shape:?}"), &expected)),
    }
}
