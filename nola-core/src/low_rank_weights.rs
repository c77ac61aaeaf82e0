//! Layers whose weight is a product of two narrow matrices: what PC-LoRA leaves, without a weight of the base.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};

use crate::Error;
use crate::adapted::{Adapted, Attach, Merged, SiteFactors, floats};
use crate::adapter::{BaseGain, Factor, Plan};
use crate::dropout::CurrentPass;
use crate::params::linear_sites;
use crate::update::{SharedGain, Update};

/// The weight A·B of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRankWeight {
    /// Width of the bottleneck.
    pub rank: usize,
    /// `[d_in, rank]`, row-major.
    pub a: Vec<f32>,
    /// `[rank, d_out]`, row-major.
    pub b: Vec<f32>,
    /// A bias beside the layer's own, `[d_out]`.
    pub bias: Option<Vec<f32>>,
}

/// Low-rank weights by path, such as `blocks.0.mlp.up.weight`.
pub type LowRankWeights = BTreeMap<String, LowRankWeight>;

impl<M: Module> Adapted<M> {
    /// The small model that is left when the base of every adapted layer is gone: its weights are products of two narrow
    /// matrices, and no dense one is kept.
    ///
    /// # Errors
    /// If something of the base is left, or a number is not finite.
    pub fn condense(self, device: &Device) -> Result<M, Error> {
        let gain = self.base_gain().unwrap_or(BaseGain::WHOLE);
        if gain != (BaseGain { weight: 0.0, bias: 0.0 }) {
            return Err(Error::BaseIsLeft { percent: 100.0 * gain.weight.max(gain.bias) });
        }
        let all = self.factors();
        let Merged { model, biases_without_place, .. } = self.merged(&|weight| weight)?;
        let weight = |factors: SiteFactors| {
            let a = factors.low_rank_a().to_vec();
            let bias = factors.bias.filter(|_| biases_without_place.contains(&factors.site.path));
            let b = factors.b.iter().map(|&entry| (factors.scale * f64::from(entry)) as f32).collect();
            let weight = LowRankWeight { rank: factors.rank, a, b, bias };
            (factors.site.weight_path(), weight)
        };
        let weights = all.into_iter().map(weight).collect();
        Ok(with_low_rank_weights(model, &weights, device))
    }
}

/// `model` with these weights in place of its own, which are never asked for.
///
/// # Panics
/// If the model has no linear layer with one of the weights, or one of another shape.
pub fn with_low_rank_weights<M: Module>(model: M, weights: &LowRankWeights, device: &Device) -> M {
    let sites = linear_sites(&model);
    let update = |(path, weight): (&String, &LowRankWeight)| {
        let site =
            sites.iter().find(|site| site.weight_path() == *path).expect("a linear layer of the model");
        let (a, b) = (Factor::Learned(weight.a.clone()), Factor::Learned(weight.b.clone()));
        let plan = Plan { bias: weight.bias.clone(), ..Plan::low_rank(a, b, weight.rank, 1.0) };
        let gain = SharedGain::new(BaseGain { weight: 0.0, bias: 1.0 });
        (path.clone(), Update::new(&plan, site, None, gain, &CurrentPass::default(), device))
    };
    model.apply_reparameterization(Attach { adapters: weights.iter().map(update).collect() })
}

/// The low-rank weights of `model`.
pub fn low_rank_weights<M: Module>(model: &M) -> LowRankWeights {
    let mut found = Find { path: Vec::new(), weights: LowRankWeights::new() };
    model.visit(&mut found);
    found.weights
}

struct Find {
    path: Vec<String>,
    weights: LowRankWeights,
}

impl ModuleVisitor for Find {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(weight) = param.reparameterization::<Update>().and_then(Update::without_base) else {
            return;
        };
        self.weights.insert(self.path.join("."), weight);
    }
}

impl Update {
    /// The weight, if nothing of the base is in it.
    fn without_base(&self) -> Option<LowRankWeight> {
        if self.gain() != (BaseGain { weight: 0.0, bias: 1.0 }) {
            return None;
        }
        let values = |tensor: Tensor<2>| floats(tensor.into_data());
        let a = self.a.as_ref()?.val();
        let rank = a.dims()[1];
        let bias = self.bias().map(|bias| floats(bias.into_data()));
        Some(LowRankWeight { rank, a: values(a), b: values(self.b.val()), bias })
    }
}
