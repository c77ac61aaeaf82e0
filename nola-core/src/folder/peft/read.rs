//! Reading a LoRA folder of PEFT's, and hanging it on a model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, TensorData};
use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use super::config::PeftConfig;
use super::matrix::{columns, transposed};
use super::{CONFIG, ForeignModule, Layout, METADATA, Modules, OurMetadata, PREFIX, WEIGHTS, foreign_leaf};
use crate::Error;
use crate::adapted::{Adapted, TrainedState};
use crate::adapter::{Factor, Plan};
use crate::folder::BaseIdentity;
use crate::params::{FoundParam, float_params, linear_sites};
use crate::targets::Site;

/// A PEFT LoRA folder that was read, not yet attached to a model.
#[derive(Debug, Clone)]
pub struct PeftAdapter {
    config: PeftConfig,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    ours: Option<OurMetadata>,
    folder: PathBuf,
}

/// Whether `folder` holds a LoRA in PEFT's format.
pub fn is_peft(folder: &Path) -> bool {
    let config = std::fs::read(folder.join(CONFIG)).unwrap_or_default();
    serde_json::from_slice::<Value>(&config).is_ok_and(|config| config["peft_type"] == "LORA")
}

/// Reads a PEFT LoRA folder without a model.
///
/// # Errors
/// If a file is missing or damaged, or the adapter is of a kind that is no plain LoRA.
pub fn read(folder: &Path) -> Result<PeftAdapter, Error> {
    let file = folder.join(CONFIG);
    let config = PeftConfig::parse(&file, &read_file(&file)?)?;
    let file = folder.join(WEIGHTS);
    let bytes = read_file(&file)?;
    let invalid = |problems| Error::Invalid { file: file.clone(), problems };
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| invalid(vec![error.to_string()]))?;
    let mut read = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, view) in tensors.iter() {
        match to_f32(&view) {
            Some(values) => drop(read.insert(name.to_owned(), (view.shape().to_vec(), values))),
            None => problems.push(format!("`{name}` is {:?}, expected a float type", view.dtype())),
        }
    }
    if !problems.is_empty() {
        return Err(invalid(problems));
    }
    let metadata = SafeTensors::read_metadata(&bytes).ok().and_then(|(_, header)| header.metadata().clone());
    let ours = metadata.and_then(|map| serde_json::from_str(map.get(METADATA)?).ok());
    Ok(PeftAdapter { config, tensors: read, ours, folder: folder.to_owned() })
}

impl PeftAdapter {
    /// Hangs the adapter on a freshly loaded `model`.
    ///
    /// # Errors
    /// If a tensor is missing for a target, belongs to nothing or has a wrong shape: all of them in one error.
    pub fn attach<M: Module>(self, model: M, modules: Modules, device: &Device) -> Result<Adapted<M>, Error> {
        let mut matching = Matching { adapter: &self, used: BTreeSet::new(), problems: Vec::new() };
        let (sites, plans): (Vec<Site>, Vec<Plan>) = (linear_sites(&model).into_iter())
            .filter_map(|site| matching.plan(&site, &modules(&site.path)).map(|plan| (site, plan)))
            .unzip();
        let others = matching.others(&model, modules);
        matching.name_surplus();
        let invalid = |problems| Error::Invalid { file: self.folder.join(WEIGHTS), problems };
        if !matching.problems.is_empty() {
            return Err(invalid(matching.problems));
        }
        let paths: Vec<&str> = others.keys().map(String::as_str).collect();
        let adapted = Adapted::hang(model, sites, plans, &paths, device)?;
        let mut state = adapted.state();
        state.extend(others);
        adapted.with_state(state).map_err(invalid)
    }

    /// Names of the classes, if this project wrote the folder.
    pub fn labels(&self) -> &[String] {
        self.ours.as_ref().map_or(&[], |ours| &ours.labels)
    }

    /// The base the adapter was trained on, if this project wrote the folder.
    pub fn base(&self) -> Option<&BaseIdentity> {
        self.ours.as_ref().map(|ours| &ours.base)
    }

    /// Outputs of the head stored in the folder, if there is one under `head`'s name.
    pub fn head_outputs(&self, modules: Modules) -> Option<usize> {
        let keys = modules("head").names.map(|name| format!("{PREFIX}{name}.weight"));
        keys.iter().find_map(|key| self.tensors.get(key)?.0.first().copied())
    }

    /// Names and shapes of the stored tensors.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.tensors.iter().map(|(name, (shape, _))| (name.as_str(), shape.as_slice()))
    }
}

/// Which tensors of the folder belong where, and what does not fit.
struct Matching<'a> {
    adapter: &'a PeftAdapter,
    used: BTreeSet<String>,
    problems: Vec<String>,
}

