//! A run that stops and goes on is the run that never stopped, bit for bit, whatever is trained.
#![expect(clippy::result_large_err, reason = "an error of the program ends it, so none is moved about")]

use std::cell::Cell;
use std::rc::Rc;

use burn::module::Module;
use burn::tensor::Device;
use nola_core::{Adapted, AdapterConfig, TrainedState};
use nola_train::Error;
use nola_train::settings::{OptimizerKind, Period, ScheduleKind, TrainSettings};
use nola_train::stop::Interrupt;
use nola_train::train::{
    Between, Checkpoint, Observer, Start, StepReport, Trained, TrainingState, train_from,
};
use serde_json::Value;

use crate::devices::device;
use crate::test_model::TestModel;
use crate::tiny::{Tiny, every_adapter, tiny_gpt2, tiny_llama, tiny_vit};

const STEPS: usize = 8;

/// Two passes a step, clipped gradients, a rate that falls, and evaluations between.
fn recipe(optimizer: OptimizerKind) -> TrainSettings {
    TrainSettings {
        steps: STEPS,
        optimizer,
        learning_rate: 0.02,
        weight_decay: Some(0.1),
        schedule: ScheduleKind::Cosine,
        warmup: 2,
        clip_norm: Some(0.5),
        evaluate_every: Period(3),
        ..TrainSettings::default()
    }
}

/// Scores by the loss, and keeps every state.
struct Recorder<M: TestModel> {
    batch: M::Batch,
    reports: Vec<StepReport>,
    scores: Vec<(usize, f64)>,
    states: Vec<TrainingState>,
    /// After which step an interrupt comes.
    interrupt_after: usize,
    /// Steps that were begun.
    begun: Rc<Cell<usize>>,
}

impl<M: TestModel> Observer<M> for Recorder<M> {
    fn stepped(&mut self, report: StepReport) {
        self.reports.push(report);
    }

    fn evaluate(&mut self, step: usize, model: &M) -> Result<f64, Error> {
        let score = -f64::from(model.loss(&self.batch, 0.0).into_scalar::<f32>());
        if step > 0 {
            self.scores.push((step, score));
        }
        Ok(score)
    }

    fn is_save_due(&mut self, _done: usize) -> bool {
        true
    }

    fn save(&mut self, state: TrainingState) {
        self.states.push(state);
    }

    fn stopped(&self) -> Option<Interrupt> {
        (self.begun.get() >= self.interrupt_after).then_some(Interrupt::Terminate)
    }
}

/// What a run came to.
struct Outcome<M: TestModel> {
    trained: Trained<M>,
    seen: Recorder<M>,
}

/// Trains from `start`; an interrupt comes after the step `interrupt_after`.
fn run<M: TestModel>(
    tiny: &Tiny<M>,
    fresh: Adapted<M>,
    recipe: &TrainSettings,
    start: Start,
    interrupt_after: usize,
) -> Outcome<M> {
    let done = match &start {
        Start::Beginning => 0,
        Start::At(state) => state.step,
    };
    let begun = Rc::new(Cell::new(done));
    let steps = (done..recipe.steps).map(|step| {
        begun.set(step + 1);
        Ok(vec![tiny.batch.clone(), tiny.batch.clone()])
    });
    let mut seen = Recorder {
        batch: tiny.batch.clone(),
        reports: Vec::new(),
        scores: Vec::new(),
        states: Vec::new(),
        interrupt_after,
        begun: Rc::clone(&begun),
    };
    let trained = train_from(start, fresh, recipe, steps, &mut seen).expect("finite losses");
    Outcome { trained, seen }
}

/// The state as a folder gives it back.
fn through_a_folder(state: TrainingState) -> TrainingState {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let folder = scratch.path().join("step");
    let checkpoint = Checkpoint { state, run: Value::Null, history: TrainedState::new() };
    checkpoint.write(&folder).expect("a free disk");
    let read = Checkpoint::read(&folder).expect("it was just written");
    assert_eq!(read, checkpoint);
    read.state
}

/// Asserts that a run from `state` gives what the whole run gave.
fn assert_same<M: TestModel>(
    name: &str,
    tiny: &Tiny<M>,
    fresh: Adapted<M>,
    recipe: &TrainSettings,
    state: TrainingState,
    whole: &Outcome<M>,
) {
    let (step, between) = (state.step, state.between);
    let name = format!("{name} after step {step} ({between:?})");
    let from = Start::At(Box::new(through_a_folder(state)));
    let rest = run(tiny, fresh, recipe, from, usize::MAX);
    let (found, expected) = (&rest.trained, &whole.trained);
    assert_eq!(rest.seen.reports, whole.seen.reports[step..], "{name}: losses, norms and rates");
    let is_left = |&&(at, _): &&(usize, f64)| at > step || at == step && between == Between::Due;
    let scores: Vec<_> = whole.seen.scores.iter().filter(is_left).copied().collect();
    assert_eq!(rest.seen.scores, scores, "{name}: scores");
    assert!(found.last.state() == expected.last.state(), "{name}: trained values");
    assert!(found.best == expected.best, "{name}: best values");
    assert_eq!((found.best_step, found.steps), (expected.best_step, expected.steps), "{name}");
    assert_eq!(found.last.base_gain(), expected.last.base_gain(), "{name}: what is left of the base");
    let ranks = |model: &Adapted<M>| model.ranks().iter().map(|(_, rank)| *rank).collect::<Vec<_>>();
    assert_eq!(ranks(&found.last), ranks(&expected.last), "{name}: ranks");
    let factors = |model: &Adapted<M>| -> Vec<f32> {
        model.factors().into_iter().flat_map(|site| [site.a.unwrap_or_default(), site.b].concat()).collect()
    };
    assert!(factors(&found.last) == factors(&expected.last), "{name}: factors");
}

