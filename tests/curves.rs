//! Training curves of the fixtures: AdamW steps of the program's own optimizer, followed loss by loss.

use burn::module::{Module, ModuleDisplay};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use nola_core::Adapted;
use nola_train::settings::{OptimizerKind, ScheduleKind, TrainSettings};
use nola_train::train::Optimizer;
use serde_json::Value;

use crate::devices::values;

/// Trains `model` as `curve` says; calls `check` with the steps made, the loss found and the golden one.
///
/// Betas and epsilon that `curve` leaves out are those of the fixtures' README.
pub fn follow<M: Module + ModuleDisplay>(
    curve: &Value,
    mut model: Adapted<M>,
    loss: impl Fn(&Adapted<M>) -> Tensor<1>,
    check: impl Fn(usize, f32, f64),
) -> Adapted<M> {
    let mut optimizer = Optimizer::new(&settings(curve), &model);
    let losses = curve["losses"].as_array().expect("a list of losses");
    for (step, golden) in losses.iter().enumerate() {
        let found = loss(&model);
        check(step, values(found.clone())[0], required(golden));
        if step + 1 < losses.len() {
            let gradients = GradientsParams::from_grads(found.backward(), &model);
            let gradients = model.project(gradients);
            model = optimizer.step(step, model, gradients).expand();
        }
    }
    model
}

/// The optimizer of `curve`, which decays nothing unless it says so.
pub fn settings(curve: &Value) -> TrainSettings {
    let or = |value: &Value, default: f64| value.as_f64().unwrap_or(default);
    TrainSettings {
        optimizer: OptimizerKind::AdamW,
        learning_rate: required(&curve["lr"]),
        schedule: ScheduleKind::Constant,
        weight_decay: Some(or(&curve["weight_decay"], 0.0)),
        betas: [or(&curve["betas"][0], 0.9), or(&curve["betas"][1], 0.999)],
        eps: or(&curve["eps"], 1e-8),
        ..TrainSettings::default()
    }
}

fn required(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}
