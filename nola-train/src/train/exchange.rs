//! Gradients of all shards of a step, on every rank.

use std::collections::VecDeque;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Tensor, TensorData};
use nola_core::Adapted;

use super::gradients::{Measured, ShardGradients};
use super::wire::{Reader, Writer};
use crate::model_with_loss::ModelWithLoss;
use crate::ranks::{RankError, Ranks, Topic};

/// What a shard gives, on the host.
struct OfShard {
    targets: usize,
    /// Mean over its targets.
    loss: f32,
    /// Gradients of all trained tensors, mean over its targets, in the order of the model.
    gradients: Vec<f32>,
}

/// Gradients of an optimizer step, counted from 0, out of those of its shards: `found` are this rank's. They weigh as many
/// targets as they have, and are added in the order of shards, so that the sum has the same bits whichever rank computed
/// which of them.
///
/// # Errors
/// If a rank ended, does not answer, or has another model.
pub(crate) fn exchanged<M: ModelWithLoss>(
    model: &Adapted<M>,
    found: Vec<ShardGradients>,
    step: usize,
    ranks: &Ranks,
) -> Result<(GradientsParams, Measured), RankError> {
    let device = found.first().map(|shard| shard.loss.device()).expect("every rank has a shard");
    let project_seconds = found.iter().map(|shard| shard.project_seconds).sum();
    let (mut layout, mut message) = (Layout::default(), Writer::default());
    for shard in found {
        let (of_shard, of_model) = on_host(model, shard);
        layout = of_model;
        message.count(of_shard.targets);
        message.float(of_shard.loss);
        message.floats(&of_shard.gradients);
    }
    let messages = ranks.all_gather(Topic::Gradients, message.0)?;
    let mut shards = Vec::new();
    for (rank, message) in messages.iter().enumerate() {
        let read = read(message, layout.len()).ok_or_else(|| ranks.unreadable(rank, Topic::Gradients))?;
        shards.extend(read);
    }
    let targets = shards.iter().map(|shard| shard.targets).sum();
    let (loss, gradients) = mean(&shards, targets);
    let squares: f64 = gradients.iter().map(|number| f64::from(*number).powi(2)).sum();
    let number = |number: f64| Tensor::from_data(TensorData::new(vec![number as f32], [1]), &device);
    let (loss, gradient_norm) = (number(loss), number(squares.sqrt()));
    let gradients = layout.on_device(model, gradients, &device);
    let measured =
        Measured { step, targets, loss, gradient_norm, skipped: 0, project_seconds, expand_seconds: 0.0 };
    Ok((gradients, measured))
}

/// The shards in a rank's message; none if it is something else, or of a model with another number of gradients.
fn read(message: &[u8], gradients: usize) -> Option<Vec<OfShard>> {
    let (mut reader, mut shards) = (Reader(message), Vec::new());
    while !reader.is_empty() {
        let (targets, loss) = (reader.count()?, reader.float()?);
        let of_shard = OfShard { targets, loss, gradients: reader.floats()? };
        (of_shard.gradients.len() == gradients).then(|| shards.push(of_shard))?;
    }
    Some(shards)
}

/// Loss and gradients over all targets.
fn mean(shards: &[OfShard], targets: usize) -> (f64, Vec<f32>) {
    let (mut loss, mut sums) = (0.0, vec![0.0; shards[0].gradients.len()]);
    // Of a shard without targets there is no mean.
    for shard in shards.iter().filter(|shard| shard.targets > 0) {
        let weight = shard.targets as f64 / targets as f64;
        loss += weight * f64::from(shard.loss);
        for (sum, number) in sums.iter_mut().zip(&shard.gradients) {
            *sum += weight * f64::from(*number);
        }
    }
    (loss, sums.into_iter().map(|sum| sum as f32).collect())
}

/// Reads a shard's numbers from the device, all at once.
fn on_host<M: ModelWithLoss>(model: &Adapted<M>, shard: ShardGradients) -> (OfShard, Layout) {
    let ShardGradients { gradients, loss, targets, .. } = shard;
    let mut flat = Flatten { gradients, parts: vec![loss], layout: Layout::default() };
    model.visit(&mut flat);
    let numbers = Tensor::cat(flat.parts, 0).into_data();
    let mut numbers = numbers.iter::<f32>();
    let loss = numbers.next().expect("the loss is the first");
    (OfShard { targets, loss, gradients: numbers.collect() }, flat.layout)
}

/// Where in a list of numbers the gradient of each parameter stands.
#[derive(Default)]
struct Layout(VecDeque<(ParamId, usize)>);

impl Layout {
    /// How many numbers there are.
    fn len(&self) -> usize {
        self.0.iter().map(|(_, count)| count).sum()
    }

    fn on_device<M: ModelWithLoss>(
        self,
        model: &Adapted<M>,
        numbers: Vec<f32>,
        device: &Device,
    ) -> GradientsParams {
        let count = numbers.len();
        let numbers = Tensor::from_data(TensorData::new(numbers, [count]), (device, DType::F32));
        let mut parts = Unflatten { numbers, start: 0, layout: self, gradients: GradientsParams::new() };
        model.visit(&mut parts);
        parts.gradients
    }
}

struct Flatten {
    gradients: GradientsParams,
    parts: Vec<Tensor<1>>,
    layout: Layout,
}

impl ModuleVisitor for Flatten {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            let count = gradient.shape().num_elements();
            self.layout.0.push_back((param.id, count));
            self.parts.push(gradient.cast(DType::F32).reshape([count]));
        }
    }
}

struct Unflatten {
    numbers: Tensor<1>,
    start: usize,
    layout: Layout,
    gradients: GradientsParams,
}

impl ModuleVisitor for Unflatten {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some((_, count)) = self.layout.0.pop_front_if(|(id, _)| *id == param.id) {
            let numbers = self.numbers.clone().narrow(0, self.start, count);
            let gradient: Tensor<D> = numbers.reshape(param.lazy_shape());
            self.start += count;
            self.gradients.register(param.id, gradient);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(targets: usize, loss: f32, gradients: &[f32]) -> OfShard {
        OfShard { targets, loss, gradients: gradients.to_vec() }
    }

    #[test]
    fn shards_weigh_as_many_targets_as_they_have() {
        let shards = [shard(3, 1.0, &[4.0, 0.0]), shard(1, 5.0, &[0.0, 8.0])];
        assert_eq!(mean(&shards, 4), (2.0, vec![3.0, 2.0]));
    }

    #[test]
    fn one_shard_keeps_its_bits_and_one_without_targets_adds_nothing() {
        let numbers = [0.1, f32::MIN_POSITIVE / 2.0, -1e30];
        let shards = [shard(7, 0.3, &numbers), shard(0, f32::NAN, &[f32::NAN; 3])];
        let (loss, gradients) = mean(&shards, 7);
        assert_eq!((loss as f32, gradients.as_slice()), (0.3, &numbers[..]));
    }
}
