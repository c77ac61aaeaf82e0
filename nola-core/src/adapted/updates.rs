//! What adapters do to weights, taken off the model that they are attached to.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use sha2::{Digest, Sha256};

use super::{Adapted, Side};
use crate::adapter::{Factor, FrozenMatrix, Matrices, Plan};
use crate::adapter_params::{AdapterParams, is_adapter};
use crate::params::{FoundParam, float_params};
use crate::row_adapters::{CoreForm, SharedFactors, SharedSite, Updates};
use crate::update::{SharedGain, Update};
use crate::{Error, Site};

impl<M: Module> Adapted<M> {
    /// What the adapters do to each weight, for rows of a batch over the same base
    /// ([`with_row_adapters`](crate::with_row_adapters)).
    ///
    /// # Errors
    /// If a parameter of the base was trained beside the adapters, which all rows share.
    pub fn updates(&self) -> Result<Updates, Error> {
        let attached = &self.attached;
        let is_shared = |param: &FoundParam| attached.trained.contains(&param.id) && !is_adapter(&param.path);
        if let Some(param) = float_params(&self.model).into_iter().find(is_shared) {
            return Err(Error::TrainedInBase { path: param.path });
        }
        let mut params = AdapterParams::default();
        self.model.visit(&mut params);
        let update = |((site, plan), gain): ((&Site, &Plan), &SharedGain)| {
            let path = site.weight_path();
            let update = Update::of_params(&params.at(&path), plan.scale, gain.clone());
            (path, update)
        };
        let sites = attached.sites.iter().zip(&attached.plans).zip(&attached.gains);
        Ok(Updates::new(sites.map(update).collect(), (params.count() * size_of::<f32>()) as u64))
    }

    /// The same as small numbers between factors that other adapters of its kind have, too; nothing if its factors are its own.
    pub fn shared_parts(&self) -> Option<SharedParts> {
        let sites = self.attached.sites.iter().zip(&self.attached.plans);
        let sites = sites.map(|(site, plan)| FrozenSite::of(site, plan)).collect::<Option<Vec<_>>>()?;
        let mut rows = BTreeMap::new();
        for (param, combined) in self.combined() {
            rows.insert(combined.side, combined.combinations.host_rows(&super::host_values(param.val())));
        }
        let numbers = |(place, (site, plan)): (usize, (&FrozenSite, &Plan))| match site.core {
            CoreForm::Full => scaled(&rows[&Side::B][place], plan.scale),
            CoreForm::Diagonal => {
                [scaled(&rows[&Side::A][place], plan.scale), rows[&Side::B][place].clone()].concat()
            }
        };
        let all = sites.iter().zip(&self.attached.plans).enumerate();
        let numbers = all.flat_map(numbers).collect();
        Some(SharedParts { sites, numbers })
    }
}

/// An adapter whose outer factors are frozen, and are those of others, too: both apart.
#[derive(Debug, Clone)]
pub struct SharedParts {
    sites: Vec<FrozenSite>,
    numbers: Vec<f32>,
}

/// The frozen factors of one weight.
#[derive(Debug, Clone)]
struct FrozenSite {
    /// Path of the weight.
    path: String,
    a: FrozenMatrix,
    b: FrozenMatrix,
    core: CoreForm,
}

impl SharedParts {
    /// What is the same for adapters that share their factors.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for FrozenSite { path, a, b, core } in &self.sites {
            hash.update(format!("{path} {core:?} {:?} {:?}\n", a.shape(), b.shape()));
            [a, b].iter().for_each(|matrix| hash.update(bytemuck::cast_slice::<f32, u8>(matrix.values())));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The factors on `device`; those that weights share are there once.
    pub fn factors(&self, device: &Device) -> SharedFactors {
        let mut there: Vec<(FrozenMatrix, Tensor<2>)> = Vec::new();
        let mut on_device = |matrix: &FrozenMatrix| {
            if let Some((_, tensor)) = there.iter().find(|(known, _)| known.is_shared_with(matrix)) {
                return tensor.clone();
            }
            let tensor = matrix.on(device);
            there.push((matrix.clone(), tensor.clone()));
            tensor
        };
        let site = |site: &FrozenSite| SharedSite {
            path: site.path.clone(),
            a: on_device(&site.a),
            b: on_device(&site.b),
            core: site.core,
            has_gains: site.core == CoreForm::Diagonal,
        };
        let sites = self.sites.iter().map(site).collect();
        let bytes = there.iter().map(|(matrix, _)| matrix.values().len() as u64 * 4).sum();
        SharedFactors::new(sites, bytes)
    }

    /// The numbers of this adapter, as [`Updates::between`] takes them.
    pub fn numbers(&self) -> &[f32] {
        &self.numbers
    }
}

impl FrozenSite {
    /// Of LoRA-XS or VeRA, however they were read; nothing of other updates.
    fn of(site: &Site, plan: &Plan) -> Option<Self> {
        if !plan.is_low_rank_alone() {
            return None;
        }
        let (a, b, core) = match (&plan.a, &plan.b) {
            (Factor::Frozen(a), Factor::Combined(b)) => match &b.matrices {
                Matrices::Rows { frozen, .. } if b.offset.is_none() => (a, frozen, CoreForm::Full),
                Matrices::Rows { .. } | Matrices::Random(_) | Matrices::Columns(_) => return None,
            },
            (Factor::Combined(a), Factor::Combined(b)) => match (&a.matrices, &b.matrices) {
                (Matrices::Columns(a), Matrices::Columns(b)) => (a, b, CoreForm::Diagonal),
                (Matrices::Random(_) | Matrices::Rows { .. } | Matrices::Columns(_), _) => return None,
            },
            (Factor::Learned(_) | Factor::Frozen(_) | Factor::Identity | Factor::Combined(_), _) => {
                return None;
            }
        };
        Some(Self { path: site.weight_path(), a: a.clone(), b: b.clone(), core })
    }
}

fn scaled(values: &[f32], scale: f64) -> Vec<f32> {
    values.iter().map(|&value| (scale * f64::from(value)) as f32).collect()
}
