//! A ViT small enough for every law, and adapters of every kind to hang on it.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use nola_core::adapter::{LoraConfig, LoraVariant, NolaConfig, Preset, Sharing};
use nola_core::basis::Law;
use nola_core::{Adapted, AdapterConfig, Targets};
use nola_models::vit::{Pooling, Positions};
use nola_models::{Vit, VitConfig};
use nola_train::learner::ImageBatch;

/// Two blocks, four patches, three classes.
pub fn config() -> VitConfig {
    VitConfig {
        d_model: 24,
        n_layers: 2,
        n_heads: 3,
        d_mlp: 40,
        image_size: 8,
        patch_size: 4,
        channels: 3,
        layer_norm_eps: 1e-6,
        qkv_bias: true,
        n_classes: 3,
        pooling: Pooling::ClassToken,
        positions: Positions::Learned,
        labels: ["one", "two", "three"].map(str::to_owned).to_vec(),
    }
}

/// The same weights every time.
pub fn vit(device: &Device) -> Vit {
    Vit::init(&config(), 7, device)
}

/// Different pictures for every `seed`.
pub fn batch(samples: usize, seed: u32, device: &Device) -> ImageBatch {
    let count = samples * 3 * 8 * 8;
    let pixels: Vec<f32> = (0..count).map(|n| (n as f32 * 0.37 + seed as f32).sin()).collect();
    let labels: Vec<i64> = (0..samples).map(|n| (n + seed as usize) as i64 % 3).collect();
    ImageBatch {
        pixels: Tensor::from_data(TensorData::new(pixels, [samples, 3, 8, 8]), device),
        labels: Tensor::<1, Int>::from_data(TensorData::new(labels, [samples]), device),
    }
}

/// The settings of every adapter and preset there is, each with a name.
pub fn every_adapter() -> Vec<(String, AdapterConfig)> {
    let small = NolaConfig { rank: 2, k: 5, l: 3, alpha: 2.0, ..NolaConfig::default() };
    let mut all = Vec::new();
    for preset in [Preset::Default, Preset::Paper2023, Preset::Code2024, Preset::Vit2024] {
        for basis in [Law::Uniform, Law::Sign] {
            for sharing in [Sharing::Separate, Sharing::Shared] {
                let nola = NolaConfig { preset, basis, sharing, ..small.clone() };
                all.push((format!("nola {preset:?} {basis:?} {sharing:?}"), AdapterConfig::Nola(nola)));
            }
        }
    }
    // A rank above both widths, and a single matrix to mix.
    all.push(("nola of rank 50".to_owned(), AdapterConfig::Nola(NolaConfig { rank: 50, ..small.clone() })));
    all.push(("nola of k = 1".to_owned(), AdapterConfig::Nola(NolaConfig { k: 1, l: 1, ..small })));
    for variant in [LoraVariant::Plain, LoraVariant::RsLora] {
        let lora = LoraConfig { rank: 2, alpha: 3.0, variant, seed: 5 };
        all.push((format!("lora {variant:?}"), AdapterConfig::Lora(lora)));
    }
    all
}

/// The tiny ViT with an adapter on every linear layer but the head, and the head trained too.
pub fn adapted(adapter: &AdapterConfig, device: &Device) -> Adapted<Vit> {
    let targets = Targets::matching("query|key|value|output|up|down");
    Adapted::attach(vit(device), adapter, &targets, &["head"], device).expect("a ViT has such layers")
}

/// The same with other trained values, as if it had been trained.
pub fn perturbed(adapter: &AdapterConfig, device: &Device) -> Adapted<Vit> {
    let fresh = adapted(adapter, device);
    let mut state = fresh.state();
    for (number, data) in state.values_mut().enumerate() {
        let values: Vec<f32> = data.clone().try_into_vec().expect("trained values are f32");
        let moved = |(n, value): (usize, &f32)| value + 0.2 * ((n + 3 * number) as f32 * 1.3).sin();
        *data = TensorData::new(values.iter().enumerate().map(moved).collect::<Vec<f32>>(), data.shape());
    }
    fresh.with_state(state).expect("names and shapes are its own")
}

/// The logits of a module's plain forward pass.
pub fn logits(vit: &Vit, device: &Device) -> Vec<f32> {
    crate::devices::values(vit.clone().valid().forward(batch(4, 1, device).pixels))
}
