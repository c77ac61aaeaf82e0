//! A model with its adapters: what is trained, and the two calls that an optimizer step makes.

mod condense;
mod ranks;
mod survivors;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::module::{Module, ModuleDisplay, Param, ParamId, Reparameterizer};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

pub use ranks::RankMove;
use ranks::Ranks;
pub use survivors::Survivors;

use crate::Error;
use crate::adapter::{AdapterConfig, BaseGain, Factor, FrozenMatrix, Plan, RateFactors};
use crate::basis::Basis;
use crate::dropout::CurrentPass;
use crate::embedding::check_embeddings;
pub(crate) use crate::floats::floats;
use crate::linear_combinations::{LinearCombinations, Vectors};
use crate::low_rank_weights::{low_rank_paths, low_rank_weights, with_low_rank_weights};
use crate::packed_weights::packed_words;
use crate::params::{
    FoundParam, base_tensors, base_weights, float_params, read_params, replace_params, train_only,
    write_params,
};
use crate::quantized::CoefficientBits;
use crate::site::{Site, SiteKind};
use crate::targets::Targets;
use crate::update::{SharedGain, Update, column_norms, column_squares};

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
    /// Attaches adapters to the targets, trains the parameters of the modules `also_train` too, and freezes the rest.
    ///
    /// # Errors
    /// If nothing matches, or a setting of the adapter cannot be used.
    pub fn attach(
        model: M,
        config: &AdapterConfig,
        targets: &Targets,
        also_train: &[&str],
        device: &Device,
    ) -> Result<Self, Error> {
        Self::attach_observed(model, config, targets, also_train, device, &|_| {})
    }

    /// The same; an adapter that is made of weights calls `reading` before each of them, since all of a large model take
    /// minutes.
    ///
    /// # Errors
    /// As [`Adapted::attach`].
    pub fn attach_observed(
        model: M,
        config: &AdapterConfig,
        targets: &Targets,
        also_train: &[&str],
        device: &Device,
        reading: Reading,
    ) -> Result<Self, Error> {
        let sites = targets.choose(&model)?;
        check_beside(&sites, &float_params(&model), also_train)?;
        let count = Cell::new(0);
        let weight = |site: &Site| {
            count.set(count.get() + 1);
            reading(Progress { weight: count.get(), of: sites.len() });
            weight_of(&model, site)
        };
        let plans = config.plan(&sites, &weight)?;
        let mut adapted = Self::attach_plans(model, sites, plans, also_train, device)?;
        let attached = Arc::get_mut(&mut adapted.attached).expect("nobody else has it yet");
        attached.config = Some(config.clone());
        attached.targets = targets.clone();
        Ok(adapted)
    }

    /// Attaches ready plans to `sites`: for adapters that come from elsewhere than an [`AdapterConfig`].
    ///
    /// # Errors
    /// If a site could never get a gradient, a plan is not one for an embedding, or a name of `also_train` does not exist.
    pub fn attach_plans(
        model: M,
        sites: Vec<Site>,
        plans: Vec<Plan>,
        also_train: &[&str],
        device: &Device,
    ) -> Result<Self, Error> {
        check_saddles(&sites, &plans)?;
        check_embeddings(&sites, &plans)?;
        check_free(&model, &sites)?;
        check_dense(&model, also_train)?;
        let combined: Vec<Combined> =
            [combined(&plans, Side::A, |plan| &plan.a), combined(&plans, Side::B, |plan| &plan.b)]
                .into_iter()
                .flatten()
                .collect();
        let coefficients =
            combined.iter().map(|combined| combined.combinations.initial_coefficients(device)).collect();
        // One after the other: of the weights, one at a time is in memory twice.
        let squares: Vec<Option<Vec<f32>>> = (sites.iter().zip(&plans))
            .map(|(site, plan)| {
                plan.magnitude.is_trained().then(|| column_squares(&weight_of(&model, site), site.d_out))
            })
            .collect();
        let pass = CurrentPass::default();
        let gains: Vec<SharedGain> = plans.iter().map(|plan| SharedGain::new(plan.base)).collect();
        let adapters: BTreeMap<String, Update> =
            (sites.par_iter().zip(&plans).zip(squares).zip(gains.clone()))
                .map(|(((site, plan), squares), gain)| {
                    (site.weight_path(), Update::new(plan, site, squares, gain, &pass, device))
                })
                .collect();
        let model = model.apply_reparameterization(Attach { adapters });
        let params = float_params(&model);
        let ids = sites.iter().zip(&plans).map(|(site, plan)| ids_of(site, plan, &params)).collect();
        let mut trained = ids_named(&params, also_train)?;
        trained.extend(trained_of_updates(&sites, &plans, &params));
        let model = train_only(model, &trained);
        let lengths = length_ids(&sites, &plans, &params);
        let ranks = Arc::new(Ranks::new(&sites, &plans, &params));
        let attached = Attached {
            config: None,
            targets: Targets::default(),
            sites,
            plans,
            ids,
            lengths,
            trained,
            combined,
            gains,
        };
        let is_rounded = attached.plans.iter().any(|p| p.coefficients.rounding != CoefficientBits::B32);
        let adapted = Self { model, coefficients, attached: Arc::new(attached), pass, ranks };
        Ok(if is_rounded { adapted.expand() } else { adapted.with_norms() })
    }

    /// A model without adapters of which only the modules `trained` are trained: a linear probe, if that is the head.
    ///
    /// # Errors
    /// If a name of `trained` does not exist.
    pub fn probe(model: M, trained: &[&str], device: &Device) -> Result<Self, Error> {
        Self::attach_plans(model, Vec::new(), Vec::new(), trained, device)
    }

    /// A model without adapters that is trained as a whole, but for what it keeps fixed itself, such as packed weights.
    pub fn full(model: M) -> Self {
        let params = float_params(&model);
        // In their place stand low-rank weights.
        let absent = low_rank_paths(&params);
        let is_trained = |param: &&FoundParam| !param.frozen && !absent.contains(&param.path);
        let trained: Vec<ParamId> = params.iter().filter(is_trained).map(|param| param.id).collect();
        let attached = Attached {
            config: None,
            targets: Targets::default(),
            sites: Vec::new(),
            plans: Vec::new(),
            ids: Vec::new(),
            lengths: Vec::new(),
            trained,
            combined: Vec::new(),
            gains: Vec::new(),
        };
        let model = train_only(model, &attached.trained);
        Self {
            model,
            coefficients: Vec::new(),
            attached: Arc::new(attached),
            pass: CurrentPass::default(),
            ranks: Arc::default(),
        }
    }

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

    /// What is left of the base at each site.
    pub(crate) fn shared_gains(&self) -> &[SharedGain] {
        &self.attached.gains
    }

    /// Paths of the parameters that are trained without being of an adapter, such as those of a head.
    pub(crate) fn trained_in_base(&self) -> Vec<String> {
        let is_trained =
            |param: &FoundParam| self.attached.trained.contains(&param.id) && !is_adapter(&param.path);
        float_params(&self.model).into_iter().filter(is_trained).map(|param| param.path).collect()
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

    /// The values that training changed, on the host.
    pub fn state(&self) -> TrainedState {
        let params = self.trained_params();
        let ids: Vec<ParamId> = params.iter().map(|param| param.id).collect();
        let mut values = read_params(&self.model, &ids);
        let mut state: TrainedState =
            (params.into_iter()).filter_map(|param| Some((param.path, values.remove(&param.id)?))).collect();
        for (coefficients, combined) in self.combined() {
            let shape = coefficients.val().dims();
            let values = TensorData::new(host_values(coefficients.val()), shape);
            state.insert(combined.name.to_owned(), values);
        }
        if let Some(gain) = self.base_gain() {
            let values = vec![gain.weight as f32, gain.bias as f32];
            state.insert(BASE_GAIN.to_owned(), TensorData::new(values, [2]));
        }
        state
    }

    /// The model with the trained values of `state`; every name and shape must fit. Only pairs of factors that were added
    /// since may be absent, and are zero then.
    ///
    /// # Errors
    /// One text per missing, surplus, misshapen or non-finite tensor, all at once.
    pub fn with_state(mut self, mut state: TrainedState) -> Result<Self, Vec<String>> {
        let expected: Vec<(String, Vec<usize>)> =
            self.state().into_iter().map(|(name, data)| (name, data.shape().to_vec())).collect();
        self.add_absent_pairs(&mut state);
        let problems = state_problems(&expected, &state);
        if !problems.is_empty() {
            return Err(problems);
        }
        for (coefficients, combined) in self.coefficients.iter_mut().zip(&self.attached.combined) {
            let data = state.remove(combined.name).expect("every name was checked");
            *coefficients = write_params(coefficients.clone(), BTreeMap::from([(coefficients.id, data)]));
        }
        if let Some(gain) = state.remove(BASE_GAIN).map(floats) {
            self.set_base_gain(BaseGain { weight: f64::from(gain[0]), bias: f64::from(gain[1]) });
        }
        let params = self.trained_params();
        let values =
            (params.into_iter()).filter_map(|param| Some((param.id, state.remove(&param.path)?))).collect();
        self.model = write_params(self.model, values);
        Ok(self.with_gates_of_values().expand())
    }

    /// The factors of every site on the host, row-major: A `[d_in, rank]` unless it is the identity, B `[rank, d_out]`, and the
    /// update's scale.
    ///
    /// Linear combinations are expanded by the plain version on the host, so the bits are the same on every machine. A frozen
    /// pair that is taken away stands beside them, with twice the rank.
    pub fn factors(&self) -> Vec<SiteFactors> {
        let params = float_params(&self.model);
        let within = |param: &&FoundParam| is_adapter(&param.path);
        let ids: Vec<ParamId> = params.iter().filter(within).map(|param| param.id).collect();
        let values = read_params(&self.model, &ids);
        let rows: BTreeMap<Side, Vec<Vec<f32>>> = (self.combined())
            .map(|(param, combined)| {
                (combined.side, combined.combinations.host_rows(&host_values(param.val())))
            })
            .collect();
        let sites = self.attached.sites.iter().zip(&self.attached.plans).enumerate();
        let factors = sites.map(|(index, (site, plan))| {
            let leaf = |name: &str| {
                let id = id_at(&params, &format!("{}.adapter.{name}", site.weight_path()));
                floats(values[&id].clone())
            };
            let factor = |factor: &Factor, side: Side, name: &str| match (factor, rows.get(&side)) {
                (Factor::Combined(combined), Some(rows)) => Some(combined.expand(&rows[index])),
                (Factor::Identity, _) => None,
                (Factor::Combined(_) | Factor::Learned(_) | Factor::Frozen(_), _) => Some(leaf(name)),
            };
            let a = factor(&plan.a, Side::A, "a");
            let b = factor(&plan.b, Side::B, "b").expect("B is no identity");
            let magnitude = plan.magnitude.is_trained().then(|| leaf("magnitude"));
            let bias = plan.bias.as_ref().map(|_| leaf("bias"));
            let base = self.attached.gains[index].get();
            let (site, rank, scale) = (site.clone(), plan.rank, plan.scale);
            let factors = SiteFactors { site, rank, scale, base, a, b, bias, magnitude };
            let factors = self.with_moved_ranks(index, factors, &values);
            match &plan.start {
                None => factors,
                Some(start) => factors.without(start),
            }
        });
        factors.collect()
    }

    /// The model with its adapters baked into dense weights, the same bits on every machine.
    ///
    /// # Errors
    /// If a merged weight would not be finite, or the factors are not what the coefficients give.
    pub fn merge(self) -> Result<M, Error> {
        Ok(self.merge_counting(&|weight| weight)?.0)
    }

    /// The same, and how much of the update is left once `stored` has rounded the weights for a file.
    ///
    /// # Errors
    /// As [`Adapted::merge`].
    pub fn merge_counting(self, stored: &(dyn Fn(f32) -> f32 + Sync)) -> Result<(M, Survivors), Error> {
        let Merged { model, survivors, biases_without_place } = self.merged(stored)?;
        match biases_without_place.into_iter().next() {
            Some(site) => Err(Error::NoBias { site }),
            None => Ok((model, survivors)),
        }
    }

    /// The same, whatever has no place in it.
    pub(crate) fn merged(self, stored: &(dyn Fn(f32) -> f32 + Sync)) -> Result<Merged<M>, Error> {
        self.check_factors()?;
        let mut survivors = Survivors::default();
        let bases: Vec<ParamId> = self.attached.ids.iter().map(|ids| ids.weight).collect();
        let mut weights = read_params(&self.model, &bases);
        let all = self.factors();
        let (mut values, biases_without_place) = self.merged_biases(&all);
        for (factors, ids) in all.iter().zip(&self.attached.ids) {
            let site = &factors.site;
            let weight = floats(weights.remove(&ids.weight).expect("every site has a weight"));
            let (merged, left) = factors.merged_counting(&weight, stored);
            survivors = survivors + left;
            let count = merged.iter().filter(|value| !value.is_finite()).count();
            if count > 0 {
                return Err(Error::NotFinite { name: site.weight_path(), count });
            }
            values.insert(ids.weight, TensorData::new(merged, [site.d_in, site.d_out]));
        }
        values.extend(self.without_effect());
        let (attached, gains) = (Arc::clone(&self.attached), self.gains());
        self.set_base_gain(BaseGain::WHOLE);
        let low_rank = low_rank_weights(&self.model);
        let device = self.model.devices().into_iter().next();
        let model = write_params(self.model, values).materialize();
        // Clones of this model go on with what is left of their base.
        attached.gains.iter().zip(gains).for_each(|(shared, gain)| shared.set(gain));
        let model = match device.filter(|_| !low_rank.is_empty()) {
            // Layers that are low-rank themselves stay so.
            Some(device) => with_low_rank_weights(model, &low_rank, &device),
            None => model,
        };
        Ok(Merged { model, survivors, biases_without_place })
    }

    /// The biases of layers whose adapters change them, given all factors, and the paths of layers that have none.
    fn merged_biases(&self, all: &[SiteFactors]) -> (BTreeMap<ParamId, TensorData>, Vec<String>) {
        let params = float_params(&self.model);
        let (mut merged, mut without_place) = (BTreeMap::new(), Vec::new());
        for factors in all.iter().filter(|factors| factors.changes_bias()) {
            let added = factors.bias.clone().unwrap_or_else(|| vec![0.0; factors.site.d_out]);
            let path = format!("{}.bias", factors.site.path);
            let Some(param) = params.iter().find(|param| param.path == path) else {
                if added.iter().any(|&entry| entry != 0.0) {
                    without_place.push(factors.site.path.clone());
                }
                continue;
            };
            let bias = floats(read_params(&self.model, &[param.id]).remove(&param.id).expect("it was found"));
            let sum = |(bias, added): (&f32, &f32)| {
                (factors.base.bias * f64::from(*bias) + f64::from(*added)) as f32
            };
            let sums: Vec<f32> = bias.iter().zip(&added).map(sum).collect();
            merged.insert(param.id, TensorData::new(sums, [added.len()]));
        }
        (merged, without_place)
    }

    /// Values with which the updates change nothing, once they are in the weights.
    fn without_effect(&self) -> BTreeMap<ParamId, TensorData> {
        let sites = self.attached.sites.iter().zip(&self.attached.plans).zip(&self.attached.ids);
        let zeros = |shape: [usize; 2]| TensorData::new(vec![0.0_f32; shape[0] * shape[1]], shape);
        let of_b = sites.flat_map(|((site, plan), ids)| {
            let shape = [plan.rank, site.d_out];
            [Some(ids.b), ids.start_b].into_iter().flatten().map(move |id| (id, zeros(shape)))
        });
        // A column as long as its magnitude says is multiplied by 1.
        let lengths = self.attached.lengths.iter().flat_map(|ids| {
            [ids.magnitude, ids.norm].map(|id| (id, TensorData::new(vec![1.0_f32; ids.d_out], [ids.d_out])))
        });
        let params = float_params(&self.model);
        let of_bias = self.attached.sites.iter().zip(&self.attached.plans).filter_map(|(site, plan)| {
            let bias = plan.bias.as_ref()?;
            let id = id_at(&params, &format!("{}.adapter.bias", site.weight_path()));
            Some((id, TensorData::new(vec![0.0_f32; bias.len()], [bias.len()])))
        });
        of_b.chain(lengths).chain(of_bias).chain(self.further_without_effect()).collect()
    }

    /// What the optimizer changes in the model itself: not the factors that are regenerated from coefficients.
    fn trained_params(&self) -> Vec<FoundParam> {
        let derived: Vec<ParamId> = (self.attached.plans.iter().zip(&self.attached.ids))
            .flat_map(|(plan, ids)| [(&plan.a, ids.a), (&plan.b, Some(ids.b))])
            .filter(|(factor, _)| matches!(factor, Factor::Combined(_)))
            .filter_map(|(_, id)| id)
            .collect();
        let mut params = float_params(&self.model);
        let further = self.ranks.further();
        let is_trained = |id: &ParamId| self.attached.trained.contains(id) || further.contains(id);
        params.retain(|param| is_trained(&param.id) && !derived.contains(&param.id));
        params
    }
}

