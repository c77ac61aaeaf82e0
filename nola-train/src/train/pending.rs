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
    /// Steps of which the observer was told.
    pub(super) told: usize,
    first_gradients: FirstGradients,
}

impl PendingSteps {
    /// Of a run of which the observer knows the steps before.
    pub(super) fn after(told: usize, recipe: &TrainSettings) -> Self {
        let first_gradients = FirstGradients::of(recipe.steps);
        Self { steps: Vec::new(), last_read: None, told, first_gradients }
    }

    pub(super) fn is_due(&self) -> bool {
        self.last_read.is_none_or(|last| last.elapsed() >= BETWEEN_READS)
    }

    /// Waits for the device, once for all steps, and tells of each up to the first with something non-finite.
    pub(super) fn tell<M: ModelWithLoss>(
        &mut self,
        optimizer: &Optimizer,
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
            if measured.step == 0 && !loss.is_finite() {
                // Nothing was trained yet: it is the base that overflows.
                return Err(Error::NonFiniteAnswer {
                    value: loss,
                    what: "the data of the first step".to_owned(),
                });
            }
            if !loss.is_finite() || !gradient_norm.is_finite() {
                return Err(Error::Diverged { step, loss });
            }
            self.first_gradients.count(measured.step, gradient_norm)?;
            let (learning_rate, targets) = (optimizer.rate(measured.step), measured.targets);
            observer.stepped(StepReport { step, loss, gradient_norm, learning_rate, targets });
            self.told = step;
        }
        self.last_read = Some(Instant::now());
        Ok(())
    }
}
