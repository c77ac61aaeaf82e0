//! Two training steps of a small adapted model, and what they leave.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use nola_core::{Adapted, AdapterConfig, Targets, float_params, read_params};

use crate::model_with_loss::ModelWithLoss;
use crate::settings::{OptimizerKind, ScheduleKind, TrainSettings};
use crate::train::{Optimizer, measured_gradients, updated};

/// At first only one factor of an adapter has a gradient; in the second step both have.
const STEPS: usize = 2;

/// A small model after some steps.
pub(crate) struct Stepped<M: Module> {
    pub(crate) model: Adapted<M>,
    /// The loss of each step.
    pub(crate) losses: Vec<f32>,
    /// Every gradient of the last step, in the order of the model.
    pub(crate) gradients: Vec<f32>,
}

impl<M: Module> Stepped<M> {
    /// What was trained, in the order of its names.
    pub(crate) fn trained(&self) -> Vec<f32> {
        self.model.state().into_values().flat_map(|data| data.iter::<f32>().collect::<Vec<f32>>()).collect()
    }
}

/// `model` with an adapter on its queries, values and MLP, and `also_train` trained beside it.
///
/// # Panics
/// If it has no such layers, or the adapter cannot be attached to them.
pub(crate) fn attached<M: Module>(
    model: M,
    adapter: &AdapterConfig,
    also_train: &[&str],
    device: &Device,
) -> Adapted<M> {
    let targets = Targets::matching("query|value|up|down");
    Adapted::attach(model, adapter, &targets, also_train, device).expect("the model has these layers")
}

/// Makes two steps.
pub(crate) fn two_steps<M: ModelWithLoss>(
    model: Adapted<M>,
    batch: M::Batch,
    learning_rate: f64,
) -> Stepped<M> {
    let mut stepping = Stepping::new(model, batch, learning_rate);
    let mut stepped = (0..STEPS).map(|step| stepping.step(step, Gradients::Kept)).collect::<Vec<_>>();
    let gradients = stepped.last_mut().map(|(_, gradients)| std::mem::take(gradients)).unwrap_or_default();
    let losses = stepped.into_iter().map(|(loss, _)| loss).collect();
    Stepped { model: stepping.model.expect("every step gives it back"), losses, gradients }
}

/// Whether the gradients of a step are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gradients {
    Kept,
    Forgotten,
}

/// A small model that is trained on one batch.
pub(crate) struct Stepping<M: ModelWithLoss> {
    /// Absent only within a step.
    model: Option<Adapted<M>>,
    batch: [M::Batch; 1],
    recipe: TrainSettings,
    optimizer: Optimizer,
}

impl<M: ModelWithLoss> Stepping<M> {
    pub(crate) fn new(model: Adapted<M>, batch: M::Batch, learning_rate: f64) -> Self {
        let recipe = TrainSettings {
            steps: STEPS,
            optimizer: OptimizerKind::Sgd,
            learning_rate,
            schedule: ScheduleKind::Constant,
            ..TrainSettings::default()
        };
        let optimizer = Optimizer::new(&recipe, &model);
        Self { model: Some(model), batch: [batch], recipe, optimizer }
    }

    /// The model as the steps so far left it.
    #[cfg(test)]
    pub(crate) fn model(&self) -> &Adapted<M> {
        self.model.as_ref().expect("every step gives it back")
    }

    /// Makes one step; its loss, which waits for the device, and its gradients.
    pub(crate) fn step(&mut self, step: usize, gradients: Gradients) -> (f32, Vec<f32>) {
        let model = self.model.take().expect("every step gives it back");
        model.before_step(step.min(STEPS - 1), STEPS);
        let (found, mut measured) = measured_gradients(&model, &self.batch, &self.recipe, step);
        let values = match gradients {
            Gradients::Kept => gradient_values(&model, &found),
            Gradients::Forgotten => Vec::new(),
        };
        let loss = measured.loss.clone().into_scalar::<f32>();
        self.model = Some(updated(model, found, &mut measured, &self.recipe, &mut self.optimizer));
        (loss, values)
    }
}

/// The factors of every adapter in a model, in its order.
pub(crate) fn factors<M: Module>(model: &M) -> Vec<f32> {
    let params = float_params(model);
    let ids: Vec<_> = params.iter().filter(|p| p.path.contains(".adapter.")).map(|p| p.id).collect();
    let values = read_params(model, &ids);
    ids.iter().flat_map(|id| values[id].iter::<f32>().collect::<Vec<f32>>()).collect()
}

/// All gradients of a module's parameters, in its order.
pub(crate) fn gradient_values<M: Module>(module: &M, gradients: &GradientsParams) -> Vec<f32> {
    let mut read = Read { gradients, values: Vec::new() };
    module.visit(&mut read);
    read.values
}

struct Read<'a> {
    gradients: &'a GradientsParams,
    values: Vec<f32>,
}

impl ModuleVisitor for Read<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            self.values.extend(gradient.into_data().iter::<f32>());
        }
    }
}
