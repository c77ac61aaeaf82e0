//! The factors of every site on the host, and what a weight becomes with them.

use std::collections::BTreeMap;

use burn::module::{Module, ParamId};
use rayon::prelude::*;

use super::{Adapted, Side, Survivors, floats, host_values, id_at};
use crate::adapter::{BaseGain, Factor, FrozenMatrix};
use crate::adapter_params::is_adapter;
use crate::params::{FoundParam, float_params, read_params};
use crate::site::Site;

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

impl<M: Module> Adapted<M> {
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
}

impl SiteFactors {
    /// `gain · W + scale · A·B`, summed in `f64` over the rank in ascending order and rounded once.
    pub(crate) fn merged(&self, weight: &[f32]) -> Vec<f32> {
        self.merged_counting(weight, &|weight| weight).0
    }

    /// The same, and what of it is left once `stored` has rounded it again.
    pub(super) fn merged_counting(
        &self,
        weight: &[f32],
        stored: &(dyn Fn(f32) -> f32 + Sync),
    ) -> (Vec<f32>, Survivors) {
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

    pub(super) fn changes_bias(&self) -> bool {
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
