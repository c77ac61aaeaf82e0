//! `nola-train inspect`: what a folder holds, or what training the model in it takes.

mod memory;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use nola_core::bundle::{self, Bundle, Member};
use nola_core::folder::{self, peft};
use nola_models::{Checkpoint, gguf};
use serde_json::{Map, Value, json};

use super::{Global, print_json, print_line};
use crate::amounts::percent;
use crate::assets::located;
use crate::{Error, printable, run};
use memory::MemoryArgs;

/// Said of folders that other programs wrote, or this one before there was such a check.
const NOT_COVERED: &str = "not covered by a hash: an edit of adapter_config.json would not be noticed";

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A run folder, an adapter folder, a LoRA folder of PEFT's, a bundle, a model folder, or a GGUF file.
    folder: PathBuf,
    #[command(flatten)]
    memory: MemoryArgs,
}

pub fn run(args: &InspectArgs, global: &Global) -> Result<(), Error> {
    let folder = gguf::in_folder(&located(&args.folder)?).map_err(nola_models::Error::Gguf)?;
    if let Some(batch) = args.memory.batch {
        return memory::run(&folder, &args.memory, batch, global);
    }
    let contents = contents(&inside_run(&folder)?)?;
    if global.json {
        print_json(&contents)?;
        return Ok(());
    }
    for (name, value) in contents.as_object().unwrap_or(&Map::new()) {
        match value {
            Value::Array(members) if name == "members" => {
                print_line(&format!("members ({})", members.len()))?;
                members.iter().try_for_each(|member| print_line(&member_line(member)))?;
            }
            Value::Array(sites) if name == "sites" => print_line(&format!("{name:24} {}", sites.len()))?,
            Value::Array(lines) if name == "tensors" => {
                print_line(&format!("tensors ({})", lines.len()))?;
                for tensor in lines {
                    let dtype = tensor["dtype"].as_str().map_or(String::new(), |dtype| format!(" {dtype}"));
                    print_line(&format!("  {} {}{dtype}", text(&tensor["name"]), tensor["shape"]))?;
                }
            }
            value => print_line(&format!("{name:24} {}", text(value)))?,
        }
    }
    Ok(())
}

/// The adapter or the model of a run folder; any other folder itself.
fn inside_run(folder: &Path) -> Result<PathBuf, Error> {
    let holds = |name: &str| folder.join(name).is_file();
    if !holds(run::RECIPE) || holds("config.json") || holds("adapter_config.json") {
        return Ok(folder.to_owned());
    }
    let inside = [run::ADAPTER, run::MODEL].into_iter().find_map(|name| run::whole(folder, name));
    let last = || run::whole(folder, run::LAST_ADAPTER);
    inside.ok_or_else(|| Error::NoAdapter { run: folder.to_owned(), last: last() })
}

fn contents(folder: &Path) -> Result<Value, Error> {
    if bundle::is_bundle(folder) {
        return of_bundle(folder);
    }
    if let Some((folder, name)) = bundle::member_at(folder) {
        return of_member(&folder, &name);
    }
    // Half of an adapter is a damaged adapter, not a model.
    let is_adapter =
        ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt"];
    if !is_adapter.iter().any(|name| folder.join(name).exists()) {
        return of_model(folder);
    }
    if peft::is_peft(folder) { of_peft(folder) } else { of_adapter(folder) }
}

fn of_adapter(folder: &Path) -> Result<Value, Error> {
    let saved = folder::read(folder)?;
    let manifest = saved.manifest.to_json();
    let tensors = saved.tensors().map(|(name, shape)| tensor(name, &shape)).collect();
    let settings = if saved.manifest.settings_check.is_some() { "covered" } else { NOT_COVERED };
    let mut contents = json!({ "kind": "adapter", "hashes": "fit", "settings": settings });
    if let Some(gain) = saved.base_gain() {
        contents["base_left"] = gain.weight.max(gain.bias).into();
    }
    let keys = manifest.as_object().cloned().unwrap_or_default();
    contents.as_object_mut().unwrap_or(&mut Map::new()).extend(keys);
    Ok(with_tensors(contents, tensors))
}

fn of_peft(folder: &Path) -> Result<Value, Error> {
    let adapter = peft::read(folder)?;
    let tensors = adapter.tensors().map(|(name, shape)| tensor(name, shape)).collect();
    let contents = json!({
        "kind": "adapter",
        "peft_type": adapter.peft_type(),
        "settings": if adapter.covers_settings() { "covered" } else { NOT_COVERED },
        "base": adapter.base(),
        "labels": adapter.labels(),
        "data": folder::read_data(folder)?,
    });
    Ok(with_tensors(contents, tensors))
}

fn of_bundle(folder: &Path) -> Result<Value, Error> {
    let bundle = Bundle::read(folder)?;
    let manifest = bundle.manifest();
    let members = manifest.members.iter().enumerate();
    let members: Vec<Value> = members.map(|(place, member)| member_json(&bundle, place, member)).collect();
    let own: usize = (0..members.len()).map(|place| bundle.own_numbers(place)).sum();
    Ok(json!({
        "kind": "bundle",
        "hashes": "fit",
        "settings": "covered",
        "base": manifest.base,
        "method": manifest.method,
        "rank": manifest.rank,
        "clusters": manifest.clusters,
        "sites": manifest.sites,
        "shared_bytes": bundle.shared_numbers() * 4,
        "numbers": bundle.shared_numbers() + own,
        "members": members,
    }))
}

