//! Whether a device computes as the CPU does: training steps of small adapted models, through the kernels that real runs use.

use burn::tensor::Device;
use nola_core::AdapterConfig;
use nola_core::adapter::NolaConfig;
use nola_core::basis::Distribution;
use nola_models::{CausalLm, WeightDtype};

use super::differences::{Bound, Differences, Part};
use super::small_models::{gpt2, llama, texts};
use super::steps::{attached, factors, two_steps};

/// Largest difference from the CPU, as a part of the largest number of its kind.
pub(crate) const TOLERANCE: f32 = 1e-3;

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
        let differences = Differences::of(&found.numbers, &expected.numbers, Bound::OfLargest(TOLERANCE));
        if let Some(problem) = differences.problem(&expected.what) {
            return Err(format!("it computes otherwise than the CPU: {problem}"));
        }
    }
    Ok(())
}

/// What two training steps give, with either distribution of the basis and in either kind of language model.
fn computed(device: &Device) -> Vec<Part> {
    let device = device.clone().autodiff();
    let of_llama = trained(llama(WeightDtype::F32, &device), Distribution::Uniform, &device);
    let of_gpt2 = trained(gpt2(WeightDtype::F32, &device), Distribution::Sign, &device);
    [of_llama, of_gpt2].concat()
}

fn trained(model: CausalLm, basis: Distribution, device: &Device) -> Vec<Part> {
    let nola = NolaConfig { rank: 3, k: 24, l: Some(20), basis, ..NolaConfig::default() };
    let model = attached(model, &AdapterConfig::Nola(nola), &[], device);
    let stepped = two_steps(model, texts(device), 0.5);
    vec![
        Part::new("the coefficients after two training steps", stepped.trained()),
        Part::new("the factors regenerated from these coefficients", factors(&stepped.model.model)),
        Part::new("the losses of a small model", stepped.losses),
    ]
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
                assert!(error.contains(&right[index].what) && error.contains("1 of"), "{error}");
            }
        }
    }
}
