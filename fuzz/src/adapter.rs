//! Adapter folders: ours and PEFT's.

use std::path::Path;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::Device;
use nola_core::folder::peft::{self, ForeignModule};
use nola_core::folder::{self, Manifest, SavedAdapter, sha256_hex};
use nola_train::adapter_data::AdapterData;
use serde_json::Value;

use super::input::{accepted, in_folder, parts};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// The only version whose settings nothing guards.
const UNGUARDED_VERSION: u32 = 1;

/// What adapters are attached to.
#[derive(Module, Debug)]
struct Base {
    query: Linear,
    head: Linear,
}

impl Base {
    fn new(device: &Device) -> Self {
        Self { query: LinearConfig::new(4, 4).init(device), head: LinearConfig::new(4, 3).init(device) }
    }
}

/// A folder of our own format: settings, then weights.
pub fn native(bytes: &[u8]) {
    let [config, weights] = parts(bytes);
    in_folder(&[(CONFIG, config), (WEIGHTS, weights)], |folder| read_native(folder, bytes));
    let Some(config) = config.and_then(|config| unguarded(config, weights.unwrap_or_default())) else {
        return;
    };
    in_folder(&[(CONFIG, Some(&config)), (WEIGHTS, weights)], |folder| read_native(folder, bytes));
}

/// The settings with the hashes that make them valid, if they are settings.
fn unguarded(config: &[u8], weights: &[u8]) -> Option<Vec<u8>> {
    let mut config: Value = serde_json::from_slice(config).ok()?;
    let table = config.as_object_mut()?;
    table.insert("format_version".to_owned(), UNGUARDED_VERSION.into());
    table.insert("model_sha256".to_owned(), sha256_hex(weights).into());
    serde_json::to_vec(&config).ok()
}

fn read_native(folder: &Path, bytes: &[u8]) {
    if let Some(data) = accepted(AdapterData::of_folder(folder), bytes).flatten() {
        let again: AdapterData = serde_json::from_value(data.to_value()).expect("it was written just now");
        assert_eq!(again, data);
    }
    let Some(saved) = accepted(folder::read(folder), bytes) else { return };
    let again = Manifest::from_json(saved.manifest.to_json()).expect("it was read");
    assert_eq!(again, saved.manifest, "settings that are written as others");
    let numbers = |shape: Vec<usize>| shape.iter().product::<usize>();
    assert!(saved.tensors().map(|(_, shape)| numbers(shape)).sum::<usize>() <= 4 * bytes.len());
    saved.base_gain();
    attach_native(saved, bytes);
}

fn attach_native(saved: SavedAdapter, bytes: &[u8]) {
    let device = Device::flex();
    let base = saved.manifest.base();
    accepted(saved.attach(Base::new(&device), &base, &device), bytes);
}

/// A folder of PEFT's: settings, then weights.
pub fn peft(bytes: &[u8]) {
    let [config, weights] = parts(bytes);
    in_folder(&[(CONFIG, config), (WEIGHTS, weights)], |folder| {
        peft::is_peft(folder);
        accepted(AdapterData::of_folder(folder), bytes);
        let Some(read) = accepted(peft::read(folder), bytes) else { return };
        let modules = |site: &str| ForeignModule::whole([site.to_owned(), format!("old.{site}")]);
        read.head_outputs(&modules);
        let device = Device::flex();
        accepted(read.attach(Base::new(&device), &modules, &device), bytes);
    });
}