fn member_json(bundle: &Bundle, place: usize, member: &Member) -> Value {
    json!({
        "name": member.name,
        "method": member.method,
        "cluster": member.cluster,
        "lost": member.lost,
        "bytes": bundle.own_numbers(place) * 4,
    })
}

/// One member of a bundle, as an adapter.
fn of_member(folder: &Path, name: &str) -> Result<Value, Error> {
    let bundle = Bundle::read(folder)?;
    let manifest = bundle.manifest();
    let member = manifest.member(folder, name)?;
    let place = bundle.place(name).expect("it was just found");
    let mut contents = json!({
        "kind": "adapter",
        "hashes": "fit",
        "settings": "covered",
        "bundle": folder,
        "base": manifest.base,
        "labels": member.labels,
        "data": member.data,
    });
    let keys = member_json(&bundle, place, member).as_object().cloned().unwrap_or_default();
    contents.as_object_mut().unwrap_or(&mut Map::new()).extend(keys);
    Ok(contents)
}

/// A member of a bundle, for people.
fn member_line(member: &Value) -> String {
    let lost = percent(member["lost"].as_f64().unwrap_or_default());
    let (called, method) = (text(&member["name"]), text(&member["method"]));
    let called = printable::name(&called);
    format!(
        "  {called} ({method}): cluster {}, {lost} lost, {} bytes of its own",
        member["cluster"], member["bytes"]
    )
}

fn of_model(folder: &Path) -> Result<Value, Error> {
    let checkpoint = Checkpoint::open(folder)?;
    checkpoint.check_intact()?;
    let of_model = |name| {
        let mut tensor = tensor(name, checkpoint.shape(name).unwrap_or_default());
        tensor["dtype"] = checkpoint.stored_type(name).into();
        tensor
    };
    let tensors: Vec<Value> = checkpoint.tensor_names().map(of_model).collect();
    let mut contents = json!({
        "kind": "model",
        "config": checkpoint.config(),
        "base": checkpoint.identity(),
        "numbers_by_dtype": numbers_by_dtype(&tensors),
    });
    if let Some(layers) = LowRankLayers::of(&checkpoint) {
        contents["low_rank_layers"] = layers.to_json();
    }
    Ok(with_tensors(contents, tensors))
}

/// What the layers of a small model take, beside what they would take with dense weights.
#[derive(Debug, Default, PartialEq)]
struct LowRankLayers {
    layers: usize,
    /// In their two narrow matrices.
    numbers: usize,
    /// In the weights whose place those take.
    dense_numbers: usize,
}

impl LowRankLayers {
    /// Those of a model; nothing if it has none.
    fn of(checkpoint: &Checkpoint) -> Option<Self> {
        let shapes = checkpoint.tensor_names().filter_map(|name| {
            let b = format!("{}.lora_B.weight", name.strip_suffix(".lora_A.weight")?);
            Some((checkpoint.shape(name)?, checkpoint.shape(&b)?))
        });
        let found = shapes.fold(Self::default(), |sum, (a, b)| sum.with(a, b));
        (found.layers > 0).then_some(found)
    }

    /// # Shapes
    /// - `a`: `[rank, d_in]`
    /// - `b`: `[d_out, rank]`
    fn with(self, a: &[usize], b: &[usize]) -> Self {
        let (&[rank, d_in], &[d_out, _]) = (a, b) else { return self };
        Self {
            layers: self.layers + 1,
            numbers: self.numbers + rank * (d_in + d_out),
            dense_numbers: self.dense_numbers + d_in * d_out,
        }
    }

    /// A multiplication and an addition for each number and token.
    fn to_json(&self) -> Value {
        json!({
            "layers": self.layers,
            "numbers": self.numbers,
            "dense_numbers": self.dense_numbers,
            "flops_per_token": 2 * self.numbers,
            "dense_flops_per_token": 2 * self.dense_numbers,
        })
    }
}

fn tensor(name: &str, shape: &[usize]) -> Value {
    json!({ "name": name, "shape": shape })
}

fn numbers(tensor: &Value) -> u64 {
    tensor["shape"].as_array().into_iter().flatten().filter_map(Value::as_u64).product()
}

/// How many numbers of a model are stored in each type.
fn numbers_by_dtype(tensors: &[Value]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for tensor in tensors {
        *counts.entry(text(&tensor["dtype"])).or_default() += numbers(tensor);
    }
    counts
}

fn with_tensors(mut contents: Value, tensors: Vec<Value>) -> Value {
    contents["numbers"] = tensors.iter().map(numbers).sum::<u64>().into();
    contents["tensors"] = Value::Array(tensors);
    contents
}

/// Text without quotes; all else as JSON.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_rank_layers_are_compared_with_dense_ones() {
        let layers = LowRankLayers::default().with(&[2, 10], &[20, 2]).with(&[3, 10], &[10, 3]);
        assert_eq!(layers, LowRankLayers { layers: 2, numbers: 2 * 30 + 3 * 20, dense_numbers: 300 });
        assert_eq!(layers.to_json()["flops_per_token"], 240);
    }
}
