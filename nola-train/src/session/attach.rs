//! An adapter folder on a base.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use nola_core::folder::{self, BaseIdentity, peft};
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
    /// The adapter folder: ours, or a LoRA of PEFT's.
    pub(super) adapter: &'a Path,
    /// Where the base comes from.
    pub(super) origin: &'a Origin,
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
    attaching: &Attaching,
    model: impl FnOnce(&AdapterFolder, &mut Vec<Notice>) -> M,
) -> Result<Attached<M>, Error> {
    let Attaching { adapter, origin, foreign, tied, device, reading } = *attaching;
    let mut notices = Vec::new();
    if peft::is_peft(adapter) {
        let read = peft::read(adapter)?;
        if let Some(expected) = read.base() {
            folder::check_base(&adapter.join("adapter_config.json"), expected, origin.identity())?;
        }
        let read = tied.into_iter().fold(read, peft::PeftAdapter::for_tied);
        let said = AdapterFolder {
            labels: read.labels().to_vec(),
            head_outputs: read.head_outputs(foreign),
            unties: read.unties(foreign),
        };
        let model = model(&said, &mut notices);
        origin.check_intact()?;
        return Ok(Attached { adapted: read.attach(model, foreign, device)?, notices });
    }
    let saved = folder::read(adapter)?;
    if saved.manifest.settings_check.is_none() {
        notices.push(Notice::OldAdapter { folder: adapter.to_owned() });
    }
    let labels = saved.manifest.labels.clone();
    let head_outputs = (!labels.is_empty()).then_some(labels.len());
    let model = model(&AdapterFolder { labels, head_outputs, unties: false }, &mut notices);
    let adapted = saved.attach_observed(model, origin.identity(), device, reading)?;
    // An adapter that was written before every byte was hashed may fit a damaged base.
    origin.check_intact()?;
    Ok(Attached { adapted, notices })
}
