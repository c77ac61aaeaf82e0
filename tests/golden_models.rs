//! ViTs against values that PyTorch computed: every case of `models/` in the fixtures that is one.

use std::path::Path;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::Tensor;
use nola_models::vit::Pooling;
use nola_models::{Checkpoint, Vit};

use crate::devices::{classes, device, precise, tensor, values};
use crate::fixtures::{self, Tensors, assert_close};
use crate::test_model::{Kind, TestModel, kind};

/// Largest difference of a float32 run from the float64 values, on every device, as the fixtures' README suggests.
const TOLERANCE: f64 = 1e-4;

#[test]
fn golden_models_give_the_values_of_the_reference() {
    fixtures::on_folders("models", |tally, _, name, folder| {
        let checkpoint = Checkpoint::open(folder).unwrap_or_else(|error| panic!("{name}: {error}"));
        let outcome = match kind(&checkpoint) {
            Kind::Vit => {
                check_vit(name, folder, &checkpoint);
                Ok(())
            }
            Kind::Language => Err("tested by golden_causal".to_owned()),
            Kind::Unsupported(reason) => Err(reason),
        };
        tally.note(name, outcome);
    });
}

fn check_vit(name: &str, folder: &Path, checkpoint: &Checkpoint) {
    let device = device();
    let vit = Vit::load(checkpoint, &device).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (golden, _) = fixtures::tensors(&folder.join("expected.safetensors"));
    let check = |tensor: &str, found: Vec<f32>| {
        if let Some(golden) = precise(&golden, tensor) {
            assert_close(&format!("{name}: {tensor}"), &found, golden.f64(), TOLERANCE);
        }
    };
    if let Some(native) = golden.get("native.pixel_values") {
        check("native.logits", values(vit.forward(tensor(native, &device))));
    }
    let batch = Vit::golden_batch(&golden, &device);
    let (vit, pixels) = (vit.fitted(&batch), batch.pixels);
    check_states(name, &vit, pixels.clone(), &golden, &check);
    assert_eq!(vit.head.is_some(), precise(&golden, "logits").is_some(), "{name}: head");
    if vit.head.is_some() {
        let logits = vit.forward(pixels);
        check("logits", values(logits.clone()));
        let targets = classes(&golden["labels"], &device);
        check("loss", values(CrossEntropyLossConfig::new().init(&device).forward(logits, targets)));
    }
}

/// What is inside, and what the last norm makes of it.
fn check_states(name: &str, vit: &Vit, pixels: Tensor<4>, golden: &Tensors, check: &dyn Fn(&str, Vec<f32>)) {
    let hidden = vit.hidden_states(pixels);
    let (n_prefix, n_patches) = (vit.config().n_prefix(), vit.config().n_patches());
    let patches = |states: Tensor<3>| states.narrow(1, n_prefix, n_patches);
    // Where there is a norm before the blocks, they get what it puts out.
    check(if vit.embedding_norm.is_some() { "pre_norm" } else { "embeddings" }, values(hidden.embeddings));
    let last = hidden.blocks.last().expect("a block").clone();
    for (block, states) in hidden.blocks.into_iter().enumerate() {
        assert!(golden.contains_key(&format!("block.{block}")), "{name}: no golden block {block}");
        let normed = vit.norm.forward(states.clone());
        check(&format!("backbone.{block}"), values(patches(normed).swap_dims(1, 2)));
        check(&format!("block.{block}"), values(states));
    }
    // No head of CLIP's reads the last norm, its projection does.
    let is_apart = vit.config().pooling == Pooling::MeanWithoutNorm;
    let of_first = if is_apart { vit.norm.forward(last) } else { hidden.final_norm.clone() };
    check("feature_cls", values(of_first.clone().narrow(1, 0, 1)));
    check("feature_distillation", values(of_first.narrow(1, 1, 1)));
    check("final_norm", values(hidden.final_norm.clone()));
    check("feature_mean", values(patches(hidden.final_norm).mean_dim(1)));
}
