//! The recorded numbers beside an oracle that shares nothing with what made them: plain loops in f64 over the merged weights, and
//! differences of losses in place of gradients.

mod forward;

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, TensorData};
use nola_core::{Adapted, AdapterConfig, TrainedState, float_params, read_params};
use nola_models::WeightDtype;
use serde_json::Value;

use super::adapters::{KINDS, LEARNING_RATE, RECORDED, adapters};
use crate::device::TOLERANCE;
use crate::device::small_models::{Kind, gpt2, images, llama, texts, vit};
use crate::device::steps::{Gradients, Stepping, attached};
use crate::model_with_loss::ModelWithLoss;
use forward::{Computed, Oracle, Weights};

/// Its loss is also the distance from its teacher, which no merged model has.
const DISTILLED: &str = "pc-lora";
/// Its gradient takes the lengths of the columns as constants, so it is not quite that of the loss.
const DETACHED: &str = "dora";
/// Length of the step in what is trained by which a gradient is measured.
const STEP: f64 = 1e-2;
/// Largest difference of a loss or an output, as a part of it: what f32 loses over a few products.
const ROUNDING: f64 = 1e-4;

/// What two training steps went through, and what the oracle says to it.
struct Walk<'a, M: ModelWithLoss> {
    adapted: Adapted<M>,
    /// Before, between and after the two steps.
    states: [TrainedState; 3],
    oracle: &'a Oracle,
}

impl<'a, M: ModelWithLoss> Walk<'a, M>
where
    M::Batch: Clone,
{
    fn of(adapted: Adapted<M>, batch: M::Batch, oracle: &'a Oracle) -> Self {
        let mut stepping = Stepping::new(adapted.clone(), batch, LEARNING_RATE);
        let mut after = |step: usize| {
            stepping.step(step, Gradients::Forgotten);
            stepping.model().state()
        };
        let states = [adapted.state(), after(0), after(1)];
        Self { adapted, states, oracle }
    }

    /// What the model with these trained values computes.
    fn computed(&self, state: &TrainedState) -> Computed {
        let adapted = self.adapted.clone().with_state(state.clone()).expect("its own names");
        self.oracle.computed(&weights(&adapted.merge().expect("it has a place for everything")))
    }

    /// How the loss grows from a state on in a direction, for each unit of its length.
    fn slope(&self, state: &TrainedState, direction: &[f64]) -> f64 {
        let unit = STEP / length(direction);
        let at = |sign: f64| self.computed(&moved(state, direction, sign * unit)).loss;
        (at(1.0) - at(-1.0)) / (2.0 * STEP)
    }
}

/// The weights of a model, by path.
fn weights<M: Module>(model: &M) -> Weights {
    let params = float_params(model);
    let ids: Vec<_> = params.iter().map(|param| param.id).collect();
    let mut values = read_params(model, &ids);
    let mut named = BTreeMap::new();
    for param in params {
        let values = values.remove(&param.id).expect("it was asked for");
        named.insert(param.path, values.iter::<f32>().map(f64::from).collect());
    }
    Weights(named)
}

/// All trained values, in the order of their names.
fn line(state: &TrainedState) -> Vec<f64> {
    state.values().flat_map(|data| data.iter::<f32>().map(f64::from).collect::<Vec<f64>>()).collect()
}

/// The state `scale` times a direction further.
fn moved(state: &TrainedState, direction: &[f64], scale: f64) -> TrainedState {
    let mut rest = direction.iter();
    let mut moved = state.clone();
    for data in moved.values_mut() {
        let values =
            data.iter::<f32>().zip(&mut rest).map(|(value, way)| (f64::from(value) + scale * way) as f32);
        let values: Vec<f32> = values.collect();
        *data = TensorData::new(values, data.shape());
    }
    moved
}

