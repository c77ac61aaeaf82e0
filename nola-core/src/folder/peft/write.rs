//! Writing an adapter as a folder of PEFT's that computes the same function.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::path::Path;

use burn::module::{Module, ParamId};
use burn::tensor::TensorData;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

use super::config::{self, About, Biases};
use super::matrix::{beside, transposed};
use super::updates::{AdaptedModule, Tensors, Updates};
use super::{
    CONFIG, ForeignModule, Generation, Layout, METADATA, Modules, OurMetadata, PREFIX, Stored, Task, WEIGHTS,
    settings,
};
use crate::Error;
use crate::adapted::{Adapted, floats};
use crate::adapter_params::is_adapter;
use crate::folder::{Description, PartialFolder, files};
use crate::params::{FoundParam, float_params, foreign_leaf, read_params};

/// Writes the adapter as a PEFT folder that computes the same function, and returns the bytes of the folder: a LoRA, or
/// PEFT's own form of the adapter if it has one that can.
///
/// NOLA's factors are expanded on the host, so the exported numbers are the same on every machine. The factors are
/// written as they are, unless parts of one foreign module have different scales: then B of some is multiplied, and
/// rounded once.
///
/// # Errors
/// If the folder holds something already or cannot be written, if a number is not finite, or if something was trained
/// that is no module's.
pub fn write<M: Module>(
    folder: &Path,
    adapted: &Adapted<M>,
    modules: Modules,
    generation: Generation,
    task: Task,
    description: &Description,
) -> Result<u64, Error> {
    let (partial, bytes) = begin(folder, adapted, modules, generation, task, description)?;
    partial.finish()?;
    Ok(bytes)
}

/// The same up to the moment in which the folder gets its name, so that what was written can be looked at before.
///
/// # Errors
/// As [`write()`].
pub fn begin<M: Module>(
    folder: &Path,
    adapted: &Adapted<M>,
    modules: Modules,
    generation: Generation,
    task: Task,
    description: &Description,
) -> Result<(PartialFolder, u64), Error> {
    adapted.check_factors()?;
    if let Some((config, reason)) = adapted.config().and_then(|c| Some((c, c.method().unlike_lora()?))) {
        return Err(Error::UnlikeLora { kind: config.kind(), reason });
    }
    let partial = PartialFolder::beside(folder)?;
    let written = |path: &str| modules(path).of(generation);
    let modules: Modules = &written;
    let updates = Updates::of(adapted, modules);
    let adapted_modules = updates.modules();
    let others = others(adapted, modules)?;
    let about = About {
        base_name: &description.base.name,
        task,
        dropout: adapted.plans().iter().find_map(|plan| plan.dropout).map_or(0.0, |dropout| dropout.rate),
        biases: Biases::of(&others, &adapted_modules),
        modules_to_save: &others
            .iter()
            .filter(|other| other.is_saved_whole(&adapted_modules))
            .map(|o| o.module.clone())
            .collect(),
    };
    let config = config::written(&updates, &about);
    let mut tensors = updates.tensors();
    tensors.extend(others.iter().map(|other| other.tensor(&adapted_modules)));
    check_finite(&tensors)?;
    let invalid = |error: String| Error::Invalid { file: folder.join(WEIGHTS), problems: vec![error] };
    let weights = serialized(&tensors, description, &config).map_err(invalid)?;
    let config = serde_json::to_vec_pretty(&config).map_err(|error| invalid(error.to_string()))?;
    partial.write(WEIGHTS, &weights)?;
    partial.write(CONFIG, &config)?;
    Ok((partial, (weights.len() + config.len()) as u64))
}

/// A parameter that is no factor, as PyTorch has it.
struct Other {
    module: String,
    leaf: String,
    shape: Vec<usize>,
    values: Vec<f32>,
    /// Whether nothing of its module but the bias was trained.
    is_lone_bias: bool,
}

impl Other {
    /// A lone bias is loaded under its own name, and so is what belongs to an adapted module; PEFT replaces any other
    /// module as a whole.
    fn is_saved_whole(&self, modules: &[AdaptedModule]) -> bool {
        !self.is_lone_bias && !self.is_adapted(modules)
    }

    fn is_adapted(&self, modules: &[AdaptedModule]) -> bool {
        modules.iter().any(|(name, _)| *name == self.module)
    }

    /// Its name for PEFT's loader, which wraps adapted modules.
    fn tensor(&self, modules: &[AdaptedModule]) -> (String, Stored) {
        let wrapper = if self.is_adapted(modules) { ".base_layer" } else { "" };
        let key = format!("{PREFIX}{}{wrapper}.{}", self.module, self.leaf);
        (key, (self.shape.clone(), self.values.clone()))
    }
}

impl Biases {
    fn of(others: &[Other], modules: &[AdaptedModule]) -> Self {
        let is_bias = |other: &&Other| other.leaf == "bias" && !other.is_saved_whole(modules);
        let adapted: Vec<bool> =
            others.iter().filter(is_bias).map(|other| other.is_adapted(modules)).collect();
        match (adapted.is_empty(), adapted.contains(&false)) {
            (true, _) => Self::None,
            (false, true) => Self::All,
            (false, false) => Self::OfAdapted,
        }
    }
}

