//! The training loop on tiny models: what it computes, when it stops, and what it keeps.
#![expect(clippy::result_large_err, reason = "an error of the program ends it, so none is moved about")]

use burn::module::Module;
use burn::tensor::{Device, TensorData};
use nola_core::{AdapterConfig, TrainedState};
use nola_models::Vit;
use nola_train::Error;
use nola_train::model_with_loss::{ImageBatch, ModelWithLoss};
use nola_train::settings::{OptimizerKind, Period, ScheduleKind, TrainSettings};
use nola_train::train::{Observer, StepReport, Trained, train};

use crate::devices::device;
use crate::tiny::{batch, every_adapter, numbered_texts, tiny_gpt2, tiny_vit};

/// Plain gradient descent, so that a step is the gradient.
fn recipe(steps: usize) -> TrainSettings {
    TrainSettings {
        steps,
        batch: 4,
        optimizer: OptimizerKind::Sgd,
        learning_rate: 0.1,
        schedule: ScheduleKind::Constant,
        evaluate_every: Period::NEVER,
        ..TrainSettings::default()
    }
}

fn nola() -> AdapterConfig {
    every_adapter().remove(0).1
}

/// Answers every evaluation with the next of these scores, and remembers the steps.
#[derive(Default)]
struct Scripted {
    scores: Vec<f64>,
    reports: Vec<StepReport>,
}

impl<M: ModelWithLoss> Observer<M> for Scripted {
    fn stepped(&mut self, report: StepReport) {
        self.reports.push(report);
    }

    fn evaluate(&mut self, _step: usize, _model: &M) -> Result<f64, Error> {
        Ok(if self.scores.is_empty() { 0.0 } else { self.scores.remove(0) })
    }
}

fn run(recipe: &TrainSettings, passes: &[&[usize]]) -> (Trained<Vit>, Scripted) {
    run_scored(recipe, passes, Vec::new())
}

/// Trains NOLA; `passes` are the samples of each pass of a step, the same in every step.
fn run_scored(recipe: &TrainSettings, passes: &[&[usize]], scores: Vec<f64>) -> (Trained<Vit>, Scripted) {
    let device = device();
    let mut observer = Scripted { scores, reports: Vec::new() };
    let step = |_| Ok(passes.iter().map(|samples| picked(samples, &device)).collect());
    let model = tiny_vit(&device).adapted(&nola());
    let trained = train(model, recipe, (0..recipe.steps).map(step), &mut observer).expect("finite losses");
    (trained, observer)
}

/// Some samples of one batch of four.
fn picked(samples: &[usize], device: &Device) -> ImageBatch {
    let all = batch(4, 2, device);
    let of = |index: &usize| all.pixels.clone().narrow(0, *index, 1);
    let labels = |index: &usize| all.labels.clone().narrow(0, *index, 1);
    ImageBatch {
        pixels: burn::tensor::Tensor::cat(samples.iter().map(of).collect(), 0),
        labels: burn::tensor::Tensor::cat(samples.iter().map(labels).collect(), 0),
    }
}

fn floats(data: &TensorData) -> Vec<f32> {
    data.clone().try_into_vec().expect("trained values are f32")
}

/// The largest difference of two states, and the 2-norm of their difference.
fn differences(left: &TrainedState, right: &TrainedState) -> (f32, f64) {
    let (mut largest, mut squares) = (0.0_f32, 0.0);
    for (name, data) in left {
        for (l, r) in floats(data).into_iter().zip(floats(&right[name])) {
            largest = largest.max((l - r).abs());
            squares += f64::from(l - r).powi(2);
        }
    }
    (largest, squares.sqrt())
}

#[test]
fn a_step_expands_and_projects_once_per_factor_whatever_the_passes() {
    let device = device();
    let at_start = tiny_vit(&device).adapted(&nola()).basis_calls();
    let (trained, _) = run(&recipe(3), &[&[0], &[1], &[2], &[3]]);
    for (site, start) in trained.last.basis_calls().into_iter().zip(at_start) {
        for ([expand, project], [first_expand, first_project]) in site.into_iter().zip(start) {
            assert_eq!([expand - first_expand, project - first_project], [3, 3]);
        }
    }
}

