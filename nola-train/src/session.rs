//! Models, opened part by part: configuration and tokenizer, weights, adapter; and what they answer.
//!
//! [`TextEncoder`] reads all of a model folder but its weights, which is enough to prepare and check data. [`TextBase`] and
//! [`ImageBase`] add the weights, and [`Base::with_adapter`] an adapter. Nothing here reads a recipe or prints: what a user
//! should hear comes back as a [`Notice`].

mod attach;
mod bundle;
mod encoder;
mod images;
mod notice;
mod text;

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use nola_core::folder::{BaseIdentity, peft};
use nola_core::{Adapted, Reading};
use nola_models::hub::{self, Wanted};
use nola_models::{CausalLm, VitConfig, WeightDtype, checkpoint, vit};

pub use attach::{Attached, Origin, ReadAdapter};
pub use bundle::ReadBundle;
pub use encoder::{Template, TextEncoder};
pub use images::{Class, ImageBase};
pub use notice::Notice;
pub use text::TextBase;

use crate::Error;
use crate::adapter_data::AdapterData;
use crate::model_with_loss::ModelWithLoss;
use crate::settings::{DataFormat, Init, Modality, ModelSettings};
use crate::text::TextSettings;

/// A loaded base model of one kind.
pub trait Base: Clone {
    /// The model itself.
    type Model: ModelWithLoss;

    /// Loads or initialises a base on `device`; `fetching` is notified of files that come from the hub.
    ///
    /// # Errors
    /// If the folder holds no model of this kind, or a setting does not fit it.
    fn open(
        settings: &ModelSettings,
        seed: u64,
        device: &Device,
        fetching: &dyn hub::Progress,
    ) -> Result<Self, Error>;

    /// The files of a model folder that it is opened from.
    fn wanted(init: Init) -> Wanted;

    /// What a user should hear of it.
    fn notices(&self) -> Vec<Notice>;

    /// Checks that the files that it still computes with are as they were when it was opened.
    ///
    /// # Errors
    /// If one of them was changed.
    fn check_unchanged(&self) -> Result<(), Error>;

    /// What an adapter remembers of it.
    fn identity(&self) -> &BaseIdentity;

    /// Compares the weights with the hash that was written beside them, if one was.
    ///
    /// # Errors
    /// If they are damaged.
    fn check_intact(&self) -> Result<(), Error>;

    /// Where PEFT finds the module that we call `site`.
    fn foreign_module(&self, site: &str) -> peft::ForeignModule;

    /// What PEFT calls the task of an adapter; none for one that its tasks do not cover.
    fn peft_task(&self) -> peft::Task;

    /// The base with an adapter: ours, or a LoRA of PEFT's; `reading` follows the weights of the base that are read for it.
    ///
    /// # Errors
    /// If the adapter is of another base, or does not fit.
    fn with_adapter(
        self,
        adapter: ReadAdapter,
        device: &Device,
        reading: Reading,
    ) -> Result<Attached<Self::Model>, Error>;

    /// The base without an adapter; nothing is trained in it.
    ///
    /// # Errors
    /// If it cannot answer without one.
    fn without_adapter(self, device: &Device) -> Result<Adapted<Self::Model>, Error>;

    /// Names of the classes of `model`; none of a language model.
    fn labels(model: &Self::Model) -> &[String];

    /// Writes `model`, which came from this base, as a dense model folder.
    ///
    /// # Errors
    /// If `folder` exists and is not empty, or cannot be written.
    fn save(&self, model: &Self::Model, folder: &Path, dtype: WeightDtype) -> Result<(), Error>;

    /// Whether PEFT can hold an adapter of this base.
    ///
    /// # Errors
    /// With the reason, if it cannot.
    fn check_exportable(&self) -> Result<(), Error>;

    /// What an adapter has to remember of the data it is trained on; none for images, which the base alone prepares.
    fn adapter_data(&self, format: DataFormat, text: &TextSettings) -> Option<AdapterData>;

    /// Logits for a fixed input, to compare two models of this base.
    fn fixed_logits(&self, model: &Self::Model, device: &Device) -> Vec<f32>;
}

/// Hears of files that come from the hub, and says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl hub::Progress for Silent {
    fn started(&self, _file: &str, _total_bytes: u64) {}

    fn advanced(&self, _bytes: u64) {}

    fn finished(&self) {}

    fn note(&self, _note: &hub::Note) {}
}

/// The folder of a model, fetched from the hub if it is none on this machine; `fetching` is notified.
///
/// # Errors
/// If there is no such folder and the hub does not give one.
pub fn model_folder(path: &Path, wanted: Wanted, fetching: &dyn hub::Progress) -> Result<PathBuf, Error> {
    Ok(hub::resolve(&path.to_string_lossy(), wanted, fetching)?)
}

/// What the model in a folder answers about, as its configuration says.
///
/// # Errors
/// If the configuration cannot be read, or names a model that this program does not compute.
pub fn modality(folder: &Path) -> Result<Modality, Error> {
    let config = checkpoint::read_config(folder)?;
    if CausalLm::is_named_by(&config) {
        return Ok(Modality::Text);
    }
    if VitConfig::is_named_by(&config) {
        return Ok(Modality::Images);
    }
    let texts = nola_models::architectures::model_types();
    let expected = format!("{texts} for text; {} for images", vit::model_types());
    let (file, found) = (folder.join("config.json"), config["model_type"].to_string());
    Err(nola_models::Error::Field { file, field: "model_type", found, expected }.into())
}

/// The rows of a matrix on the host.
pub fn host_rows(matrix: Tensor<2>) -> Vec<Vec<f32>> {
    let [_, columns] = matrix.dims();
    let values: Vec<f32> =
        matrix.into_data().convert::<f32>().try_into_vec().expect("the type was asked for");
    values.chunks(columns).map(<[f32]>::to_vec).collect()
}
