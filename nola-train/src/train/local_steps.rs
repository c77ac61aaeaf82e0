//! Steps between two exchanges: every shard trains a copy of the model alone, and then the copies are averaged.
//!
//! # Source
//! Stich: *Local SGD Converges Fast and Communicates Little* (ICLR 2019). Moments are averaged as well, so that after an
//! exchange all shards stand where one run would: it can be saved, and go on with another number of ranks.

use burn::tensor::{Tensor, TensorData};
use nola_core::{Adapted, TrainedState};

use super::gradients::{Measured, shard_gradients, updated};
use super::optimizer::{Moments, Optimizer};
use super::shards::{Shard, StepPasses};
use super::wire::{Reader, Writer};
use crate::Error;
use crate::model_with_loss::ModelWithLoss;
use crate::ranks::{Ranks, Topic};
use crate::settings::TrainSettings;

/// The shards of this rank, each with a model of its own.
#[derive(Clone)]
pub(super) struct LocalSteps<M: ModelWithLoss>(Vec<Worker<M>>);

/// A shard that trains alone.
#[derive(Clone)]
struct Worker<M: ModelWithLoss> {
    model: Adapted<M>,
    optimizer: Optimizer,
    /// Its steps since the last exchange.
    steps: Vec<Measured>,
}

/// What all shards came to together.
pub(super) struct Joined<M: ModelWithLoss> {
    pub(super) model: Adapted<M>,
    pub(super) optimizer: Optimizer,
}

/// What a shard reports of its steps.
struct OfShard {
    steps: Vec<StepNumbers>,
    /// Trained values and moments.
    state: Vec<f32>,
}

#[derive(Clone, Copy)]
struct StepNumbers {
    targets: usize,
    loss: f32,
    gradient_norm: f32,
}

impl<M: ModelWithLoss> LocalSteps<M> {
    /// So many shards, which begin with one model.
    pub(super) fn of(model: &Adapted<M>, optimizer: &Optimizer, shards: usize) -> Self {
        let worker = || Worker { model: model.clone(), optimizer: optimizer.clone(), steps: Vec::new() };
        Self((0..shards).map(|_| worker()).collect())
    }

    /// After an optimizer step, counted from 0, of each shard.
    pub(super) fn step(self, passes: &StepPasses<M::Batch>, recipe: &TrainSettings, step: usize) -> Self {
        let worker = |(worker, shard): (Worker<M>, &Shard<M::Batch>)| {
            let Worker { model, mut optimizer, mut steps } = worker;
            let found = shard_gradients(&model, [step, shard.index], &shard.passes, recipe);
            let (gradients, mut measured) = found.of_step(&model, step);
            let model = updated(model, gradients, &mut measured, recipe, &mut optimizer);
            steps.push(measured);
            Worker { model, optimizer, steps }
        };
        Self(self.0.into_iter().zip(&passes.0).map(worker).collect())
    }

    /// The mean of all shards of all ranks, which weigh as many targets as they had, and what their steps were together;
    /// nothing of a mean that is not finite. `fresh` is an optimizer that remembers nothing.
    ///
    /// # Errors
    /// If a rank ended, does not answer, or has another model.
    pub(super) fn joined(
        self,
        fresh: Optimizer,
        ranks: &Ranks,
    ) -> Result<(Option<Joined<M>>, Vec<Measured>), Error> {
        let mut message = Writer::default();
        let states: Vec<State> = self.0.iter().map(Worker::state).collect();
        for (worker, state) in self.0.iter().zip(&states) {
            worker.write(state, &mut message);
        }
        let messages = ranks.all_gather(Topic::States, message.0)?;
        let worker = self.0.into_iter().next().expect("every rank has a shard");
        let mut state = states.into_iter().next().expect("every rank has a shard");
        let mut shards = Vec::new();
        for (rank, message) in messages.iter().enumerate() {
            let read = read(message, worker.steps.len(), state.len());
            shards.extend(read.ok_or_else(|| ranks.unreadable(rank, Topic::States))?);
        }
        let steps = worker.steps.iter().enumerate();
        let measured = steps.map(|(place, step)| together(step, &shards, place)).collect();
        let mean = mean(&shards);
        if !mean.iter().all(|number| number.is_finite()) {
            return Ok((None, measured));
        }
        state.take_values(&mean);
        let model = worker.model.with_state(state.trained).expect("names and shapes are its own");
        let optimizer = fresh.with_moments(&model, state.moments).expect("names and shapes are its own");
        Ok((Some(Joined { model, optimizer }), measured))
    }
}

impl<M: ModelWithLoss> Worker<M> {
    fn state(&self) -> State {
        State { trained: self.model.state(), moments: self.optimizer.moments() }
    }

