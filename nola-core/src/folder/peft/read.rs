//! Reading a folder of PEFT's, and attaching it to a model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use super::lora_config::PeftConfig;
use super::matching::Matching;
use super::start::Starts;
use super::{CONFIG, METADATA, Modules, OurMetadata, PREFIX, TYPES, WEIGHTS, settings};
use crate::Error;
use crate::adapted::Adapted;
use crate::adapter::Plan;
use crate::folder::files::HEADER_METADATA;
use crate::folder::{BaseIdentity, files};
use crate::foreign_json;
use crate::params::sites;
use crate::targets::Site;

/// A PEFT folder that was read, not yet attached to a model.
#[derive(Debug, Clone)]
pub struct PeftAdapter {
    pub(super) config: PeftConfig,
    pub(super) tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    pub(super) tied: Option<TiedHead>,
    ours: Option<OurMetadata>,
    folder: PathBuf,
}

/// Our paths of two modules that are one matrix in a base with tied weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TiedHead {
    /// Token ids to vectors.
    pub embedding: &'static str,
    /// States to logits.
    pub head: &'static str,
}

/// Whether `folder` holds a LoRA or a VeRA in PEFT's format.
pub fn is_peft(folder: &Path) -> bool {
    #[derive(serde::Deserialize)]
    struct Kind {
        peft_type: Value,
    }
    let config = files::read_config(&folder.join(CONFIG)).unwrap_or_default();
    foreign_json::from_slice::<Kind>(&config)
        .is_ok_and(|config| TYPES.iter().any(|known| config.peft_type == *known))
}

/// Reads a PEFT folder without a model.
///
/// # Errors
/// If a file is missing or damaged, or the adapter is of a kind that is not read.
pub fn read(folder: &Path) -> Result<PeftAdapter, Error> {
    let config_file = folder.join(CONFIG);
    let text = files::read_config(&config_file)?;
    let config = PeftConfig::parse(&config_file, &text)?;
    let file = folder.join(WEIGHTS);
    let bytes = files::read_weights(&file)?;
    let invalid = |problems| Error::Invalid { file: file.clone(), problems };
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| invalid(vec![error.to_string()]))?;
    let mut read = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, view) in tensors.iter() {
        let Some(values) = to_f32(&view) else {
            problems.push(format!("`{name}` is {:?}, expected a float type", view.dtype()));
            continue;
        };
        let count = values.iter().filter(|value| !value.is_finite()).count();
        if count > 0 {
            problems.push(format!("`{name}` holds {count} numbers that are not finite"));
        }
        read.insert(name.to_owned(), (view.shape().to_vec(), values));
    }
    if read.is_empty() && problems.is_empty() {
        let cure = "an adapter saved so changes nothing; save it again from the model that was trained";
        problems.push(format!("the file holds no tensor: {cure}"));
    }
    if !problems.is_empty() {
        return Err(invalid(problems));
    }
    let ours = our_metadata(&bytes);
    settings::check(&config_file, &text, ours.as_ref())?;
    Ok(PeftAdapter { config, tensors: read, tied: None, ours, folder: folder.to_owned() })
}

/// What this project added to a safetensors file, if it wrote it; of the file no more than its header is needed.
fn our_metadata(file: &[u8]) -> Option<OurMetadata> {
    let (length, rest) = file.split_first_chunk()?;
    let header = rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let header: Value = serde_json::from_slice(header).ok()?;
    serde_json::from_str(header[HEADER_METADATA][METADATA].as_str()?).ok()
}

/// How the samples were written, if this project wrote the folder.
pub(in crate::folder) fn read_data(folder: &Path) -> Value {
    let header = files::read_header(&folder.join(WEIGHTS)).unwrap_or_default();
    our_metadata(&header).map_or(Value::Null, |ours| ours.data)
}

impl PeftAdapter {
    /// Attaches the adapter to a freshly loaded `model`.
    ///
    /// # Errors
    /// If a tensor is missing for a target, belongs to nothing or has a wrong shape: all of them in one error. If the adapter
    /// started at a part of the base, and this base has no such part.
    pub fn attach<M: Module>(self, model: M, modules: Modules, device: &Device) -> Result<Adapted<M>, Error> {
        let mut matching = Matching::new(&self, modules, &model);
        let (sites, plans): (Vec<Site>, Vec<Plan>) = matching.plans(sites(&model)).into_iter().unzip();
        let others = matching.others(&model);
        let problems = matching.problems();
        let invalid = |problems| Error::Invalid { file: self.folder.join(WEIGHTS), problems };
        if !problems.is_empty() {
            return Err(invalid(problems));
        }
        let plans = match self.config.start {
            None => plans,
            Some(start) => {
                Starts::new(start, &model, modules).taken_out(&self.folder.join(CONFIG), &sites, plans)?
            }
        };
        let paths: Vec<&str> = others.keys().map(String::as_str).collect();
        let adapted = Adapted::attach_plans(model, sites, plans, &paths, device)?;
        let mut state = adapted.state();
        state.extend(others);
        adapted.with_state(state).map_err(invalid)
    }

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

fn to_f32(view: &TensorView) -> Option<Vec<f32>> {
    let data = view.data();
    match view.dtype() {
        Dtype::F64 => Some(data.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect()),
        Dtype::F32 => Some(data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        Dtype::F16 => Some(data.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()),
        Dtype::BF16 => {
            Some(data.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect())
        }
        _ => None,
    }
}
