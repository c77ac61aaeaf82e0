//! What adapters do to weights, taken off the model that they are attached to.

use burn::module::Module;

use super::Adapted;
use crate::adapter::Plan;
use crate::adapter_params::{AdapterParams, is_adapter};
use crate::params::{FoundParam, float_params};
use crate::row_adapters::Updates;
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
}