    fn write(&self, state: &State, message: &mut Writer) {
        for (step, numbers) in self.steps.iter().zip(self.numbers().chunks_exact(2)) {
            message.count(step.targets);
            numbers.iter().for_each(|number| message.float(*number));
        }
        message.floats(&state.values());
    }

    /// Loss and norm of each step, read from the device at once.
    fn numbers(&self) -> Vec<f32> {
        let numbers = self.steps.iter().flat_map(|step| [step.loss.clone(), step.gradient_norm.clone()]);
        Tensor::cat(numbers.collect(), 0).into_data().iter().collect()
    }
}

/// What is averaged: all but counts, which are the same everywhere.
struct State {
    trained: TrainedState,
    moments: Moments,
}

impl State {
    fn tensors(&self) -> impl Iterator<Item = &TensorData> {
        let moments = self.moments.values().flat_map(|of_param| of_param.tensors.values());
        self.trained.values().chain(moments)
    }

    fn values(&self) -> Vec<f32> {
        self.tensors().flat_map(TensorData::iter::<f32>).collect()
    }

    fn len(&self) -> usize {
        self.tensors().map(TensorData::num_elements).sum()
    }

    /// Other values in the order of [`State::values`].
    fn take_values(&mut self, mut values: &[f32]) {
        let moments = self.moments.values_mut().flat_map(|of_param| of_param.tensors.values_mut());
        for tensor in self.trained.values_mut().chain(moments) {
            let (own, rest) = values.split_at(tensor.num_elements());
            *tensor = TensorData::new(own.to_vec(), tensor.shape());
            values = rest;
        }
    }
}

/// The shards in a rank's message; none if it is something else.
fn read(message: &[u8], steps: usize, values: usize) -> Option<Vec<OfShard>> {
    let (mut reader, mut shards) = (Reader(message), Vec::new());
    while !reader.is_empty() {
        let numbers = |_| {
            let (targets, loss) = (reader.count()?, reader.float()?);
            Some(StepNumbers { targets, loss, gradient_norm: reader.float()? })
        };
        let steps = (0..steps).map(numbers).collect::<Option<Vec<_>>>()?;
        let of_shard = OfShard { steps, state: reader.floats()? };
        (of_shard.state.len() == values).then(|| shards.push(of_shard))?;
    }
    Some(shards)
}

/// What a step was over all shards: the mean loss of its targets, and likewise of the norms.
fn together(own: &Measured, shards: &[OfShard], place: usize) -> Measured {
    let steps = || shards.iter().map(|shard| shard.steps[place]).filter(|step| step.targets > 0);
    let targets: usize = steps().map(|step| step.targets).sum();
    let mean = |number: fn(&StepNumbers) -> f32| {
        let weighted = steps().map(|step| step.targets as f64 * f64::from(number(&step)));
        let mean = (weighted.sum::<f64>() / targets as f64) as f32;
        Tensor::from_data(TensorData::new(vec![mean], [1]), &own.loss.device())
    };
    let (loss, gradient_norm) = (mean(|step| step.loss), mean(|step| step.gradient_norm));
    Measured { targets, loss, gradient_norm, ..own.clone() }
}

fn mean(shards: &[OfShard]) -> Vec<f32> {
    let targets = |shard: &OfShard| shard.steps.iter().map(|step| step.targets).sum::<usize>();
    let all: usize = shards.iter().map(targets).sum();
    let mut sums = vec![0.0; shards[0].state.len()];
    // What a shard without targets holds has no part in it, even where it is not finite.
    for shard in shards.iter().filter(|shard| targets(shard) > 0) {
        let weight = targets(shard) as f64 / all as f64;
        sums.iter_mut().zip(&shard.state).for_each(|(sum, number)| *sum += weight * f64::from(*number));
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(targets: usize, loss: f32, state: &[f32]) -> OfShard {
        OfShard { steps: vec![StepNumbers { targets, loss, gradient_norm: 1.0 }], state: state.to_vec() }
    }

    #[test]
    fn shards_weigh_as_many_targets_as_their_steps_had() {
        assert_eq!(mean(&[shard(3, 0.0, &[4.0]), shard(1, 0.0, &[8.0])]), [5.0]);
    }

    #[test]
    fn a_message_is_read_only_if_it_is_of_the_same_model() {
        let mut message = Writer::default();
        message.count(2);
        message.float(0.5);
        message.float(1.5);
        message.floats(&[1.0, 2.0]);
        let shards = read(&message.0, 1, 2).expect("one shard");
        assert_eq!((shards.len(), shards[0].steps[0].loss, shards[0].state.len()), (1, 0.5, 2));
        assert!(read(&message.0, 1, 3).is_none() && read(&message.0, 2, 2).is_none());
    }
}
