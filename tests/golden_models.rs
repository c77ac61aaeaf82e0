//! ViTs against values that PyTorch computed: every case of `models/` in the fixtures that is one.

use std::path::Path;

use burn::nn::loss::CrossEntropyLossConfig;
use nola_models::{Checkpoint, Vit};

use crate::devices::{classes, device, precise, tensor, values};
use crate::fixtures::{self, assert_close};
use crate::test_model::{Kind, kind};

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
        let targets = classes(&golden["labels"], &device);
        check("loss", values(CrossEntropyLossConfig::new().init(&device).forward(logits, targets)));
    }
}