/// The factors of one site on the host.
#[derive(Debug, Clone)]
pub struct SiteFactors {
    /// Where they are attached.
    pub site: Site,
    /// Width of the bottleneck.
    pub rank: usize,
    /// Factor of the whole update.
    pub scale: f64,
    /// What is left of the base.
    pub base: BaseGain,
    /// `[d_in, rank]`, row-major; none if it is the identity.
    pub a: Option<Vec<f32>>,
    /// `[rank, d_out]`, row-major.
    pub b: Vec<f32>,
    /// A trained bias that is added, `[d_out]`.
    pub bias: Option<Vec<f32>>,
    /// Lengths that the columns of the updated weight get, `[d_out]`, if they are trained.
    pub magnitude: Option<Vec<f32>>,
}

impl SiteFactors {
    /// `gain · W + scale · A·B`, summed in `f64` over the rank in ascending order and rounded once.
    pub(crate) fn merged(&self, weight: &[f32]) -> Vec<f32> {
        self.merged_counting(weight, &|weight| weight).0
    }

    /// The same, and what of it is left once `stored` has rounded it again.
    fn merged_counting(&self, weight: &[f32], stored: &(dyn Fn(f32) -> f32 + Sync)) -> (Vec<f32>, Survivors) {
        let (d_out, rank) = (self.site.d_out, self.rank);
        let updated = |row: usize, column: usize, weight: f32| {
            let product = match &self.a {
                None => f64::from(self.b[row * d_out + column]),
                Some(a) => {
                    let a = &a[row * rank..(row + 1) * rank];
                    let products = (a.iter().enumerate())
                        .map(|(r, &a)| f64::from(a) * f64::from(self.b[r * d_out + column]));
                    products.sum()
                }
            };
            self.base.weight * f64::from(weight) + self.scale * product
        };
        let gains = self.column_gains(weight, &updated);
        let mut merged = weight.to_vec();
        let row = |(row, weights): (usize, &mut [f32])| {
            let mut survivors = Survivors::default();
            for (column, weight) in weights.iter_mut().enumerate() {
                let before = *weight;
                let after = gains.as_ref().map_or(1.0, |gains| gains[column]) * updated(row, column, before);
                *weight = after as f32;
                survivors.note(after - f64::from(before), [before, *weight].map(stored));
            }
            survivors
        };
        // Summed in the order of the rows, so that the sums are the same whatever the threads.
        let rows: Vec<Survivors> = merged.par_chunks_mut(d_out).enumerate().map(row).collect();
        (merged, rows.into_iter().fold(Survivors::default(), std::ops::Add::add))
    }

