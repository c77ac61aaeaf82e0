//! A model with its adapters: what is trained, and the two calls that an optimizer step makes.

mod attach;
mod condense;
mod factors;
mod merge;
mod ranks;
mod state;
mod survivors;
mod updates;

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::module::{Module, ModuleDisplay, Param, ParamId};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Tensor, TensorData};

pub use factors::SiteFactors;
use merge::Merged;
pub use ranks::RankMove;
use ranks::Ranks;
pub use survivors::Survivors;
pub use updates::SharedParts;

use crate::Error;
use crate::adapter::{AdapterConfig, BaseGain, Factor, Plan, RateFactors};
use crate::adapter_params::is_adapter;
use crate::basis::Basis;
use crate::dropout::CurrentPass;
pub(crate) use crate::floats::floats;
use crate::linear_combinations::{LinearCombinations, Vectors};
use crate::params::{FoundParam, base_tensors, base_weights, float_params, read_params, replace_params};
use crate::site::{Site, SiteKind};
use crate::targets::Targets;
use crate::update::{SharedGain, column_norms};

/// A model whose base is frozen and whose adapters are trained; also a linear probe, or a model trained in full.
///
/// The factors A and B of every adapter are plain leaves of the autodiff graph. If they are linear combinations (NOLA), they depend
/// on the coefficients alone, which are constant within an optimizer step. So one step is, for every adapter, passes over any
/// number of micro-batches, whose gradients are added up, and [`Adapted::step`] with their sum.
#[derive(Module, Debug)]
pub struct Adapted<M: Module> {
    /// The model, adapters attached to its weights.
    pub model: M,
    /// Coefficients of the factors that are linear combinations, `[sites, count]` each; `[1, total]`, one site after the other, if
    /// sites have different numbers of them, and `[1, count]` if all sites share them.
    coefficients: Vec<Param<Tensor<2>>>,
    #[module(skip)]
    attached: Arc<Attached>,
    #[module(skip)]
    pass: CurrentPass,
    #[module(skip)]
    ranks: Arc<Ranks>,
}

/// Name of what is left of the base, `[2]`: of the weight and of the bias.
pub(crate) const BASE_GAIN: &str = "base_gain";

/// Largest difference of two expansions of the same coefficients, as a part of the largest entry.
const FACTOR_TOLERANCE: f32 = 1e-5;

/// The host's side of the adapters.
#[derive(Debug)]
struct Attached {
    config: Option<AdapterConfig>,
    targets: Targets,
    sites: Vec<Site>,
    plans: Vec<Plan>,
    /// Of the weight and the factors of each site.
    ids: Vec<SiteIds>,
    /// Of the weights whose columns have trained lengths.
    lengths: Vec<LengthIds>,
    /// What has gradients: factors, and the parameters trained beside them.
    trained: Vec<ParamId>,
    /// What each of the coefficients gives.
    combined: Vec<Combined>,
    /// What is left of each site's base.
    gains: Vec<SharedGain>,
}

/// Parameters of one site.
#[derive(Debug)]
struct SiteIds {
    weight: ParamId,
    /// None if A is the identity.
    a: Option<ParamId>,
    b: ParamId,
    /// Of the frozen pair that is taken away.
    start_b: Option<ParamId>,
}

impl SiteIds {
    fn factor(&self, side: Side) -> ParamId {
        match side {
            Side::A => self.a.expect("the identity is no linear combination"),
            Side::B => self.b,
        }
    }
}

/// One of the two factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    A,
    B,
}

/// Factors that are linear combinations: A of every site, or B.
#[derive(Debug)]
struct Combined {
    /// Name of their coefficients.
    name: &'static str,
    side: Side,
    combinations: LinearCombinations,
}

/// What the lengths of a weight's columns follow from in every step, and where they go.
#[derive(Debug)]
struct LengthIds {
    weight: ParamId,
    squares: ParamId,
    a: ParamId,
    b: ParamId,
    norm: ParamId,
    magnitude: ParamId,
    d_out: usize,
    scale: f64,
}

/// How many numbers training changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainableParameters {
    /// In adapters: coefficients, or LoRA's factors.
    pub adapter: usize,
    /// In other parameters, such as the head, or the whole model.
    pub other: usize,
}

/// How far an adapter is that is made of the weights of its base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The weight that is read, counted from 1.
    pub weight: usize,
    /// Number of weights.
    pub of: usize,
}

