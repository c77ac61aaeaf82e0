//! Models whose linear layers are stored in few bits, beside the same numbers in f32.

use std::path::Path;

use burn::module::Param;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use nola_core::weight::Quantization;
use nola_core::{Linear, adapted, packed_words, quantized, read_params, write_params};
use nola_models::{CausalLm, Checkpoint, Precision, WeightDtype};

use crate::devices::{by_name, device, tolerance, values};
use crate::fixtures::assert_close;
use crate::test_model::TestModel;
use crate::tiny::{Tiny, every_adapter, tiny_gpt2, tiny_llama, tiny_vit};

fn in_blocks(path: &str) -> bool {
    path.starts_with("blocks.")
}

/// The same model twice: packed, and with the numbers that the packed weights stand for.
fn both<M: TestModel>(tiny: &Tiny<M>, quantization: Quantization) -> [M; 2] {
    let packed = quantized(tiny.base.clone(), quantization, &in_blocks).expect("finite weights");
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

/// On GPUs a weight of more than 4 million numbers is multiplied in slabs.
#[test]
fn laws_a_weight_of_several_slabs_gives_the_product_and_the_gradient_of_its_numbers() {
    const SIDE: usize = 2100;
    let device = device();
    let weight: Vec<f32> = (0..SIDE * SIDE).map(|n| ((n * 37) % 101) as f32 / 640.0 - 0.08).collect();
    let weight = Param::from_data(TensorData::new(weight, [SIDE, SIDE]), &device);
    let packed = quantized(vec![Linear::dense(weight, None)], Quantization::Nf4, &|_| true);
    let packed = packed.expect("finite weights");
    let ids: Vec<_> = packed_words(&packed).into_keys().collect();
    let dense = write_params(packed.clone(), read_params(&packed, &ids));
    let x: Vec<f32> = (0..5 * SIDE).map(|n| (n as f32 * 0.37).sin()).collect();
    let [found, expected] = [packed, dense].map(|layers| {
        let x = Tensor::<2>::from_data(TensorData::new(x.clone(), [5, SIDE]), &device).require_grad();
        let y = adapted(&layers[0], x.clone());
        let gradients = (y.clone() * y.clone().detach().sin()).sum().backward();
        [values(y), values(x.grad(&gradients).expect("x is tracked"))].concat()
    });
    let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
    assert_close("slabs", &found, &expected, tolerance());
}

#[test]
fn what_is_packed_already_stays_as_it_is() {
    let [packed, _] = both(&tiny_llama(&device()), Quantization::Nf4);
    let words = |model: &CausalLm| packed_words(model).into_values().map(|words| words.into_data());
    let before: Vec<_> = words(&packed).collect();
    let again = quantized(packed, Quantization::Int8, &in_blocks).expect("nothing to do");
    assert_eq!(words(&again).collect::<Vec<_>>(), before);
}

#[test]
fn a_model_with_adapters_is_not_quantised() {
    let model = tiny_llama(&device()).perturbed(&every_adapter().remove(0).1).model;
    let error = quantized(model, Quantization::Nf4, &in_blocks).expect_err("adapters would be lost");
    assert!(error.to_string().contains("quantise the base before adapters are attached"), "{error}");
}

#[test]
fn a_weight_that_is_not_finite_is_not_quantised() {
    let CausalLm::Llama(mut llama) = tiny_llama(&device()).base else { panic!("no LLaMA") };
    llama.blocks[0].mlp.up.weight = llama.blocks[0].mlp.up.weight.clone().map(|weight| weight * f32::NAN);
    let error = quantized(llama, Quantization::Int8, &in_blocks).expect_err("NaN");
    assert!(error.to_string().contains("`blocks.0.mlp.up.weight`: its weight holds 384 numbers"), "{error}");
}

/// A model that bitsandbytes stored in NF4.
fn stored_in_nf4() -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/golden/models/llama_bnb4_plain_tiny");
    Checkpoint::open(&folder).expect("a shipped folder")
}

#[test]
fn a_folder_that_is_quantised_already_is_not_quantised_otherwise() {
    let precision = Precision::of(WeightDtype::F32, Some(Quantization::Int8));
    let error = CausalLm::load_as(&stored_in_nf4(), precision, &Device::flex()).expect_err("it is nf4");
    assert!(error.to_string().contains("its weights are stored in nf4 already"), "{error}");
    let same = Precision { quantization: Some(Quantization::Nf4), ..precision };
    CausalLm::load_as(&stored_in_nf4(), same, &Device::flex()).expect("what it is");
}
