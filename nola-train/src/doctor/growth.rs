//! Whether memory grows while the same step is repeated.

use burn::tensor::Device;
use nola_core::AdapterConfig;
use nola_core::adapter::NolaConfig;
use nola_models::{CausalLm, WeightDtype};
use serde::Serialize;

use crate::bench::machine::used_mib;
use crate::device::small_models::{gpt2, texts};
use crate::device::steps::{Gradients, Stepping, attached};

/// Steps after which memory is looked at: pools and caches fill in the first ones.
const LOOKED_AFTER: [usize; 3] = [20, 40, 60];
/// All steps.
pub(super) const STEPS: usize = LOOKED_AFTER[2];
/// What memory may grow by in twenty steps: less than one of them takes.
const ALLOWED_MIB: f64 = 4.0;

/// How memory grew in twenty steps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Growth {
    pub(super) steps: usize,
    /// Of the last two times twenty steps the smaller growth, in MiB; null where nobody says.
    pub(super) mib: Option<f64>,
    pub(super) allowed_mib: f64,
}

impl Growth {
    /// Repeats a training step of a small model.
    pub(super) fn on(device: &Device) -> Self {
        let there = device.clone().autodiff();
        let nola: AdapterConfig = NolaConfig { rank: 2, k: 20, ..NolaConfig::default() }.into();
        let model = attached(gpt2(WeightDtype::F32, &there), &nola, &[], &there);
        let mut stepping = Stepping::<CausalLm>::new(model, texts(&there), 0.01);
        let mut used = Vec::new();
        for step in 0..STEPS {
            stepping.step(step, Gradients::Forgotten);
            if LOOKED_AFTER.contains(&(step + 1)) {
                used.extend(used_mib(device));
            }
        }
        // What is taken only once is no leak.
        let mib = used.windows(2).map(|pair| pair[1] - pair[0]).reduce(f64::min);
        Self { steps: STEPS, mib, allowed_mib: ALLOWED_MIB }
    }

    /// What is wrong, if it grew by too much.
    pub(super) fn problem(&self) -> Option<String> {
        let mib = self.mib.filter(|mib| *mib > self.allowed_mib)?;
        Some(format!(
            "memory grows: by {mib:.1} MiB in twenty training steps, of which {:.1} MiB are expected at most",
            self.allowed_mib
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_beyond_what_is_allowed_is_a_problem_with_both_numbers() {
        let of = |mib| Growth { steps: STEPS, mib, allowed_mib: 4.0 }.problem();
        assert_eq!([None, Some(-1.0), Some(4.0)].map(of), [None, None, None]);
        let problem = of(Some(4.5)).expect("it grows");
        assert!(problem.contains("by 4.5 MiB") && problem.contains("4.0 MiB are expected"), "{problem}");
    }
}
