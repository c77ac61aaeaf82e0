//! Laws that every adapter keeps, on the device that `NOLA_TEST_DEVICE` names.

use burn::module::Module;
use burn::optim::GradientsParams;
use nola_core::adapter::Preset;
use nola_core::folder::{self, BaseIdentity, CoefficientBits, Description};
use nola_core::{Adapted, AdapterConfig, float_params};
use nola_models::Vit;
use nola_train::learner::Learner;

use crate::devices::{by_path, device, values};
use crate::tiny::{adapted, batch, every_adapter, logits, perturbed, vit};

/// Asserts that two lists of numbers differ by at most `tolerance` of the largest one.
fn assert_near(what: &str, left: &[f32], right: &[f32], tolerance: f32) {
    assert_eq!(left.len(), right.len(), "{what}");
    let largest = right.iter().fold(1e-6_f32, |largest, value| largest.max(value.abs()));
    for (l, r) in left.iter().zip(right) {
        // NaN is near nothing.
        assert!((l - r).abs() <= tolerance * largest, "{what}: {l} and {r}");
    }
}

fn identity() -> BaseIdentity {
    BaseIdentity { name: "tiny".to_owned(), config_sha256: "c".to_owned(), weights_sha256: "w".to_owned() }
}

fn description() -> Description {
    Description { base: identity(), labels: vec!["one".to_owned(); 3], summary: String::new() }
}

#[test]
fn a_fresh_adapter_changes_nothing_unless_its_preset_starts_beside_zero() {
    let device = device();
    let base = logits(&vit(&device), &device);
    for (name, adapter) in every_adapter() {
        let fresh = logits(&adapted(&adapter, &device).model, &device);
        match &adapter {
            AdapterConfig::Nola(nola) if matches!(nola.preset, Preset::Paper2023 | Preset::Vit2024) => {
                assert_ne!(fresh, base, "{name}: 1/k is not 0");
                // Entries of ±1/√(rows·cols) are large in a model this narrow.
                assert_near(&name, &fresh, &base, 0.3);
            }
            AdapterConfig::Nola(_) | AdapterConfig::Lora(_) => assert_eq!(fresh, base, "{name}"),
        }
    }
}

#[test]
fn only_factors_and_the_head_get_gradients() {
    let device = device();
    for (name, adapter) in every_adapter() {
        let model = adapted(&adapter, &device);
        let loss = model.model.loss(&batch(4, 1, &device), 0.0);
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        let found = by_path(&model, &gradients);
        assert!(found.keys().all(|path| path.contains(".adapter.") || path.contains(".head.")), "{name}");
        assert_eq!(found.len(), 2 * model.sites().len() + 2, "{name}");
    }
}

#[test]
fn the_first_step_has_a_gradient_for_every_site() {
    let device = device();
    for (name, adapter) in every_adapter() {
        let AdapterConfig::Nola(nola) = &adapter else { continue };
        let model = adapted(&adapter, &device);
        let loss = model.model.loss(&batch(4, 1, &device), 0.0);
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        let beta = &by_path(&model, &model.project(gradients))["beta"];
        assert!(beta.chunks(nola.l).all(|row| row.iter().any(|value| *value != 0.0)), "{name}");
    }
}

#[test]
fn the_factored_route_equals_the_dense_one() {
    let device = device();
    for (name, adapter) in every_adapter() {
        let model = perturbed(&adapter, &device).model;
        let dense = model.clone().materialize();
        assert_near(&name, &logits(&model, &device), &logits(&dense, &device), 1e-4);
    }
}

#[test]
fn merging_keeps_the_logits() {
    let device = device();
    for (name, adapter) in every_adapter() {
        let model = perturbed(&adapter, &device);
        let before = logits(&model.model, &device);
        let merged = model.merge().expect("finite weights");
        assert!(float_params(&merged).iter().all(|param| !param.path.contains("adapter")), "{name}");
        assert_near(&name, &logits(&merged, &device), &before, 1e-4);
    }
}

#[test]
fn merging_twice_gives_the_same_bits() {
    let device = device();
    for (name, adapter) in every_adapter() {
        let merged = |model: Adapted<Vit>| all_values(&model.merge().expect("finite weights"));
        assert_eq!(merged(perturbed(&adapter, &device)), merged(perturbed(&adapter, &device)), "{name}");
    }
}

fn all_values(vit: &Vit) -> Vec<f32> {
    vit.to_tensors().into_iter().flat_map(|tensor| tensor.values).collect()
}

#[test]
fn an_adapter_read_back_gives_the_same_logits() {
    let device = device();
    for (name, adapter) in every_adapter() {
        let AdapterConfig::Nola(_) = &adapter else { continue };
        let model = perturbed(&adapter, &device);
        let scratch = tempfile::tempdir().expect("a temporary folder");
        folder::write(scratch.path(), &model, &description(), CoefficientBits::B32).expect("a free folder");
        let saved = folder::read(scratch.path()).expect("it was just written");
        let again = saved.attach(vit(&device), &identity(), &device).expect("the same base");
        assert_eq!(logits(&again.model, &device), logits(&model.model, &device), "{name}");
    }
}

#[test]
fn an_adapter_of_another_base_is_refused_with_both_names() {
    let device = device();
    let (_, adapter) = every_adapter().remove(0);
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let model = perturbed(&adapter, &device);
    folder::write(scratch.path(), &model, &description(), CoefficientBits::B32).expect("a free folder");
    let other = BaseIdentity { name: "other".to_owned(), weights_sha256: "x".to_owned(), ..identity() };
    let saved = folder::read(scratch.path()).expect("it was just written");
    let error = saved.attach(vit(&device), &other, &device).expect_err("another base").to_string();
    assert!(error.contains("`tiny`") && error.contains("`other`") && error.contains("weights"), "{error}");
}

#[test]
fn every_number_of_bits_stores_what_it_promises() {
    let device = device();
    let (_, adapter) = every_adapter().remove(0);
    let model = perturbed(&adapter, &device);
    let exact = logits(&model.model, &device);
    let tolerances = [
        (CoefficientBits::B32, 0.0),
        (CoefficientBits::B16, 1e-2),
        (CoefficientBits::B8, 0.1),
        (CoefficientBits::B4, 1.0),
    ];
    for (bits, tolerance) in tolerances {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        folder::write(scratch.path(), &model, &description(), bits).expect("a free folder");
        let saved = folder::read(scratch.path()).expect("it was just written");
        let again = saved.attach(vit(&device), &identity(), &device).expect("the same base");
        assert_near(&format!("{bits:?}"), &logits(&again.model, &device), &exact, tolerance);
    }
}

#[test]
fn another_seed_gives_other_factors() {
    let device = device();
    let (_, adapter) = every_adapter().remove(0);
    let AdapterConfig::Nola(nola) = &adapter else { panic!("the first one is NOLA") };
    let other = AdapterConfig::Nola(nola_core::adapter::NolaConfig { seed: 1, ..nola.clone() });
    let a = |adapter: &AdapterConfig| perturbed(adapter, &device).factors()[0].a.clone();
    assert_eq!(a(&adapter), a(&adapter));
    assert_ne!(a(&adapter), a(&other));
}

#[test]
fn the_factors_on_the_device_are_those_of_the_host() {
    let device = device();
    for (name, adapter) in every_adapter() {
        let model = perturbed(&adapter, &device);
        let site = &model.factors()[0];
        let layer = &model.model.blocks[0].attention.query;
        let hung = layer.weight.reparameterization::<nola_core::adapter::LowRank>().expect("an adapter");
        assert_eq!(site.a, values(hung.a.val()), "{name}");
    }
}
