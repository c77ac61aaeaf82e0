//! Ranks that share a run compute what one process computes, bit for bit; here they are threads.
#![expect(clippy::result_large_err, reason = "an error of the program ends it, so none is moved about")]

use std::time::Duration;

use burn::tensor::Device;
use nola_core::adapter::LoraConfig;
use nola_core::{Adapted, AdapterConfig};
use nola_models::{CausalLm, Vit};
use nola_train::Error;
use nola_train::ranks::Ranks;
use nola_train::settings::{OptimizerKind, Period, ScheduleKind, TrainSettings};
use nola_train::stop::{Interrupt, Stop};
use nola_train::train::{
    Observer, Shard, Start, StepPasses, StepReport, Trained, TrainingState, train_across, train_from,
};

use crate::test_model::TestModel;
use crate::tiny::{Tiny, batch, every_adapter, numbered_texts, small_nola, tiny_gpt2, tiny_llama, tiny_vit};

/// How long ranks wait for each other, where none is missing.
pub const LONG: Duration = Duration::from_secs(120);
/// Shards of a step: a number that two ranks do not share evenly.
const SHARDS: usize = 3;
/// The texts of each pass of each shard: the higher the number, the more tokens are learned.
const TEXTS: [&[&[usize]]; SHARDS] = [&[&[0, 1], &[2]], &[&[3, 0]], &[&[1]]];

/// A model whose steps are made of shards with unequal numbers of targets.
pub trait Sharded: TestModel {
    /// The passes of a shard of a step: two of the first shard, one of the others.
    fn passes(step: usize, shard: usize, device: &Device) -> Vec<Self::Batch>;
}

impl Sharded for Vit {
    fn passes(step: usize, shard: usize, device: &Device) -> Vec<Self::Batch> {
        let pass = |number: usize| batch(1 + shard, (10 * step + 3 * shard + number) as u32, device);
        (0..if shard == 0 { 2 } else { 1 }).map(pass).collect()
    }
}

impl Sharded for CausalLm {
    fn passes(step: usize, shard: usize, device: &Device) -> Vec<Self::Batch> {
        TEXTS[shard].iter().map(|texts| numbered_texts(texts, step as u32, device)).collect()
    }
}

/// Scores by the loss of a batch, and keeps every state.
pub struct Recorder<'a, M: TestModel> {
    ranks: &'a Ranks,
    batch: M::Batch,
    pub reports: Vec<StepReport>,
    pub states: Vec<TrainingState>,
}

impl<M: TestModel> Observer<M> for Recorder<'_, M> {
    fn stepped(&mut self, report: StepReport) {
        self.reports.push(report);
    }

    fn evaluate(&mut self, _step: usize, model: &M) -> Result<f64, Error> {
        Ok(-f64::from(model.loss(&self.batch, 0.0).into_scalar::<f32>()))
    }

    fn is_save_due(&mut self, _done: usize) -> bool {
        true
    }

    fn save(&mut self, state: TrainingState) {
        self.states.push(state);
    }

    fn stopped(&self) -> Option<Interrupt> {
        self.ranks.stopped()
    }
}

/// What a rank came to.
pub struct Outcome<M: TestModel> {
    pub trained: Result<Trained<M>, Error>,
    pub reports: Vec<StepReport>,
    pub states: Vec<TrainingState>,
}

/// How a rank trains: what is called before the passes of each step are made.
pub type Before<'a> = &'a (dyn Fn(&Ranks, usize) -> Result<(), Error> + Sync);

/// Trains this rank's shards.
pub fn run<M: Sharded>(
    ranks: &Ranks,
    tiny: &Tiny<M>,
    model: Adapted<M>,
    recipe: &TrainSettings,
    start: Start,
    before: Before,
) -> Outcome<M> {
    let done = match &start {
        Start::Beginning => 0,
        Start::At(state) => state.step,
    };
    let shard = |step, index| Shard { index, passes: M::passes(step, index, &tiny.device) };
    let steps = (done..recipe.steps).map(|step| {
        before(ranks, step)?;
        Ok(StepPasses(ranks.shards(recipe.shards()).map(|index| shard(step, index)).collect()))
    });
    let batch = tiny.batch.clone();
    let mut seen = Recorder { ranks, batch, reports: Vec::new(), states: Vec::new() };
    let trained = train_across(ranks, start, model, recipe, steps, &mut seen);
    Outcome { trained, reports: seen.reports, states: seen.states }
}

