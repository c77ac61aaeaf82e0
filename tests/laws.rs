//! Laws that every adapter keeps on every kind of model, on the device that `NOLA_TEST_DEVICE` names.

use std::collections::BTreeMap;

use burn::module::ParamId;
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use nola_core::adapter::{
    AloraConfig, CountPer, DoraConfig, Format, FromWeightConfig, LoraConfig, LoraXsConfig, NolaConfig,
    OloraConfig, PissaConfig, PrancMode, Preset,
};
use nola_core::folder::peft::{self, Generation};
use nola_core::folder::{self, BaseIdentity, CoefficientBits, Description};
use nola_core::{
    Adapted, AdapterConfig, Error, FoundParam, Site, Targets, TrainedState, float_params, read_params,
};
use nola_models::{CausalLm, Vit};
use nola_train::model_with_loss::recomputed_loss;

use crate::devices::{by_name, by_path, device, factor_tolerance, values};
use crate::test_model::TestModel;
use crate::tiny::{
    Tiny, every_adapter, small_nola, tiny_clip, tiny_dinov2, tiny_gemma3, tiny_gpt2, tiny_llama, tiny_phi3,
    tiny_qwen3, tiny_vit, with_dropout,
};

/// Makes each law a test of each kind of model.
macro_rules! laws {
    ($($law:ident)*) => {
        laws! { @of vit, tiny_vit: $($law)* }
        laws! { @of gpt2, tiny_gpt2: $($law)* }
        laws! { @of llama, tiny_llama: $($law)* }
    };
    (@of $kind:ident, $tiny:ident: $($law:ident)*) => {
        mod $kind {
            $(
                #[test]
                fn $law() {
                    super::$law(&super::$tiny(&super::device()));
                }
            )*
        }
    };
}

laws! {
    a_fresh_adapter_changes_nothing_unless_its_preset_starts_beside_zero
    only_factors_and_what_is_trained_beside_them_get_gradients
    the_first_step_has_a_gradient_for_every_site
    the_trainable_parameters_are_the_numbers_of_the_trained_state
    the_factored_route_equals_the_dense_one
    recomputing_blocks_changes_neither_loss_nor_gradients
    inputs_are_dropped_in_passes_of_training_alone
    merging_keeps_the_logits
    merging_twice_gives_the_same_bits
    an_adapter_read_back_gives_the_same_logits
    an_adapter_exported_to_peft_gives_the_same_logits
    an_adapter_of_another_base_is_refused_with_both_names
    every_number_of_bits_stores_what_it_promises
    a_folder_holds_in_few_bits_what_is_said_before_it_is_written
    coefficients_trained_in_few_bits_are_stored_as_they_were_used
    the_seed_alone_decides_the_factors
    the_factors_on_the_device_are_those_of_the_host
    ranks_that_moved_are_counted_merged_and_exported
    an_earlier_state_comes_back_after_ranks_have_moved
}

// What the other families have that may break a law: parts of unequal size, norms inside the attention, sliding windows, norms
// behind the halves of a block; layer scales, tokens without positions, a head over two features, a last norm that no head reads.
laws! { @of phi3, tiny_phi3:
    an_adapter_read_back_gives_the_same_logits
    an_adapter_exported_to_peft_gives_the_same_logits
    ranks_that_moved_are_counted_merged_and_exported
}
laws! { @of dinov2, tiny_dinov2:
    only_factors_and_what_is_trained_beside_them_get_gradients
    the_first_step_has_a_gradient_for_every_site
    recomputing_blocks_changes_neither_loss_nor_gradients
    merging_keeps_the_logits
    an_adapter_read_back_gives_the_same_logits
    an_adapter_exported_to_peft_gives_the_same_logits
    an_adapter_exported_to_an_older_peft_gives_the_same_logits
    ranks_that_moved_are_counted_merged_and_exported
}
laws! { @of clip, tiny_clip:
    the_first_step_has_a_gradient_for_every_site
    recomputing_blocks_changes_neither_loss_nor_gradients
    merging_keeps_the_logits
    an_adapter_read_back_gives_the_same_logits
    an_adapter_exported_to_peft_gives_the_same_logits
}
laws! { @of gemma3, tiny_gemma3:
    only_factors_and_what_is_trained_beside_them_get_gradients
    the_first_step_has_a_gradient_for_every_site
    recomputing_blocks_changes_neither_loss_nor_gradients
    merging_keeps_the_logits
    an_adapter_read_back_gives_the_same_logits
    an_adapter_exported_to_peft_gives_the_same_logits
}
laws! { @of qwen3, tiny_qwen3:
    only_factors_and_what_is_trained_beside_them_get_gradients
    the_first_step_has_a_gradient_for_every_site
    recomputing_blocks_changes_neither_loss_nor_gradients
    merging_keeps_the_logits
    an_adapter_exported_to_peft_gives_the_same_logits
}