/// Called before each weight is read.
pub type Reading<'a> = &'a dyn Fn(Progress);

/// The values that training changed, by name: those of coefficients, such as NOLA's `alpha`, and paths of parameters.
pub type TrainedState = BTreeMap<String, TensorData>;

impl<M: Module> Adapted<M> {
    /// Settings of the adapters, if there are any and they were attached from settings.
    pub fn config(&self) -> Option<&AdapterConfig> {
        self.attached.config.as_ref()
    }

    /// The choice of sites.
    pub fn targets(&self) -> &Targets {
        &self.attached.targets
    }

    /// The sites, in the order of the model.
    pub fn sites(&self) -> &[Site] {
        &self.attached.sites
    }

    /// What is attached to each site.
    pub(crate) fn plans(&self) -> &[Plan] {
        &self.attached.plans
    }

    /// How many numbers training changes.
    pub fn trainable_parameters(&self) -> TrainableParameters {
        let other = (float_params(&self.model).iter())
            .filter(|param| self.attached.trained.contains(&param.id) && !is_adapter(&param.path))
            .map(|param| param.shape.iter().product::<usize>())
            .sum();
        let of_sites = self.attached.plans.iter().zip(&self.attached.sites);
        let of_plans = || {
            let of_sites: usize = of_sites.map(|(plan, site)| plan.trainable_parameters(site.d_out)).sum();
            let shared = self.attached.combined.iter().map(|combined| combined.combinations.shared());
            of_sites + shared.sum::<usize>()
        };
        TrainableParameters { adapter: self.ranks.trainable_parameters().unwrap_or_else(of_plans), other }
    }

    /// Runs `work` in a pass of training: inputs of updates are dropped as their settings say, which entries `number`
    /// decides. Everywhere else the model drops nothing.
    pub fn in_training_pass<T>(&self, number: u64, work: impl FnOnce() -> T) -> T {
        self.pass.within(number, work)
    }

    /// The parameters of updates that have learning rates of their own, each with what the rate is multiplied by.
    pub fn rate_factors(&self) -> Vec<(ParamId, f64)> {
        let factors = self.config().map_or(RateFactors::ALIKE, |config| config.method().rate_factors());
        let factor = |param: &FoundParam| match param.path.rsplit_once('.')?.1 {
            "a" => Some(factors.a),
            "b" => Some(factors.b),
            "magnitude" => Some(factors.magnitude),
            _ => None,
        };
        // As in PEFT: of an embedding, A is the factor that starts at zero, and both have the same rate.
        let embeddings = self.sites().iter().filter(|site| site.kind == SiteKind::Embedding);
        let tables: Vec<String> = embeddings.map(|site| format!("{}.", site.weight_path())).collect();
        let is_of_table = |path: &str| tables.iter().any(|table| path.starts_with(table));
        let of_updates = (float_params(&self.model).into_iter())
            .filter(|param| is_adapter(&param.path) && !is_of_table(&param.path));
        of_updates
            .filter_map(|param| Some((param.id, factor(&param).filter(|factor| *factor != 1.0)?)))
            .collect()
    }

    /// Sets what depends on the number of the optimizer step alone, counted from 0: to be called before its first pass.
    pub fn before_step(&self, step: usize, steps: usize) {
        if let Some(gain) = self.config().and_then(|config| config.method().base_gain(step, steps)) {
            self.set_base_gain(gain);
        }
    }

    /// Sets what is left of the base of every adapted layer, in all clones of this model.
    pub fn set_base_gain(&self, gain: BaseGain) {
        self.attached.gains.iter().for_each(|shared| shared.set(gain));
    }

    /// What is left of the base of every adapted layer.
    fn gains(&self) -> Vec<BaseGain> {
        self.attached.gains.iter().map(SharedGain::get).collect()
    }

    /// How much of the loss is that of the task, if the rest compares outputs with those of the base.
    pub fn task_share(&self) -> Option<f64> {
        self.config()?.method().task_share()
    }

    /// What is left of the base, if that changes while it is trained.
    pub fn base_gain(&self) -> Option<BaseGain> {
        self.config()?.method().base_gain(0, 1)?;
        self.attached.gains.first().map(SharedGain::get)
    }

