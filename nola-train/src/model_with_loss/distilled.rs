//! The loss of a student that is compared with its teacher, layer by layer.

use burn::tensor::{DType, Tensor};
use nola_core::features::{Layers, record_outputs};

use super::ModelWithLoss;

/// `share · loss + (1 - share) · difference`, where the difference is the mean over the outputs of all adapted layers and of
/// the model's last norm of their mean squared differences from those of the base without adapters, which sees the same batch
/// in a pass of its own.
///
/// # Shapes
/// - output: `[1]`
///
/// # Source
/// PC-LoRA (Hwang et al., 2024), the feature-based distillation.
pub fn distilled_loss<M: ModelWithLoss>(
    model: &M,
    batch: &M::Batch,
    label_smoothing: f64,
    share: f64,
) -> Tensor<1> {
    let teacher = model.valid();
    let (last, mut of_teacher) = record_outputs(Layers::Base, || teacher.normed(teacher.blocks(batch)));
    of_teacher.push(rows(last));
    let (tokens, mut of_student) = record_outputs(Layers::Adapted, || model.blocks(batch));
    of_student.push(rows(model.normed(tokens.clone())));
    let count = of_student.len() as f64;
    let differences = of_student.into_iter().zip(of_teacher).map(|(student, teacher)| {
        let difference = student - teacher.inner().autodiff();
        difference.cast(DType::F32).square().mean()
    });
    let sum = differences.reduce(|sum, difference| sum + difference).expect("the last norm at least");
    let task = model.loss_of(tokens, batch, label_smoothing);
    task.mul_scalar(share) + sum.mul_scalar((1.0 - share) / count)
}

/// # Shapes
/// - `tokens`: `[samples, tokens, d_model]`
/// - output: `[samples · tokens, d_model]`
fn rows(tokens: Tensor<3>) -> Tensor<2> {
    tokens.flatten(0, 1)
}