/// Asserts that two lists of numbers differ by at most `tolerance` of the largest one.
fn assert_near(what: &str, left: &[f32], right: &[f32], tolerance: f32) {
    assert_eq!(left.len(), right.len(), "{what}");
    let largest = right.iter().fold(1e-6_f32, |largest, value| largest.max(value.abs()));
    for (l, r) in left.iter().zip(right) {
        // NaN is near nothing.
        assert!((l - r).abs() <= tolerance * largest, "{what}: {l} and {r}");
    }
}

pub fn identity() -> BaseIdentity {
    BaseIdentity {
        name: "tiny".to_owned(),
        config_sha256: "c".to_owned(),
        weights_sha256: "w".to_owned(),
        tensors_sha256: Some("t".to_owned()),
        quantization: None,
    }
}

pub fn description() -> Description {
    Description {
        base: identity(),
        labels: vec!["one".to_owned(); 3],
        summary: String::new(),
        data: serde_json::Value::Null,
    }
}

fn a_fresh_adapter_changes_nothing_unless_its_preset_starts_beside_zero<M: TestModel>(tiny: &Tiny<M>) {
    let base = tiny.logits(&tiny.base);
    for (name, adapter) in every_adapter() {
        let fresh = tiny.logits(&tiny.adapted(&adapter).model);
        match &adapter {
            AdapterConfig::Nola(nola) if matches!(nola.preset, Preset::Paper2023 | Preset::Vit2024) => {
                assert_ne!(fresh, base, "{name}: 1/k is not 0");
                // Entries of ±1/√(rows·cols) are large in a model this narrow.
                assert_near(&name, &fresh, &base, 0.3);
            }
            // A core of 1e-5 beside singular vectors.
            AdapterConfig::LoraXs(_) => {
                assert_ne!(fresh, base, "{name}: the core is not 0");
                assert_near(&name, &fresh, &base, 1e-3);
            }
            AdapterConfig::Pranc(pranc) if pranc.mode == PrancMode::Replace => {
                assert_ne!(fresh, base, "{name}: other weights");
            }
            // What is taken away again, or divided by itself, leaves the last bits.
            _ => assert_near(&name, &fresh, &base, 1e-5),
        }
    }
}

fn only_factors_and_what_is_trained_beside_them_get_gradients<M: TestModel>(tiny: &Tiny<M>) {
    for (name, adapter) in every_adapter() {
        let model = tiny.adapted(&adapter);
        let gradients = GradientsParams::from_grads(model.model.loss(&tiny.batch, 0.0).backward(), &model);
        let found = by_path(&model.model, &gradients);
        let is_beside =
            |path: &str| tiny.trained_beside.iter().any(|module| path.starts_with(&format!("{module}.")));
        let (beside, factors): (Vec<_>, Vec<_>) = found.keys().partition(|path| is_beside(path));
        assert!(factors.iter().all(|path| path.contains(".weight.adapter.")), "{name}: {factors:?}");
        for site in model.sites() {
            let within = format!("{}.adapter.", site.weight_path());
            assert!(factors.iter().any(|path| path.starts_with(&within)), "{name}: nothing of {}", site.path);
        }
        let all = float_params(&model.model);
        assert_eq!(beside.len(), all.iter().filter(|param| is_beside(&param.path)).count(), "{name}");
    }
}

