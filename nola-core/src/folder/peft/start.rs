//! What OLoRA and PiSSA took out of the base before training, computed again from the base.
//!
//! PEFT trains `W - scale·A₀·B₀` and stores A and B alone, since it computes A₀ and B₀ again from W when it loads the folder. Here W
//! stays, and the product is taken away beside it.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;

use super::matrix::beside;
use super::matrix::part_of;
use super::{ForeignModule, Layout, Modules};
use crate::Error;
use crate::adapted::weight_of;
use crate::adapter::{FrozenMatrix, Plan, Start};
use crate::decomposition::Weight;
use crate::params::linear_sites;
use crate::site::{Site, SiteKind};

/// The first factors of foreign modules.
pub(super) struct Starts<'a, M: Module> {
    start: Start,
    model: &'a M,
    modules: Modules<'a>,
    all: Vec<Site>,
    /// Those of foreign modules that hold several of ours, by name.
    known: BTreeMap<String, [FrozenMatrix; 2]>,
}

impl<'a, M: Module> Starts<'a, M> {
    pub(super) fn new(start: Start, model: &'a M, modules: Modules<'a>) -> Self {
        Self { start, model, modules, all: linear_sites(model), known: BTreeMap::new() }
    }

    /// The plans, each less what its adapter started at.
    ///
    /// # Errors
    /// If a weight cannot be decomposed, or is one that PEFT decomposes the wrong way round; `file` has the settings.
    pub(super) fn taken_out(
        mut self,
        file: &Path,
        sites: &[Site],
        plans: Vec<Plan>,
    ) -> Result<Vec<Plan>, Error> {
        let plan = |(site, plan): (&Site, Plan)| {
            // PEFT takes nothing out of embeddings.
            if site.kind == SiteKind::Embedding {
                return Ok(plan);
            }
            let module = (self.modules)(&site.path);
            if self.start == Start::Qr && module.layout == Layout::Conv1d {
                let problem = format!(
                    "`init_lora_weights` is `olora`, which PEFT computes wrongly for layers such as `{}`, whose weights are \
                     transposed; merge the adapter into its own base with PEFT (`merge_and_unload`) and use that model",
                    module.names[0]
                );
                return Err(Error::Invalid { file: file.to_owned(), problems: vec![problem] });
            }
            Ok(Plan { start: Some(self.of(site, &module, &plan)?), ..plan })
        };
        sites.iter().zip(plans).map(plan).collect()
    }

    /// A₀ and B₀ of a site: its own outputs of those of the whole foreign module.
    fn of(&mut self, site: &Site, module: &ForeignModule, plan: &Plan) -> Result<[FrozenMatrix; 2], Error> {
        let name = &module.names[0];
        let whole = Site { d_out: module.part.whole(site.d_out), ..site.clone() };
        if !self.known.contains_key(name) {
            let values = self.whole_weight(module, site.d_in);
            let weight = Weight::new(&values, &whole, plan.rank)?;
            self.known.insert(name.clone(), self.start.of(&weight, &whole, plan.scale));
        }
        let [a, b] = &self.known[name];
        let part = part_of(b.values(), whole.d_out, module);
        Ok([a.clone(), FrozenMatrix::new(part, [plan.rank, site.d_out])])
    }

    /// The weight of a foreign module, in our order.
    fn whole_weight(&self, module: &ForeignModule, d_in: usize) -> Vec<f32> {
        let mut parts: Vec<(usize, Vec<f32>)> = (self.all.iter())
            .map(|site| (site, (self.modules)(&site.path)))
            .filter(|(_, other)| other.names == module.names)
            .map(|(site, other)| (other.part.shares().from, weight_of(self.model, site)))
            .collect();
        parts.sort_by_key(|(first, _)| *first);
        let parts: Vec<&[f32]> = parts.iter().map(|(_, values)| values.as_slice()).collect();
        beside(&parts, d_in)
    }
}
