//! LoRA folders as Hugging Face PEFT writes and reads them.
//!
//! PEFT stores `lora_A` as `[rank, d_in]` and `lora_B` as `[d_out, rank]`, under the module paths of transformers, which
//! has had two generations of names: whoever calls says how the modules of a model are called in both ([`Names`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, TensorData};
use half::{bf16, f16};
use regex::Regex;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{BaseIdentity, Description, files};
use crate::Error;
use crate::adapted::{Adapted, TrainedState, floats};
use crate::adapter::{Factor, Plan};
use crate::params::{float_params, linear_sites};
use crate::targets::Site;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// What a module of ours, such as `blocks.0.attention.query`, is called in transformers 5 and in transformers 4.
pub type Names<'a> = &'a dyn Fn(&str) -> [String; 2];

/// Which of the two names to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Generation {
    /// Names of transformers 5.
    #[default]
    #[serde(rename = "transformers-5")]
    Transformers5,
    /// Names of transformers 4 and before.
    #[serde(rename = "transformers-4")]
    Transformers4,
}

/// The keys of `adapter_config.json` that decide what the tensors mean; PEFT ignores keys it does not know, and so do we.
#[derive(Debug, Clone, Deserialize)]
struct PeftConfig {
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    lora_bias: bool,
    #[serde(default)]
    init_lora_weights: Value,
    #[serde(default)]
    rank_pattern: Map<String, Value>,
    #[serde(default)]
    alpha_pattern: Map<String, Value>,
    #[serde(default)]
    target_modules: Value,
    #[serde(default)]
    exclude_modules: Value,
    #[serde(default)]
    layers_to_transform: Value,
}

/// A PEFT LoRA folder that was read, not yet attached to a model.
#[derive(Debug, Clone)]
pub struct PeftAdapter {
    config: PeftConfig,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    ours: Option<OurMetadata>,
    folder: PathBuf,
}

/// What this project adds, in the metadata of the weights file, where PEFT does not look.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct OurMetadata {
    base: BaseIdentity,
    labels: Vec<String>,
}

/// Key of [`OurMetadata`].
const METADATA: &str = "nola";

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
    let invalid =
        |error: serde_json::Error| Error::Invalid { file: file.clone(), problems: vec![error.to_string()] };
    let value: Value = serde_json::from_slice(&read_file(&file)?).map_err(invalid)?;
    // Other kinds have other keys, so the kind is told before a key is missed.
    if value["peft_type"] != "LORA" {
        let found = value["peft_type"].to_string().replace('"', "");
        return Err(Error::Unsupported { file: file.clone(), field: "peft_type", found, supported: "LORA" });
    }
    let config: PeftConfig = serde_json::from_value(value).map_err(invalid)?;
    check_kind(&file, &config)?;
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

fn check_kind(file: &Path, config: &PeftConfig) -> Result<(), Error> {
    let unsupported = |field, found: String, supported| {
        Err(Error::Unsupported { file: file.to_owned(), field, found, supported })
    };
    if config.use_dora {
        return unsupported("use_dora", "true".to_owned(), "plain LoRA and rsLoRA");
    }
    if config.lora_bias {
        return unsupported("lora_bias", "true".to_owned(), "adapters without a bias on B");
    }
    let changes_base = ["olora", "pissa", "corda", "loftq", "eva"];
    match config.init_lora_weights.as_str() {
        Some(init) if changes_base.iter().any(|name| init.starts_with(name)) => unsupported(
            "init_lora_weights",
            init.to_owned(),
            "adapters of the unchanged base; let PEFT convert it with `path_initial_model_for_weight_conversion`",
        ),
        Some(_) | None => Ok(()),
    }
}