fn the_first_step_has_a_gradient_for_every_site<M: TestModel>(tiny: &Tiny<M>) {
    for (name, adapter) in every_adapter() {
        let AdapterConfig::Nola(nola) = &adapter else { continue };
        if nola.k_per == CountPer::Width {
            // Its rows have different lengths.
            continue;
        }
        let model = tiny.adapted(&adapter);
        let gradients = GradientsParams::from_grads(model.model.loss(&tiny.batch, 0.0).backward(), &model);
        let beta = &by_name(&model, &model.project(gradients))["beta"];
        assert!(beta.chunks(nola.l()).all(|row| row.iter().any(|value| *value != 0.0)), "{name}");
    }
}

fn the_trainable_parameters_are_the_numbers_of_the_trained_state<M: TestModel>(tiny: &Tiny<M>) {
    for (name, adapter) in every_adapter() {
        let model = tiny.adapted(&adapter);
        let counted = model.trainable_parameters();
        let mut state = model.state();
        // Nothing learns it: it follows from the step.
        state.remove("base_gain");
        let stored: usize = state.values().map(|data| data.shape().num_elements()).sum();
        assert_eq!(counted.adapter + counted.other, stored, "{name}");
    }
}

fn the_factored_route_equals_the_dense_one<M: TestModel>(tiny: &Tiny<M>) {
    for (name, adapter) in every_adapter() {
        let model = tiny.perturbed(&adapter);
        if model.factors().iter().any(|factors| factors.bias.is_some()) {
            // burn's materialized weight has no place for a bias; the law of merging covers it.
            continue;
        }
        let dense = model.model.clone().materialize();
        assert_near(&name, &tiny.logits(&model.model), &tiny.logits(&dense), 1e-4);
    }
}

fn recomputing_blocks_changes_neither_loss_nor_gradients<M: TestModel>(tiny: &Tiny<M>) {
    for (name, adapter) in every_adapter() {
        assert_recomputed(&name, tiny, &tiny.perturbed(&adapter));
    }
    assert_recomputed("every weight", tiny, &Adapted::full(tiny.base.clone()));
}

fn assert_recomputed<M: TestModel>(name: &str, tiny: &Tiny<M>, model: &Adapted<M>) {
    let of = |loss: Tensor<1>| {
        let gradients = GradientsParams::from_grads(loss.clone().mul_scalar(0.5).backward(), model);
        (values(loss), by_path(&model.model, &gradients))
    };
    // What is dropped in this pass has to be dropped again.
    let (loss, gradients) = of(model.in_training_pass(3, || model.model.loss(&tiny.batch, 0.1)));
    let (recomputed_loss, recomputed) =
        of(model.in_training_pass(3, || recomputed_loss(&model.model, &tiny.batch, 0.1)));
    assert_near(name, &recomputed_loss, &loss, 1e-6);
    assert!(recomputed.keys().eq(gradients.keys()), "{name}: {:?}", recomputed.keys());
    for (path, gradient) in gradients {
        // A shift of all keys changes no softmax: the gradient of their bias is nothing but rounding.
        if !path.ends_with("key.bias") {
            assert_near(&format!("{name}, {path}"), &recomputed[&path], &gradient, 1e-4);
        }
    }
}

fn inputs_are_dropped_in_passes_of_training_alone<M: TestModel>(tiny: &Tiny<M>) {
    for (name, adapter) in with_dropout() {
        let model = tiny.perturbed(&adapter);
        let loss = || values(model.model.loss(&tiny.batch, 0.0));
        let in_pass = |number| model.in_training_pass(number, loss);
        let whole = loss();
        assert_eq!(in_pass(1), in_pass(1), "{name}: the pass decides");
        assert_ne!(in_pass(1), in_pass(2), "{name}: each pass drops something else");
        assert_ne!(in_pass(1), whole, "{name}: nothing is dropped");
        assert_eq!(loss(), whole, "{name}: the pass is over");
        let gradients = model.in_training_pass(1, || model.model.loss(&tiny.batch, 0.0).backward());
        let gradients = by_path(&model.model, &GradientsParams::from_grads(gradients, &model));
        assert!(gradients.values().flatten().all(|value| value.is_finite()), "{name}");
    }
}

