//! Models whose linear layers are stored in few bits, beside the same numbers in f32.

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use nola_core::weight::Quantization;
use nola_core::{packed_words, quantized, read_params, write_params};

use crate::devices::{by_name, device, tolerance};
use crate::fixtures::assert_close;
use crate::test_model::TestModel;
use crate::tiny::{Tiny, every_adapter, tiny_gpt2, tiny_llama, tiny_vit};

/// The same model twice: packed, and with the numbers that the packed weights stand for.
fn both<M: TestModel>(tiny: &Tiny<M>, quantization: Quantization) -> [M; 2] {
    let packed = quantized(tiny.base.clone(), quantization, &|path| path.starts_with("blocks."));
    let ids: Vec<_> = packed_words(&packed).into_keys().collect();
    assert!(!ids.is_empty(), "nothing was packed");
    let dense = write_params(packed.clone(), read_params(&packed, &ids));
    assert!(packed_words(&dense).is_empty(), "something is packed still");
    [packed, dense]
}

fn check<M: TestModel>(make: fn(&Device) -> Tiny<M>, is_checked: fn(&str) -> bool) {
    let tiny = make(&device());
    for quantization in Quantization::ALL {
        let both = both(&tiny, quantization);
        let checked: Vec<_> = every_adapter().into_iter().filter(|(name, _)| is_checked(name)).collect();
        assert!(!checked.is_empty(), "no adapter of that name");
        for (name, config) in checked {
            let what = format!("{quantization}: {name}");
            let [packed, dense] =
                both.clone().map(|base| Tiny { base, ..make(&device()) }.perturbed(&config));
            let near = |what: &str, found: &[f32], expected: &[f32]| {
                let expected: Vec<f64> = expected.iter().map(|&value| value.into()).collect();
                assert_close(what, found, &expected, tolerance());
            };
            let [found, expected] = [&packed, &dense].map(|model| model.model.logits_of(&tiny.batch));
            near(&format!("{what}: logits"), &found, &expected);
            let [found, expected] = [&packed, &dense].map(|model| {
                let loss: Tensor<1> = model.model.loss(&tiny.batch, 0.0);
                let gradients = GradientsParams::from_grads(loss.backward(), model);
                by_name(model, &model.project(gradients))
            });
            for (path, expected) in expected {
                near(&format!("{what}: gradient of {path}"), &found[&path], &expected);
            }
        }
    }
}

#[test]
fn adapters_learn_beside_packed_weights_as_beside_their_numbers_in_a_vit() {
    check(tiny_vit, |_| true);
}

#[test]
fn adapters_learn_beside_packed_weights_as_beside_their_numbers_in_a_gpt2() {
    check(tiny_gpt2, |_| true);
}

#[test]
fn adapters_learn_beside_packed_weights_as_beside_their_numbers_in_a_llama() {
    check(tiny_llama, |_| true);
}

/// Of the kinds of products with a weight: this one runs on GPUs too, where all of them take minutes without one.
#[test]
fn laws_a_device_multiplies_with_packed_weights_as_with_their_numbers() {
    check(tiny_llama, |name| name == "dora");
}
