//! Base models with what their folders say beside the weights.

mod images;
mod text;

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use nola_core::folder::{BaseIdentity, peft};
use nola_core::{Adapted, Error as AdapterError};
use nola_models::{Checkpoint, WeightDtype};

pub use images::ImageBase;
pub(crate) use text::{TIED, tell_untied};
pub use text::{Template, TextBase};

use crate::Error;
use crate::model_with_loss::ModelWithLoss;
use crate::progress::weights_read;
use crate::recipe::{AdapterData, DataRecipe, ModelRecipe};
use crate::terminal::err_line;

/// A loaded base model of one kind.
pub trait Base: Clone {
    /// The model itself.
    type Model: ModelWithLoss;

    /// Loads or initialises the base of a recipe on `device`.
    ///
    /// # Errors
    /// If the folder holds no model of this kind, or a setting does not fit it.
    fn open(recipe: &ModelRecipe, seed: u64, device: &Device) -> Result<Self, Error>;

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

    /// The base with an adapter from a folder: ours, or a LoRA of PEFT's.
    ///
    /// # Errors
    /// If the adapter is damaged, of another base, or does not fit.
    fn with_adapter(self, adapter: &Path, device: &Device) -> Result<Adapted<Self::Model>, Error>;

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
    fn adapter_data(&self, recipe: &DataRecipe) -> Option<AdapterData>;

    /// Logits for a fixed input, to compare two models of this base.
    fn fixed_logits(&self, model: &Self::Model, device: &Device) -> Vec<f32>;
}

/// Where the weights of a base come from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A model folder, which is hashed when an adapter asks for it.
    Stored(Arc<Checkpoint>),
    /// Random numbers.
    Drawn(BaseIdentity),
}

impl Origin {
    fn identity(&self) -> &BaseIdentity {
        match self {
            Self::Stored(checkpoint) => checkpoint.identity(),
            Self::Drawn(identity) => identity,
        }
    }

    fn check_intact(&self) -> Result<(), Error> {
        match self {
            Self::Stored(checkpoint) => Ok(checkpoint.check_intact()?),
            Self::Drawn(_) => Ok(()),
        }
    }
}

/// Attaches an adapter folder to `model`; `foreign` says where PEFT finds the modules of ours, and `tied` which two of
/// them are one matrix, if the base has such.
///
/// # Errors
/// If the adapter is damaged, of another base, or does not fit.
fn attach<M: ModelWithLoss>(
    adapter: &Path,
    origin: &Origin,
    foreign: peft::Modules,
    tied: Option<peft::TiedHead>,
    device: &Device,
    model: impl FnOnce(&AdapterFolder) -> M,
) -> Result<Adapted<M>, Error> {
    if peft::is_peft(adapter) {
        let read = peft::read(adapter)?;
        if let Some(expected) = read.base() {
            nola_core::folder::check_base(&adapter.join("adapter_config.json"), expected, origin.identity())?;
        }
        let read = tied.into_iter().fold(read, peft::PeftAdapter::for_tied);
        let model = model(&AdapterFolder {
            labels: read.labels().to_vec(),
            head_outputs: read.head_outputs(foreign),
            unties: read.unties(foreign),
        });
        origin.check_intact()?;
        return Ok(read.attach(model, foreign, device)?);
    }
    let saved = nola_core::folder::read(adapter)?;
    if saved.manifest.settings_check.is_none() {
        let folder = adapter.display();
        err_line(&format!(
            "warning: {folder}: written by an older version: an edit of its settings would not be found"
        ));
    }
    let labels = saved.manifest.labels.clone();
    let head_outputs = (!labels.is_empty()).then_some(labels.len());
    let adapted = saved.attach_observed(
        model(&AdapterFolder { labels, head_outputs, unties: false }),
        origin.identity(),
        device,
        &weights_read(),
    )?;
    // An adapter that was written before every byte was hashed may fit a damaged base.
    origin.check_intact()?;
    Ok(adapted)
}

/// What an adapter folder says of the model it is attached to.
struct AdapterFolder {
    /// Names of the classes.
    labels: Vec<String>,
    /// Outputs of the head in the folder, if one is.
    head_outputs: Option<usize>,
    /// Whether it changes head or embedding of a base where they are one matrix.
    unties: bool,
}

/// The error of a base that needs an adapter to answer.
fn needs_adapter(folder: &Path, problem: &str) -> Error {
    AdapterError::Invalid { file: folder.to_owned(), problems: vec![problem.to_owned()] }.into()
}