/// A parameter of a foreign module, in as many parts as there are modules of ours in it.
type Parts = Vec<(ForeignModule, FoundParam)>;

/// Trained heads, norms and biases. Where only a part of a foreign module was trained, the base's numbers stand beside
/// it: PEFT loads a module of `modules_to_save` only as a whole.
fn others<M: Module>(adapted: &Adapted<M>, modules: Modules) -> Result<Vec<Other>, Error> {
    // The coefficients are in the factors already.
    let is_factor = |path: &String| is_adapter(path) || adapted.has_coefficients(path);
    let trained: BTreeSet<String> = adapted.state().into_keys().filter(|path| !is_factor(path)).collect();
    if let Some(name) = trained.iter().find(|path| !path.contains('.')) {
        return Err(Error::NoPeftModule { name: name.clone() });
    }
    let mut found: BTreeMap<String, BTreeMap<String, Parts>> = BTreeMap::new();
    for param in float_params(&adapted.model).into_iter().filter(|param| !is_adapter(&param.path)) {
        let Some((module, leaf)) = param.path.rsplit_once('.') else { continue };
        let module = modules(module);
        let leaves = found.entry(module.name().to_owned()).or_default();
        leaves.entry(foreign_leaf(leaf).to_owned()).or_default().push((module, param));
    }
    let is_trained = |parts: &Parts| parts.iter().any(|(_, param)| trained.contains(&param.path));
    found.retain(|_, leaves| leaves.values().any(is_trained));
    let is_adapted = |name: &str| adapted.sites().iter().any(|site| modules(&site.path).name() == name);
    let mut others = Vec::new();
    for (module, mut leaves) in found {
        let is_lone_bias = leaves.iter().all(|(leaf, parts)| leaf == "bias" || !is_trained(parts));
        if is_lone_bias || is_adapted(&module) {
            leaves.retain(|_, parts| is_trained(parts));
        }
        let ids: Vec<ParamId> = leaves.values().flatten().map(|(_, param)| param.id).collect();
        let values = read_params(&adapted.model, &ids);
        let joined = |(leaf, parts)| Other { is_lone_bias, ..joined(module.clone(), leaf, parts, &values) };
        others.extend(leaves.into_iter().map(joined));
    }
    Ok(others)
}

/// One parameter of a foreign module, from all its parts.
fn joined(module: String, leaf: String, mut parts: Parts, values: &BTreeMap<ParamId, TensorData>) -> Other {
    parts.sort_by_key(|(module, _)| module.part.shares().from);
    let (foreign, param) = &parts[0];
    let shares: usize = parts.iter().map(|(module, _)| module.part.shares().count()).sum();
    assert_eq!(shares, foreign.part.shares().of, "`{module}.{leaf}` needs every part of it");
    let (is_of_linear, shape) = (param.is_of_linear(), param.shape.clone());
    let values: Vec<Vec<f32>> = parts.iter().map(|(_, param)| floats(values[&param.id].clone())).collect();
    if !is_of_linear {
        return Other { module, leaf, shape, values: values.concat(), is_lone_bias: false };
    }
    let d_in = if shape.len() == 2 { shape[0] } else { 1 };
    let values: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
    let whole = beside(&values, d_in);
    let d_out = whole.len() / d_in;
    let (shape, values) = match (shape.len(), foreign.layout) {
        (2, Layout::Linear) => (vec![d_out, d_in], transposed(&whole, d_out)),
        (2, Layout::Conv1d) => (vec![d_in, d_out], whole),
        (_, Layout::Linear | Layout::Conv1d) => (vec![d_out], whole),
    };
    Other { module, leaf, shape, values, is_lone_bias: false }
}

fn check_finite(tensors: &Tensors) -> Result<(), Error> {
    let count = |values: &[f32]| values.iter().filter(|value| !value.is_finite()).count();
    match tensors.iter().find(|(_, (_, values))| count(values) > 0) {
        Some((name, (_, values))) => Err(Error::NotFinite { name: name.clone(), count: count(values) }),
        None => Ok(()),
    }
}

fn serialized(tensors: &Tensors, description: &Description, config: &Value) -> Result<Vec<u8>, String> {
    let bytes: BTreeMap<&str, Vec<u8>> = (tensors.iter())
        .map(|(name, (_, values))| (name.as_str(), values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views: Result<Vec<_>, _> = (tensors.iter())
        .map(|(name, (shape, _))| {
            Ok((name, TensorView::new(Dtype::F32, shape.clone(), &bytes[name.as_str()])?))
        })
        .collect();
    let ours = OurMetadata {
        base: description.base.clone(),
        labels: description.labels.clone(),
        settings: settings::of(config),
        data: description.data.clone(),
    };
    let ours = serde_json::to_string(&ours).map_err(|error| error.to_string())?;
    let metadata = [("format".to_owned(), "pt".to_owned()), (METADATA.to_owned(), ours)].into();
    let mut bytes = views
        .and_then(|views| safetensors::serialize(views, Some(metadata)))
        .map_err(|error: safetensors::SafeTensorError| error.to_string())?;
    files::order_metadata(&mut Cursor::new(&mut bytes)).map_err(|error| error.to_string())?;
    Ok(bytes)
}