fn merging_keeps_the_logits<M: TestModel>(tiny: &Tiny<M>) {
    let base = tiny.logits(&tiny.base);
    for (name, adapter) in every_adapter() {
        let model = tiny.perturbed(&adapter);
        let before = tiny.logits(&model.model);
        assert_ne!(before, base, "{name}: the adapter changes nothing");
        let Some(merged) = merged(&name, model) else { continue };
        assert!(float_params(&merged).iter().all(|param| !param.path.contains("adapter")), "{name}");
        assert_near(&name, &tiny.logits(&merged), &before, 1e-4);
    }
}

fn merging_twice_gives_the_same_bits<M: TestModel>(tiny: &Tiny<M>) {
    for (name, adapter) in every_adapter() {
        let merged = || merged(&name, tiny.perturbed(&adapter)).map(|merged| all_values(&merged));
        assert_eq!(merged(), merged(), "{name}");
    }
}

/// The merged model; none if the adapter learned a bias where the base has none, which is an error.
fn merged<M: TestModel>(name: &str, model: Adapted<M>) -> Option<M> {
    let paths: Vec<String> = float_params(&model.model).into_iter().map(|param| param.path).collect();
    match model.merge() {
        Ok(merged) => Some(merged),
        Err(Error::NoBias { site }) if !paths.contains(&format!("{site}.bias")) => None,
        Err(error) => panic!("{name}: {error}"),
    }
}

/// Every float parameter of a model, by path.
fn all_values<M: TestModel>(model: &M) -> BTreeMap<String, Vec<f32>> {
    let params = float_params(model);
    let ids: Vec<ParamId> = params.iter().map(|param| param.id).collect();
    let mut values = read_params(model, &ids);
    let by_path = |param: FoundParam| {
        let values = values.remove(&param.id).expect("it was asked for");
        (param.path, values.try_into_vec().expect("read as f32"))
    };
    params.into_iter().map(by_path).collect()
}

/// `model` after it was written with so many bits a coefficient and read again.
fn from_disk<M: TestModel>(tiny: &Tiny<M>, model: &Adapted<M>, bits: CoefficientBits) -> Adapted<M> {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    folder::write(scratch.path(), model, &description(), bits).expect("a free folder");
    let saved = folder::read(scratch.path()).expect("it was just written");
    saved.attach(tiny.base.clone(), &identity(), &tiny.device).expect("the same base")
}

fn an_adapter_read_back_gives_the_same_logits<M: TestModel>(tiny: &Tiny<M>) {
    for (name, adapter) in every_adapter() {
        if adapter.method().format() == Format::Peft {
            // It is read back by the law of PEFT's folders.
            continue;
        }
        let model = tiny.perturbed(&adapter);
        let again = from_disk(tiny, &model, CoefficientBits::B32);
        assert_eq!(tiny.logits(&again.model), tiny.logits(&model.model), "{name}");
    }
}

fn an_adapter_exported_to_peft_gives_the_same_logits<M: TestModel>(tiny: &Tiny<M>) {
    is_exported(tiny, Generation::Transformers5);
}

fn an_adapter_exported_to_an_older_peft_gives_the_same_logits<M: TestModel>(tiny: &Tiny<M>) {
    is_exported(tiny, Generation::Transformers4);
}

