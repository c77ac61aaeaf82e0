//! Reading a folder of PEFT's, and attaching it to a model.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use super::lora_config::PeftConfig;
use super::matching::Matching;
use super::peft_adapter::PeftAdapter;
use super::start::Starts;
use super::{CONFIG, METADATA, Modules, OurMetadata, TYPES, WEIGHTS, settings};
use crate::Error;
use crate::adapted::Adapted;
use crate::adapter::Plan;
use crate::folder::files;
use crate::folder::files::HEADER_METADATA;
use crate::foreign_json;
use crate::params::sites;
use crate::site::Site;

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
        let generation = self.generation(modules, &model);
        let in_folder = |path: &str| {
            let module = modules(path);
            generation.map_or(module.clone(), |generation| module.of(generation))
        };
        let modules: Modules = &in_folder;
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
