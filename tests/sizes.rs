//! Exact numbers of published models and adapters, and the bytes of adapter folders.

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use nola_core::adapter::{LoraConfig, NolaConfig, Plan};
use nola_core::folder::{self, BaseIdentity, CoefficientBits, Description};
use nola_core::{Adapted, AdapterConfig, Site, Targets};
use nola_models::{Vit, VitConfig};

fn vit_numbers(config: VitConfig, classes: usize) -> usize {
    let labels: Vec<String> = (0..classes).map(|class| class.to_string()).collect();
    Vit::uninitialized(&config, &Device::flex()).with_head(&labels).num_params()
}

#[test]
fn vits_have_the_published_numbers_of_parameters() {
    let table = [
        ("ViT-B/16, 1000 classes", VitConfig::base16(), 1000, 86_567_656),
        ("ViT-B/16, no head", VitConfig::base16(), 0, 85_798_656),
        ("ViT-L/16, 1000 classes", VitConfig::large16(), 1000, 304_326_632),
        ("ViT-L/16, no head", VitConfig::large16(), 0, 303_301_632),
    ];
    for (name, config, classes, numbers) in table {
        assert_eq!(vit_numbers(config, classes), numbers, "{name}");
    }
}

/// `count` sites of one shape.
fn sites(count: usize, name: &str, [d_in, d_out]: [usize; 2]) -> Vec<Site> {
    (0..count).map(|n| Site { path: format!("blocks.{n}.{name}"), d_in, d_out }).collect()
}

/// All linear layers of LLaMA-2 but its head.
fn llama_sites(layers: usize, [d_model, d_kv, d_mlp]: [usize; 3]) -> Vec<Site> {
    let shapes = [
        ("query", [d_model, d_model]),
        ("key", [d_model, d_kv]),
        ("value", [d_model, d_kv]),
        ("output", [d_model, d_model]),
        ("gate", [d_model, d_mlp]),
        ("up", [d_model, d_mlp]),
        ("down", [d_mlp, d_model]),
    ];
    shapes.into_iter().flat_map(|(name, shape)| sites(layers, name, shape)).collect()
}

fn pairs(layers: usize, names: [&str; 2], shapes: [[usize; 2]; 2]) -> Vec<Site> {
    names.into_iter().zip(shapes).flat_map(|(name, shape)| sites(layers, name, shape)).collect()
}

fn attention(layers: usize, d_model: usize) -> Vec<Site> {
    pairs(layers, ["query", "value"], [[d_model; 2]; 2])
}

fn mlp(layers: usize, d_model: usize) -> Vec<Site> {
    pairs(layers, ["up", "down"], [[d_model, 4 * d_model], [4 * d_model, d_model]])
}

fn nola(k: usize) -> AdapterConfig {
    AdapterConfig::Nola(NolaConfig { k, l: k, ..NolaConfig::default() })
}

fn lora(rank: usize) -> AdapterConfig {
    AdapterConfig::Lora(LoraConfig { rank, ..LoraConfig::default() })
}