fn is_exported<M: TestModel>(tiny: &Tiny<M>, generation: Generation) {
    let modules = |path: &str| tiny.base.foreign_module(path);
    for (name, adapter) in every_adapter() {
        let model = tiny.perturbed(&adapter);
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let written = peft::write(scratch.path(), &model, &modules, generation, M::TASK, &description());
        if let Some(reason) = adapter.method().unlike_lora() {
            let error = written.expect_err("no LoRA computes the same").to_string();
            assert!(error.contains(adapter.kind()) && error.contains(reason), "{error}");
            continue;
        }
        written.unwrap_or_else(|error| panic!("{name}: {error}"));
        let read = peft::read(scratch.path()).expect("it was just written");
        let again = read.attach(tiny.base.clone(), &modules, &tiny.device).expect("the same base");
        // The parts of a fused module come back with all of its A, so their sums have more terms, which are zero.
        assert_near(&name, &tiny.logits(&again.model), &tiny.logits(&model.model), 1e-5);
    }
}

#[test]
fn a_part_of_a_fused_module_is_exported_beside_untouched_ones() {
    let tiny = tiny_phi3(&device());
    let modules = |path: &str| tiny.base.foreign_module(path);
    let lora = LoraConfig { rank: 2, ..LoraConfig::default() };
    for adapter in [AdapterConfig::from(lora.clone()), DoraConfig(lora).into()] {
        for pattern in ["query|gate", "key", "query|value|up"] {
            let model = tiny.perturbed_on(pattern, &adapter);
            let scratch = tempfile::tempdir().expect("a temporary folder");
            let (generation, task) = (Generation::Transformers5, CausalLm::TASK);
            peft::write(scratch.path(), &model, &modules, generation, task, &description())
                .expect("a free folder");
            let read = peft::read(scratch.path()).expect("it was just written");
            let again = read.attach(tiny.base.clone(), &modules, &tiny.device).expect("the same base");
            assert_near(pattern, &tiny.logits(&again.model), &tiny.logits(&model.model), 1e-5);
        }
    }
}

fn an_adapter_of_another_base_is_refused_with_both_names<M: TestModel>(tiny: &Tiny<M>) {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let model = tiny.perturbed(&small_nola().into());
    folder::write(scratch.path(), &model, &description(), CoefficientBits::B32).expect("a free folder");
    let other = BaseIdentity { name: "other".to_owned(), weights_sha256: "x".to_owned(), ..identity() };
    let saved = folder::read(scratch.path()).expect("it was just written");
    let refused = saved.attach(tiny.base.clone(), &other, &tiny.device);
    let error = refused.expect_err("another base").to_string();
    assert!(error.contains("`tiny`") && error.contains("`other`") && error.contains("weights"), "{error}");
}

/// The same identity with other weights: only the factors computed from them tell.
#[test]
fn factors_of_another_weight_are_refused_with_each_site_and_the_cure() {
    let tiny = tiny_vit(&device());
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let adapter = AdapterConfig::from(LoraXsConfig { rank: 2, ..LoraXsConfig::default() });
    let model = tiny.perturbed(&adapter);
    folder::write(scratch.path(), &model, &description(), CoefficientBits::B8).expect("a free folder");
    let other = Vit::init(&crate::tiny::config(), 8, &tiny.device);
    let saved = folder::read(scratch.path()).expect("it was just written");
    let error = saved.attach(other, &identity(), &tiny.device).expect_err("another base").to_string();
    for site in model.sites() {
        assert!(error.contains(&format!("site `{}`: the factors", site.path)), "{}: {error}", site.path);
    }
    assert!(error.contains("load the base that it was trained on"), "{error}");
}

#[test]
fn a_rank_above_the_smaller_side_of_a_weight_is_refused_with_its_site() {
    let tiny = tiny_llama(&device());
    let of_rank = FromWeightConfig { rank: 9, ..FromWeightConfig::default() };
    let lora_xs = LoraXsConfig { rank: 9, ..LoraXsConfig::default() };
    // Keys and values have 8 outputs, queries 16.
    let all = [lora_xs.into(), OloraConfig(of_rank.clone()).into(), PissaConfig(of_rank).into()];
    for adapter in all as [AdapterConfig; 3] {
        let attached = |targets: &str| {
            Adapted::attach(tiny.base.clone(), &adapter, &Targets::matching(targets), &[], &tiny.device)
        };
        attached("query").expect("16 singular vectors");
        let error = attached("key|query").expect_err("8 singular vectors").to_string();
        assert!(error.contains("`blocks.0.attention.key`") && error.contains("at most 8"), "{error}");
    }
}