impl PeftAdapter {
    /// Hangs the adapter on a freshly loaded `model`.
    ///
    /// # Errors
    /// If a tensor is missing for a target, belongs to nothing or has a wrong shape: all of them in one error.
    pub fn attach<M: Module>(self, model: M, names: Names, device: &Device) -> Result<Adapted<M>, Error> {
        let mut matching = Matching { adapter: &self, used: BTreeSet::new(), problems: Vec::new() };
        let (sites, plans): (Vec<Site>, Vec<Plan>) = (linear_sites(&model).into_iter())
            .filter_map(|site| matching.plan(&site, &names(&site.path)).map(|plan| (site, plan)))
            .unzip();
        let others = matching.others(&model, names);
        let surplus = self.tensors.keys().filter(|name| !matching.used.contains(*name));
        let surplus: Vec<String> =
            surplus.map(|name| format!("`{name}` belongs to nothing in this model")).collect();
        matching.problems.extend(surplus);
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
    pub fn head_outputs(&self, names: Names) -> Option<usize> {
        let keys = names("head").map(|name| format!("{PREFIX}{name}.weight"));
        keys.iter().find_map(|key| Some(self.tensors.get(key)?.0[0]))
    }

    /// Names, shapes and number of the stored tensors.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.tensors.iter().map(|(name, (shape, _))| (name.as_str(), shape.as_slice()))
    }

    fn scale(&self, module: &str, rank: usize) -> f64 {
        let alpha = pattern_value(&self.config.alpha_pattern, module).unwrap_or(self.config.lora_alpha);
        if self.config.use_rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 }
    }

    /// Whether the configuration says that `module` is adapted.
    fn targets(&self, module: &str) -> bool {
        let layers: Vec<usize> = match &self.config.layers_to_transform {
            Value::Array(layers) => layers.iter().filter_map(|n| Some(n.as_u64()? as usize)).collect(),
            Value::Number(layer) => layer.as_u64().map(|n| n as usize).into_iter().collect(),
            Value::Null | Value::Bool(_) | Value::String(_) | Value::Object(_) => Vec::new(),
        };
        let layer = module.split('.').find_map(|part| part.parse().ok());
        if !layers.is_empty() && !layer.is_some_and(|layer| layers.contains(&layer)) {
            return false;
        }
        names_module(&self.config.target_modules, module)
            && !names_module(&self.config.exclude_modules, module)
    }
}

/// Whether a list of names or a regular expression of PEFT's covers `module`.
fn names_module(names: &Value, module: &str) -> bool {
    match names {
        Value::Array(names) => (names.iter().filter_map(Value::as_str))
            .any(|name| module == name || module.ends_with(&format!(".{name}"))),
        Value::String(pattern) => {
            Regex::new(&format!("^(?:{pattern})$")).is_ok_and(|regex| regex.is_match(module))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
}

/// PEFT tries the keys of a pattern in order as `(.*\.)?(KEY)$`; the first hit wins.
fn pattern_value(patterns: &Map<String, Value>, module: &str) -> Option<f64> {
    let hit = |key: &&String| {
        Regex::new(&format!("^(?:.*\\.)?(?:{key})$")).is_ok_and(|regex| regex.is_match(module))
    };
    patterns.keys().find(hit).and_then(|key| patterns[key].as_f64())
}

/// Which tensors of the folder belong where, and what does not fit.
struct Matching<'a> {
    adapter: &'a PeftAdapter,
    used: BTreeSet<String>,
    problems: Vec<String>,
}

impl Matching<'_> {
    fn plan(&mut self, site: &Site, names: &[String; 2]) -> Option<Plan> {
        let key = |name: &str, factor: &str| format!("{PREFIX}{name}.{factor}.weight");
        let found = |name: &&String| {
            ["lora_A", "lora_B"].iter().any(|factor| self.adapter.tensors.contains_key(&key(name, factor)))
        };
        let Some(name) = names.iter().find(found) else {
            if let Some(name) = names.iter().find(|name| self.adapter.targets(name)) {
                self.problems
                    .push(format!("`{}` is missing, though the module is a target", key(name, "lora_A")));
            }
            return None;
        };
        let config = &self.adapter.config;
        let rank = pattern_value(&config.rank_pattern, name).map_or(config.r, |rank| rank as usize);
        let a = self.take(&key(name, "lora_A"), &[rank, site.d_in]);
        let b = self.take(&key(name, "lora_B"), &[site.d_out, rank]);
        Some(Plan {
            a: Factor::Learned(transposed(&a?, site.d_in)),
            b: Factor::Learned(transposed(&b?, rank)),
            rank,
            scale: self.adapter.scale(name, rank),
        })
    }

    /// Trained heads and biases, by our path.
    fn others<M: Module>(&mut self, model: &M, names: Names) -> TrainedState {
        let mut others = TrainedState::new();
        for param in float_params(model) {
            let Some((module, leaf)) = param.path.rsplit_once('.') else { continue };
            let keys = names(module).into_iter().flat_map(|name| {
                [format!("{PREFIX}{name}.{leaf}"), format!("{PREFIX}{name}.base_layer.{leaf}")]
            });
            let Some(key) = keys.into_iter().find(|key| self.adapter.tensors.contains_key(key)) else {
                continue;
            };
            let foreign_shape: Vec<usize> = param.shape.iter().rev().copied().collect();
            if let Some(values) = self.take(&key, &foreign_shape) {
                let values = transposed(&values, *foreign_shape.last().unwrap_or(&1));
                others.insert(param.path, TensorData::new(values, param.shape));
            }
        }
        others
    }

    fn take(&mut self, key: &str, shape: &[usize]) -> Option<Vec<f32>> {
        self.used.insert(key.to_owned());
        match self.adapter.tensors.get(key) {
            None => self.problems.push(format!("`{key}` is missing")),
            Some((found, _)) if found != shape => {
                self.problems.push(format!("`{key}` has shape {found:?}, expected {shape:?}"));
            }
            Some((_, values)) => return Some(values.clone()),
        }
        None
    }
}