    /// A of an update that is known to have one.
    pub(crate) fn low_rank_a(&self) -> &[f32] {
        self.a.as_deref().expect("an update of low rank has both factors")
    }

    fn changes_bias(&self) -> bool {
        self.bias.is_some() || self.base.bias != 1.0
    }

    /// The same less the product of `start`: both pairs side by side.
    fn without(self, [start_a, start_b]: &[FrozenMatrix; 2]) -> Self {
        let rank = self.rank;
        let rows = self.low_rank_a().chunks_exact(rank).zip(start_a.values().chunks_exact(rank));
        let a = rows.flat_map(|(own, start)| [own, start].concat()).collect();
        let b = self.b.iter().copied().chain(start_b.values().iter().map(|entry| -entry)).collect();
        Self { rank: 2 * rank, a: Some(a), b, ..self }
    }

    /// What each column of the updated weight is multiplied by, so that it is as long as its magnitude says.
    fn column_gains(
        &self,
        weight: &[f32],
        updated: &(dyn Fn(usize, usize, f32) -> f64 + Sync),
    ) -> Option<Vec<f64>> {
        let magnitude = self.magnitude.as_ref()?;
        let d_out = self.site.d_out;
        let gain = |(column, &length): (usize, &f32)| {
            let entries = weight.iter().skip(column).step_by(d_out).enumerate();
            let square: f64 = entries.map(|(row, &weight)| updated(row, column, weight).powi(2)).sum();
            f64::from(length) / square.sqrt()
        };
        Some(magnitude.par_iter().enumerate().map(gain).collect())
    }
}