fn every_number_of_bits_stores_what_it_promises<M: TestModel>(tiny: &Tiny<M>) {
    let model = tiny.perturbed(&small_nola().into());
    let exact = model.state();
    // Half a level of the vector's largest coefficient; f16 rounds each number by itself.
    let promises = [
        (CoefficientBits::B32, 0.0),
        (CoefficientBits::B16, 0.5 / 1024.0),
        (CoefficientBits::B8, 0.5 / 127.0),
        (CoefficientBits::B4, 0.5 / 7.0),
        (CoefficientBits::B3, 0.5 / 3.0),
        // Of a single step up, the scale's rounding shows.
        (CoefficientBits::B2, 0.5 * 129.0 / 128.0),
    ];
    for (bits, promise) in promises {
        let stored = from_disk(tiny, &model, bits).state();
        for (name, count) in [("alpha", small_nola().k), ("beta", small_nola().l())] {
            let vectors = |state: &TrainedState| -> Vec<f32> {
                state[name].clone().try_into_vec().expect("coefficients are f32")
            };
            let (exact, stored) = (vectors(&exact), vectors(&stored));
            for (exact, stored) in exact.chunks(count).zip(stored.chunks(count)) {
                assert_near(&format!("{bits:?} {name}"), stored, exact, promise * 1.000_01);
            }
        }
    }
}

fn a_folder_holds_in_few_bits_what_is_said_before_it_is_written<M: TestModel>(tiny: &Tiny<M>) {
    for (name, adapter) in every_adapter().into_iter().filter(|(_, adapter)| adapter.has_coefficients()) {
        let model = tiny.perturbed(&adapter);
        for bits in [CoefficientBits::B8, CoefficientBits::B3] {
            let rounded = folder::as_stored(model.clone(), bits).expect("finite coefficients");
            let stored = from_disk(tiny, &model, bits);
            assert_eq!(tiny.logits(&stored.model), tiny.logits(&rounded.model), "{name}, {bits:?}");
        }
    }
}

fn coefficients_trained_in_few_bits_are_stored_as_they_were_used<M: TestModel>(tiny: &Tiny<M>) {
    for bits in [CoefficientBits::B4, CoefficientBits::B2] {
        let adapter = NolaConfig { train_bits: u8::from(bits), ..small_nola() }.into();
        let model = tiny.perturbed(&adapter);
        let stored = from_disk(tiny, &model, bits);
        assert_ne!(stored.state(), model.state(), "{bits:?}: more bits are trained");
        assert_near(&format!("{bits:?}"), &tiny.logits(&stored.model), &tiny.logits(&model.model), 1e-6);
    }
}

fn the_seed_alone_decides_the_factors<M: TestModel>(tiny: &Tiny<M>) {
    let factors = |seed| {
        let model = tiny.perturbed(&AdapterConfig::from(NolaConfig { seed, ..small_nola() }));
        model.factors().into_iter().map(|factors| (factors.a, factors.b)).collect::<Vec<_>>()
    };
    assert_eq!(factors(0), factors(0));
    for ((a, b), (other_a, other_b)) in factors(0).into_iter().zip(factors(1)) {
        assert_ne!(a, other_a);
        assert_ne!(b, other_b);
    }
}

fn the_factors_on_the_device_are_those_of_the_host<M: TestModel>(tiny: &Tiny<M>) {
    for (name, adapter) in every_adapter() {
        let model = tiny.perturbed(&adapter);
        let all = all_values(&model.model);
        for factors in model.factors() {
            let path = factors.site.weight_path();
            let of_device = |leaf: &str| all.get(&format!("{path}.adapter.{leaf}"));
            // A pair that is taken away stands behind them.
            let rank = of_device("start_b").map_or(factors.rank, |_| factors.rank / 2);
            if let Some(a) = &factors.a {
                let own: Vec<f32> = a.chunks(factors.rank).flat_map(|row| &row[..rank]).copied().collect();
                let found = of_device("a").expect("a matrix");
                assert_near(&format!("{name}: {path}.a"), found, &own, factor_tolerance());
            }
            let found = of_device("b").expect("a matrix");
            let own = &factors.b[..found.len()];
            assert_near(&format!("{name}: {path}.b"), found, own, factor_tolerance());
        }
    }
}

