//! Steps that the device may still work on.

use std::time::{Duration, Instant};

use burn::tensor::Tensor;

use super::first_gradients::FirstGradients;
use super::gradients::Measured;
use super::optimizer::Optimizer;
use super::{Observer, StepReport};
use crate::Error;
use crate::model_with_loss::ModelWithLoss;
use crate::settings::TrainSettings;

/// Shortest time between two readings of losses from the device, which make the loop wait for it.
const BETWEEN_READS: Duration = Duration::from_millis(200);

/// Steps whose losses are still on the device, and how far the observer knows.
pub(super) struct PendingSteps {
    pub(super) steps: Vec<Measured>,
    last_read: Option<Instant>,
    pub(super) reported: Reported,
    first_gradients: FirstGradients,
}

/// What was reported to the observer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reported {
    /// Steps.
    pub(super) steps: usize,
    /// Those of them that were not skipped, as far as that is known.
    pub(super) updates: usize,
}

impl PendingSteps {
    /// Of a run of which the observer knows `steps` before, the last ones of which were `skipped`.
    pub(super) fn after(steps: usize, skipped: usize, recipe: &TrainSettings) -> Self {
        let reported = Reported { steps, updates: steps - skipped };
        let first_gradients = FirstGradients::of(recipe.steps);
        Self { steps: Vec::new(), last_read: None, reported, first_gradients }
    }

    /// Whether it is time to read, or the last step was skipped, which is known already.
    pub(super) fn is_due(&self) -> bool {
        let is_skipped = self.steps.last().is_some_and(|step| step.skipped > 0);
        is_skipped || self.last_read.is_none_or(|last| last.elapsed() >= BETWEEN_READS)
    }

    /// Waits for the device, once for all steps, and reports each up to the first with something non-finite that is not
    /// to be skipped.
    pub(super) fn report<M: ModelWithLoss>(
        &mut self,
        optimizer: &Optimizer,
        recipe: &TrainSettings,
        observer: &mut impl Observer<M>,
    ) -> Result<(), Error> {
        let steps = std::mem::take(&mut self.steps);
        let numbers: Vec<Tensor<1>> =
            steps.iter().flat_map(|step| [step.loss.clone(), step.gradient_norm.clone()]).collect();
        if numbers.is_empty() {
            return Ok(());
        }
        let numbers: Vec<f32> = Tensor::cat(numbers, 0).into_data().iter().collect();
        for (measured, numbers) in steps.iter().zip(numbers.chunks_exact(2)) {
            let (step, loss, gradient_norm) = (measured.step + 1, numbers[0], f64::from(numbers[1]));
            let (learning_rate, targets) = (optimizer.rate(measured.step), measured.targets);
            let report = StepReport { step, loss, gradient_norm, learning_rate, targets };
            let is_finite = loss.is_finite() && gradient_norm.is_finite();
            if is_finite {
                self.first_gradients.count(measured.step, gradient_norm)?;
                observer.stepped(report);
                self.reported.updates += 1;
            } else if (1..=recipe.max_skipped).contains(&measured.skipped) {
                observer.skipped(report);
            } else {
                return Err(non_finite(&report, measured.skipped.saturating_sub(1), observer));
            }
            self.reported.steps = step;
        }
        self.last_read = Some(Instant::now());
        Ok(())
    }
}

/// Why a run ends with this step, right before which `skipped` steps were skipped.
fn non_finite<M: ModelWithLoss>(report: &StepReport, skipped: usize, observer: &impl Observer<M>) -> Error {
    let (step, loss, samples) = (report.step, report.loss, observer.samples_of_step(report.step));
    if step == 1 && !loss.is_finite() {
        // Nothing was trained yet: it is the base that overflows.
        return Error::NonFiniteAnswer { value: loss, what: format!("the data of the first step{samples}") };
    }
    Error::Diverged { step, loss, samples, skipped }
}
