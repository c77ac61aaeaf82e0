//! Adapters baked into dense weights.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::{Module, ParamId};
use burn::tensor::TensorData;

use super::{Adapted, SiteFactors, Survivors, floats, id_at};
use crate::Error;
use crate::adapter::BaseGain;
use crate::low_rank_weights::{low_rank_weights, with_low_rank_weights};
use crate::params::{float_params, read_params, write_params};

impl<M: Module> Adapted<M> {
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
}

/// A merged model.
pub(crate) struct Merged<M> {
    pub model: M,
    pub survivors: Survivors,
    /// Paths of layers without a bias whose adapters learned one.
    pub biases_without_place: Vec<String>,
}
