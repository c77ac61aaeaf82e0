//! Training curves of the fixtures: AdamW steps, followed loss by loss.

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::Tensor;
use nola_core::Adapted;
use serde_json::Value;

use crate::devices::values;

/// Trains `model` as `curve` says; calls `check` with the steps made, the loss found and the golden one.
///
/// Betas and epsilon that `curve` leaves out are those of the fixtures' README.
pub fn follow<M: Module>(
    curve: &Value,
    mut model: Adapted<M>,
    loss: impl Fn(&Adapted<M>) -> Tensor<1>,
    check: impl Fn(usize, f32, f64),
) -> Adapted<M> {
    let or = |value: &Value, default: f64| value.as_f64().unwrap_or(default);
    let required = |value: &Value| value.as_f64().expect("a number");
    let mut optimizer = AdamWConfig::new()
        .with_beta_1(or(&curve["betas"][0], 0.9) as f32)
        .with_beta_2(or(&curve["betas"][1], 0.999) as f32)
        .with_epsilon(or(&curve["eps"], 1e-8) as f32)
        .with_weight_decay(required(&curve["weight_decay"]) as f32)
        .init();
    let losses = curve["losses"].as_array().expect("a list of losses");
    for (steps, golden) in losses.iter().enumerate() {
        let found = loss(&model);
        check(steps, values(found.clone())[0], required(golden));
        if steps + 1 < losses.len() {
            let gradients = GradientsParams::from_grads(found.backward(), &model);
            let gradients = model.project(gradients);
            model = optimizer.step(required(&curve["lr"]), model, gradients).expand();
        }
    }
    model
}
