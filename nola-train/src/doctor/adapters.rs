//! Small models of each kind with every adapter: losses, gradients and what two training steps leave.

use burn::module::Module;
use burn::tensor::Device;
use nola_core::AdapterConfig;
use nola_core::adapter::NolaConfig;
use nola_core::weight::Quantization;
use nola_models::{Precision, WeightDtype};
use serde_json::Value;

use super::check::Comparison;
use crate::device::TOLERANCE;
use crate::device::differences::Bound;
use crate::device::small_models::{Kind, gpt2, images, llama, texts, vit};
use crate::device::steps::{attached, two_steps};
use crate::model_with_loss::ModelWithLoss;

/// The kinds of models.
pub(super) const KINDS: [Kind; 3] = Kind::ALL;
/// Learning rate of the steps.
pub(super) const LEARNING_RATE: f64 = 0.05;
/// How far losses in half precision may be from those in f32, as a part of them.
const IN_HALF_PRECISION: f32 = 0.03;
/// How far losses over weights in few bits may be from those in f32, as a part of them.
const IN_FEW_BITS: f32 = 0.1;
/// Numbers from a machine on which all golden values were met: see [`Learned::summary`]. `oracle` proves them in f64.
pub(super) const RECORDED: &str = include_str!("recorded.json");

/// What two training steps of a small model make.
struct Learned {
    losses: Vec<f32>,
    /// Of the second step.
    gradients: Vec<f32>,
    /// What was trained, after both.
    trained: Vec<f32>,
    /// The output of the last norm, after both.
    outputs: Vec<f32>,
}

impl Learned {
    fn of(kind: Kind, adapter: &AdapterConfig, precision: impl Into<Precision>, device: &Device) -> Self {
        let (precision, device) = (precision.into(), &device.clone().autodiff());
        match kind {
            Kind::Vit => Self::with(vit(precision, device), &images(device), &["head"], adapter, device),
            Kind::Gpt2 => Self::with(gpt2(precision, device), &texts(device), &[], adapter, device),
            Kind::Llama => Self::with(llama(precision, device), &texts(device), &[], adapter, device),
        }
    }

    fn with<M: ModelWithLoss>(
        model: M,
        batch: &M::Batch,
        beside: &[&str],
        adapter: &AdapterConfig,
        device: &Device,
    ) -> Self
    where
        M::Batch: Clone,
    {
        let stepped = two_steps(attached(model, adapter, beside, device), batch.clone(), LEARNING_RATE);
        let model = Module::valid(&stepped.model).model;
        let outputs = model.normed(model.blocks(batch)).into_data().iter::<f32>().collect();
        let trained = stepped.trained();
        Self { losses: stepped.losses, gradients: stepped.gradients, trained, outputs }
    }

    /// The losses, and of everything else its length and its product with a wave.
    fn summary(&self) -> Vec<f32> {
        let others = [&self.gradients, &self.trained, &self.outputs].map(|values| length_and_product(values));
        self.losses.iter().copied().chain(others.into_iter().flatten()).collect()
    }
}

fn length_and_product(values: &[f32]) -> [f32; 2] {
    let (mut square, mut product) = (0.0, 0.0);
    for (n, &value) in values.iter().enumerate() {
        square += f64::from(value).powi(2);
        product += f64::from(value) * (n as f64 * 1.3).sin();
    }
    [square.sqrt() as f32, product as f32]
}

/// Every adapter, small.
pub(super) fn adapters() -> Vec<AdapterConfig> {
    let mut all = AdapterConfig::every();
    for adapter in &mut all {
        adapter.method_mut().set_rank(2);
        adapter.method_mut().set_seed(5);
    }
    all
}

/// What the CPU computes with every adapter beside what was recorded.
pub(super) fn beside_recorded(kind: Kind, device: &Device) -> Vec<Comparison> {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap_or_default();
    let compared = |adapter: &AdapterConfig| {
        let found = Learned::of(kind, adapter, WeightDtype::F32, device).summary();
        let numbers = recorded[kind.name()][adapter.kind()].as_array().cloned().unwrap_or_default();
        let expected: Vec<f32> =
            numbers.iter().filter_map(Value::as_f64).map(|number| number as f32).collect();
        in_parts(adapter.kind(), &found, &expected)
    };
    adapters().iter().flat_map(compared).collect()
}

/// Each part of a summary has a size of its own.
fn in_parts(adapter: &str, found: &[f32], expected: &[f32]) -> Vec<Comparison> {
    let parts = ["losses", "gradients", "trained values", "outputs"];
    let part = |numbers: &[f32], n: usize| numbers.chunks(2).nth(n).unwrap_or_default().to_vec();
    let compared = |(n, what): (usize, &str)| {
        let [found, expected] = [found, expected].map(|numbers| part(numbers, n));
        Comparison::new(format!("the {what} with {adapter}"), found, expected, Bound::OfLargest(TOLERANCE))
    };
    parts.into_iter().enumerate().map(compared).collect()
}

/// What a device computes with every adapter beside the CPU.
pub(super) fn beside_cpu(kind: Kind, device: &Device, cpu: &Device) -> Vec<Comparison> {
    let compared = |adapter: &AdapterConfig| {
        let [found, expected] =
            [device, cpu].map(|device| Learned::of(kind, adapter, WeightDtype::F32, device));
        let bound = Bound::OfLargest(TOLERANCE);
        let compare = |what: &str, found, expected| {
            Comparison::new(format!("the {what} with {}", adapter.kind()), found, expected, bound)
        };
        [
            compare("losses", found.losses, expected.losses),
            compare("gradients", found.gradients, expected.gradients),
            compare("trained values", found.trained, expected.trained),
            compare("outputs", found.outputs, expected.outputs),
        ]
    };
    adapters().iter().flat_map(compared).collect()
}