    /// The model after an optimizer step with the gradients of all its passes, added up.
    pub fn step(
        self,
        optimizer: &mut ModuleOptimizer,
        learning_rate: impl Into<ModuleLearningRate>,
        gradients: GradientsParams,
    ) -> Self
    where
        M: ModuleDisplay,
    {
        self.step_with(gradients, |model, gradients| optimizer.step(learning_rate, model, gradients))
    }

    /// The same with any update, which gets the gradients of what is trained: it may clip or measure them.
    pub fn step_with(
        self,
        gradients: GradientsParams,
        update: impl FnOnce(Self, GradientsParams) -> Self,
    ) -> Self {
        let gradients = self.project(gradients);
        update(self, gradients).expand()
    }

    /// Gradients of the factors become gradients of the coefficients: the first part of [`Adapted::step`], after the
    /// gradients of all passes are added up, and before they are clipped.
    ///
    /// # Source
    /// NOLA, section 2: dL/dalpha_i = ⟨A_i, dL/dA⟩; exact for sums over passes, since the map is linear.
    pub fn project(&self, mut gradients: GradientsParams) -> GradientsParams {
        for (coefficients, combined) in self.combined() {
            let of_factors: Vec<Option<Tensor<2>>> = self
                .attached
                .ids
                .iter()
                .map(|ids| gradients.remove::<2>(ids.factor(combined.side)))
                .collect();
            if of_factors.iter().any(Option::is_some) {
                let gradient = combined.combinations.project(of_factors, &coefficients.val());
                gradients.register(coefficients.id, gradient);
            }
        }
        gradients
    }

    /// The coefficients become factors again: the last part of [`Adapted::step`], after the update.
    pub fn expand(mut self) -> Self {
        let mut factors = BTreeMap::new();
        for (coefficients, combined) in self.combined() {
            let expanded = combined.combinations.expand(coefficients.val());
            factors.extend(self.attached.ids.iter().map(|ids| ids.factor(combined.side)).zip(expanded));
        }
        if !factors.is_empty() {
            self.model = replace_params(self.model, factors);
        }
        self.gated().with_norms()
    }

    /// The lengths that the columns of updated weights have without their magnitudes follow from the factors.
    fn with_norms(mut self) -> Self {
        let norms = self.column_norms();
        if !norms.is_empty() {
            self.model = replace_params(self.model, norms);
        }
        self
    }

    /// The lengths of the columns of every weight whose magnitude is trained, `[1, d_out]` each, outside autodiff.
    fn column_norms(&self) -> BTreeMap<ParamId, Tensor<2>> {
        let lengths = &self.attached.lengths;
        if lengths.is_empty() {
            return BTreeMap::new();
        }
        let weights: Vec<ParamId> = lengths.iter().map(|ids| ids.weight).collect();
        let mut weights = base_weights(&self.model, &weights);
        let others: Vec<ParamId> = lengths.iter().flat_map(|ids| [ids.squares, ids.a, ids.b]).collect();
        let tensors = base_tensors(&self.model, &others);
        let norms = lengths.iter().map(|ids| {
            let weight = weights.remove(&ids.weight).expect("every site has a weight");
            let [squares, a, b] = [ids.squares, ids.a, ids.b].map(|id| tensors[&id].clone());
            let norms = column_norms(weight, squares.flatten(0, 1), a, b, ids.scale);
            (ids.norm, norms.unsqueeze_dim(0))
        });
        norms.collect()
    }

    /// Refuses a model whose factors are not what its coefficients give: it was trained without [`Adapted::step`], and what
    /// it learned would be lost in a folder that holds coefficients.
    pub(crate) fn check_factors(&self) -> Result<(), Error> {
        for (coefficients, combined) in self.combined() {
            let ids: Vec<ParamId> = self.attached.ids.iter().map(|ids| ids.factor(combined.side)).collect();
            let found = read_params(&self.model, &ids);
            let expanded = combined.combinations.expand(coefficients.val());
            for ((id, expanded), site) in ids.iter().zip(expanded).zip(&self.attached.sites) {
                if !are_near(&floats(found[id].clone()), &floats(expanded.into_data())) {
                    return Err(Error::StaleFactors { site: site.path.clone() });
                }
            }
        }
        Ok(())
    }

    /// The coefficients, each with what they give.
    fn combined(&self) -> impl Iterator<Item = (&Param<Tensor<2>>, &Combined)> {
        self.coefficients.iter().zip(&self.attached.combined)
    }