impl Matching<'_> {
    fn plan(&mut self, site: &Site, module: &ForeignModule) -> Option<Plan> {
        let key = |name: &str, factor: &str| format!("{PREFIX}{name}.{factor}.weight");
        let found = |name: &&String| {
            ["lora_A", "lora_B"].iter().any(|factor| self.adapter.tensors.contains_key(&key(name, factor)))
        };
        let config = &self.adapter.config;
        let Some(name) = module.names.iter().find(found) else {
            if let Some(name) = module.names.iter().find(|name| config.targets(name)) {
                let missing = key(name, "lora_A");
                self.note(format!("`{missing}` is missing, though the module is a target"));
            }
            return None;
        };
        let rank = config.rank(name);
        if rank == 0 {
            self.note(format!("`{CONFIG}` gives `{name}` the rank 0; a LoRA has at least 1"));
            return None;
        }
        let d_out = site.d_out * module.part.of();
        let a = self.take(&key(name, "lora_A"), &[rank, site.d_in]);
        let b = self.take(&key(name, "lora_B"), &[d_out, rank]);
        Some(Plan {
            a: Factor::Learned(transposed(&a?, site.d_in)),
            b: Factor::Learned(part_of(&transposed(&b?, rank), d_out, module)),
            rank,
            scale: config.scale(name, rank),
        })
    }

    /// Trained heads and biases, by our path.
    fn others<M: Module>(&mut self, model: &M, modules: Modules) -> TrainedState {
        let mut others = TrainedState::new();
        for param in float_params(model) {
            let Some((module, leaf)) = param.path.rsplit_once('.') else { continue };
            let (foreign, leaf) = (modules(module), foreign_leaf(leaf));
            let keys = foreign.names.iter().flat_map(|name| {
                [format!("{PREFIX}{name}.{leaf}"), format!("{PREFIX}{name}.base_layer.{leaf}")]
            });
            let Some(key) = keys.into_iter().find(|key| self.adapter.tensors.contains_key(key)) else {
                continue;
            };
            if let Some(values) = self.other(&key, &param, &foreign) {
                others.insert(param.path, TensorData::new(values, param.shape));
            }
        }
        others
    }

    /// The values of `param` from the tensor `key`, which may hold other modules too.
    fn other(&mut self, key: &str, param: &FoundParam, foreign: &ForeignModule) -> Option<Vec<f32>> {
        if !param.is_of_linear() {
            return self.take(key, &param.shape);
        }
        let (last, inputs) = param.shape.split_last()?;
        let d_out = last * foreign.part.of();
        let whole = match (inputs.first(), foreign.layout) {
            (Some(&d_in), Layout::Linear) => transposed(&self.take(key, &[d_out, d_in])?, d_in),
            (Some(&d_in), Layout::Conv1d) => self.take(key, &[d_in, d_out])?,
            (None, Layout::Linear | Layout::Conv1d) => self.take(key, &[d_out])?,
        };
        Some(part_of(&whole, d_out, foreign))
    }

    fn take(&mut self, key: &str, shape: &[usize]) -> Option<Vec<f32>> {
        self.used.insert(key.to_owned());
        match self.adapter.tensors.get(key) {
            None => self.note(format!("`{key}` is missing")),
            Some((found, _)) if found != shape => {
                self.note(format!("`{key}` has shape {found:?}, expected {shape:?}"));
            }
            Some((_, values)) => return Some(values.clone()),
        }
        None
    }

    /// Every tensor must have a place.
    fn name_surplus(&mut self) {
        let made_for = match &self.adapter.config.task_type {
            Some(task) => format!(" (the adapter was made for the task {task})"),
            None => String::new(),
        };
        let surplus = self.adapter.tensors.keys().filter(|name| !self.used.contains(*name));
        for name in surplus {
            let why = if name.contains(".lora_") { "" } else { &made_for };
            self.problems.push(format!("`{name}` belongs to nothing in this model{why}"));
        }
    }

    /// Notes a problem once, though every part of a module meets it.
    fn note(&mut self, problem: String) {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

/// Our part of a whole matrix or vector in our order, which has `d_out` columns.
fn part_of(whole: &[f32], d_out: usize, module: &ForeignModule) -> Vec<f32> {
    let (index, width) = (module.part.index(), d_out / module.part.of());
    columns(whole, d_out, index * width..(index + 1) * width)
}

fn to_f32(view: &TensorView) -> Option<Vec<f32>> {
    let data = view.data();
    match view.dtype() {
        Dtype::F32 => Some(data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        Dtype::F16 => Some(data.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()),
        Dtype::BF16 => {
            Some(data.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect())
        }
        _ => None,
    }
}

fn read_file(file: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(file).map_err(|source| Error::Io { file: file.to_owned(), action: "read", source })
}
