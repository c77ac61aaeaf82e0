//! LoRA on the token embeddings of language models, tied to their heads or not.

use std::path::Path;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, TensorData};
use nola_core::adapter::{LoraConfig, LoraVariant};
use nola_core::folder::peft::{self, Generation, Layout, TiedHead};
use nola_core::folder::{BaseIdentity, Description};
use nola_core::{Adapted, Targets, TrainedState, float_params};
use nola_models::{CausalLm, Checkpoint, WeightDtype};
use nola_train::model_with_loss::{ModelWithLoss, recomputed_loss};

use crate::devices::{by_path, device};
use crate::fixtures::{self, assert_close};
use crate::test_model::TestModel;
use crate::tiny::{Tiny, causal, llama_json, tiny_gpt2, tiny_llama};

const TIED: TiedHead = TiedHead { embedding: "tokens", head: "head" };

/// A GPT-2 and a LLaMA whose heads are their embeddings, and a LLaMA with a head of its own, each with the targets that it has.
fn every_model(device: &Device) -> [(Tiny<CausalLm>, &'static str); 3] {
    let tied = Tiny { base: causal(&llama_json(), device), ..tiny_llama(device) };
    [
        (tiny_gpt2(device), "query|tokens|positions"),
        (tied, "query|tokens"),
        (tiny_llama(device), "query|tokens"),
    ]
}

/// With a LoRA on queries and embeddings, as a run trains it.
fn attached(tiny: &Tiny<CausalLm>, targets: &str) -> Adapted<CausalLm> {
    on(tiny.base.clone(), tiny, targets)
}

/// The same on a model with a head of its own, as a run is read.
fn on_untied(tiny: &Tiny<CausalLm>, targets: &str) -> Adapted<CausalLm> {
    on(tiny.base.clone().untied(), tiny, targets)
}

fn on(base: CausalLm, tiny: &Tiny<CausalLm>, targets: &str) -> Adapted<CausalLm> {
    let lora =
        LoraConfig { rank: 2, alpha: Some(3.0), variant: LoraVariant::RsLora, ..LoraConfig::default() };
    Adapted::attach(base, &lora.into(), &Targets::matching(targets), &[], &tiny.device).expect("it has both")
}

/// The same with other trained values.
fn moved(model: Adapted<CausalLm>) -> Adapted<CausalLm> {
    let mut state = model.state();
    for (number, data) in state.values_mut().enumerate() {
        let values = (0..data.shape().num_elements()).map(|n| 0.4 * ((n + 3 * number) as f32 * 1.3).sin());
        *data = TensorData::new(values.collect::<Vec<f32>>(), data.shape());
    }
    model.with_state(state).expect("its own names")
}

fn assert_same(what: &str, found: &[f32], expected: &[f32]) {
    let expected: Vec<f64> = expected.iter().map(|&value| value.into()).collect();
    assert_close(what, found, &expected, 1e-4);
}

#[test]
fn a_fresh_lora_of_an_embedding_changes_no_logit() {
    for (tiny, targets) in every_model(&device()) {
        assert_same("fresh", &tiny.logits(&attached(&tiny, targets).model), &tiny.logits(&tiny.base));
    }
}

#[test]
fn factors_of_embeddings_get_gradients_and_tables_and_heads_none() {
    for (tiny, targets) in every_model(&device()) {
        let model = moved(attached(&tiny, targets));
        let gradients = |loss: burn::tensor::Tensor<1>| {
            by_path(&model.model, &GradientsParams::from_grads(loss.backward(), &model))
        };
        let found = gradients(model.model.loss(&tiny.batch, 0.0));
        assert!(found.keys().all(|path| path.contains(".weight.adapter.")), "{:?}", found.keys());
        assert_eq!(found.len(), 2 * model.sites().len());
        let recomputed = gradients(recomputed_loss(&model.model, &tiny.batch, 0.0));
        for (path, gradient) in &found {
            assert_same(path, &recomputed[path], gradient);
        }
    }
}

#[test]
fn gradients_of_factors_of_an_embedding_are_those_of_differences() {
    for (tiny, targets) in every_model(&device()) {
        let model = moved(attached(&tiny, targets));
        let loss = model.model.loss(&tiny.batch, 0.0);
        let found = by_path(&model.model, &GradientsParams::from_grads(loss.backward(), &model));
        for path in ["tokens.weight.adapter.a", "tokens.weight.adapter.b"] {
            let loss_at = |by: f32| {
                let mut state = model.state();
                let data = state.get_mut(path).expect("a factor");
                // Along the gradient, so that the difference is its squared length.
                let values: Vec<f32> = data.clone().try_into_vec().expect("f32");
                let values: Vec<f32> = values.iter().zip(&found[path]).map(|(v, g)| v + by * g).collect();
                *data = TensorData::new(values, data.shape());
                let moved = model.clone().with_state(state).expect("its own names");
                f64::from(moved.model.valid().loss(&tiny.batch, 0.0).into_scalar::<f32>())
            };
            let square: f64 = found[path].iter().map(|g| f64::from(*g).powi(2)).sum();
            let step = 1e-2 / square.sqrt().max(1e-3) as f32;
            let difference = (loss_at(step) - loss_at(-step)) / (2.0 * f64::from(step));
            assert!((difference - square).abs() < 2e-2 * square, "{path}: {difference} and {square}");
        }
    }
}

/// The logits of the model in `folder`, whose head and embedding are two matrices.
fn logits_of_folder(tiny: &Tiny<CausalLm>, folder: &Path) -> Vec<f32> {
    let checkpoint = Checkpoint::open(folder).expect("a whole folder");
    assert_eq!(checkpoint.config()["tie_word_embeddings"], false);
    tiny.logits(&CausalLm::load(&checkpoint, &tiny.device).expect("a language model"))
}

#[test]
fn merged_into_a_folder_it_computes_the_same_and_head_and_embedding_are_two() {
    for (tiny, targets) in every_model(&device()) {
        let model = moved(on_untied(&tiny, targets));
        let expected = tiny.logits(&model.model);
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let folder = scratch.path().join("merged");
        model.merge().expect("finite weights").save(&folder, WeightDtype::F32).expect("a free folder");
        assert_same("merged", &logits_of_folder(&tiny, &folder), &expected);
    }
}

#[test]
fn a_head_that_is_still_the_embedding_is_left_alone_and_saved_so() {
    for (tiny, targets) in every_model(&device()) {
        let model = moved(attached(&tiny, targets)).model;
        let expected = tiny.logits(&moved(on_untied(&tiny, targets)).model);
        assert_same("tied", &tiny.logits(&model), &expected);
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let folder = scratch.path().join("saved");
        model.save(&folder, WeightDtype::F32).expect("a free folder");
        assert_same("saved", &logits_of_folder(&tiny, &folder), &expected);
    }
}

/// The trained values of the token embedding; of a fused module of PEFT's, parts are read that were not trained.
fn of_tokens(model: &Adapted<CausalLm>) -> TrainedState {
    model.state().into_iter().filter(|(path, _)| path.starts_with("tokens.")).collect()
}

#[test]
fn a_folder_of_peft_has_its_names_and_gives_the_same_adapter_again() {
    for (tiny, targets) in every_model(&device()) {
        let model = moved(attached(&tiny, targets));
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let modules = |path: &str| tiny.base.foreign_module(path);
        let base = BaseIdentity::of("tiny", &tiny.base);
        let about =
            Description { base, labels: Vec::new(), summary: String::new(), data: serde_json::Value::Null };
        let task = <CausalLm as TestModel>::TASK;
        peft::write(scratch.path(), &model, &modules, Generation::default(), task, &about)
            .expect("a free folder");
        let config = fixtures::json(&scratch.path().join("adapter_config.json"));
        let foreign = |site: &str| tiny.base.foreign_module(site);
        let query = foreign("blocks.0.attention.query");
        assert_eq!(config["fan_in_fan_out"], query.layout == Layout::Conv1d);
        let named = config["target_modules"].as_array().expect("a list");
        assert!(
            [query, foreign("tokens")].iter().all(|module| named.contains(&module.names[0].as_str().into()))
        );
        let read = peft::read(scratch.path()).expect("it was just written");
        let name = &tiny.base.foreign_module("tokens").names[0];
        let shapes: Vec<(String, Vec<usize>)> = (read.tensors())
            .filter(|(found, _)| found.contains(name.as_str()))
            .map(|(found, shape)| (found.to_owned(), shape.to_vec()))
            .collect();
        let of = |factor: &str| format!("base_model.model.{name}.{factor}");
        assert_eq!(shapes, [(of("lora_embedding_A"), vec![2, 29]), (of("lora_embedding_B"), vec![16, 2])]);
        let read = if tiny.base.has_tied_head() { read.for_tied(TIED) } else { read };
        assert_eq!(read.unties(&modules), tiny.base.has_tied_head());
        let again = read.attach(tiny.base.clone().untied(), &modules, &tiny.device).expect("it fits");
        assert_eq!(of_tokens(&again), of_tokens(&model));
        assert_same("read", &tiny.logits(&again.model), &tiny.logits(&model.model));
    }
}

#[test]
fn only_the_factors_are_counted_as_trained() {
    for (tiny, targets) in every_model(&device()) {
        let model = attached(&tiny, targets);
        let trained = model.trainable_parameters();
        assert_eq!(trained.other, 0);
        let factors = float_params(&model.model).into_iter().filter(|param| param.path.contains(".adapter."));
        assert_eq!(
            trained.adapter,
            factors.map(|param| param.shape.iter().product::<usize>()).sum::<usize>()
        );
    }
}
