//! Writes model folders.

use std::borrow::Cow;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use half::bf16;
use safetensors::{Dtype, View};
use serde_json::Value;

use crate::Error;

/// The number type that weights are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoredDtype {
    /// 32 bits: what was computed, bit for bit.
    #[default]
    F32,
    /// Brain float, 16 bits: half the size, about three decimal digits.
    Bf16,
}

/// A tensor on its way to a file, under the file's name for it.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Name in the file.
    pub name: String,
    /// Sizes of the axes.
    pub shape: Vec<usize>,
    /// The numbers, row-major.
    pub values: Vec<f32>,
}

/// Writes a model folder: `config.json`, `model.safetensors`, and `preprocessor_config.json` where a model has one.
///
/// All files are written beside the target and renamed into place at the end, so there is a whole folder or none.
///
/// # Errors
/// If `folder` exists and is not empty, or if it cannot be written; the target is then as it was.
pub fn save(
    folder: &Path,
    config: &Value,
    preprocessor: Option<&Value>,
    tensors: &[NamedTensor],
    dtype: StoredDtype,
) -> Result<(), Error> {
    let io = |file: &Path| {
        let file = file.to_path_buf();
        move |source| Error::Write { file, source }
    };
    if folder.exists() && fs::read_dir(folder).map_err(io(folder))?.next().is_some() {
        return Err(Error::OutputExists { folder: folder.to_path_buf() });
    }
    let partial = partial_name(folder);
    if let Some(parent) = partial.parent() {
        fs::create_dir_all(parent).map_err(io(parent))?;
    }
    fs::create_dir(&partial).map_err(io(&partial))?;
    let written = write_files(&partial, config, preprocessor, tensors, dtype).and_then(|()| {
        if folder.exists() {
            fs::remove_dir(folder).map_err(io(folder))?;
        }
        fs::rename(&partial, folder).map_err(io(folder))
    });
    if written.is_err() {
        // The first error is the one to report; what could not be written may not be removable either.
        let _ = fs::remove_dir_all(&partial);
    }
    written
}

/// A name beside `folder` that no other process takes.
fn partial_name(folder: &Path) -> PathBuf {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    folder.with_file_name(format!(".{name}.partial-{}", std::process::id()))
}

fn write_files(
    folder: &Path,
    config: &Value,
    preprocessor: Option<&Value>,
    tensors: &[NamedTensor],
    dtype: StoredDtype,
) -> Result<(), Error> {
    let config_file = folder.join("config.json");
    write_json(&config_file, config)?;
    if let Some(preprocessor) = preprocessor {
        write_json(&folder.join("preprocessor_config.json"), preprocessor)?;
    }
    let file = folder.join("model.safetensors");
    let views = tensors.iter().map(|tensor| (tensor.name.as_str(), Encoded { tensor, dtype }));
    // Transformers refuses a file that does not name its framework.
    let metadata = [("format".to_string(), "pt".to_string())].into();
    safetensors::serialize_to_file(views, Some(metadata), &file).map_err(|error| match error {
        safetensors::SafeTensorError::IoError(source) => Error::Write { file: file.clone(), source },
        source => Error::Safetensors { file: file.clone(), bytes: 0, source },
    })?;
    // The library writes through a temporary file that only its owner may read.
    let io = |source| Error::Write { file: file.clone(), source };
    fs::set_permissions(&file, fs::metadata(&config_file).map_err(io)?.permissions()).map_err(io)?;
    File::open(&file).and_then(|opened| opened.sync_all()).map_err(io)
}

fn write_json(file: &Path, value: &Value) -> Result<(), Error> {
    let text = format!("{value:#}\n");
    let write = || {
        fs::write(file, text)?;
        File::open(file)?.sync_all()
    };
    write().map_err(|source| Error::Write { file: file.to_path_buf(), source })
}

/// A tensor in the type it is stored in; encoded only while it is written.
struct Encoded<'a> {
    tensor: &'a NamedTensor,
    dtype: StoredDtype,
}

impl View for Encoded<'_> {
    fn dtype(&self) -> Dtype {
        match self.dtype {
            StoredDtype::F32 => Dtype::F32,
            StoredDtype::Bf16 => Dtype::BF16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = &self.tensor.values;
        match self.dtype {
            StoredDtype::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            StoredDtype::Bf16 => {
                values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect()
            }
        }
    }

    fn data_len(&self) -> usize {
        let bytes = match self.dtype {
            StoredDtype::F32 => 4,
            StoredDtype::Bf16 => 2,
        };
        self.tensor.values.len() * bytes
    }
}
