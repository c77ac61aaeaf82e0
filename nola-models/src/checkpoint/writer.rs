//! Writes model folders.

use std::borrow::Cow;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use nola_core::folder::{PartialFolder, order_metadata, set_metadata};
use rayon::prelude::*;
use safetensors::{Dtype, View};
use serde_json::Value;

use super::companions::portable;
use super::key_map::stored_as;
use super::{Checkpoint, WRITTEN_SHA256, read_whole, whole};
use crate::{Error, WeightDtype};

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

/// What a model folder is made of.
#[derive(Debug, Clone)]
pub struct ModelFolder<'a> {
    /// `config.json`.
    pub config: &'a Value,
    /// `preprocessor_config.json`, of models that have one.
    pub preprocessor: Option<&'a Value>,
    /// The weights.
    pub tensors: &'a [NamedTensor],
    /// What they are stored in.
    pub dtype: WeightDtype,
    /// Files that are copied beside them, such as a tokenizer's; in words that both generations of transformers read.
    pub companions: &'a [PathBuf],
}

/// Writes a model folder with a hash of its weights, which [`Checkpoint::check_intact`] checks.
///
/// All files are written beside the target and renamed into place at the end, so there is a whole folder or none.
///
/// # Errors
/// If `folder` exists and is not empty, if a weight is not finite in its stored type, or if the disk does not take it;
/// the target is then as it was.
pub fn save(folder: &Path, model: &ModelFolder) -> Result<(), Error> {
    check_finite(folder, model)?;
    let partial = PartialFolder::beside(folder).map_err(Error::Folder)?;
    let json = |value: &Value| format!("{value:#}\n");
    let write = |name: &str, bytes: &[u8]| partial.write(name, bytes).map_err(Error::Folder);
    write("config.json", json(model.config).as_bytes())?;
    if let Some(preprocessor) = model.preprocessor {
        write("preprocessor_config.json", json(preprocessor).as_bytes())?;
    }
    for companion in model.companions {
        let name = companion.file_name().unwrap_or_default().to_string_lossy();
        write(&name, &portable(&name, read_whole(companion)?))?;
    }
    write_weights(partial.path(), model).map_err(|error| renamed(error, partial.path(), folder))?;
    partial.finish().map_err(Error::Folder)
}

/// The same error about the folder that was meant.
fn renamed(error: Error, partial: &Path, folder: &Path) -> Error {
    let meant = |file: PathBuf| file.strip_prefix(partial).map_or(file.clone(), |inside| folder.join(inside));
    match error {
        Error::Write { file, source } => Error::Write { file: meant(file), source },
        other => other,
    }
}

/// A number that is finite here may not be in the type it is stored in.
fn check_finite(folder: &Path, model: &ModelFolder) -> Result<(), Error> {
    let is_lost = |value: &&f32| !model.dtype.rounded(**value).is_finite();
    let counted =
        model.tensors.iter().map(|tensor| (tensor, tensor.values.par_iter().filter(is_lost).count()));
    let tensors: Vec<(String, usize)> =
        counted.filter(|(_, count)| *count > 0).map(|(tensor, count)| (tensor.name.clone(), count)).collect();
    if tensors.is_empty() {
        return Ok(());
    }
    Err(Error::NotStorable { folder: folder.to_path_buf(), dtype: model.dtype.name(), tensors })
}

fn write_weights(folder: &Path, model: &ModelFolder) -> Result<(), Error> {
    let file = folder.join("model.safetensors");
    let views =
        model.tensors.iter().map(|tensor| (tensor.name.as_str(), Encoded { tensor, dtype: model.dtype }));
    // Transformers refuses a file that does not name its framework. The hash follows when there is something to hash.
    let metadata = [("format", "pt".to_owned()), (WRITTEN_SHA256, "0".repeat(64))];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).into();
    safetensors::serialize_to_file(views, Some(metadata), &file).map_err(|error| match error {
        safetensors::SafeTensorError::IoError(source) => Error::Write { file: file.clone(), source },
        source => Error::Safetensors { file: file.clone(), bytes: 0, source },
    })?;
    let sha256 = Checkpoint::open(folder)?.hash(whole);
    let finish = || {
        // The library writes through a temporary file that only its owner may read.
        fs::set_permissions(&file, fs::metadata(folder.join("config.json"))?.permissions())?;
        let mut opened = File::options().read(true).write(true).open(&file)?;
        set_metadata(&mut opened, WRITTEN_SHA256, &sha256)?;
        order_metadata(&mut opened)?;
        opened.sync_all()
    };
    finish().map_err(|source| Error::Write { file: file.clone(), source })
}

/// A tensor in the type it is stored in; encoded only while it is written.
struct Encoded<'a> {
    tensor: &'a NamedTensor,
    dtype: WeightDtype,
}

impl View for Encoded<'_> {
    fn dtype(&self) -> Dtype {
        stored_as(self.dtype)
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = &self.tensor.values;
        match self.dtype {
            WeightDtype::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            WeightDtype::Bf16 => {
                values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect()
            }
            WeightDtype::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        }
    }

    fn data_len(&self) -> usize {
        self.tensor.values.len() * self.dtype.bytes()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tensor(values: &[f32]) -> NamedTensor {
        NamedTensor { name: "w".to_string(), shape: vec![values.len()], values: values.to_vec() }
    }

    fn saved(folder: &Path, values: &[f32], dtype: WeightDtype, companions: &[PathBuf]) -> Result<(), Error> {
        let (config, tensors) = (json!({"model_type": "llama"}), [tensor(values)]);
        save(
            folder,
            &ModelFolder { config: &config, preprocessor: None, tensors: &tensors, dtype, companions },
        )
    }

    #[test]
    fn what_is_too_large_for_its_type_is_refused_with_the_tensor_and_nothing_is_written() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let folder = scratch.path().join("merged");
        let cases = [
            (WeightDtype::F16, vec![1.0, 65520.0]),
            (WeightDtype::F16, vec![-1e9]),
            (WeightDtype::Bf16, vec![3.4e38]),
            (WeightDtype::Bf16, vec![f32::NAN]),
            (WeightDtype::F32, vec![f32::INFINITY]),
        ];
        for (dtype, values) in cases {
            let error = saved(&folder, &values, dtype, &[]).expect_err("it is not finite").to_string();
            assert!(error.contains(&format!("as {}: 1 values of `w`", dtype.name())), "{error}");
            assert_eq!(fs::read_dir(scratch.path()).expect("a folder").count(), 0);
        }
        saved(&folder, &[65504.0], WeightDtype::F16, &[]).expect("the largest");
    }

    #[test]
    fn a_folder_is_the_same_bytes_every_time() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let bytes = |n: usize| {
            let folder = scratch.path().join(n.to_string());
            saved(&folder, &[1.0, 2.0], WeightDtype::F32, &[]).expect("a free folder");
            fs::read(folder.join("model.safetensors")).expect("a file")
        };
        let first = bytes(0);
        assert!((1..9).all(|n| bytes(n) == first));
    }

    #[test]
    fn companions_lie_beside_the_weights() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let tokenizer = scratch.path().join("tokenizer.json");
        fs::write(&tokenizer, "{}").expect("a file");
        let folder = scratch.path().join("merged");
        saved(&folder, &[1.0], WeightDtype::F32, &[tokenizer]).expect("a free folder");
        assert_eq!(fs::read_to_string(folder.join("tokenizer.json")).expect("a copy"), "{}");
        let error = saved(&folder, &[1.0], WeightDtype::F32, &[]).expect_err("it is taken").to_string();
        assert!(error.contains("exists and is not empty"), "{error}");
    }
}
