//! Models against values that PyTorch computed: every case of `models/` in the fixtures.

use std::collections::BTreeMap;
use std::path::Path;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{Device, Int, Tensor, TensorData};
use nola_models::{Checkpoint, Vit};

use crate::fixtures::{self, Golden, assert_close};

/// Largest difference of a float32 run from the float64 values, as the fixtures' README suggests.
const TOLERANCE: f64 = 1e-4;

#[test]
fn golden_models_give_the_values_of_the_reference() {
    let Some(root) = fixtures::root() else {
        println!("skipped: no ../shared/fixtures and no assets/golden");
        return;
    };
    let cases = fixtures::cases(&root, "models");
    let mut checked = 0;
    for folder in &cases {
        let name = folder.file_name().expect("a folder has a name").to_string_lossy();
        let checkpoint = Checkpoint::open(folder).unwrap_or_else(|error| panic!("{name}: {error}"));
        match kind(&checkpoint) {
            Kind::Vit => check_vit(&name, folder, &checkpoint),
            Kind::Other(kind) => {
                println!("skipped {name}: `{kind}` is not built yet");
                continue;
            }
        }
        println!("checked {name}");
        checked += 1;
    }
    assert!(checked > 0 || cases.is_empty(), "{}: no case of a supported kind", root.display());
}

/// What a case's `config.json` says it is.
enum Kind {
    Vit,
    Other(String),
}

fn kind(checkpoint: &Checkpoint) -> Kind {
    let config = checkpoint.config();
    match (config["model_type"].as_str(), config["architecture"].as_str()) {
        (Some("vit" | "vit_mae"), _) => Kind::Vit,
        (_, Some(name)) if name == "timm.VisionTransformer" || name.starts_with("vit_") => Kind::Vit,
        (other, _) => Kind::Other(other.unwrap_or("no model_type").to_string()),
    }
}

fn check_vit(name: &str, folder: &Path, checkpoint: &Checkpoint) {
    let device = Device::flex();
    let vit = Vit::load(checkpoint, &device).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (golden, _) = fixtures::tensors(&folder.join("expected.safetensors"));
    let pixels = tensor::<4>(&golden["pixel_values"], &device);
    let check = |tensor: &str, found: Vec<f32>| {
        if let Some(golden) = precise(&golden, tensor) {
            assert_close(&format!("{name}: {tensor}"), &found, golden.f64(), TOLERANCE);
        }
    };
    let hidden = vit.hidden_states(pixels.clone());
    let [_, tokens, _] = hidden.final_norm.dims();
    check("embeddings", values(hidden.embeddings));
    for (block, states) in hidden.blocks.into_iter().enumerate() {
        assert!(golden.contains_key(&format!("block.{block}")), "{name}: no golden block {block}");
        check(&format!("block.{block}"), values(states));
    }
    check("final_norm", values(hidden.final_norm.clone()));
    check("feature_cls", values(hidden.final_norm.clone().narrow(1, 0, 1)));
    check("feature_mean", values(hidden.final_norm.narrow(1, 1, tokens - 1).mean_dim(1)));
    assert_eq!(vit.head.is_some(), precise(&golden, "logits").is_some(), "{name}: head");
    if vit.head.is_some() {
        let logits = vit.forward(pixels);
        check("logits", values(logits.clone()));
        let labels = golden["labels"].i64();
        let targets = Tensor::<1, Int>::from_data(TensorData::new(labels.to_vec(), [labels.len()]), &device);
        check("loss", values(CrossEntropyLossConfig::new().init(&device).forward(logits, targets)));
    }
}

/// The golden tensor in the highest precision there is: `NAME.f64`, else `NAME`.
fn precise<'a>(golden: &'a BTreeMap<String, Golden>, name: &str) -> Option<&'a Golden> {
    golden.get(&format!("{name}.f64")).or_else(|| golden.get(name))
}

fn tensor<const D: usize>(golden: &Golden, device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(golden.f32(), golden.shape.clone()), device)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data_as::<f32>().try_into_vec().expect("the type was asked for")
}