/// Writes the adapter as a PEFT LoRA that computes the same function, and returns the bytes of the folder.
///
/// NOLA's factors are expanded on the host, so the exported numbers are the same on every machine.
///
/// # Errors
/// If the folder holds something already or cannot be written.
pub fn write<M: Module>(
    folder: &Path,
    adapted: &Adapted<M>,
    names: Names,
    generation: Generation,
    description: &Description,
) -> Result<u64, Error> {
    let name = |path: &str| {
        let [new, old] = names(path);
        match generation {
            Generation::Transformers5 => new,
            Generation::Transformers4 => old,
        }
    };
    files::new_folder(folder)?;
    let (tensors, modules_to_save) = export_tensors(adapted, &name);
    let config = export_config(adapted, &name, &modules_to_save, &description.base.name);
    let file = folder.join(WEIGHTS);
    let invalid = |error: String| Error::Invalid { file: file.clone(), problems: vec![error] };
    let views: Result<Vec<_>, _> = (tensors.iter())
        .map(|(name, (shape, bytes))| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect();
    let ours = OurMetadata { base: description.base.clone(), labels: description.labels.clone() };
    let ours = serde_json::to_string(&ours).map_err(|error| invalid(error.to_string()))?;
    let metadata = [("format".to_owned(), "pt".to_owned()), (METADATA.to_owned(), ours)].into();
    let weights = views
        .and_then(|views| safetensors::serialize(views, Some(metadata)))
        .map_err(|error: safetensors::SafeTensorError| invalid(error.to_string()))?;
    let config = serde_json::to_vec_pretty(&config).map_err(|error| invalid(error.to_string()))?;
    files::write_atomically(&file, &weights)?;
    files::write_atomically(&folder.join(CONFIG), &config)?;
    Ok((weights.len() + config.len()) as u64)
}

type Exported = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

fn export_tensors<M: Module>(
    adapted: &Adapted<M>,
    name: &dyn Fn(&str) -> String,
) -> (Exported, BTreeSet<String>) {
    let bytes = |values: Vec<f32>| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let mut tensors = Exported::new();
    for factors in adapted.factors() {
        let (site, rank) = (&factors.site, factors.rank);
        let key = |factor: &str| format!("{PREFIX}{}.{factor}.weight", name(&site.path));
        let (a, b) = (transposed(&factors.a, rank), transposed(&factors.b, site.d_out));
        tensors.insert(key("lora_A"), (vec![rank, site.d_in], bytes(a)));
        tensors.insert(key("lora_B"), (vec![site.d_out, rank], bytes(b)));
    }
    let mut modules_to_save = BTreeSet::new();
    let sites: BTreeSet<&str> = adapted.sites().iter().map(|site| site.path.as_str()).collect();
    for (path, data) in adapted.state() {
        let Some((module, leaf)) = path.rsplit_once('.') else { continue };
        if path.contains(".adapter.") {
            continue;
        }
        let base_layer = if sites.contains(module) { ".base_layer" } else { "" };
        if base_layer.is_empty() {
            modules_to_save.insert(name(module));
        }
        let shape: Vec<usize> = data.shape().iter().rev().copied().collect();
        let values = transposed(&floats(data), shape[0]);
        tensors.insert(format!("{PREFIX}{}{base_layer}.{leaf}", name(module)), (shape, bytes(values)));
    }
    (tensors, modules_to_save)
}

fn export_config<M: Module>(
    adapted: &Adapted<M>,
    name: &dyn Fn(&str) -> String,
    modules_to_save: &BTreeSet<String>,
    base_name: &str,
) -> Value {
    let plans = adapted.plans();
    let (rank, scale) = plans.first().map_or((1, 1.0), |plan| (plan.rank, plan.scale));
    let alpha = |plan: &Plan| number(plan.scale * plan.rank as f64);
    let mut rank_pattern = Map::new();
    let mut alpha_pattern = Map::new();
    for (site, plan) in adapted.sites().iter().zip(plans) {
        let key = format!("^{}", regex::escape(&name(&site.path)));
        if plan.rank != rank {
            rank_pattern.insert(key.clone(), plan.rank.into());
        }
        if (plan.scale * plan.rank as f64) != scale * rank as f64 {
            alpha_pattern.insert(key, alpha(plan));
        }
    }
    let modules: Vec<String> = adapted.sites().iter().map(|site| name(&site.path)).collect();
    let trains_biases = adapted.state().keys().any(|path| {
        path.strip_suffix(".bias").is_some_and(|module| adapted.sites().iter().any(|s| s.path == module))
    });
    json!({
        "peft_type": "LORA",
        "base_model_name_or_path": base_name,
        "task_type": Value::Null,
        "inference_mode": true,
        "r": rank,
        "lora_alpha": plans.first().map_or(Value::from(1), alpha),
        "lora_dropout": 0.0,
        "use_rslora": false,
        "use_dora": false,
        "fan_in_fan_out": false,
        "bias": if trains_biases { "lora_only" } else { "none" },
        "init_lora_weights": true,
        "target_modules": modules,
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
        "modules_to_save": if modules_to_save.is_empty() { Value::Null } else { json!(modules_to_save) },
    })
}

/// A whole number as one: PEFT declares `lora_alpha` so, though it computes with any.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 { Value::from(value as i64) } else { Value::from(value) }
}

/// The transpose of a row-major matrix with `cols` columns.
fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| values.iter().skip(col).step_by(cols).copied()).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_twice_changes_nothing() {
        let values: Vec<f32> = (0..6).map(|n| n as f32).collect();
        assert_eq!(transposed(&values, 3), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(transposed(&transposed(&values, 3), 2), values);
    }

    #[test]
    fn the_first_pattern_that_fits_wins() {
        let patterns = json!({"q_proj": 4, "layers.1.*": 2});
        let patterns = patterns.as_object().expect("an object");
        assert_eq!(pattern_value(patterns, "model.layers.1.q_proj"), Some(4.0));
        assert_eq!(pattern_value(patterns, "model.layers.1.v_proj"), Some(2.0));
        assert_eq!(pattern_value(patterns, "model.layers.0.v_proj"), None);
    }
}
