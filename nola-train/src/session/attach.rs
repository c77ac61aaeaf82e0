//! An adapter folder on a base.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use nola_core::folder::peft::PeftAdapter;
use nola_core::folder::{self, BaseIdentity, SavedAdapter, peft};
use nola_core::weight::Quantization;
use nola_core::{Adapted, Reading};
use nola_models::Checkpoint;

use super::notice::Notice;
use crate::Error;
use crate::model_with_loss::ModelWithLoss;

/// Where the weights of a base come from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A model folder, which is hashed when an adapter asks for it.
    Stored(Arc<Checkpoint>),
    /// Random numbers.
    Drawn(BaseIdentity),
}

impl Origin {
    pub(super) fn identity(&self) -> &BaseIdentity {
        match self {
            Self::Stored(checkpoint) => checkpoint.identity(),
            Self::Drawn(identity) => identity,
        }
    }

    pub(super) fn check_intact(&self) -> Result<(), Error> {
        match self {
            Self::Stored(checkpoint) => Ok(checkpoint.check_intact()?),
            Self::Drawn(_) => Ok(()),
        }
    }
}

/// An adapter folder that was read, and whose hashes fit; it holds all that the folder does.
#[derive(Debug, Clone)]
pub struct ReadAdapter {
    folder: PathBuf,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Native(Box<SavedAdapter>),
    Peft(Box<PeftAdapter>),
}

impl ReadAdapter {
    /// Reads one of ours, or one of PEFT's.
    ///
    /// # Errors
    /// If the folder is damaged or holds no adapter.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let content = match peft::is_peft(folder) {
            true => Content::Peft(Box::new(peft::read(folder)?)),
            false => Content::Native(Box::new(folder::read(folder)?)),
        };
        Ok(Self { folder: folder.to_owned(), content })
    }

    /// Where it was read from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its method, as the list of adapters or PEFT calls it.
    pub fn method(&self) -> String {
        match &self.content {
            Content::Native(saved) => saved.config().map_or("linear", |config| config.kind()).to_owned(),
            Content::Peft(read) => format!("peft {}", read.peft_type()),
        }
    }

    /// Trainable parameters that it holds.
    pub fn numbers(&self) -> usize {
        let count = |shape: &[usize]| shape.iter().product::<usize>();
        match &self.content {
            Content::Native(saved) => saved.tensors().map(|(_, shape)| count(&shape)).sum(),
            Content::Peft(read) => read.tensors().map(|(_, shape)| count(shape)).sum(),
        }
    }

    /// Checks that it was trained on the base of `identity`, as far as it says.
    ///
    /// # Errors
    /// If it was not.
    pub fn check_base(&self, identity: &BaseIdentity) -> Result<(), Error> {
        let file = self.folder.join("adapter_config.json");
        match self.base() {
            Some(expected) => Ok(folder::check_base(&file, &expected, identity)?),
            None => Ok(()),
        }
    }

    /// What a user should hear of it on a base that is quantised so.
    pub fn notices(&self, quantization: Option<Quantization>) -> Vec<Notice> {
        let folder = || self.folder.clone();
        let trained = self.trained_over().filter(|_| quantization.is_none());
        let dense = trained.map(|trained| Notice::DenseBase { folder: folder(), trained });
        let is_old = match &self.content {
            Content::Native(saved) => saved.manifest.settings_check.is_none(),
            Content::Peft(_) => false,
        };
        dense.into_iter().chain(is_old.then(|| Notice::OldAdapter { folder: folder() })).collect()
    }

    /// A module or tensor that was trained in the base itself, beside the adapters, if there is one.
    pub fn trained_in_base(&self) -> Option<String> {
        let is_factor =
            |name: &&str| [".lora_", ".vera_", "vera_A", "vera_B"].iter().any(|part| name.contains(part));
        match &self.content {
            Content::Native(saved) => saved.manifest.modules_to_save.first().cloned(),
            Content::Peft(read) => {
                read.tensors().map(|(name, _)| name).find(|name| !is_factor(name)).map(str::to_owned)
            }
        }
    }

    /// How the base was quantised that it was trained over.
    pub fn trained_over(&self) -> Option<Quantization> {
        self.base()?.quantization
    }

    /// The base that it was trained on, if the folder says so.
    fn base(&self) -> Option<BaseIdentity> {
        match &self.content {
            Content::Native(saved) => Some(saved.manifest.base()),
            Content::Peft(read) => read.base().cloned(),
        }
    }
}

/// A model with an adapter from a folder.
#[derive(Debug, Clone)]
pub struct Attached<M: ModelWithLoss> {
    /// Both.
    pub adapted: Adapted<M>,
    /// What a user should hear of them.
    pub notices: Vec<Notice>,
}

/// What is attached to what.
pub(super) struct Attaching<'a> {
    /// Where the base comes from.
    pub(super) origin: &'a Origin,
    /// How the base's linear layers were quantised while it was loaded.
    pub(super) quantization: Option<Quantization>,
    /// Where PEFT finds the modules of ours.
    pub(super) foreign: peft::Modules<'a>,
    /// Which two modules are one matrix, if the base has such.
    pub(super) tied: Option<peft::TiedHead>,
    /// Where the adapter is to be.
    pub(super) device: &'a Device,
    /// Hears which weights of the base were read for it.
    pub(super) reading: Reading<'a>,
}

/// What an adapter folder says of the model it is attached to.
pub(super) struct AdapterFolder {
    /// Names of the classes.
    pub(super) labels: Vec<String>,
    /// Outputs of the head in the folder, if one is.
    pub(super) head_outputs: Option<usize>,
    /// Whether it changes head or embedding of a base where they are one matrix.
    pub(super) unties: bool,
}

/// Attaches an adapter folder to the model that `model` makes fit for it.
///
/// # Errors
/// If the adapter is damaged, of another base, or does not fit.
pub(super) fn attach<M: ModelWithLoss>(
    adapter: ReadAdapter,
    attaching: &Attaching,
    model: impl FnOnce(&AdapterFolder, &mut Vec<Notice>) -> M,
) -> Result<Attached<M>, Error> {
    let Attaching { origin, quantization, foreign, tied, device, reading } = *attaching;
    let mut notices = adapter.notices(quantization);
    adapter.check_base(origin.identity())?;
    let saved = match adapter.content {
        Content::Native(saved) => saved,
        Content::Peft(read) => {
            let read = tied.into_iter().fold(*read, PeftAdapter::for_tied);
            let said = AdapterFolder {
                labels: read.labels().to_vec(),
                head_outputs: read.head_outputs(foreign),
                unties: read.unties(foreign),
            };
            let model = model(&said, &mut notices);
            origin.check_intact()?;
            return Ok(Attached { adapted: read.attach(model, foreign, device)?, notices });
        }
    };
    let labels = saved.manifest.labels.clone();
    let head_outputs = (!labels.is_empty()).then_some(labels.len());
    let model = model(&AdapterFolder { labels, head_outputs, unties: false }, &mut notices);
    let adapted = saved.attach_observed(model, origin.identity(), device, reading)?;
    // An adapter that was written before every byte was hashed may fit a damaged base.
    origin.check_intact()?;
    Ok(Attached { adapted, notices })
}
