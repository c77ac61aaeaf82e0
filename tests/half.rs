//! Models whose weights are stored in half precision, beside the same ones in f32.

use std::path::Path;

use burn::module::{ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Tensor};
use nola_core::folder::peft::Task;
use nola_models::{CausalLm, Checkpoint, Vit, WeightDtype};
use nola_train::model_with_loss::recomputed_loss;
use serde_json::Value;

use crate::devices::{by_name, device, precise};
use crate::fixtures;
use crate::program::Workshop;
use crate::test_model::{Kind, TestModel, kind};
use crate::text_workshop::{loss, sets, text_workshop, train};
use crate::tiny::{Tiny, every_adapter, tiny_gpt2, tiny_llama, tiny_vit};

/// Each type with the largest difference of a logit from the float64 value that is allowed, as a part of the largest logit.
///
/// A rounding is off by 2^-8 (bf16) or 2^-11 (f16) of a number at most, by 0.4 of that in the mean square. A block rounds
/// about 13 times, the models have two or three blocks, and their roundings add up like a random walk: √39 · 0.4 · 2^-8 is
/// 1e-2. The largest of some thousand differences is four times that, and each bound is twice as much again; f16's is
/// that of bf16 by 8, so a mistake that is no rounding cannot hide in both.
const TYPES: [(WeightDtype, f64); 2] = [(WeightDtype::Bf16, 8e-2), (WeightDtype::F16, 1e-2)];

/// The types that the device under test computes in, with their bounds.
fn types(device: &Device) -> impl Iterator<Item = (WeightDtype, f64)> {
    TYPES.into_iter().filter(|(dtype, _)| {
        let is_supported = dtype.is_supported_by(device);
        if !is_supported {
            println!("skipped: this device does not compute in {dtype}");
        }
        is_supported
    })
}

#[test]
fn golden_models_held_in_half_precision_give_nearly_the_logits_of_the_reference() {
    fixtures::on_folders("models", |tally, _, name, folder| {
        let checkpoint = Checkpoint::open(folder).unwrap_or_else(|error| panic!("{name}: {error}"));
        let outcome = match kind(&checkpoint) {
            Kind::Vit => check_logits::<Vit>(name, folder, &checkpoint, Vit::load_as),
            Kind::Language => check_logits::<CausalLm>(name, folder, &checkpoint, CausalLm::load_as),
            Kind::Unsupported(reason) => Err(reason),
        };
        tally.note(name, outcome);
    });
}

fn check_logits<M: TestModel>(
    name: &str,
    folder: &Path,
    checkpoint: &Checkpoint,
    load: fn(&Checkpoint, WeightDtype, &Device) -> Result<M, nola_models::Error>,
) -> Result<(), String> {
    let (golden, _) = fixtures::tensors(&folder.join("expected.safetensors"));
    let expected = precise(&golden, "logits").ok_or("it has no logits")?;
    let device = device();
    let batch = M::golden_batch(&golden, &device);
    for (dtype, allowed) in types(&device) {
        let model = load(checkpoint, dtype, &device).unwrap_or_else(|error| panic!("{name}: {error}"));
        let model = model.fitted(&batch);
        assert_held(&model, dtype);
        // As in training and in use: products with a frozen weight are not those with one that is trained.
        let model = model.no_grad();
        let off = largest_difference(&model.logits_of(&batch), expected.f64());
        println!("{name}: {dtype} is off by {off:.1e} of the largest logit");
        assert!(off <= allowed, "{name}: {dtype} is off by {off:e}, allowed {allowed:e}");
    }
    Ok(())
}

/// The largest difference as a part of the largest expected number.
fn largest_difference(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    let differences =
        found.iter().zip(expected).map(|(&found, expected)| (f64::from(found) - expected).abs());
    // A NaN must fail: `f64::max` would drop it.
    differences.fold(0.0, |a, b| if b.is_nan() || b > a { b } else { a }) / largest
}

/// The same model with all its weights in `dtype`.
fn held<M: TestModel>(tiny: Tiny<M>, dtype: WeightDtype) -> Tiny<M> {
    Tiny { base: tiny.base.map(&mut Hold(dtype.dtype())), ..tiny }
}

struct Hold(DType);

impl ModuleMapper for Hold {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|weight| weight.cast(self.0).detach())
    }
}

/// Gradients of the coefficients of a NOLA, all in one row, after the loss of the four samples.
fn gradient<M: TestModel>(tiny: &Tiny<M>, loss: impl Fn(&M, &M::Batch) -> Tensor<1>) -> Vec<f32> {
    let model = tiny.perturbed(&every_adapter().remove(0).1);
    let gradients = GradientsParams::from_grads(loss(&model.model, &tiny.batch).backward(), &model);
    let of_coefficients = by_name(&model, &model.project(gradients));
    ["alpha", "beta"].iter().flat_map(|name| of_coefficients[*name].clone()).collect()
}

