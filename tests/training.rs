//! The training loop on tiny models: what it computes, when it stops, and what it keeps.
#![expect(clippy::result_large_err, reason = "an error of the program ends it, so none is moved about")]

use burn::module::Module;
use burn::tensor::{Device, TensorData};
use nola_core::{AdapterConfig, TrainedState};
use nola_models::Vit;
use nola_train::Error;
use nola_train::model_with_loss::{ImageBatch, ModelWithLoss};
use nola_train::settings::{OnNonFinite, OptimizerKind, Period, ScheduleKind, TrainSettings};
use nola_train::train::{
    Between, Observer, Start, StepReport, StepSamples, Trained, TrainingState, train, train_from,
};

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
    /// Steps that were skipped.
    skipped: Vec<usize>,
    /// Whether a state is to be saved after every step.
    saves: bool,
    states: Vec<TrainingState>,
}

impl<M: ModelWithLoss> Observer<M> for Scripted {
    fn stepped(&mut self, report: StepReport) {
        self.reports.push(report);
    }

    fn skipped(&mut self, report: StepReport) {
        self.skipped.push(report.step);
    }

    fn samples_of_step(&self, step: usize) -> StepSamples {
        StepSamples(vec![format!("sample {step}")])
    }

    fn is_save_due(&mut self, _done: usize) -> bool {
        self.saves
    }

    fn save(&mut self, state: TrainingState) {
        self.states.push(state);
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
    let mut observer = Scripted { scores, ..Scripted::default() };
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
    run_broken_at(&[2], Start::Beginning, recipe, &mut Scripted::default())
}

/// Trains from `start` on; the steps `broken`, counted from 1, have pixels that are NaN.
fn run_broken_at(
    broken: &[usize],
    start: Start,
    recipe: &TrainSettings,
    observer: &mut Scripted,
) -> Result<Trained<Vit>, Error> {
    let device = device();
    let done = match &start {
        Start::Beginning => 0,
        Start::At(state) => state.step,
    };
    let passes = |step: usize| {
        let mut pass = batch(4, 2, &device);
        if broken.contains(&(step + 1)) {
            pass.pixels = pass.pixels.mul_scalar(f32::NAN);
        }
        Ok(vec![pass])
    };
    let model = tiny_vit(&device).adapted(&nola());
    train_from(start, model, recipe, (done..recipe.steps).map(passes), observer)
}

fn skipping(recipe: TrainSettings) -> TrainSettings {
    TrainSettings { on_non_finite: OnNonFinite::Skip, ..recipe }
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_names_the_step() {
    let error = run_broken(&recipe(3)).err().expect("a loss that is NaN");
    assert!(matches!(error, Error::Diverged { step: 2, .. }), "{error}");
    assert_eq!(error.exit_code(), 8);
    let message = error.to_string();
    assert!(message.contains("at step 2 (samples: sample 2)") && message.contains("\"skip\""), "{message}");
}

#[test]
fn a_run_that_diverges_keeps_its_last_finite_state() {
    let mut seen = Scripted::default();
    run_broken_at(&[2], Start::Beginning, &recipe(3), &mut seen).err().expect("a loss that is NaN");
    let [state] = &seen.states[..] else { panic!("{} states", seen.states.len()) };
    assert_eq!((state.step, state.between), (1, Between::Done));
    let (one_step, _) = run(&recipe(1), &[&[0, 1, 2, 3]]);
    assert!(differences(&state.trained, &one_step.last.state()).0 < 1e-6);
}

#[test]
fn a_step_that_is_skipped_changes_nothing() {
    for optimizer in [OptimizerKind::AdamW, OptimizerKind::Sgd] {
        let recipe = TrainSettings { optimizer, ..recipe(3) };
        let mut seen = Scripted::default();
        let trained = run_broken_at(&[2], Start::Beginning, &skipping(recipe.clone()), &mut seen);
        let trained = trained.expect("the broken step is skipped");
        assert_eq!((trained.steps, seen.skipped, seen.reports.len()), (3, vec![2], 2));
        let (two_steps, _) = run(&TrainSettings { steps: 2, ..recipe }, &[&[0, 1, 2, 3]]);
        let (largest, _) = differences(&trained.last.state(), &two_steps.last.state());
        assert!(largest < 1e-6, "{optimizer:?}: {largest}");
    }
}

#[test]
fn a_run_of_finite_steps_is_the_same_whether_others_would_be_skipped() {
    let recipe = TrainSettings { clip_norm: Some(0.5), optimizer: OptimizerKind::Adam, ..recipe(5) };
    let passes: [&[usize]; 2] = [&[0, 1, 2], &[3]];
    let (stops, skips) = (run(&recipe, &passes), run(&skipping(recipe), &passes));
    assert_eq!(stops.1.reports, skips.1.reports);
    assert!(stops.0.last.state() == skips.0.last.state());
}

#[test]
fn too_many_steps_skipped_in_a_row_end_the_run() {
    let recipe = TrainSettings { max_skipped: 2, ..skipping(recipe(9)) };
    let mut seen = Scripted::default();
    let apart = run_broken_at(&[2, 3, 5, 6, 8, 9], Start::Beginning, &recipe, &mut seen);
    assert_eq!(apart.expect("two in a row are few enough").steps, 9);
    let mut seen = Scripted::default();
    let error = run_broken_at(&[4, 5, 6], Start::Beginning, &recipe, &mut seen).err().expect("three");
    assert!(matches!(error, Error::Diverged { step: 6, skipped: 2, .. }), "{error}");
    assert_eq!((error.exit_code(), &seen.skipped[..]), (8, &[4, 5][..]));
    let last = seen.states.last().expect("the state before the step that ended it");
    assert_eq!((last.step, last.skipped), (5, 2));
}

#[test]
fn a_resumed_run_counts_the_steps_that_were_skipped_before() {
    let recipe = TrainSettings { max_skipped: 3, optimizer: OptimizerKind::Adam, ..skipping(recipe(8)) };
    let mut seen = Scripted { saves: true, ..Scripted::default() };
    let broken = [3, 4, 5];
    let whole = run_broken_at(&broken, Start::Beginning, &recipe, &mut seen).expect("few enough");
    for step in [2, 3, 4, 5, 6] {
        let state = seen.states[step - 1].clone();
        assert_eq!(state.skipped, broken.iter().filter(|&&skipped| skipped <= step && step < 6).count());
        let start = Start::At(Box::new(state.clone()));
        let rest = run_broken_at(&broken, start, &recipe, &mut Scripted::default()).expect("few enough");
        assert!(rest.last.state() == whole.last.state(), "after step {step}");
        let fewer = TrainSettings { max_skipped: 2, ..recipe.clone() };
        let start = Start::At(Box::new(state));
        let rest = run_broken_at(&broken, start, &fewer, &mut Scripted::default());
        assert_eq!(rest.is_err(), step < 5, "after step {step}");
    }
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