fn length(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn product(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

fn difference(left: &[f64], right: &[f64]) -> Vec<f64> {
    left.iter().zip(right).map(|(left, right)| left - right).collect()
}

/// The wave that recorded products are made with.
fn wave(count: usize) -> Vec<f64> {
    (0..count).map(|n| (n as f64 * 1.3).sin()).collect()
}

fn assert_near(what: &str, found: f64, expected: f64, allowed: f64) {
    assert!((found - expected).abs() <= allowed, "{what}: {found}, expected {expected} to {allowed}");
}

/// Losses, outputs and the length of the gradient as they were recorded, and every trained value's way.
fn check<M: ModelWithLoss>(name: &str, walk: &Walk<M>, recorded: &[f64])
where
    M::Batch: Clone,
{
    let [first, second, last] = &walk.states;
    for (step, (state, loss)) in [first, second].into_iter().zip(recorded).enumerate() {
        assert_near(&format!("{name}: loss {step}"), walk.computed(state).loss, *loss, ROUNDING * loss);
    }
    let outputs = walk.computed(last).outputs;
    let size = length(&outputs);
    assert_near(&format!("{name}: length of the outputs"), size, recorded[6], ROUNDING * size);
    let waved = product(&outputs, &wave(outputs.len()));
    assert_near(&format!("{name}: product of the outputs"), waved, recorded[7], ROUNDING * size);

    if name.ends_with(DETACHED) {
        return;
    }
    let tolerance = f64::from(TOLERANCE);
    let [before, between, after] = walk.states.each_ref().map(line);
    // The second step goes down its gradient, whose length is the slope there.
    let step = difference(&after, &between);
    let slope = walk.slope(second, &step);
    assert_near(&format!("{name}: slope along the step"), -slope, recorded[2], 2.0 * tolerance * recorded[2]);
    let walked = length(&step) / LEARNING_RATE;
    assert_near(&format!("{name}: length of the step"), walked, recorded[2], tolerance * recorded[2]);
    // And both steps together end where the slopes along a wave say.
    let wave = wave(before.len());
    let slopes = walk.slope(first, &wave) + walk.slope(second, &wave);
    let found = product(&difference(&after, &before), &wave) / length(&wave);
    let sizes = length(&difference(&between, &before)) + length(&step);
    assert_near(
        &format!("{name}: way along a wave"),
        found,
        -LEARNING_RATE * slopes,
        2.0 * tolerance * sizes,
    );
    let size = length(&after);
    assert_near(&format!("{name}: length of what is trained"), size, recorded[4], tolerance * size);
}

fn of_kind(kind: Kind, adapter: &AdapterConfig, recorded: &[f64]) {
    let device = &Device::flex().autodiff();
    let name = format!("{} with {}", kind.name(), adapter.kind());
    match kind {
        Kind::Vit => {
            let (batch, model) = (images(device), vit(WeightDtype::F32, device));
            let oracle = Oracle::of_images(&batch);
            check(&name, &Walk::of(attached(model, adapter, &["head"], device), batch, &oracle), recorded);
        }
        Kind::Gpt2 | Kind::Llama => {
            let batch = texts(device);
            let (model, oracle) = match kind {
                Kind::Gpt2 => (gpt2(WeightDtype::F32, device), Oracle::gpt2(&batch)),
                Kind::Vit | Kind::Llama => (llama(WeightDtype::F32, device), Oracle::llama(&batch)),
            };
            check(&name, &Walk::of(attached(model, adapter, &[], device), batch, &oracle), recorded);
        }
    }
}

#[test]
fn what_was_recorded_is_what_plain_loops_in_f64_and_differences_of_losses_give() {
    let recorded: Value = serde_json::from_str(RECORDED).expect("JSON");
    for kind in KINDS {
        for adapter in adapters().iter().filter(|adapter| adapter.kind() != DISTILLED) {
            let numbers = recorded[kind.name()][adapter.kind()].as_array().expect("recorded numbers");
            let numbers: Vec<f64> = numbers.iter().filter_map(Value::as_f64).collect();
            of_kind(kind, adapter, &numbers);
        }
    }
}