    /// Names of the coefficients that factors are regenerated from, such as NOLA's `alpha` and `beta`.
    pub fn coefficient_names(&self) -> impl Iterator<Item = &'static str> {
        self.attached.combined.iter().map(|combined| combined.name)
    }

    /// Whether the trained tensor `name` holds coefficients, which a folder stores in few bits.
    pub(crate) fn has_coefficients(&self, name: &str) -> bool {
        self.vectors(name).is_some()
    }

    /// The vectors of coefficients in the trained tensor `name`, if it holds some.
    pub(crate) fn vectors(&self, name: &str) -> Option<Vectors> {
        let combined = self.attached.combined.iter().find(|combined| combined.name == name)?;
        Some(combined.combinations.vectors())
    }

    /// Calls of `expand` and of `project` on every basis so far: per site, A's and B's.
    pub fn basis_calls(&self) -> Vec<[[usize; 2]; 2]> {
        let calls = |factor: &Factor| match factor {
            Factor::Combined(combined) => combined.matrices.random().map_or([0, 0], Basis::calls),
            Factor::Learned(_) | Factor::Frozen(_) | Factor::Identity => [0, 0],
        };
        self.attached.plans.iter().map(|plan| [calls(&plan.a), calls(&plan.b)]).collect()
    }
}

/// Whether two expansions of the same coefficients differ by no more than an order of summation can: a GPU has another one
/// than the host, which makes the first factors.
fn are_near(left: &[f32], right: &[f32]) -> bool {
    let largest = left.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    left.iter().zip(right).all(|(left, right)| (left - right).abs() <= FACTOR_TOLERANCE * largest)
}

/// The parameter at `path`, which exists.
fn id_at(params: &[FoundParam], path: &str) -> ParamId {
    let found = params.iter().find(|param| param.path == path);
    found.map(|param| param.id).expect("the adapter was just attached there")
}

/// The base weight of a site, row-major.
pub(crate) fn weight_of<M: Module>(model: &M, site: &Site) -> Vec<f32> {
    let path = site.weight_path();
    let found = float_params(model).into_iter().find(|param| param.path == path);
    let id = found.expect("sites are found in the model").id;
    floats(read_params(model, &[id]).remove(&id).expect("it was just found"))
}

fn host_values(tensor: Tensor<2>) -> Vec<f32> {
    floats(tensor.into_data())
}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::optim::SgdConfig;
    use burn::tensor::{Device, Distribution};

    use super::*;
    use crate::adapted;
    use crate::adapter::NolaConfig;

    fn model() -> (Adapted<Vec<Linear>>, GradientsParams) {
        let device = Device::flex().autodiff();
        let base = vec![LinearConfig::new(6, 5).init(&device)];
        let nola = AdapterConfig::Nola(NolaConfig { rank: 2, k: 9, l: Some(7), ..NolaConfig::default() });
        let model = Adapted::attach(base, &nola, &Targets::matching("0"), &[], &device).expect("a layer");
        let x = Tensor::<2>::random([4, 6], Distribution::Default, &device);
        let loss = adapted(&model.model[0], x).powi_scalar(2).mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        (model, gradients)
    }

    #[test]
    fn a_step_keeps_factors_and_coefficients_together() {
        let (model, gradients) = model();
        let before = model.state();
        let stepped = model.step(&mut SgdConfig::new().init(), 1e-3, gradients);
        assert_ne!(stepped.state(), before, "something was trained");
        stepped.check_factors().expect("they belong together");
        stepped.merge().expect("and can be merged");
    }

    #[test]
    fn training_without_projecting_or_expanding_is_refused_when_it_is_to_be_kept() {
        let (model, gradients) = model();
        let unprojected = SgdConfig::new().init().step(1e-3, model, gradients);
        assert!(matches!(unprojected.check_factors(), Err(Error::StaleFactors { .. })));
        assert!(unprojected.merge().expect_err("it would be lost").to_string().contains("`0`"));
        let (model, gradients) = self::model();
        let projected = model.project(gradients);
        let unexpanded = SgdConfig::new().init().step(1e-3, model, projected);
        assert!(matches!(unexpanded.check_factors(), Err(Error::StaleFactors { .. })));
    }

    #[test]
    fn another_order_of_summation_is_no_difference() {
        assert!(are_near(&[1.0, 1e-6], &[1.0 + 2e-7, 1.1e-6]));
        assert!(!are_near(&[1.0, 1e-6], &[1.0, 1e-4]));
        assert!(!are_near(&[1.0], &[f32::NAN]));
    }
}
