//! burn's optimizers with torch's settings, learning rates for the head and for parts of adapters, and a limit on the whole gradient.

use burn::lr_scheduler::constant::ConstantLr;
use burn::lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler};
use burn::module::{Module, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamConfig, AdamWConfig, GradientsParams, ModuleOptimizer, SgdConfig};
use burn::tensor::{DType, Tensor};
use nola_core::{Adapted, float_params};

use crate::recipe::{self, TrainRecipe};
use crate::schedule::Schedule;

/// An optimizer and the course of its learning rates.
pub struct Optimizer {
    inner: ModuleOptimizer,
    schedule: Schedule,
    head_schedule: Schedule,
    head: ParamGroup,
    /// Parts of adapters with a rate of their own, and what it is to that of the others.
    parts: Vec<(f64, ParamGroup)>,
}

impl Optimizer {
    /// The optimizer of a run; parameters inside a module called `head` have a learning rate of their own, and so have
    /// parts of adapters that ask for it.
    pub fn new<M: Module>(train: &TrainRecipe, model: &Adapted<M>) -> Self {
        let head: Vec<ParamId> = (float_params(&model.model).iter())
            .filter(|param| param.path.split('.').any(|name| name == "head"))
            .map(|param| param.id)
            .collect();
        Self {
            inner: optimizer(train),
            schedule: Schedule::new(train),
            head_schedule: Schedule::for_head(train),
            head: ParamGroup::from_ids(head),
            parts: groups(model.rate_factors()),
        }
    }

    /// The model after optimizer step `step`, counted from 0.
    pub fn step<M: Module>(&mut self, step: usize, model: M, gradients: GradientsParams) -> M {
        self.inner.step(self.rates(step), model, gradients)
    }

    /// Learning rate of everything but the head in optimizer step `step`, counted from 0.
    pub fn rate(&self, step: usize) -> f64 {
        self.schedule.rate(step)
    }

    fn rates(&self, step: usize) -> ModuleLearningRate {
        let head = ConstantLr::from(self.head_schedule.rate(step));
        let rate = self.rate(step);
        let mut rates = ModuleLrScheduler::new(ConstantLr::from(rate)).with_group(self.head.clone(), head);
        for (factor, group) in &self.parts {
            rates = rates.with_group(group.clone(), ConstantLr::from(factor * rate));
        }
        rates.step()
    }
}

/// The parameters of each factor.
fn groups(factors: Vec<(ParamId, f64)>) -> Vec<(f64, ParamGroup)> {
    let mut groups: Vec<(f64, Vec<ParamId>)> = Vec::new();
    for (id, factor) in factors {
        match groups.iter_mut().find(|(known, _)| *known == factor) {
            Some((_, ids)) => ids.push(id),
            None => groups.push((factor, vec![id])),
        }
    }
    groups.into_iter().map(|(factor, ids)| (factor, ParamGroup::from_ids(ids))).collect()
}

fn optimizer(train: &TrainRecipe) -> ModuleOptimizer {
    let [beta_1, beta_2] = train.betas.map(|beta| beta as f32);
    let (eps, decay) = (train.eps as f32, train.weight_decay() as f32);
    let decay_config = (decay != 0.0).then(|| WeightDecayConfig::new(decay));
    match train.optimizer {
        recipe::Optimizer::AdamW => AdamWConfig::new()
            .with_beta_1(beta_1)
            .with_beta_2(beta_2)
            .with_epsilon(eps)
            .with_weight_decay(decay)
            .init(),
        recipe::Optimizer::Adam => AdamConfig::new()
            .with_beta_1(beta_1)
            .with_beta_2(beta_2)
            .with_epsilon(eps)
            .with_weight_decay(decay_config)
            .init(),
        recipe::Optimizer::Sgd => {
            let momentum = (train.momentum != 0.0)
                .then(|| MomentumConfig::new().with_momentum(train.momentum).with_dampening(0.0));
            SgdConfig::new().with_weight_decay(decay_config).with_momentum(momentum).init()
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