/// The angle between two gradients, in degrees.
fn angle(left: &[f32], right: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let cosine = dot(left, right) / (dot(left, left) * dot(right, right)).sqrt();
    // Rounding may leave it above 1; NaN stays.
    if cosine > 1.0 { 0.0 } else { cosine.acos().to_degrees() }
}

/// Activations are rounded before every product and, on GPUs, after every operation, weights once: so many times as far as
/// rounding the weights alone the gradient may turn.
const MOST_TURN: f64 = 3.0;

fn gradients_point_the_same_way<M: TestModel>(tiny: fn(&Device) -> Tiny<M>) {
    let device = device();
    let wide = gradient(&tiny(&device), |model, batch| model.loss(batch, 0.0));
    for (dtype, _) in types(&device) {
        // Of the same weights, so that what is left are the roundings of activations.
        let rounded = held(held(tiny(&device), dtype), WeightDtype::F32);
        let expected = gradient(&rounded, |model, batch| model.loss(batch, 0.0));
        let tiny = held(tiny(&device), dtype);
        let narrow = gradient(&tiny, |model, batch| model.loss(batch, 0.0));
        let recomputed = gradient(&tiny, |model, batch| recomputed_loss(model, batch, 0.0));
        // How far roundings of this size turn the gradient of a model this small, which is several degrees.
        let by_weights = angle(&wide, &expected);
        for (way, narrow) in [("kept", &narrow), ("recomputed", &recomputed)] {
            let angle = angle(&expected, narrow);
            println!("{dtype} {way}: {angle} degrees, by rounded weights alone {by_weights}");
            assert!(angle < MOST_TURN * by_weights, "{dtype} {way}: {angle} degrees, {by_weights}");
            assert_ne!(&wide, narrow, "{dtype} {way}: was not stored in half precision");
        }
    }
}

#[test]
fn gradients_of_a_vit_in_half_precision_point_where_those_of_f32_do() {
    gradients_point_the_same_way(tiny_vit);
}

#[test]
fn gradients_of_a_gpt2_in_half_precision_point_where_those_of_f32_do() {
    gradients_point_the_same_way(tiny_gpt2);
}

#[test]
fn gradients_of_a_llama_in_half_precision_point_where_those_of_f32_do() {
    gradients_point_the_same_way(tiny_llama);
}

/// The number types of a module's parameters, by path.
#[derive(Default)]
struct Types {
    path: Vec<String>,
    found: Vec<(String, DType)>,
}

impl ModuleVisitor for Types {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.push((self.path.join("."), param.base().dtype()));
    }
}

/// # Panics
/// If a weight is stored in another type, but for the head of a ViT, which is always f32.
fn assert_held<M: TestModel>(model: &M, dtype: WeightDtype) {
    let mut types = Types::default();
    model.visit(&mut types);
    for (path, found) in types.found {
        let is_head = M::TASK == Task::ImageClassification && path.starts_with("head.");
        assert_eq!(found, if is_head { DType::F32 } else { dtype.dtype() }, "{path}");
    }
}

#[test]
fn all_weights_but_the_head_of_a_vit_are_held_in_the_type_that_was_asked_for() {
    let (scratch, device) = (tempfile::tempdir().expect("a temporary folder"), Device::flex());
    let folder = scratch.path().join("vit");
    let preprocessor = nola_models::Preprocessor::standard(8);
    let saved = crate::tiny::vit(&device).save(&folder, &preprocessor, nola_models::WeightDtype::F32);
    saved.expect("a free folder");
    let checkpoint = Checkpoint::open(&folder).expect("a whole folder");
    let loaded = Vit::load_as(&checkpoint, WeightDtype::Bf16, &device).expect("a ViT");
    let fresh = Vit::init_as(&crate::tiny::config(), 7, WeightDtype::Bf16, &device);
    for vit in [loaded, fresh] {
        assert_held(&vit, WeightDtype::Bf16);
    }
}

#[test]
fn weights_beyond_the_range_of_f16_are_refused_by_name() {
    let (scratch, device) = (tempfile::tempdir().expect("a temporary folder"), Device::flex());
    let tiny = tiny_gpt2(&device).base;
    let CausalLm::Gpt2(mut gpt2) = tiny else { panic!("no GPT-2") };
    gpt2.norm.gamma = gpt2.norm.gamma.map(|gamma| gamma * 70_000.0);
    let folder = scratch.path().join("large");
    CausalLm::Gpt2(gpt2).save(&folder, nola_models::WeightDtype::F32).expect("a free folder");
    let checkpoint = Checkpoint::open(&folder).expect("a whole folder");
    let message =
        CausalLm::load_as(&checkpoint, WeightDtype::F16, &device).expect_err("too large").to_string();
    assert!(message.contains("beyond the range of f16") && message.contains("16 values of"), "{message}");
    CausalLm::load_as(&checkpoint, WeightDtype::Bf16, &device).expect("bf16 reaches as far as f32");
}

