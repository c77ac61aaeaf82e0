//! Whether a device computes as the CPU does: training steps of small adapted models, through the kernels that real runs use.

use std::ops::Range;
use std::path::Path;

use burn::tensor::Device;
use nola_core::adapter::NolaConfig;
use nola_core::basis::Distribution;
use nola_core::{Adapted, AdapterConfig, Targets, float_params, read_params};
use nola_models::{CausalLm, WeightDtype};
use serde_json::{Value, json};

use crate::model_with_loss::TextBatch;
use crate::optimizer::Optimizer;
use crate::recipe::{self, ScheduleKind, TrainRecipe};
use crate::text::{Sample, TokenBatch};
use crate::train::{measured_gradients, updated};

/// Largest difference from the CPU, as a part of the largest number of its kind.
const TOLERANCE: f32 = 1e-3;

/// At first only one factor of an adapter has a gradient; in the second step both have.
const STEPS: usize = 2;

/// Numbers of one kind, and the part of the program that made them.
#[derive(Debug, Clone, PartialEq)]
struct Part {
    what: &'static str,
    numbers: Vec<f32>,
}

/// Compares `device` with `cpu`.
///
/// # Errors
/// With what it computed wrongly.
pub(super) fn self_check(device: &Device, cpu: &Device) -> Result<(), String> {
    let found = std::panic::catch_unwind(|| computed(device))
        .map_err(|_| "two training steps of a small model failed on it".to_owned())?;
    compare(&found, &computed(cpu))
}

fn compare(found: &[Part], expected: &[Part]) -> Result<(), String> {
    for (found, expected) in found.iter().zip(expected) {
        let largest = expected.numbers.iter().fold(0.0_f32, |most, number| most.max(number.abs()));
        let differs = |(found, expected): &(&f32, &f32)| {
            let difference = (**found - **expected).abs();
            difference.is_nan() || difference > TOLERANCE * largest
        };
        let wrong = found.numbers.iter().zip(&expected.numbers).filter(differs).count();
        if wrong > 0 {
            let (count, what) = (expected.numbers.len(), expected.what);
            return Err(format!(
                "it computes wrongly: {wrong} of {count} numbers of {what} differ from the CPU's"
            ));
        }
    }
    Ok(())
}

/// What two training steps give, with either distribution of the basis and in either kind of model.
fn computed(device: &Device) -> Vec<Part> {
    let device = device.clone().autodiff();
    let models = [(llama(), Distribution::Uniform), (gpt2(), Distribution::Sign)];
    models.iter().flat_map(|(config, law)| trained(config, *law, &device)).collect()
}

fn llama() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 61, "max_position_embeddings": 32, "hidden_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 40,
        "initializer_range": 0.2,
    })
}

fn gpt2() -> Value {
    json!({
        "model_type": "gpt2", "vocab_size": 61, "n_positions": 32, "n_embd": 32, "n_layer": 1, "n_head": 2,
        "initializer_range": 0.2,
    })
}

fn trained(config: &Value, basis: Distribution, device: &Device) -> Vec<Part> {
    let nola = NolaConfig { rank: 3, k: 24, l: Some(20), basis, ..NolaConfig::default() };
    let targets = Targets::matching("query|value|up|down");
    let mut model = Adapted::attach(model(config, device), &AdapterConfig::Nola(nola), &targets, &[], device)
        .expect("the model has these layers");
    let recipe = TrainRecipe {
        steps: STEPS,
        optimizer: recipe::Optimizer::Sgd,
        learning_rate: 0.5,
        schedule: ScheduleKind::Constant,
        ..TrainRecipe::default()
    };
    let (passes, mut optimizer) = ([batch(device)], Optimizer::new(&recipe, &model));
    let mut losses = Vec::new();
    for step in 0..STEPS {
        let (gradients, mut measured) = measured_gradients(&model, &passes, &recipe, step);
        losses.push(measured.loss.clone().into_scalar::<f32>());
        model = updated(model, gradients, &mut measured, &recipe, &mut optimizer);
    }
    vec![
        Part { what: "the losses of a small model", numbers: losses },
        Part { what: "the coefficients after two training steps", numbers: coefficients(&model) },
        Part { what: "the factors regenerated from these coefficients", numbers: factors(&model) },
    ]
}

fn model(config: &Value, device: &Device) -> CausalLm {
    let model = CausalLm::uninitialized(config, Path::new("self-check"), device).expect("sizes that fit");
    model.with_fresh_weights(0, WeightDtype::F32)
}

/// Two texts of different lengths, of which most tokens are learned.
fn batch(device: &Device) -> TextBatch {
    let sample = |tokens: Range<u32>| Sample {
        trained: std::iter::once(2..tokens.len()).collect(),
        ids: tokens.map(|token| token * 7 % 61).collect(),
    };
    let samples = [sample(0..14), sample(20..30)];
    let rows: Vec<Vec<&Sample>> = samples.iter().map(|sample| vec![sample]).collect();
    TextBatch::new(&TokenBatch::of(&rows), device)
}

fn coefficients(model: &Adapted<CausalLm>) -> Vec<f32> {
    model.state().into_values().flat_map(|data| data.iter::<f32>().collect::<Vec<f32>>()).collect()
}

fn factors(model: &Adapted<CausalLm>) -> Vec<f32> {
    let params = float_params(&model.model);
    let ids: Vec<_> = params.iter().filter(|p| p.path.contains(".adapter.")).map(|p| p.id).collect();
    let values = read_params(&model.model, &ids);
    ids.iter().flat_map(|id| values[id].iter::<f32>().collect::<Vec<f32>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_passes_its_own_check() {
        assert_eq!(self_check(&Device::flex(), &Device::flex()), Ok(()));
    }

    #[test]
    fn every_part_moves_in_these_steps_and_holds_numbers() {
        for part in computed(&Device::flex()) {
            assert!(
                part.numbers.len() > 1 && part.numbers.iter().all(|number| number.is_finite()),
                "{part:?}"
            );
            assert!(part.numbers.windows(2).any(|pair| pair[0] != pair[1]), "{part:?}");
        }
    }

    #[test]
    fn one_wrong_number_of_any_part_is_found_and_named() {
        let right = computed(&Device::flex());
        for index in 0..right.len() {
            for wrong in [f32::NAN, 1e3] {
                let mut found = right.clone();
                found[index].numbers[1] = wrong;
                let error = compare(&found, &right).expect_err("one number is wrong");
                assert!(error.contains(right[index].what) && error.contains("1 of"), "{error}");
            }
        }
    }
}
