//! Folders of models: weights, and the index of their shards.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use nola_models::{CausalLm, Checkpoint, Vit, VitConfig};

use super::input::{accepted, in_folder, parts};

/// Numbers of a model that is filled; larger ones take long.
const MOST_NUMBERS: usize = 1 << 16;

/// A configuration, then weights in one file.
pub fn single_file(bytes: &[u8]) {
    let [config, weights] = parts(bytes);
    in_folder(&[("config.json", config), ("model.safetensors", weights)], |folder| open(folder, bytes));
}

/// A configuration, then an index, then two shards.
pub fn sharded(bytes: &[u8]) {
    let [config, index, first, second] = parts(bytes);
    let files = [
        ("config.json", config),
        ("model.safetensors.index.json", index),
        ("model-00001-of-00002.safetensors", first),
        ("model-00002-of-00002.safetensors", second),
    ];
    in_folder(&files, |folder| open(folder, bytes));
}

/// A folder of these bytes, or a file that stands for one.
pub fn open(folder: &Path, bytes: &[u8]) {
    let Some(checkpoint) = accepted(Checkpoint::open(folder), bytes) else { return };
    accepted(checkpoint.check_intact(), bytes);
    assert!(checkpoint.tensor_names().all(|name| checkpoint.shape(name).is_some()));
    assert_eq!(checkpoint.identity().weights_sha256.len(), 64);
    let device = Device::flex();
    let (config, file) = (checkpoint.config(), checkpoint.config_file());
    let is_small = |numbers: usize| numbers <= MOST_NUMBERS;
    if CausalLm::is_named_by(config) {
        let model = accepted(CausalLm::uninitialized(config, &file, &device), bytes);
        if model.is_some_and(|model| is_small(model.num_params())) {
            accepted(CausalLm::load(&checkpoint, &device), bytes);
        }
    } else if let Some(config) = accepted(VitConfig::from_checkpoint(&checkpoint), bytes)
        && is_small(Vit::uninitialized(&config, &device).num_params())
    {
        accepted(Vit::load(&checkpoint, &device), bytes);
    }
}