/// Stops after some steps, by a checkpoint between two steps and by an interrupt, and goes on.
fn assert_resumes<M: TestModel>(
    name: &str,
    tiny: &Tiny<M>,
    fresh: impl Fn() -> Adapted<M>,
    recipe: &TrainSettings,
) {
    let whole = run(tiny, fresh(), recipe, Start::Beginning, usize::MAX);
    assert_eq!(whole.seen.states.len(), STEPS - 1, "a run that is over has nothing to go on with");
    for step in [1, 3, 6] {
        let state = whole.seen.states[step - 1].clone();
        assert_eq!((state.step, state.between), (step, Between::Done));
        assert_same(name, tiny, fresh(), recipe, state, &whole);
        let cut = run(tiny, fresh(), recipe, Start::Beginning, step);
        assert_eq!(cut.trained.interrupted, Some(Interrupt::Terminate));
        let state = cut.seen.states.last().expect("an interrupt keeps a state").clone();
        assert_eq!((state.step, state.between), (step, Between::Due));
        assert_same(name, tiny, fresh(), recipe, state, &whole);
    }
}

/// Whether this device gives the same bits twice.
fn is_exact() -> bool {
    !matches!(std::env::var("NOLA_TEST_DEVICE").as_deref(), Ok("wgpu"))
}

fn every_adapter_resumes<M: TestModel>(tiny: &Tiny<M>) {
    if !is_exact() {
        return println!("skipped: only the CPU promises the same bits twice");
    }
    for (name, adapter) in every_adapter() {
        assert_resumes(&name, tiny, || tiny.adapted(&adapter), &recipe(OptimizerKind::AdamW));
    }
}

#[test]
fn a_vision_transformer_resumes_bit_for_bit_with_every_adapter() {
    every_adapter_resumes(&tiny_vit(&device()));
}

#[test]
fn a_gpt2_resumes_bit_for_bit_with_every_adapter() {
    every_adapter_resumes(&tiny_gpt2(&device()));
}

#[test]
fn a_llama_resumes_bit_for_bit_with_every_adapter() {
    every_adapter_resumes(&tiny_llama(&device()));
}

#[test]
fn every_optimizer_resumes_bit_for_bit() {
    if !is_exact() {
        return println!("skipped: only the CPU promises the same bits twice");
    }
    let tiny = tiny_vit(&device());
    let (_, nola) = every_adapter().remove(0);
    for optimizer in [OptimizerKind::AdamW, OptimizerKind::Adam, OptimizerKind::Sgd] {
        for momentum in [0.0, 0.9] {
            let recipe = TrainSettings { momentum, ..recipe(optimizer) };
            assert_resumes(&format!("{optimizer:?} {momentum}"), &tiny, || tiny.adapted(&nola), &recipe);
        }
    }
}

#[test]
fn a_linear_probe_and_a_whole_model_resume_bit_for_bit() {
    if !is_exact() {
        return println!("skipped: only the CPU promises the same bits twice");
    }
    let device = device();
    let tiny = tiny_vit(&device);
    let probe = || Adapted::probe(tiny.base.clone(), &["head"], &device).expect("a head");
    assert_resumes("probe", &tiny, probe, &recipe(OptimizerKind::AdamW));
    assert_resumes("full", &tiny, || Adapted::full(tiny.base.clone().train()), &recipe(OptimizerKind::AdamW));
}

#[test]
fn ranks_that_moved_come_back_with_what_the_optimizer_remembers() {
    let tiny = tiny_vit(&device());
    let alora = every_adapter().into_iter().find(|(name, _)| name == "alora").expect("it is an adapter").1;
    let whole = run(&tiny, tiny.adapted(&alora), &recipe(OptimizerKind::Adam), Start::Beginning, usize::MAX);
    let state = &whole.seen.states[5];
    let is_further = |name: &&String| name.contains(".further.");
    assert!(state.trained.keys().any(|name| is_further(&name)), "ranks were added");
    assert!(state.moments.keys().any(|name| is_further(&name)), "and are remembered");
}

/// A state of NOLA on the tiny ViT.
fn state_of(adapter: &AdapterConfig, device: &Device) -> TrainingState {
    let tiny = tiny_vit(device);
    let whole =
        run(&tiny, tiny.adapted(adapter), &recipe(OptimizerKind::AdamW), Start::Beginning, usize::MAX);
    whole.seen.states[3].clone()
}

#[test]
fn the_state_of_another_model_or_optimizer_is_refused_with_its_names() {
    let device = device();
    let adapters = every_adapter();
    let named = |kind: &str| &adapters.iter().find(|(name, _)| name == kind).expect("an adapter").1;
    let (nola, lora) = (named("nola"), named("lora"));
    let tiny = tiny_vit(&device);
    let mut seen = Recorder {
        batch: tiny.batch.clone(),
        reports: Vec::new(),
        scores: Vec::new(),
        states: Vec::new(),
        interrupt_after: usize::MAX,
        begun: Rc::default(),
    };
    let mut refused = |adapter: &AdapterConfig, optimizer, state| {
        let (model, start) = (tiny.adapted(adapter), Start::At(Box::new(state)));
        let error = train_from(start, model, &recipe(optimizer), std::iter::empty(), &mut seen).err();
        error.expect("it does not fit").to_string()
    };
    assert!(refused(lora, OptimizerKind::AdamW, state_of(nola, &device)).contains("`alpha`"));
    assert!(refused(nola, OptimizerKind::Sgd, state_of(nola, &device)).contains("moments of"));
}