/// Some ranks gone from their weights, and trained new ones at others.
fn with_moved_ranks<M: TestModel>(tiny: &Tiny<M>) -> Adapted<M> {
    let alora = AloraConfig { rank: 2, rounds: 2, ..AloraConfig::default() };
    let mut model = tiny.perturbed(&alora.into());
    for round in 0..2 {
        let drawn = |site: &Site, rank: usize| {
            (0..site.d_in * rank).map(|n| 0.2 * ((n + round) as f32 * 0.9).sin()).collect()
        };
        let mut score = |model: &M| Ok::<f64, Error>(-f64::from(values(model.loss(&tiny.batch, 0.0))[0]));
        let count = model.sites().len() / 2 + 1;
        model = model.move_ranks(count, &drawn, &mut score).expect("ranks enough").0;
        let mut state = model.state();
        // Before anything of the new pairs is taken away: what is zero then has to stay so.
        let is_new = |name: &str| round == 0 && name.contains(".further.");
        for (name, data) in state.iter_mut().filter(|(name, _)| is_new(name)) {
            let values: Vec<f32> = data.clone().try_into_vec().expect("factors are f32");
            let moved = |(n, value): (usize, &f32)| value + 0.1 * ((n + name.len()) as f32 * 1.7).cos();
            let values = values.iter().enumerate().map(moved).collect::<Vec<f32>>();
            *data = TensorData::new(values, data.shape());
        }
        model = model.with_state(state).expect("names and shapes are its own");
    }
    model
}

fn ranks_that_moved_are_counted_merged_and_exported<M: TestModel>(tiny: &Tiny<M>) {
    let model = with_moved_ranks(tiny);
    let ranks: Vec<usize> = model.ranks().iter().map(|(_, rank)| *rank).collect();
    assert_eq!(ranks.iter().sum::<usize>(), 2 * ranks.len(), "the budget stays: {ranks:?}");
    assert!(ranks.iter().any(|rank| *rank != 2), "nothing moved: {ranks:?}");
    let expected: usize = model.ranks().iter().map(|(site, rank)| rank * (site.d_in + site.d_out)).sum();
    assert_eq!(model.trainable_parameters().adapter, expected);
    let logits = tiny.logits(&model.model);
    assert_near("the dense route", &tiny.logits(&model.model.clone().materialize()), &logits, 1e-4);
    let modules = |path: &str| tiny.base.foreign_module(path);
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let generation = Generation::Transformers5;
    peft::write(scratch.path(), &model, &modules, generation, M::TASK, &description())
        .expect("a free folder");
    let read = peft::read(scratch.path()).expect("it was just written");
    let again = read.attach(tiny.base.clone(), &modules, &tiny.device).expect("the same base");
    assert_near("the folder", &tiny.logits(&again.model), &logits, 1e-5);
    assert_near("merged", &tiny.logits(&model.merge().expect("finite weights")), &logits, 1e-4);
}

fn an_earlier_state_comes_back_after_ranks_have_moved<M: TestModel>(tiny: &Tiny<M>) {
    let alora = AloraConfig { rank: 2, rounds: 2, ..AloraConfig::default() };
    let before = tiny.perturbed(&alora.into());
    let after = with_moved_ranks(tiny).with_state(before.state()).expect("pairs that were added are zero");
    assert_near("the earlier state", &tiny.logits(&after.model), &tiny.logits(&before.model), 1e-6);
    assert_eq!(
        after.ranks().iter().map(|(_, rank)| *rank).collect::<Vec<_>>(),
        before.ranks().iter().map(|(_, rank)| *rank).collect::<Vec<_>>()
    );
}