/// A merged model.
pub(crate) struct Merged<M> {
    pub model: M,
    pub survivors: Survivors,
    /// Paths of layers without a bias whose adapters learned one.
    pub biases_without_place: Vec<String>,
}

/// Attaches updates to the weights at their paths.
pub(crate) struct Attach {
    pub adapters: BTreeMap<String, Update>,
}

impl Reparameterizer for Attach {
    type Reparam = Update;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<Update>) {
        (param, self.adapters.remove(path))
    }
}

/// Whether two expansions of the same coefficients differ by no more than an order of summation can: a GPU has another one
/// than the host, which makes the first factors.
fn are_near(left: &[f32], right: &[f32]) -> bool {
    let largest = left.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    left.iter().zip(right).all(|(left, right)| (left - right).abs() <= FACTOR_TOLERANCE * largest)
}

/// Whether `path` is that of a factor.
pub(crate) fn is_adapter(path: &str) -> bool {
    path.contains(".weight.adapter.")
}

fn ids_of(site: &Site, plan: &Plan, params: &[FoundParam]) -> SiteIds {
    let weight = site.weight_path();
    let id = |leaf: &str| id_at(params, &format!("{weight}{leaf}"));
    SiteIds {
        weight: id(""),
        a: match plan.a {
            Factor::Identity => None,
            Factor::Learned(_) | Factor::Frozen(_) | Factor::Combined(_) => Some(id(".adapter.a")),
        },
        b: id(".adapter.b"),
        start_b: plan.start.as_ref().map(|_| id(".adapter.start_b")),
    }
}

