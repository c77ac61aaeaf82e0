//! What the training loop asks of a model.

mod distilled;
mod recompute;
mod text;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, Int, Tensor, TensorData};
use nola_models::{Stage, Vit};

pub use distilled::distilled_loss;
pub use recompute::recomputed_loss;
pub(crate) use text::TIED;
pub use text::{TextBatch, scored, targets_at_once};

use crate::data::HostBatch;

/// A model that scores a batch; the loop knows no more of it.
pub trait ModelWithLoss: Module + ModuleDisplay {
    /// What one pass sees, on the device.
    type Batch;

    /// What the first block gets.
    ///
    /// # Shapes
    /// - output: `[samples, tokens, d_model]`
    fn embeddings(&self, batch: &Self::Batch) -> Tensor<3>;

    /// The blocks, one by one.
    fn stages<'a>(&'a self, batch: &'a Self::Batch) -> Vec<Stage<'a>>;

    /// The output of the last block.
    ///
    /// # Shapes
    /// - output: `[samples, tokens, d_model]`
    fn blocks(&self, batch: &Self::Batch) -> Tensor<3> {
        self.stages(batch).iter().fold(self.embeddings(batch), |x, stage| stage(x))
    }

    /// The output of the last norm, given that of the last block; the same, if a later step has the last norm.
    ///
    /// # Shapes
    /// - `tokens`, output: `[samples, tokens, d_model]`
    fn normed(&self, tokens: Tensor<3>) -> Tensor<3>;

    /// Mean loss of a batch, given the output of the last block, in nats per target.
    ///
    /// # Shapes
    /// - `tokens`: `[samples, tokens, d_model]`
    /// - output: `[1]`
    fn loss_of(&self, tokens: Tensor<3>, batch: &Self::Batch, label_smoothing: f64) -> Tensor<1>;

    /// Mean loss of a batch, in nats per target.
    ///
    /// # Shapes
    /// - output: `[1]`
    fn loss(&self, batch: &Self::Batch, label_smoothing: f64) -> Tensor<1> {
        self.loss_of(self.blocks(batch), batch, label_smoothing)
    }

    /// A module that is the head too.
    fn tied_module(&self) -> Option<&'static str> {
        None
    }

    /// Targets in a batch, images or tokens with a loss: its weight among the passes of one step.
    fn targets(batch: &Self::Batch) -> usize;
}

/// Images with their labels, on the device.
#[derive(Debug, Clone)]
pub struct ImageBatch {
    /// `[samples, 3, height, width]`, normalised.
    pub pixels: Tensor<4>,
    /// `[samples]`.
    pub labels: Tensor<1, Int>,
}

impl ImageBatch {
    /// Moves a batch to `device`.
    pub fn new(batch: HostBatch, device: &Device) -> Self {
        let (samples, [height, width]) = (batch.len(), batch.size);
        Self {
            pixels: Tensor::from_data(TensorData::new(batch.pixels, [samples, 3, height, width]), device),
            labels: Tensor::from_data(TensorData::new(batch.labels, [samples]), device),
        }
    }
}

impl ModelWithLoss for Vit {
    type Batch = ImageBatch;

    fn embeddings(&self, batch: &ImageBatch) -> Tensor<3> {
        self.embeddings(batch.pixels.clone())
    }

    fn stages<'a>(&'a self, _batch: &'a ImageBatch) -> Vec<Stage<'a>> {
        self.stages()
    }

    fn normed(&self, tokens: Tensor<3>) -> Tensor<3> {
        self.normed(tokens)
    }

    fn loss_of(&self, tokens: Tensor<3>, batch: &ImageBatch, label_smoothing: f64) -> Tensor<1> {
        cross_entropy(self.classified(self.pooled(tokens)), batch.labels.clone(), label_smoothing)
    }

    fn targets(batch: &ImageBatch) -> usize {
        batch.labels.dims()[0]
    }
}

/// Mean cross-entropy in nats; `label_smoothing` is the probability spread evenly over all classes.
///
/// # Shapes
/// - `logits`: `[samples, classes]`
/// - `labels`: `[samples]`
/// - output: `[1]`
///
/// # Source
/// `torch.nn.functional.cross_entropy`.
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>, label_smoothing: f64) -> Tensor<1> {
    nola_models::cross_entropy(logits, labels, label_smoothing).mean()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(label_smoothing: f64) -> f32 {
        let device = Device::flex();
        let logits = Tensor::<2>::from_data([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]], &device);
        let labels = Tensor::<1, Int>::from_data([1, 0], &device);
        cross_entropy(logits, labels, label_smoothing).into_scalar()
    }

    #[test]
    fn it_is_the_loss_of_torch() {
        // torch.nn.functional.cross_entropy on the same numbers.
        assert!((loss(0.0) - 1.765_126_3).abs() < 1e-5, "{}", loss(0.0));
    }

    #[test]
    fn smoothing_is_that_of_torch() {
        assert!((loss(0.1) - 1.773_459_7).abs() < 1e-5, "{}", loss(0.1));
    }
}
