//! An adapter folder on a base.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use nola_core::bundle::{self, Manifest, Member};
use nola_core::folder::peft::PeftAdapter;
use nola_core::folder::{self, BaseIdentity, SavedAdapter, peft};
use nola_core::weight::Quantization;
use nola_core::{Adapted, Reading, SharedFactors, Updates};
use nola_models::Checkpoint;

use super::bundle::ReadBundle;
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
    /// A member of a bundle, by its place.
    Member(Arc<ReadBundle>, usize),
}

impl ReadAdapter {
    /// Reads one of ours, one of PEFT's, or a member of a bundle, `BUNDLE/NAME`.
    ///
    /// # Errors
    /// If the folder is damaged or holds no adapter.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        if let Some((bundle, name)) = bundle::member_at(folder) {
            return Self::member(&ReadBundle::open(&bundle)?, &name);
        }
        if bundle::is_bundle(folder) {
            return Err(Manifest::read(folder)?.is_several(folder).into());
        }
        let content = match peft::is_peft(folder) {
            true => Content::Peft(Box::new(peft::read(folder)?)),
            false => Content::Native(Box::new(folder::read(folder)?)),
        };
        Ok(Self { folder: folder.to_owned(), content })
    }

    /// The member of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn member(bundle: &Arc<ReadBundle>, name: &str) -> Result<Self, Error> {
        bundle.bundle().manifest().member(bundle.folder(), name)?;
        Ok(Self::nth_member(bundle, bundle.bundle().place(name).expect("it was just found")))
    }

    /// The member at a place.
    ///
    /// # Panics
    /// If there is none.
    pub fn nth_member(bundle: &Arc<ReadBundle>, place: usize) -> Self {
        let name = &bundle.bundle().manifest().members[place].name;
        Self { folder: bundle.folder().join(name), content: Content::Member(Arc::clone(bundle), place) }
    }

    /// The bundle that it is a member of, if it is, and what that says of it.
    pub fn membership(&self) -> Option<(&Arc<ReadBundle>, &Member)> {
        match &self.content {
            Content::Native(_) | Content::Peft(_) => None,
            Content::Member(bundle, place) => Some((bundle, &bundle.bundle().manifest().members[*place])),
        }
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
            Content::Member(bundle, _) => bundle.bundle().manifest().method.name().to_owned(),
        }
    }

    /// The method that it was trained with: that of a member before it was compressed.
    pub fn trained_method(&self) -> String {
        self.membership().map_or_else(|| self.method(), |(_, member)| member.method.clone())
    }

    /// Bytes of its folder; of a member, of its own numbers.
    pub fn stored_bytes(&self) -> u64 {
        if self.membership().is_some() {
            return self.numbers() as u64 * 4;
        }
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        files
            .filter_map(|file| file.metadata().ok())
            .filter(|facts| facts.is_file())
            .map(|facts| facts.len())
            .sum()
    }

    /// Trainable parameters that it holds.
    pub fn numbers(&self) -> usize {
        let count = |shape: &[usize]| shape.iter().product::<usize>();
        match &self.content {
            Content::Native(saved) => saved.tensors().map(|(_, shape)| count(&shape)).sum(),
            Content::Peft(read) => read.tensors().map(|(_, shape)| count(shape)).sum(),
            Content::Member(bundle, place) => bundle.bundle().own_numbers(*place),
        }
    }

    /// Checks that it was trained on the base of `identity`, as far as it says.
    ///
    /// # Errors
    /// If it was not.
    pub fn check_base(&self, identity: &BaseIdentity) -> Result<(), Error> {
        match self.base() {
            Some(expected) => Ok(folder::check_base(&self.file(), &expected, identity)?),
            None => Ok(()),
        }
    }

    /// Checks that a model of its base has the weights that it changes, if it is a member of a bundle: what such a one does to rows
    /// needs no model. All others are attached to one, which checks it.
    ///
    /// # Errors
    /// With all weights that the model has not.
    pub fn check_fits<M: Module>(&self, model: &M) -> Result<(), Error> {
        match &self.content {
            Content::Native(_) | Content::Peft(_) => Ok(()),
            Content::Member(bundle, _) => Ok(bundle.bundle().check_fits(model, &self.folder)?),
        }
    }

    /// The file that says what it is.
    fn file(&self) -> PathBuf {
        match &self.content {
            Content::Native(_) | Content::Peft(_) => self.folder.join("adapter_config.json"),
            Content::Member(..) => self.folder.clone(),
        }
    }

    /// What it does to the rows of a batch, if all it takes is in memory: it is a member of a bundle.
    pub fn updates(&self, device: &Device) -> Option<Updates> {
        match &self.content {
            Content::Native(_) | Content::Peft(_) => None,
            Content::Member(bundle, place) => Some(bundle.updates(*place, device)),
        }
    }

    /// What is the same for all adapters with its frozen factors over one base; none if its factors are its own.
    pub fn factors_key(&self) -> Option<String> {
        match &self.content {
            Content::Native(saved) => saved.factors_key(),
            Content::Peft(_) | Content::Member(..) => None,
        }
    }

    /// Its numbers between the factors of an adapter with the same key, which was attached to the base; none if they do not fit.
    pub fn numbers_between(&self, factors: &SharedFactors) -> Option<Vec<f32>> {
        match &self.content {
            Content::Native(saved) => saved.numbers_between(factors),
            Content::Peft(_) | Content::Member(..) => None,
        }
    }

    /// What a user should hear of it on a base that is quantised so.
    pub fn notices(&self, quantization: Option<Quantization>) -> Vec<Notice> {
        let folder = || self.folder.clone();
        let trained = self.trained_over().filter(|_| quantization.is_none());
        let dense = trained.map(|trained| Notice::DenseBase { folder: folder(), trained });
        let is_old = match &self.content {
            Content::Native(saved) => saved.manifest.settings_check.is_none(),
            Content::Peft(_) | Content::Member(..) => false,
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
            Content::Member(bundle, place) => {
                bundle.bundle().manifest().members[*place].beside.keys().next().cloned()
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
            Content::Member(bundle, _) => Some(bundle.bundle().manifest().base.clone()),
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
    let file = adapter.file();
    let saved = match adapter.content {
        Content::Native(saved) => saved,
        Content::Member(bundle, place) => {
            let (bundle, model) = (
                bundle.bundle(),
                model(&of_member(&bundle.bundle().manifest().members[place]), &mut notices),
            );
            origin.check_intact()?;
            let adapted = bundle.attach(place, model, &file, origin.identity(), device)?;
            return Ok(Attached { adapted, notices });
        }
        Content::Peft(read) => {
            let read = tied.into_iter().fold(*read, PeftAdapter::for_tied);
            let adapter_folder = AdapterFolder {
                labels: read.labels().to_vec(),
                head_outputs: read.head_outputs(foreign),
                unties: read.unties(foreign),
            };
            let model = model(&adapter_folder, &mut notices);
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

/// What a member of a bundle says of the model it is attached to.
fn of_member(member: &Member) -> AdapterFolder {
    // `[d_model, classes]`.
    let of_head = member.beside.get("head.weight").and_then(|shape| shape.last().copied());
    AdapterFolder { labels: member.labels.clone(), head_outputs: of_head, unties: false }
}
