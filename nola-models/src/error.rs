//! The one error of this crate.

use std::path::{Path, PathBuf};

use nola_core::weight::Quantization;

use crate::gguf::GgufError;

/// Why a model, an image or a setting of either could not be read or written.
///
/// A message names the file and the field or tensor, and says what to change. A wrong shape inside a forward pass is a
/// bug, not an `Error`: it panics.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read or written.
    #[error("{}: cannot be read or written", file.display())]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },

    /// A GGUF file cannot be read as a model.
    #[error(transparent)]
    Gguf(GgufError),

    /// A file changed while a model was computing with it.
    #[error(
        "{}: was written to while it was in use, so the model is no longer what it was; let nobody write to the files of a \
         model that is in use, or put a whole new file in the place of an old one", file.display()
    )]
    Changed {
        /// The file.
        file: PathBuf,
    },

    /// A model folder cannot be written.
    #[error("{}: cannot be written; make room there, or name another folder", file.display())]
    Write {
        /// The file or folder.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },

    /// A file that a model folder must have is absent.
    #[error("{}: no such file; a model folder holds config.json and model.safetensors (or shards with an index)", file.display())]
    MissingFile {
        /// The absent file.
        file: PathBuf,
    },

    /// A file of a model that holds nothing of what its name promises.
    #[error("{}: {what}", file.display())]
    Hollow {
        /// The file.
        file: PathBuf,
        /// What it is instead.
        what: nola_core::Hollow,
    },

    /// The folder has weights only as Python pickles.
    #[error(
        "{}: a pickle can run code when it is opened, so it is not read; convert it to model.safetensors \
         (in Python: `AutoModel.from_pretrained(folder).save_pretrained(folder, safe_serialization=True)`, with the \
         class of your model)",
        file.display()
    )]
    PickleOnly {
        /// The pickle.
        file: PathBuf,
    },

    /// The folder has weights only as a GGUF file, beside a configuration of another origin.
    #[error("{}: a model by itself; name the file in place of its folder", file.display())]
    GgufOnly {
        /// The GGUF file.
        file: PathBuf,
    },

    /// The file is larger than any honest file of its kind.
    #[error("{}: {bytes} bytes, but at most {limit} are read; this is no file of a model", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Its size, in bytes.
        bytes: u64,
        /// The largest size that is read, in bytes.
        limit: u64,
    },

    /// The file is no JSON, or a value in it has the wrong type.
    #[error("{}: not the JSON that was expected, at `{field}`; restore the file from its source", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Path of the field; `.` for the whole file.
        field: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },

    /// A field of a configuration is absent or holds a value that cannot be.
    #[error("{}: `{field}` is {found}; expected {expected}", file.display())]
    Field {
        /// The configuration file.
        file: PathBuf,
        /// The field.
        field: &'static str,
        /// What stands there, as JSON; `absent` if nothing does.
        found: String,
        /// What may stand there.
        expected: String,
    },

    /// An argument of timm's `model_args` that changes the model in a way this program does not compute.
    #[error("{}: `model_args.{argument}` is {found}; this program takes {expected}", file.display())]
    Argument {
        /// The configuration file.
        file: PathBuf,
        /// The argument.
        argument: String,
        /// What stands there, as JSON.
        found: String,
        /// What may stand there.
        expected: String,
    },

    /// The weights are no complete safetensors file.
    #[error("{}: no complete safetensors file ({bytes} bytes); it is cut short or corrupt, so fetch it again", file.display())]
    Safetensors {
        /// The file.
        file: PathBuf,
        /// Its size, in bytes.
        bytes: u64,
        /// What is wrong with it.
        source: safetensors::SafeTensorError,
    },

    /// The shard index names something that is no plain file name.
    #[error("{}: shard name `{shard}` is not one plain file name; do not use this checkpoint unless you trust who made it", file.display())]
    ShardName {
        /// The index.
        file: PathBuf,
        /// The name as it stands there.
        shard: String,
    },

    /// The shard index and the shards contradict each other.
    #[error("{}: does not fit its shards{}; fetch the checkpoint again", file.display(), listed(problems))]
    Shards {
        /// The index.
        file: PathBuf,
        /// What is wrong, and the shards or tensors of which it is.
        problems: Vec<(&'static str, Vec<String>)>,
    },

    /// The tensors of the checkpoint are not those of the model that its configuration describes.
    #[error("{}: the weights do not fit config.json{}", folder.display(), listed(&[
        ("missing", missing), ("not used by this model", extra), ("of another shape or type", misshapen),
        ("one tensor of this model under two names, but not equal (if they are meant to differ, set \
         `tie_word_embeddings` to false)", different),
    ]))]
    Mismatch {
        /// Folder of the checkpoint.
        folder: PathBuf,
        /// Tensors the model needs and the checkpoint lacks.
        missing: Vec<String>,
        /// Tensors the checkpoint holds and the model has no place for.
        extra: Vec<String>,
        /// Tensors whose shape or type is another, each with both.
        misshapen: Vec<String>,
        /// Pairs of tensors that the model has as one, such as a tied head, and the checkpoint as two.
        different: Vec<String>,
    },

    /// Some weights are NaN or infinite.
    #[error("{}: NaN or infinite: {}; this checkpoint is damaged, use another", folder.display(), tensors.iter()
        .map(|(name, count)| format!("{count} values of `{name}`")).collect::<Vec<_>>().join(", "))]
    NonFinite {
        /// Folder of the checkpoint.
        folder: PathBuf,
        /// Each damaged tensor with the number of its values that are not finite.
        tensors: Vec<(String, usize)>,
    },

    /// The weights are not those that were written.
    #[error(
        "{}: the weights are damaged: their hash is {found}, and {written} when they were written; fetch or merge the model again",
        folder.display()
    )]
    Damaged {
        /// Folder of the checkpoint.
        folder: PathBuf,
        /// SHA-256 over all tensors when they were written.
        written: String,
        /// SHA-256 over all tensors now.
        found: String,
    },

    /// Some numbers are larger than the type they are to be stored in can be.
    #[error("{}: not finite as {dtype}: {}; nothing was written, store it as f32", folder.display(), tensors.iter()
        .map(|(name, count)| format!("{count} values of `{name}`")).collect::<Vec<_>>().join(", "))]
    NotStorable {
        /// The folder that was to be written.
        folder: PathBuf,
        /// The type.
        dtype: &'static str,
        /// Each such tensor with the number of those values.
        tensors: Vec<(String, usize)>,
    },

    /// A model folder cannot be begun or finished.
    #[error(transparent)]
    Folder(nola_core::Error),

    /// A folder that is quantised already is not quantised otherwise.
    #[error(
        "{}: its weights are stored in {found} already; leave model.quantize (--quantize) away, or name the folder that was quantised",
        .folder.display()
    )]
    AlreadyQuantized {
        /// The folder.
        folder: PathBuf,
        /// How it is stored.
        found: Quantization,
    },

    /// Some weights are larger than f16 can be.
    #[error("{}: beyond the range of f16, which ends at 65504: {}; store the weights in bf16 or f32", folder.display(), tensors.iter()
        .map(|(name, count)| format!("{count} values of `{name}`")).collect::<Vec<_>>().join(", "))]
    BeyondF16 {
        /// Folder of the checkpoint.
        folder: PathBuf,
        /// Each such tensor with the number of those values.
        tensors: Vec<(String, usize)>,
    },

    /// The image cannot be decoded.
    #[error("{}: no readable image (BMP, GIF, JPEG, PNG, TIFF or WebP, told by content); remove or replace it", file.display())]
    Image {
        /// Name of the image.
        file: PathBuf,
        /// What the decoder says.
        source: image::ImageError,
    },

    /// The image ends before its data does.
    #[error("{}: the image is cut short; copy it again or remove it", file.display())]
    ImageCutShort {
        /// Name of the image.
        file: PathBuf,
    },

    /// The image would need more memory than any real one.
    #[error("{}: larger than {max_side} pixels a side or {max_bytes} bytes of memory to decode it; scale it down first", file.display())]
    ImageTooLarge {
        /// Name of the image.
        file: PathBuf,
        /// Longest side that is decoded, in pixels.
        max_side: u32,
        /// Memory that decoding may take, in bytes.
        max_bytes: u64,
    },

    /// An image size that the model's patches do not divide.
    #[error(
        "image size {image_size} is not a positive multiple of the patch size {patch_size} (both in pixels)"
    )]
    ImageSize {
        /// Side of the image, in pixels.
        image_size: usize,
        /// Side of a patch, in pixels.
        patch_size: usize,
    },
}

impl Error {
    /// The image that cannot be decoded, where that is what is wrong.
    pub fn image(&self) -> Option<&Path> {
        if let Self::Image { file, .. } | Self::ImageCutShort { file } | Self::ImageTooLarge { file, .. } =
            self
        {
            return Some(file);
        }
        None
    }
}

/// The non-empty ones of `lists`, each under its title.
fn listed(lists: &[(&str, impl AsRef<[String]>)]) -> String {
    let lists = lists.iter().map(|(title, names)| (title, names.as_ref()));
    let filled = lists.filter(|(_, names)| !names.is_empty());
    filled.map(|(title, names)| format!("\n  {title}: {}", names.join(", "))).collect()
}