#[test]
fn passes_of_a_step_weigh_as_many_samples_as_they_have() {
    let (whole, seen_whole) = run(&recipe(2), &[&[0, 1, 2, 3]]);
    let (split, seen_split) = run(&recipe(2), &[&[0, 1, 2], &[3]]);
    let (largest, _) = differences(&whole.last.state(), &split.last.state());
    assert!(largest < 1e-5, "{largest}");
    assert!((seen_whole.reports[1].loss - seen_split.reports[1].loss).abs() < 1e-5);
    assert_eq!(seen_split.reports[1].targets, 4);
}

#[test]
fn passes_of_texts_weigh_as_many_targets_as_they_have() {
    let device = device();
    let trained = |passes: &[&[usize]]| {
        let mut observer = Scripted::default();
        let step = |_| Ok(passes.iter().map(|texts| numbered_texts(texts, 2, &device)).collect());
        let model = tiny_gpt2(&device).adapted(&nola());
        let trained = train(model, &recipe(2), (0..2).map(step), &mut observer).expect("finite losses");
        (trained.last.state(), observer.reports)
    };
    let (whole, seen_whole) = trained(&[&[0, 1, 2, 3]]);
    let (split, seen_split) = trained(&[&[0, 1, 2], &[3]]);
    let (largest, _) = differences(&whole, &split);
    assert!(largest < 1e-5, "{largest}");
    assert!((seen_whole[1].loss - seen_split[1].loss).abs() < 1e-5);
    assert_eq!(seen_split[1].targets, 2 + 4 + 6 + 8);
}

#[test]
fn the_limit_on_the_gradient_counts_all_parameters_together() {
    let start = tiny_vit(&device()).adapted(&nola()).state();
    let (free, seen) = run(&recipe(1), &[&[0, 1, 2, 3]]);
    let (_, length) = differences(&free.last.state(), &start);
    assert!((length - 0.1 * seen.reports[0].gradient_norm).abs() < 1e-4 * length, "{length}");
    let limit = seen.reports[0].gradient_norm / 3.0;
    let (clipped, _) = run(&TrainSettings { clip_norm: Some(limit), ..recipe(1) }, &[&[0, 1, 2, 3]]);
    let (_, length) = differences(&clipped.last.state(), &start);
    assert!((length - 0.1 * limit).abs() < 1e-4 * length, "{length} and {limit}");
}

#[test]
fn the_base_stays_as_it_was() {
    let device = device();
    let start = tiny_vit(&device).adapted(&nola()).model;
    let (trained, _) = run(&recipe(3), &[&[0, 1, 2, 3]]);
    let weight = |vit: &Vit| crate::devices::values(vit.blocks[0].mlp.up.weight.base());
    assert_eq!(weight(&start), weight(&trained.last.model));
    assert_ne!(tiny_vit(&device).adapted(&nola()).state()["beta"], trained.last.state()["beta"]);
}

#[test]
fn training_lowers_the_loss_with_every_optimizer() {
    for optimizer in [OptimizerKind::AdamW, OptimizerKind::Adam, OptimizerKind::Sgd] {
        let recipe = TrainSettings { optimizer, learning_rate: 0.02, ..recipe(30) };
        let (_, seen) = run(&recipe, &[&[0, 1, 2, 3]]);
        let (first, last) = (seen.reports[0].loss, seen.reports[29].loss);
        assert!(last < 0.9 * first, "{optimizer:?}: {first} to {last}");
    }
}

