//! A folder of PEFT's as it was read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::module::Module;

use super::lora_config::PeftConfig;
use super::{Generation, Modules, OurMetadata, PREFIX};
use crate::folder::BaseIdentity;
use crate::params::float_params;

/// A PEFT folder that was read, not yet attached to a model.
#[derive(Debug, Clone)]
pub struct PeftAdapter {
    pub(super) config: PeftConfig,
    pub(super) tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    pub(super) tied: Option<TiedHead>,
    pub(super) ours: Option<OurMetadata>,
    pub(super) folder: PathBuf,
}

/// Our paths of two modules that are one matrix in a base with tied weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TiedHead {
    /// Token ids to vectors.
    pub embedding: &'static str,
    /// States to logits.
    pub head: &'static str,
}

impl PeftAdapter {
    /// The same adapter for a base whose head is its embedding.
    pub fn for_tied(self, tied: TiedHead) -> Self {
        Self { tied: Some(tied), ..self }
    }

    /// Whether the folder holds something of a head or an embedding that are one matrix in the base: it is then attached only
    /// on a model where they are two, since PEFT changes each of them alone.
    pub fn unties(&self, modules: Modules) -> bool {
        let Some(tied) = self.tied else { return false };
        let names = [tied.embedding, tied.head].into_iter().flat_map(|module| modules(module).names);
        names.into_iter().any(|name| self.holds(&name))
    }

    /// The generation of the names that the folder uses for the modules of `model`; none if it does not show.
    pub(super) fn generation<M: Module>(&self, modules: Modules, model: &M) -> Option<Generation> {
        let params = float_params(model);
        let names = params.iter().filter_map(|param| Some(modules(param.path.rsplit_once('.')?.0).names));
        names.filter(|[new, old]| new != old).find_map(|[new, old]| match self.holds(&new) {
            true => Some(Generation::Transformers5),
            false => self.holds(&old).then_some(Generation::Transformers4),
        })
    }

    /// Whether a tensor lies in the module `name`.
    pub(super) fn holds(&self, name: &str) -> bool {
        let inside = format!("{PREFIX}{name}.");
        self.tensors.keys().any(|key| key.starts_with(&inside))
    }

    /// Names of the classes, if this project wrote the folder.
    pub fn labels(&self) -> &[String] {
        self.ours.as_ref().map_or(&[], |ours| &ours.labels)
    }

    /// The base the adapter was trained on, if this project wrote the folder.
    pub fn base(&self) -> Option<&BaseIdentity> {
        self.ours.as_ref().map(|ours| &ours.base)
    }

    /// Whether an edit of the settings would have been noticed: if this project wrote the folder.
    pub fn covers_settings(&self) -> bool {
        self.ours.as_ref().is_some_and(|ours| !ours.settings.is_empty())
    }

    /// Outputs of the head stored in the folder, if there is one under `head`'s name.
    pub fn head_outputs(&self, modules: Modules) -> Option<usize> {
        let keys = modules("head").names.map(|name| format!("{PREFIX}{name}.weight"));
        keys.iter().find_map(|key| self.tensors.get(key)?.0.first().copied())
    }

    /// Its kind, as PEFT calls it.
    pub fn peft_type(&self) -> &'static str {
        self.config.form.peft_type()
    }

    /// Names and shapes of the stored tensors.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.tensors.iter().map(|(name, (shape, _))| (name.as_str(), shape.as_slice()))
    }
}