/// Does something as each of so many ranks, and gives what each found, in their order.
pub fn as_ranks<T: Send>(count: usize, limit: Duration, work: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
    let stops = vec![Stop::default(); count];
    let ranks = Ranks::in_threads(&stops, limit);
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = ranks.into_iter().map(|ranks| scope.spawn(move || work(ranks))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a rank that does not panic")).collect()
    })
}

/// Adam, clipped gradients, a rate that falls, and evaluations between.
pub fn recipe() -> TrainSettings {
    TrainSettings {
        steps: 5,
        shards: Some(SHARDS),
        optimizer: OptimizerKind::AdamW,
        learning_rate: 0.02,
        weight_decay: Some(0.1),
        schedule: ScheduleKind::Cosine,
        warmup: 2,
        clip_norm: Some(0.5),
        evaluate_every: Period(2),
        ..TrainSettings::default()
    }
}

pub fn nola() -> AdapterConfig {
    small_nola().into()
}

pub fn lora() -> AdapterConfig {
    LoraConfig { rank: 2, ..LoraConfig::default() }.into()
}

/// What was trained, and every number on the way, in a form in which bits can be compared.
fn bits<M: TestModel>(outcome: &Outcome<M>) -> (Vec<StepReport>, Vec<TrainingState>, usize) {
    let best_step = outcome.trained.as_ref().expect("finite losses").best_step;
    (outcome.reports.clone(), outcome.states.clone(), best_step)
}

/// Asserts that any number of ranks gives the bits of one process, which makes all shards itself.
fn assert_same<M: Sharded>(
    name: &str,
    tiny: &(dyn Fn() -> Tiny<M> + Sync),
    adapter: &AdapterConfig,
    recipe: &TrainSettings,
) {
    let of = |ranks: &Ranks| {
        let tiny = tiny();
        let model = tiny.adapted(adapter);
        let outcome = run(ranks, &tiny, model, recipe, Start::Beginning, &|_, _| Ok(()));
        let state = outcome.trained.as_ref().expect("finite losses").last.state();
        (bits(&outcome), state)
    };
    let whole = of(&Ranks::default());
    for count in [1, 2, SHARDS] {
        for (rank, found) in as_ranks(count, LONG, |ranks| of(&ranks)).into_iter().enumerate() {
            assert!(found == whole, "{name}: rank {rank} of {count} differs from one process");
        }
    }
}

fn cpu() -> Device {
    Device::flex().autodiff()
}

#[test]
fn ranks_give_the_bits_of_one_process_with_every_kind_of_model() {
    for (name, adapter) in [("nola", nola()), ("lora", lora())] {
        assert_same(&format!("ViT {name}"), &|| tiny_vit(&cpu()), &adapter, &recipe());
        assert_same(&format!("GPT-2 {name}"), &|| tiny_gpt2(&cpu()), &adapter, &recipe());
        assert_same(&format!("LLaMA {name}"), &|| tiny_llama(&cpu()), &adapter, &recipe());
    }
}

#[test]
fn ranks_give_the_bits_of_one_process_with_every_adapter() {
    for (name, adapter) in every_adapter() {
        assert_same(&name, &|| tiny_llama(&cpu()), &adapter, &TrainSettings { steps: 3, ..recipe() });
    }
}

#[test]
fn ranks_give_the_bits_of_one_process_with_every_optimizer_and_steps_of_their_own() {
    for optimizer in [OptimizerKind::AdamW, OptimizerKind::Adam, OptimizerKind::Sgd] {
        for exchange_every in [1, 3] {
            let recipe = TrainSettings { optimizer, momentum: 0.9, exchange_every, ..recipe() };
            assert_same(&format!("{optimizer:?} {exchange_every}"), &|| tiny_vit(&cpu()), &nola(), &recipe);
        }
    }
}

