//! burn's optimizers with torch's settings, learning rates for the head and for parts of adapters, and a limit on the whole gradient.

mod by_path;

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamConfig, AdamWConfig, GradientsParams, SgdConfig};
use burn::tensor::{DType, Tensor};
use nola_core::{Adapted, float_params};

use by_path::ByPath;
pub use by_path::{Moments, ParamMoments};

use super::schedule::Schedule;
use crate::settings::{OptimizerKind, TrainSettings};

/// An optimizer and the course of its learning rates.
#[derive(Clone)]
pub struct Optimizer {
    inner: ByPath,
    schedule: Schedule,
    head_schedule: Schedule,
    head: BTreeSet<ParamId>,
    /// Parameters of adapters with a rate of their own, and what it is to that of the others.
    factors: BTreeMap<ParamId, f64>,
}

impl Optimizer {
    /// The optimizer of a run; parameters inside a module called `head` have a learning rate of their own, and so have
    /// parts of adapters that ask for it.
    pub fn new<M: Module>(train: &TrainSettings, model: &Adapted<M>) -> Self {
        let head = (float_params(&model.model).iter())
            .filter(|param| param.path.split('.').any(|name| name == "head"))
            .map(|param| param.id)
            .collect();
        Self {
            inner: rule(train),
            schedule: Schedule::new(train),
            head_schedule: Schedule::for_head(train),
            head,
            factors: model.rate_factors().into_iter().collect(),
        }
    }

    /// The model after optimizer step `step`, counted from 0.
    pub fn step<M: Module>(&mut self, step: usize, model: M, gradients: GradientsParams) -> M {
        let (rate, of_head) = (self.rate(step), self.head_schedule.rate(step));
        let (factors, head) = (&self.factors, &self.head);
        let rate_of = |id: ParamId| match factors.get(&id) {
            Some(factor) => factor * rate,
            None if head.contains(&id) => of_head,
            None => rate,
        };
        self.inner.step(&rate_of, model, gradients)
    }

    /// Learning rate of everything but the head in optimizer step `step`, counted from 0.
    pub fn rate(&self, step: usize) -> f64 {
        self.schedule.rate(step)
    }

    /// What it remembers of every parameter of the model, on the host.
    pub fn moments(&self) -> Moments {
        self.inner.moments()
    }

    /// The optimizer that remembers what another one of the same recipe did, for the parameters of `model`.
    ///
    /// # Errors
    /// One text for each parameter that does not fit.
    pub fn with_moments<M: Module>(mut self, model: &M, moments: Moments) -> Result<Self, Vec<String>> {
        self.inner.load(model, moments)?;
        Ok(self)
    }
}

fn rule(train: &TrainSettings) -> ByPath {
    let [beta_1, beta_2] = train.betas.map(|beta| beta as f32);
    let (eps, decay) = (train.eps as f32, train.weight_decay() as f32);
    let decay_config = (decay != 0.0).then(|| WeightDecayConfig::new(decay));
    match train.optimizer {
        OptimizerKind::AdamW => {
            let adam = AdamWConfig::new().with_beta_1(beta_1).with_beta_2(beta_2);
            ByPath::new(adam.with_epsilon(eps).with_weight_decay(decay).build())
        }
        OptimizerKind::Adam => {
            let adam = AdamConfig::new().with_beta_1(beta_1).with_beta_2(beta_2);
            ByPath::new(adam.with_epsilon(eps).with_weight_decay(decay_config).build())
        }
        OptimizerKind::Sgd => {
            let momentum = (train.momentum != 0.0)
                .then(|| MomentumConfig::new().with_momentum(train.momentum).with_dampening(0.0));
            ByPath::new(SgdConfig::new().with_weight_decay(decay_config).with_momentum(momentum).build())
        }
    }
}

/// The 2-norm of all gradients together, still on the device; none if there is no gradient.
///
/// # Shapes
/// - output: `[1]`
pub fn gradient_norm<M: Module>(model: &M, gradients: &GradientsParams) -> Option<Tensor<1>> {
    let mut norm = SquareSum { gradients, sum: None };
    model.visit(&mut norm);
    norm.sum.map(Tensor::sqrt)
}

struct SquareSum<'a> {
    gradients: &'a GradientsParams,
    sum: Option<Tensor<1>>,
}

impl ModuleVisitor for SquareSum<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let square = gradient.cast(DType::F32).square().sum();
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum + square,
                None => square,
            });
        }
    }
}

/// The gradients, made shorter together if they are longer than `limit`; `norm` is their length, and is not read.
///
/// # Shapes
/// - `norm`: `[1]`
///
/// # Source
/// `torch.nn.utils.clip_grad_norm_`.
pub fn clipped<M: Module>(
    model: &M,
    gradients: GradientsParams,
    norm: &Tensor<1>,
    limit: f64,
) -> GradientsParams {
    // Nothing to shorten: the quotient is infinite, and 1 is less.
    let factor = norm.clone().recip().mul_scalar(limit).clamp_max(1.0);
    let mut scale = Scale { gradients, factor };
    model.visit(&mut scale);
    scale.gradients
}

struct Scale {
    gradients: GradientsParams,
    factor: Tensor<1>,
}

impl ModuleVisitor for Scale {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            let factor = self.factor.clone().cast(gradient.dtype()).reshape([1; D]);
            self.gradients.register(param.id, gradient * factor);
        }
    }
}