#[test]
fn the_state_with_the_best_score_is_kept() {
    let recipe = TrainSettings { evaluate_every: Period(1), ..recipe(4) };
    let (trained, _) = run_scored(&recipe, &[&[0, 1, 2, 3]], vec![0.1, 0.9, 0.9, 0.3]);
    assert_eq!(trained.best_step, 2);
    let (two_steps, _) = run(&self::recipe(2), &[&[0, 1, 2, 3]]);
    // Not every device sums in the same order twice.
    let (largest, _) = differences(&trained.best, &two_steps.last.state());
    assert!(largest < 1e-6, "{largest}");
    assert!(differences(&trained.best, &trained.last.state()).0 > 1e-3);
}

#[test]
fn a_run_without_progress_stops_early() {
    let recipe = TrainSettings { evaluate_every: Period(1), early_stop: 2, ..recipe(9) };
    let (trained, seen) = run_scored(&recipe, &[&[0, 1, 2, 3]], vec![0.5, 0.5, 0.4, 0.9]);
    assert_eq!((trained.steps, seen.reports.len(), trained.interrupted), (3, 3, None));
}

/// Trains three steps of which the second has pixels that are NaN.
fn run_broken(recipe: &TrainSettings) -> Result<Trained<Vit>, Error> {
    let device = device();
    let broken = |step: usize| {
        let mut pass = batch(4, 2, &device);
        if step == 1 {
            pass.pixels = pass.pixels.mul_scalar(f32::NAN);
        }
        Ok(vec![pass])
    };
    train(tiny_vit(&device).adapted(&nola()), recipe, (0..3).map(broken), &mut Scripted::default())
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_names_the_step() {
    let error = run_broken(&recipe(3)).err().expect("a loss that is NaN");
    assert!(matches!(error, Error::Diverged { step: 2, .. }), "{error}");
    assert_eq!(error.exit_code(), 8);
}

#[test]
fn trained_values_that_overflow_are_not_kept() {
    // The gradient is finite; times a rate beyond f32 it is not.
    let device = device();
    let recipe = TrainSettings { evaluate_every: Period(1), learning_rate: 1e39, ..recipe(2) };
    let step = |_| Ok(vec![batch(4, 2, &device)]);
    let trained =
        train(tiny_vit(&device).adapted(&nola()), &recipe, (0..2).map(step), &mut Scripted::default());
    assert!(matches!(trained.err(), Some(Error::Diverged { step: 1, .. })));
}

#[test]
fn steps_before_a_batch_that_cannot_be_made_are_told() {
    let device = device();
    let mut observer = Scripted::default();
    let missing = || Error::Input { source: std::io::Error::other("no batch") };
    let step = |step: usize| if step < 3 { Ok(vec![batch(4, 2, &device)]) } else { Err(missing()) };
    let model = tiny_vit(&device).adapted(&nola());
    let trained = train(model, &recipe(9), (0..9).map(step), &mut observer);
    assert!(matches!(trained.err(), Some(Error::Input { .. })));
    assert_eq!(observer.reports.iter().map(|report| report.step).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn a_failure_after_an_evaluation_keeps_what_was_learned() {
    let trained = run_broken(&TrainSettings { evaluate_every: Period(1), ..recipe(3) });
    let trained = trained.expect("the first step was evaluated");
    assert!(matches!(trained.failure, Some(Error::Diverged { step: 2, .. })));
    assert_eq!((trained.best_step, trained.steps), (1, 1));
    let (one_step, _) = run(&recipe(1), &[&[0, 1, 2, 3]]);
    assert!(differences(&trained.best, &one_step.last.state()).0 < 1e-6);
}

#[test]
fn a_model_put_to_use_computes_with_its_adapters() {
    let device = device();
    let model = tiny_vit(&device).perturbed(&nola());
    let logits = |vit: &Vit, device: &Device| crate::devices::values(vit.forward(batch(2, 1, device).pixels));
    let used = logits(&model.model.clone().valid(), &device.clone().inner());
    // The device has faster kernels where no gradient is asked for.
    for (found, trained) in used.iter().zip(logits(&model.model, &device)) {
        assert!((found - trained).abs() < 1e-5, "{found} and {trained}");
    }
    assert_ne!(used, logits(&crate::tiny::vit(&device).valid(), &device.inner()));
}