/// The parameter at `path`, which exists.
fn id_at(params: &[FoundParam], path: &str) -> ParamId {
    let found = params.iter().find(|param| param.path == path);
    found.map(|param| param.id).expect("the adapter was just attached there")
}

fn length_ids(sites: &[Site], plans: &[Plan], params: &[FoundParam]) -> Vec<LengthIds> {
    let trained = sites.iter().zip(plans).filter(|(_, plan)| plan.magnitude.is_trained());
    let ids = trained.map(|(site, plan)| {
        let id = |leaf: &str| id_at(params, &format!("{}{leaf}", site.weight_path()));
        LengthIds {
            weight: id(""),
            squares: id(".adapter.base_squares"),
            a: id(".adapter.a"),
            b: id(".adapter.b"),
            norm: id(".adapter.norm"),
            magnitude: id(".adapter.magnitude"),
            d_out: site.d_out,
            scale: plan.scale,
        }
    });
    ids.collect()
}

/// The parameters of updates that have gradients: all but what is frozen or follows from others.
fn trained_of_updates(sites: &[Site], plans: &[Plan], params: &[FoundParam]) -> Vec<ParamId> {
    let has_gradient = |factor: &Factor| match factor {
        Factor::Learned(_) | Factor::Combined(_) => true,
        Factor::Frozen(_) | Factor::Identity => false,
    };
    let of_site = |(site, plan): (&Site, &Plan)| {
        let leaves = [
            ("a", has_gradient(&plan.a)),
            ("b", has_gradient(&plan.b)),
            ("bias", plan.bias.is_some()),
            ("magnitude", plan.magnitude.is_trained()),
        ];
        let weight = site.weight_path();
        let trained = leaves.into_iter().filter(|(_, is_trained)| *is_trained);
        trained.map(|(leaf, _)| id_at(params, &format!("{weight}.adapter.{leaf}"))).collect::<Vec<_>>()
    };
    sites.iter().zip(plans).flat_map(of_site).collect()
}

