//! VeRA folders of PEFT's: two vectors for each module, and the shared pair or the key that it is drawn from.

use burn::module::Module;
use serde_json::{Value, json};

use super::lora_config::VeraSettings;
use super::matching::{Lora, Matching, key};
use super::matrix::part_of;
use super::{ForeignModule, Layout, Modules, Part, Stored};
use crate::adapted::{Adapted, floats};
use crate::adapter::vera::{LAMBDA_B, LAMBDA_D, VeraBlocks, VeraConfig, VeraPair};
use crate::adapter::{MAX_RANK, PeftForm, Plan};
use crate::site::Site;

/// What PEFT calls the two vectors of a module.
const VECTORS: [&str; 2] = ["vera_lambda_d", "vera_lambda_b"];
/// What it calls the pair, once in a folder.
const PAIR: [&str; 2] = ["base_model.vera_A", "base_model.vera_B"];

/// A site with its VeRA in a folder.
struct Found {
    site: Site,
    module: ForeignModule,
    name: String,
}

impl Matching<'_> {
    /// The VeRA of every one of `sites` that has one.
    pub(super) fn vera_plans(&mut self, settings: &VeraSettings, sites: Vec<Site>) -> Vec<(Site, Plan)> {
        let mut found = Vec::new();
        let mut rank = 0;
        for site in sites {
            let module = (self.modules)(&site.path);
            let layer = self.layer_of(&site);
            if let Some(lora) = self.lora(&site.path, &module, layer, VECTORS) {
                rank = lora.rank;
                let Lora { name, .. } = lora;
                found.push(Found { site, module, name });
            }
        }
        let Some(pair) = self.vera_pair(settings, rank, &found) else { return Vec::new() };
        let mut blocks = VeraBlocks::new(&pair);
        found.into_iter().filter_map(|found| self.vera_plan(found, rank, &mut blocks)).collect()
    }

    /// The shared pair, which is as wide as the widest module: the stored one, or the one that the key gives.
    fn vera_pair(&mut self, settings: &VeraSettings, rank: usize, found: &[Found]) -> Option<VeraPair> {
        let d_in = found.iter().map(|found| found.site.d_in).max()?;
        let d_out = found.iter().map(|found| found.module.part.whole(found.site.d_out)).max()?;
        if PAIR.iter().any(|key| self.has(key)) {
            let [a, b] = [self.take(PAIR[0], &[rank, d_in]), self.take(PAIR[1], &[d_out, rank])];
            return Some(VeraPair { a: a?, b: b?, rank });
        }
        if settings.saves_pair {
            let [a, b] = PAIR;
            self.note(format!(
                "`{a}` and `{b}` are missing, though `save_projection` is true; save the adapter again, or set it to false \
                 if the pair is the one that `projection_prng_key` gives"
            ));
            return None;
        }
        if rank > MAX_RANK {
            self.note(format!("`r` is {rank}, more than {MAX_RANK}: no adapter has such a rank"));
            return None;
        }
        Some(VeraPair::drawn(settings.key, rank, [d_in, d_out]))
    }

    fn vera_plan(&mut self, found: Found, rank: usize, blocks: &mut VeraBlocks) -> Option<(Site, Plan)> {
        let Found { site, module, name } = found;
        let d_out = module.part.whole(site.d_out);
        let d = self.take(&key(&name, VECTORS[0]), &[rank]);
        let b = self.take(&key(&name, VECTORS[1]), &[d_out]);
        let (d, b) = (d?, part_of(&b?, d_out, &module));
        let plan = blocks.plan(site.d_in, module.part.shares().range(d_out), d, b);
        Some((site, plan))
    }
}

/// What a folder of PEFT's own VeRA holds.
pub(super) struct VeraFolder {
    config: VeraConfig,
    pair: Option<(VeraPair, [usize; 2])>,
    modules: Vec<VeraModule>,
}

struct VeraModule {
    name: String,
    layout: Layout,
    d: Vec<f32>,
    b: Vec<f32>,
}

impl VeraFolder {
    /// The folder of a VeRA whose sites are modules of transformers as a whole: parts of one would need scales of the
    /// bottleneck of their own, which PEFT does not have.
    pub(super) fn of<M: Module>(adapted: &Adapted<M>, modules: Modules) -> Option<Self> {
        let config = match adapted.config()?.method().peft_form() {
            PeftForm::Lora => return None,
            PeftForm::Vera(config) => config.clone(),
        };
        let sites = adapted.sites();
        if sites.iter().any(|site| modules(&site.path).part != Part::Whole) {
            return None;
        }
        let state = adapted.state();
        let vectors = |name: &str| {
            let values = floats(state[name].clone());
            adapted.vectors(name).expect("VeRA's coefficients").split(&values).map(<[f32]>::to_vec).collect()
        };
        let [d, b]: [Vec<Vec<f32>>; 2] = [vectors(LAMBDA_D), vectors(LAMBDA_B)];
        let module = |((site, d), b): ((&Site, Vec<f32>), Vec<f32>)| {
            let module = modules(&site.path);
            VeraModule { name: module.name().to_owned(), layout: module.layout, d, b }
        };
        let widths = [sites.iter().map(|site| site.d_in).max()?, sites.iter().map(|site| site.d_out).max()?];
        let pair = || (VeraPair::drawn(config.projection_prng_key, config.rank, widths), widths);
        Some(Self {
            pair: config.save_projection.then(pair),
            modules: sites.iter().zip(d).zip(b).map(module).collect(),
            config,
        })
    }

    /// Names and layouts of the adapted modules.
    pub(super) fn modules(&self) -> impl Iterator<Item = (&str, Layout)> {
        self.modules.iter().map(|module| (module.name.as_str(), module.layout))
    }

    /// Every tensor but those that were trained beside.
    pub(super) fn tensors(&self) -> Vec<(String, Stored)> {
        let of_module = |module: &VeraModule| {
            [(VECTORS[0], &module.d), (VECTORS[1], &module.b)]
                .map(|(name, values)| (key(&module.name, name), (vec![values.len()], values.clone())))
        };
        let mut tensors: Vec<(String, Stored)> = self.modules.iter().flat_map(of_module).collect();
        if let Some((pair, [d_in, d_out])) = &self.pair {
            tensors.push((PAIR[0].to_owned(), (vec![pair.rank, *d_in], pair.a.clone())));
            tensors.push((PAIR[1].to_owned(), (vec![*d_out, pair.rank], pair.b.clone())));
        }
        tensors
    }

    /// The settings of a VeRA's own, with PEFT's keys.
    pub(super) fn settings(&self) -> Value {
        let VeraConfig { rank, d_initial, projection_prng_key, save_projection } = self.config;
        json!({
            "r": rank,
            "projection_prng_key": projection_prng_key,
            "save_projection": save_projection,
            "vera_dropout": 0.0,
            "d_initial": d_initial,
            "init_weights": true,
        })
    }
}