#[test]
fn adapters_have_the_published_numbers_of_trained_numbers() {
    let table = [
        ("GPT-2 M, NOLA k 1000", attention(24, 1024), nola(1000), 96_000),
        ("GPT-2 M, NOLA k 1000 on the MLP", mlp(24, 1024), nola(1000), 96_000),
        ("GPT-2 M, NOLA k 500", attention(24, 1024), nola(500), 48_000),
        ("GPT-2 L, NOLA k 1000", attention(36, 1280), nola(1000), 144_000),
        ("GPT-2 L, NOLA k 500", attention(36, 1280), nola(500), 72_000),
        ("GPT-2 L, NOLA k 250", attention(36, 1280), nola(250), 36_000),
        ("LLaMA-2 7B, NOLA k 128", llama_sites(32, [4096, 4096, 11008]), nola(128), 57_344),
        ("LLaMA-2 13B, NOLA k 256", llama_sites(40, [5120, 5120, 13824]), nola(256), 143_360),
        ("LLaMA-2 70B, NOLA k 512", llama_sites(80, [8192, 1024, 28672]), nola(512), 573_440),
        ("LLaMA-2 7B, LoRA r 1", llama_sites(32, [4096, 4096, 11008]), lora(1), 2_498_560),
        ("LLaMA-2 13B, LoRA r 1", llama_sites(40, [5120, 5120, 13824]), lora(1), 3_911_680),
        ("LLaMA-2 70B, LoRA r 1", llama_sites(80, [8192, 1024, 28672]), lora(1), 12_943_360),
        ("ViT-B, NOLA k 1024", mlp(12, 768), nola(1024), 49_152),
        ("ViT-L, NOLA k 512", mlp(24, 1024), nola(512), 49_152),
        ("ViT-L, NOLA k 1024", mlp(24, 1024), nola(1024), 98_304),
        ("ViT-B, LoRA r 4", attention(12, 768), lora(4), 147_456),
        ("ViT-L, LoRA r 4", attention(24, 1024), lora(4), 393_216),
    ];
    for (name, sites, adapter, numbers) in table {
        let plans = adapter.plan(&sites).expect("usable settings");
        assert_eq!(plans.iter().map(Plan::trained_numbers).sum::<usize>(), numbers, "{name}");
    }
}

/// Linear layers and nothing else; their weights are never used, so they take no memory.
#[derive(Module, Debug)]
struct Layers {
    blocks: Vec<Linear>,
    unused: Param<Tensor<1>>,
}

/// A module with the layers of a model under the model's own paths.
fn layers(sites: &[Site], device: &Device) -> Layers {
    let layer = |site: &Site| LinearConfig::new(site.d_in, site.d_out).with_bias(false).init(device);
    Layers {
        blocks: sites.iter().map(layer).collect(),
        unused: Param::from_tensor(Tensor::zeros([1], device)),
    }
}

#[test]
fn an_adapter_folder_is_at_most_4_kib_larger_than_its_coefficients() {
    let device = Device::flex();
    let table = [
        ("GPT-2 M", attention(24, 1024), 1000),
        ("ViT-B", mlp(12, 768), 1024),
        ("LLaMA-2 7B", llama_sites(32, [4096, 4096, 11008]), 128),
    ];
    let description = Description {
        base: BaseIdentity {
            name: "meta-llama/Llama-2-7b-hf".to_owned(),
            config_sha256: "0".repeat(64),
            weights_sha256: "0".repeat(64),
        },
        labels: Vec::new(),
        summary: "Validation loss 1.2345 nats per token.".to_owned(),
    };
    for (name, sites, k) in table {
        // Rank 1 keeps the test short; the folder's size does not depend on it.
        let adapter = NolaConfig { rank: 1, k, l: k, ..NolaConfig::default() };
        let model = layers(&sites, &device);
        let targets = Targets::matching("all-linear");
        let model = Adapted::attach(model, &AdapterConfig::Nola(adapter), &targets, &[], &device);
        let model = model.expect("linear layers");
        let coefficients = 2 * k * sites.len();
        for (bits, of_coefficients) in [
            (CoefficientBits::B32, 4 * coefficients),
            (CoefficientBits::B16, 2 * coefficients),
            (CoefficientBits::B8, coefficients),
            (CoefficientBits::B4, coefficients / 2),
        ] {
            let scratch = tempfile::tempdir().expect("a temporary folder");
            let bytes = folder::write(scratch.path(), &model, &description, bits).expect("a free folder");
            let on_disk: u64 = (std::fs::read_dir(scratch.path()).expect("the folder"))
                .map(|entry| entry.expect("a file").metadata().expect("its size").len())
                .sum();
            assert_eq!(bytes, on_disk, "{name}");
            let extra = bytes as i64 - of_coefficients as i64;
            assert!(extra <= 4096, "{name}, {bits:?}: {extra} bytes beside the coefficients");
        }
    }
}
