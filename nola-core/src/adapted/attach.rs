//! How adapters are attached to a model, and what is refused.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::{Module, Param, ParamId, Reparameterizer};
use burn::tensor::{Device, Tensor};
use rayon::prelude::*;

use super::ranks::Ranks;
use super::{Adapted, Attached, Combined, LengthIds, Progress, Reading, Side, SiteIds, id_at, weight_of};
use crate::Error;
use crate::adapter::{AdapterConfig, Factor, Plan};
use crate::adapter_params::is_adapter;
use crate::dropout::CurrentPass;
use crate::embedding::check_embeddings;
use crate::linear_combinations::LinearCombinations;
use crate::low_rank_weights::low_rank_paths;
use crate::packed_weights::packed_words;
use crate::params::{FoundParam, float_params, train_only};
use crate::quantized::CoefficientBits;
use crate::site::Site;
use crate::targets::Targets;
use crate::update::{SharedGain, Update, column_squares};

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
}

/// Attaches updates to the weights at their paths.
struct Attach {
    adapters: BTreeMap<String, Update>,
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

/// The factors of one side, if they are linear combinations.
fn combined(plans: &[Plan], side: Side, factor: impl Fn(&Plan) -> &Factor) -> Option<Combined> {
    let combinations = LinearCombinations::of(plans, factor)?;
    Some(Combined { name: combinations.name(), side, combinations })
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