/// The base weight of a site, row-major.
pub(crate) fn weight_of<M: Module>(model: &M, site: &Site) -> Vec<f32> {
    let path = site.weight_path();
    let found = float_params(model).into_iter().find(|param| param.path == path);
    let id = found.expect("sites are found in the model").id;
    floats(read_params(model, &[id]).remove(&id).expect("it was just found"))
}

fn ids_named(params: &[FoundParam], names: &[&str]) -> Result<Vec<ParamId>, Error> {
    let mut ids = Vec::new();
    for name in names {
        let inside = |path: &str| path == *name || path.starts_with(&format!("{name}."));
        let found = params.iter().filter(|p| inside(&p.path) && !is_adapter(&p.path));
        let before = ids.len();
        ids.extend(found.map(|param| param.id));
        if ids.len() == before {
            return Err(Error::NoParameter { pattern: (*name).to_owned() });
        }
    }
    Ok(ids)
}

/// The factors of one side, if they are linear combinations.
fn combined(plans: &[Plan], side: Side, factor: impl Fn(&Plan) -> &Factor) -> Option<Combined> {
    let combinations = LinearCombinations::of(plans, factor)?;
    Some(Combined { name: combinations.name(), side, combinations })
}

/// Refuses to train the weight of a site itself beside its adapter.
fn check_beside(sites: &[Site], params: &[FoundParam], also_train: &[&str]) -> Result<(), Error> {
    for name in also_train {
        let ids = ids_named(params, &[name])?;
        let weights = params.iter().filter(|param| ids.contains(&param.id)).map(|param| &param.path);
        let paths: Vec<&String> = weights.collect();
        if let Some(site) = sites.iter().find(|site| paths.contains(&&site.weight_path())) {
            return Err(Error::TrainedTwice { site: site.path.clone(), module: (*name).to_owned() });
        }
    }
    Ok(())
}