/// The result of a run with the recipe and these changes, on the CPU.
fn trained(workshop: &Workshop, changes: &[&str]) -> Value {
    workshop.run_on("cpu", &[&["train", "food.toml", "--json"], &sets(changes)[..]].concat()).json()
}

fn scored(workshop: &Workshop, arguments: &[&str]) -> Value {
    workshop.run_on("cpu", &[&["evaluate", "--json"], arguments].concat()).json()
}

const DATA: [&str; 4] = ["--format", "e2e", "--data", "val.txt"];

#[test]
fn what_is_learned_in_half_precision_holds_in_f32_and_the_other_way_round() {
    let workshop = text_workshop();
    for base in ["base", "llama"] {
        let before = loss(&scored(&workshop, &[&["--model", base], &DATA[..]].concat()));
        let path = format!("model.path={base}");
        for dtype in ["bf16", "f16", "f32"] {
            let (run, set) = (format!("runs/{base}-{dtype}"), format!("model.dtype={dtype}"));
            let dir = format!("output.dir={run}");
            let result = trained(&workshop, &[&path, &set, &dir]);
            assert!(loss(&result) < before - 0.5, "{base} {dtype}: {before} before, {result}");
            let adapter = format!("{run}/adapter");
            let named = ["--model", base, "--adapter", &adapter];
            for held in ["f32", "bf16", "f16"] {
                let again = scored(&workshop, &[&named, &DATA[..], &["--dtype", held]].concat());
                let off = (loss(&again) - loss(&result)).abs();
                assert!(off < 2e-2, "{base} trained in {dtype}, stored in {held}: {again} and {result}");
            }
            let of_run = scored(&workshop, &["--run", &run]);
            assert!((loss(&of_run) - loss(&result)).abs() < 1e-4, "a run is scored as it was trained");
        }
    }
}

#[test]
fn merging_ignores_what_the_run_was_held_in() {
    let workshop = text_workshop();
    trained(&workshop, &["model.dtype=bf16"]);
    let named = ["--model", "base", "--adapter", "runs/food/adapter"];
    for (out, of) in [("of-run", &["--run", "runs/food"][..]), ("of-f32", &named)] {
        assert_eq!(workshop.run(&[&["merge", "--out", out], of].concat()).code, 0);
        assert_eq!(workshop.run(&[&["export", "--out", &format!("{out}-peft")], of].concat()).code, 0);
    }
    let weights = |folder: &str, file: &str| fixtures::tensors(&workshop.at(folder).join(file)).0;
    for (of_run, of_f32, file) in [
        ("of-run", "of-f32", "model.safetensors"),
        ("of-run-peft", "of-f32-peft", "adapter_model.safetensors"),
    ] {
        assert_eq!(weights(of_run, file), weights(of_f32, file), "{file}");
    }
}

#[test]
fn text_is_written_in_half_precision() {
    let workshop = text_workshop();
    for dtype in ["bf16", "f16"] {
        let generate =
            ["generate", "--model", "base", "--dtype", dtype, "--max-new-tokens", "8", "--json", "Zizzi"];
        let written = workshop.run_on("cpu", &generate).json();
        assert_eq!(written["texts"][0]["tokens"], 8, "{written}");
    }
}

#[test]
fn training_all_weights_in_half_precision_is_refused() {
    let workshop = text_workshop();
    let outcome = train(&workshop, &sets(&["model.dtype=bf16", "method.kind=full"]));
    outcome.assert_refused(3, &["`model.dtype` is bf16; it must be f32 with method.kind = \"full\""]);
    let bench = ["bench", "steps", "--models", "tiny-gpt2", "--methods", "full", "--dtype", "bf16"];
    workshop.run(&bench).assert_refused(2, &["`full` trains the weights, which takes f32, not bf16"]);
}

#[test]
fn an_unknown_number_type_is_refused_with_the_known_ones() {
    let workshop = text_workshop();
    let outcome = workshop.run(&["generate", "--model", "base", "--dtype", "fp8", "Zizzi"]);
    outcome.assert_refused(2, &["invalid value 'fp8'", "possible values: f32, bf16, f16"]);
}

#[test]
fn steps_are_measured_in_half_precision() {
    let arguments =
        ["bench", "steps", "--models", "tiny-gpt2,tiny-llama,tiny-vit", "--methods", "frozen,lora,nola"];
    for (dtype, name) in [("bf16", "bf16"), ("f16", "fp16"), ("f32", "fp32")] {
        let options = ["--steps", "1", "--dtype", dtype, "--json"];
        let outcome = Workshop::empty().run_on("cpu", &[&arguments[..], &options].concat());
        assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
        for line in outcome.stdout.lines() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            assert_eq!([&line["dtype"], &line["param_dtype"]], [name, name], "{line}");
        }
    }
}

#[test]
fn a_device_without_a_type_is_refused_before_anything_is_read() {
    let device = device();
    for dtype in WeightDtype::ALL {
        let refused = nola_train::device::check_dtype(&device, dtype);
        assert_eq!(refused.is_ok(), dtype.is_supported_by(&device), "{dtype}");
    }
}