/// Losses of language models whose weights are stored in half precision beside those of the CPU in f32.
pub(super) fn in_half_precision(device: &Device, cpu: &Device) -> Vec<Comparison> {
    let nola: AdapterConfig = NolaConfig { rank: 2, k: 20, ..NolaConfig::default() }.into();
    let halves =
        [WeightDtype::Bf16, WeightDtype::F16].into_iter().filter(|dtype| dtype.is_supported_by(device));
    let compared = |dtype: WeightDtype| {
        [Kind::Gpt2, Kind::Llama].map(|kind| {
            let found = Learned::of(kind, &nola, dtype, device).losses;
            let expected = Learned::of(kind, &nola, WeightDtype::F32, cpu).losses;
            let what = format!("the losses of {} with weights in {dtype}", kind.name());
            Comparison::new(what, found, expected, Bound::OfLargest(IN_HALF_PRECISION))
        })
    };
    halves.flat_map(compared).collect()
}

/// Losses over weights in few bits: those of a GPU beside those of the CPU, which has the same weights, and those of the CPU beside
/// its own in f32.
pub(super) fn in_few_bits(device: &Device, cpu: &Device, reference: Reference) -> Vec<Comparison> {
    let nola: AdapterConfig = NolaConfig { rank: 2, k: 20, ..NolaConfig::default() }.into();
    let compared = |quantization: Quantization| {
        [Kind::Gpt2, Kind::Llama].map(|kind| {
            let packed = Precision::of(WeightDtype::F32, Some(quantization));
            let found = Learned::of(kind, &nola, packed, device).losses;
            let (expected, bound) = match reference {
                Reference::SameWeights => (Learned::of(kind, &nola, packed, cpu).losses, TOLERANCE),
                Reference::DenseWeights => {
                    (Learned::of(kind, &nola, WeightDtype::F32, cpu).losses, IN_FEW_BITS)
                }
            };
            let what = format!("the losses of {} with weights in {quantization}", kind.name());
            Comparison::new(what, found, expected, Bound::OfLargest(bound))
        })
    };
    Quantization::ALL.into_iter().flat_map(compared).collect()
}

/// What losses over weights in few bits are compared with, on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reference {
    /// Those over the same weights.
    SameWeights,
    /// Those over weights that were not quantised.
    DenseWeights,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Map;

    use super::*;

    /// What is recorded, computed anew.
    fn recorded_now() -> Value {
        let of_kind = |kind: Kind| {
            let of_adapter = |adapter: &AdapterConfig| {
                let summary = Learned::of(kind, adapter, WeightDtype::F32, &Device::flex()).summary();
                (adapter.kind().to_owned(), summary.into())
            };
            (kind.name().to_owned(), Value::Object(adapters().iter().map(of_adapter).collect::<Map<_, _>>()))
        };
        Value::Object(KINDS.into_iter().map(of_kind).collect())
    }

    #[test]
    fn the_cpu_computes_what_was_recorded() {
        if std::env::var_os("NOLA_WRITE_DOCS").is_some() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/doctor/recorded.json");
            let text = serde_json::to_string_pretty(&recorded_now()).expect("numbers");
            std::fs::write(path, text + "\n").expect("a file that can be written");
            return;
        }
        for kind in KINDS {
            let problems: Vec<String> = beside_recorded(kind, &Device::flex())
                .into_iter()
                .filter_map(|comparison| comparison.checked(kind.name()).problem())
                .collect();
            assert!(
                problems.is_empty(),
                "{problems:?}; if that is meant, write them again with `NOLA_WRITE_DOCS=1 cargo test -p nola-train --lib \
                 doctor::adapters` on a machine that meets the golden values"
            );
        }
    }

    #[test]
    fn every_part_moves_and_holds_numbers() {
        for kind in KINDS {
            for adapter in adapters() {
                let learned = Learned::of(kind, &adapter, WeightDtype::F32, &Device::flex());
                let parts = [&learned.losses, &learned.gradients, &learned.trained, &learned.outputs];
                for part in parts {
                    let moves = part.windows(2).any(|pair| pair[0] != pair[1]);
                    assert!(
                        moves && part.iter().all(|number| number.is_finite()),
                        "{}: {part:?}",
                        adapter.kind()
                    );
                }
            }
        }
    }

    #[test]
    fn one_wrong_number_of_any_part_is_found_and_named() {
        let cpu = Device::flex();
        let right = beside_cpu(Kind::Llama, &cpu, &cpu);
        assert_eq!(right.len(), 4 * AdapterConfig::KINDS.len());
        for comparison in right {
            assert_eq!(comparison.clone().checked("llama").problem(), None);
            let mut wrong = comparison;
            wrong.found[1] = f32::NAN;
            let what = wrong.what.clone();
            let problem = wrong.checked("llama").problem().expect("it is wrong");
            assert!(problem.starts_with("llama: 1 of ") && problem.contains(&what), "{problem}");
        }
    }

    #[test]
    fn few_bits_are_near_and_not_the_same() {
        for comparison in in_few_bits(&Device::flex(), &Device::flex(), Reference::DenseWeights) {
            assert_ne!(comparison.found, comparison.expected, "{}", comparison.what);
            assert_eq!(comparison.checked("few bits").problem(), None);
        }
    }

    #[test]
    fn half_precision_is_near_and_not_the_same() {
        let cpu = Device::flex();
        for comparison in in_half_precision(&cpu, &cpu) {
            assert_ne!(comparison.found, comparison.expected, "{}", comparison.what);
            assert_eq!(comparison.checked("half precision").problem(), None);
        }
    }
}