/// Refuses weights that are low-rank products already: there is nothing that an update could be added to.
fn check_free<M: Module>(model: &M, sites: &[Site]) -> Result<(), Error> {
    let taken = low_rank_paths(&float_params(model));
    match sites.iter().find(|site| taken.contains(&site.weight_path())) {
        Some(site) => Err(Error::LowRankSite { site: site.path.clone() }),
        None => Ok(()),
    }
}

/// Refuses to train packed weights.
fn check_dense<M: Module>(model: &M, also_train: &[&str]) -> Result<(), Error> {
    let (params, packed) = (float_params(model), packed_words(model));
    let ids = ids_named(&params, also_train)?;
    match params.iter().find(|param| ids.contains(&param.id) && packed.contains_key(&param.id)) {
        Some(param) => Err(Error::PackedTrained { weight: param.path.clone() }),
        None => Ok(()),
    }
}

fn check_saddles(sites: &[Site], plans: &[Plan]) -> Result<(), Error> {
    let is_zero = |values: &[f32]| values.iter().all(|value| *value == 0.0);
    let is_dead = |factor: &Factor| match factor {
        Factor::Combined(combined) => combined.offset.is_none() && is_zero(&combined.initial),
        Factor::Learned(values) => is_zero(values),
        Factor::Frozen(frozen) => is_zero(frozen.values()),
        Factor::Identity => false,
    };
    match sites.iter().zip(plans).find(|(_, plan)| is_dead(&plan.a) && is_dead(&plan.b)) {
        Some((site, _)) => Err(Error::DeadSaddle { site: site.path.clone() }),
        None => Ok(()),
    }
}

fn state_problems(expected: &[(String, Vec<usize>)], state: &TrainedState) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, shape) in expected {
        match state.get(name) {
            None => problems.push(format!("`{name}` is missing")),
            Some(data) if data.shape().to_vec() != *shape => {
                problems.push(format!("`{name}` has shape {:?}, expected {shape:?}", data.shape().to_vec()))
            }
            Some(data) => {
                let count = floats(data.clone()).iter().filter(|v| !v.is_finite()).count();
                if count > 0 {
                    problems.push(format!("`{name}` holds {count} numbers that are not finite"));
                } else if name == BASE_GAIN
                    && !floats(data.clone()).iter().all(|gain| (0.0..=1.0).contains(gain))
                {
                    let found = floats(data.clone());
                    problems.push(format!("`{name}` is {found:?}, expected shares between 0 and 1"));
                }
            }
        }
    }
    let surplus = state.keys().filter(|name| !expected.iter().any(|(known, _)| known == *name));
    problems.extend(surplus.map(|name| format!("`{name}` belongs to nothing in this model")));
    problems
}

fn host_values(tensor: Tensor<2>) -> Vec<f32> {
    floats(tensor.into_data())
}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::optim::SgdConfig;
    use burn::tensor::Distribution;

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