/// Keeps the steps after which a state is saved, where that is due after the third step alone.
struct SavesAfterThird(Vec<usize>);

impl<M: TestModel> Observer<M> for SavesAfterThird {
    fn stepped(&mut self, _report: StepReport) {}

    fn evaluate(&mut self, _step: usize, _model: &M) -> Result<f64, Error> {
        Ok(0.0)
    }

    fn is_save_due(&mut self, done: usize) -> bool {
        done == 3
    }

    fn save(&mut self, state: TrainingState) {
        self.0.push(state.step);
    }
}

#[test]
fn a_checkpoint_that_is_due_between_two_exchanges_is_kept_after_the_next() {
    let recipe = TrainSettings { exchange_every: 4, evaluate_every: Period::NEVER, ..recipe() };
    let tiny = tiny_vit(&cpu());
    let shard = |step, index| Shard { index, passes: Vit::passes(step, index, &tiny.device) };
    let steps =
        (0..recipe.steps).map(|step| Ok(StepPasses((0..SHARDS).map(|index| shard(step, index)).collect())));
    let mut saved = SavesAfterThird(Vec::new());
    let model = tiny.adapted(&nola());
    train_across(&Ranks::default(), Start::Beginning, model, &recipe, steps, &mut saved)
        .expect("finite losses");
    assert_eq!(saved.0, [4]);
}

/// The loss and the trained values after a step of plain gradient descent in so many shards, all passes in one where it is one.
fn one_step(shards: usize) -> (f32, Vec<f32>) {
    let tiny = tiny_gpt2(&cpu());
    let recipe = TrainSettings {
        steps: 1,
        shards: Some(shards),
        optimizer: OptimizerKind::Sgd,
        schedule: ScheduleKind::Constant,
        learning_rate: 0.1,
        ..TrainSettings::default()
    };
    let ranks = Ranks::default();
    let mut seen =
        Recorder { ranks: &ranks, batch: tiny.batch.clone(), reports: Vec::new(), states: Vec::new() };
    let passes = |shard| CausalLm::passes(0, shard, &tiny.device);
    let trained = if shards == 1 {
        let all = Ok((0..SHARDS).flat_map(passes).collect());
        train_from(Start::Beginning, tiny.adapted(&nola()), &recipe, std::iter::once(all), &mut seen)
    } else {
        let all = StepPasses((0..shards).map(|index| Shard { index, passes: passes(index) }).collect());
        let (model, steps) = (tiny.adapted(&nola()), std::iter::once(Ok(all)));
        train_across(&ranks, Start::Beginning, model, &recipe, steps, &mut seen)
    };
    let state = trained.expect("a finite loss").last.state();
    let values = state.into_values().flat_map(|data| data.iter::<f32>().collect::<Vec<_>>()).collect();
    (seen.reports[0].loss, values)
}

#[test]
fn a_step_in_shards_is_that_of_all_its_passes_whatever_targets_they_have() {
    let ((loss, values), (in_shards, values_in_shards)) = (one_step(1), one_step(SHARDS));
    assert!((loss - in_shards).abs() < 1e-5, "{loss} and {in_shards}");
    let close = |(one, other): (&f32, &f32)| (one - other).abs() < 1e-5;
    assert!(values.iter().zip(&values_in_shards).all(close));
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks_to_the_same_bits() {
    for exchange_every in [1, 2] {
        let recipe = TrainSettings { exchange_every, ..recipe() };
        let from = |ranks: &Ranks, start: Start| {
            let tiny = tiny_llama(&cpu());
            bits(&run(ranks, &tiny, tiny.adapted(&nola()), &recipe, start, &|_, _| Ok(())))
        };
        let whole = as_ranks(2, LONG, |ranks| from(&ranks, Start::Beginning)).swap_remove(0);
        let (reports, states, best_step) = &whole;
        let halfway = &states[1];
        for count in [1, SHARDS] {
            for found in as_ranks(count, LONG, |ranks| from(&ranks, Start::At(Box::new(halfway.clone())))) {
                assert_eq!(found.0, reports[halfway.step..], "on {count} ranks");
                assert!(found.1 == states[2..] && found.2 == *best_step, "on {count} ranks");
            }
        }
    }
}
