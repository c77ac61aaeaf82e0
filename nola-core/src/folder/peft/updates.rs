//! The updates of a folder, in the forms that PEFT has for them.

use std::collections::BTreeMap;

use burn::module::Module;

use super::fused::{ModuleLora, module_loras};
use super::matching::{MAGNITUDE, factor_names, key};
use super::matrix::transposed;
use super::vera::VeraFolder;
use super::{ForeignModule, Layout, Modules, Stored};
use crate::adapted::{Adapted, weight_of};
use crate::params::linear_sites;
use crate::site::Site;
use crate::update::column_squares;

pub(super) type Tensors = BTreeMap<String, Stored>;

/// The updates of a folder, in one of PEFT's forms.
pub(super) enum Updates {
    Lora(Vec<ModuleLora>),
    Vera(VeraFolder),
}

impl Updates {
    pub(super) fn of<M: Module>(adapted: &Adapted<M>, modules: Modules) -> Self {
        if let Some(vera) = VeraFolder::of(adapted, modules) {
            return Self::Vera(vera);
        }
        let norms = |module: &ForeignModule, share| base_norms(&adapted.model, modules, module, share);
        // A weight may have lost all its ranks.
        let factors = adapted.factors().into_iter().filter(|factors| factors.rank > 0).collect();
        Self::Lora(module_loras(factors, modules, &norms))
    }

    /// Names and layouts of the adapted modules.
    pub(super) fn modules(&self) -> Vec<AdaptedModule<'_>> {
        match self {
            Self::Lora(loras) => loras.iter().map(|lora| (lora.name.as_str(), lora.layout)).collect(),
            Self::Vera(vera) => vera.modules().collect(),
        }
    }

    pub(super) fn tensors(&self) -> Tensors {
        match self {
            Self::Lora(loras) => loras.iter().flat_map(lora_tensors).collect(),
            Self::Vera(vera) => vera.tensors().into_iter().collect(),
        }
    }
}

/// Name and layout of a module with an adapter.
pub(super) type AdaptedModule<'a> = (&'a str, Layout);

fn lora_tensors(lora: &ModuleLora) -> Vec<(String, Stored)> {
    let (a, b) = (transposed(&lora.a, lora.rank), transposed(&lora.b, lora.d_out));
    let [of_a, of_b] = factor_names(lora.kind);
    let mut tensors = vec![
        (key(&lora.name, of_a), (vec![lora.rank, lora.d_in], a)),
        (key(&lora.name, of_b), (vec![lora.d_out, lora.rank], b)),
    ];
    tensors.extend(
        lora.magnitude.clone().map(|lengths| (key(&lora.name, MAGNITUDE), (vec![lora.d_out], lengths))),
    );
    tensors
}

/// Lengths of the columns of the base, of one share of a foreign module.
fn base_norms<M: Module>(model: &M, modules: Modules, module: &ForeignModule, share: usize) -> Vec<f32> {
    let shares = |site: &Site| {
        let found = modules(&site.path);
        Some(found.part.shares()).filter(|shares| found.names == module.names && shares.contains(share))
    };
    let found = linear_sites(model).into_iter().find_map(|site| Some((shares(&site)?, site)));
    let (shares, site) = found.expect("every part of a module is a layer of ours");
    let squares = column_squares(&weight_of(model, &site), site.d_out);
    let width = site.d_out / shares.count();
    squares.into_iter().skip((share - shares.from) * width).take(width).map(f32::sqrt).collect()
}
