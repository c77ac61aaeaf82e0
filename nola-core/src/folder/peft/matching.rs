//! Which tensors of a PEFT folder belong where in a model, and what does not fit.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::slice;

use burn::module::Module;
use burn::tensor::TensorData;

use super::lora_config::{Form, Layer, Target};
use super::matrix::{part_of, transposed};
use super::peft_adapter::PeftAdapter;
use super::{CONFIG, ForeignModule, Layout, Modules, PREFIX};
use crate::adapted::{TrainedState, floats};
use crate::adapter::{Factor, Magnitude, Plan};
use crate::params::{FoundParam, float_params, foreign_leaf, read_params};
use crate::site::{Site, SiteKind};

/// Our path of what makes scores, which `all-linear` leaves out.
const HEAD: &str = "head";
/// Tensors of LoRAs that act in training alone.
const OF_TRAINING: [&str; 2] = [".lora_velora_embed", ".lora_monteclora_sampler."];

/// What of the tensor's name follows the module's.
pub(super) const TOKEN_ROWS: &str = "token_adapter.trainable_tokens_delta";

/// A walk over a model that takes what each place has in the folder.
pub(super) struct Matching<'a> {
    pub(super) adapter: &'a PeftAdapter,
    pub(super) modules: Modules<'a>,
    used: BTreeSet<String>,
    problems: Vec<String>,
    /// How many modules of ours have a LoRA.
    adapted: usize,
    /// What the head makes.
    head: Layer,
}

/// The LoRA of a module: its name there, and what the settings say of it.
pub(super) struct Lora {
    pub name: String,
    pub rank: usize,
    pub scale: f64,
}

/// A parameter of ours in a module of transformers.
pub(super) struct Place<'a> {
    pub param: &'a FoundParam,
    /// Our path of the module.
    pub module: &'a str,
    pub foreign: ForeignModule,
    /// What the parameter is called there.
    pub leaf: &'a str,
}

impl<'a> Matching<'a> {
    pub(super) fn new<M: Module>(adapter: &'a PeftAdapter, modules: Modules<'a>, model: &M) -> Self {
        let has_tokens = float_params(model).iter().any(FoundParam::is_of_embedding);
        let head = if has_tokens { Layer::OutputEmbedding } else { Layer::Classifier };
        Self { adapter, modules, used: BTreeSet::new(), problems: Vec::new(), adapted: 0, head }
    }

    /// The updates of those of `sites` that have one.
    pub(super) fn plans(&mut self, sites: Vec<Site>) -> Vec<(Site, Plan)> {
        let sites = sites.into_iter().filter(|site| match site.kind {
            SiteKind::Linear => true,
            SiteKind::Embedding => !self.becomes_table(&site.path),
        });
        let sites: Vec<Site> = sites.collect();
        match self.adapter.config.form.clone() {
            Form::Lora => {
                sites.into_iter().filter_map(|site| self.plan(&site).map(|plan| (site, plan))).collect()
            }
            Form::Vera(settings) => self.vera_plans(&settings, sites),
        }
    }

    /// Whether all that the folder has for an embedding becomes a change of its table: where rows of it were trained too, they
    /// take the place of the updated ones.
    pub(super) fn becomes_table(&self, embedding: &str) -> bool {
        let module = (self.modules)(embedding);
        let has_rows = self.names(&module).iter().any(|name| self.has(&key(name, TOKEN_ROWS)));
        has_rows || self.adapter.config.form != Form::Lora
    }

    /// What a layer is to the settings.
    pub(super) fn layer_of(&self, site: &Site) -> Layer {
        match site.kind {
            SiteKind::Linear if site.path == HEAD => self.head,
            SiteKind::Linear => Layer::Linear,
            SiteKind::Embedding => Layer::Other,
        }
    }

    /// The LoRA of a layer, if there is one.
    fn plan(&mut self, site: &Site) -> Option<Plan> {
        let module = (self.modules)(&site.path);
        let layer = self.layer_of(site);
        let [of_a, of_b] = factor_names(site.kind);
        let Lora { name, rank, scale } = self.lora(&site.path, &module, layer, [of_a, of_b])?;
        let d_out = module.part.whole(site.d_out);
        let a = self.take(&key(&name, of_a), &[rank, site.d_in]);
        let b = self.take(&key(&name, of_b), &[d_out, rank]);
        if site.kind == SiteKind::Embedding {
            let [a, b] = [(a?, site.d_in), (b?, rank)].map(|(values, columns)| transposed(&values, columns));
            return Some(Plan::low_rank(Factor::Learned(a), Factor::Learned(b), rank, scale));
        }
        let latent = self.latent(&name, rank);
        let a = Factor::Learned(transposed(&a?, site.d_in));
        let b = transposed(&b?, rank);
        let b = latent.map_or(b.clone(), |latent| latent_product(&latent, &b, rank));
        let b = Factor::Learned(part_of(&b, d_out, &module));
        Some(Plan { magnitude: self.magnitude(&name, d_out, &module)?, ..Plan::low_rank(a, b, rank, scale) })
    }

    /// LoRA-XS's R between A and B, `[rank, rank]`, if the folder is one that its authors' program wrote: with their version
    /// of PEFT, or with a later one.
    fn latent(&mut self, name: &str, rank: usize) -> Option<Vec<f32>> {
        let keys = LATENT.map(|latent| format!("{PREFIX}{name}{latent}"));
        let key = keys.into_iter().find(|key| self.has(key))?;
        self.take(&key, &[rank, rank])
    }

    /// The lengths of the columns of the module `name`, if the folder is DoRA's.
    fn magnitude(&mut self, name: &str, d_out: usize, module: &ForeignModule) -> Option<Magnitude> {
        if !self.adapter.config.use_dora {
            return Some(Magnitude::Free);
        }
        let lengths = self.take(&key(name, MAGNITUDE), &[d_out])?;
        Some(Magnitude::Given(part_of(&lengths, d_out, module)))
    }

    /// Everything else that the folder changes, by our path.
    pub(super) fn others<M: Module>(&mut self, model: &M) -> TrainedState {
        let mut others = TrainedState::new();
        for param in float_params(model) {
            if let Some(values) = self.changed(model, &param) {
                others.insert(param.path, TensorData::new(values, param.shape));
            }
        }
        others
    }

    /// All that does not fit.
    pub(super) fn problems(mut self) -> Vec<String> {
        self.name_surplus();
        let config = &self.adapter.config;
        let holds_rows = self.adapter.tensors.keys().any(|key| key.ends_with(TOKEN_ROWS));
        if config.trains_tokens() && !holds_rows {
            self.note(format!("`{CONFIG}` names `trainable_token_indices`, but no `{TOKEN_ROWS}` is there"));
        }
        if self.problems.is_empty() && self.adapted == 0 && config.has_targets() {
            self.note(format!("`target_modules` of `{CONFIG}` names no layer of this model"));
        }
        self.problems
    }

    /// The new values of a parameter that is no factor of a LoRA, if the folder changes it.
    fn changed<M: Module>(&mut self, model: &M, param: &FoundParam) -> Option<Vec<f32>> {
        let (module, leaf) = param.path.rsplit_once('.')?;
        let place = Place { param, module, foreign: (self.modules)(module), leaf: foreign_leaf(leaf) };
        if let Some(copy) = self.copy_key(&place) {
            return self.whole(&copy, &place);
        }
        let current =
            || floats(read_params(model, &[param.id]).remove(&param.id).expect("it was just found"));
        let base = self.base_key(&place).and_then(|key| self.whole(&key, &place));
        // PEFT stores the table beside the LoRA of an embedding, though nothing changed it.
        let is_table = param.is_of_embedding() || self.partner(module).is_some();
        let base = base.filter(|base| !is_table || *base != current());
        let (update, rows) = (self.dense_update(&place), self.token_rows(&place));
        if base.is_none() && update.is_none() && rows.is_none() {
            return None;
        }
        let values = base.unwrap_or_else(current);
        let mut values = update.map(|update| update.merged(&values)).unwrap_or(values);
        if let Some(rows) = rows {
            rows.write(&mut values, param);
        }
        Some(values)
    }

    /// Name, rank and scale of the LoRA of a module, if there is one; a target without one is noted, and one without a target.
    pub(super) fn lora(
        &mut self,
        path: &str,
        module: &ForeignModule,
        layer: Layer,
        factors: [&str; 2],
    ) -> Option<Lora> {
        let names = self.names(module).to_vec();
        let is_there = |name: &&String| factors.iter().any(|factor| self.has(&key(name, factor)));
        let Some(name) = names.iter().find(is_there).cloned() else {
            if let Some(name) = names.iter().find(|name| self.is_target(name, layer) == Some(true)) {
                self.note(format!("`{}` is missing, though the module is a target", key(name, factors[0])));
            }
            return None;
        };
        if self.is_target(&name, layer) == Some(false) && !self.is_tied_target(path) {
            self.used.extend(factors.map(|factor| key(&name, factor)));
            let found = key(&name, factors[0]);
            self.note(format!(
                "`{found}` is there, but by `target_modules` of `{CONFIG}` the module has no LoRA"
            ));
            return None;
        }
        self.adapted += 1;
        let rank = self.asked(self.adapter.config.rank(&name))?;
        if rank == 0 {
            self.note(format!("`{CONFIG}` gives `{name}` the rank 0; a LoRA has at least 1"));
            return None;
        }
        let scale = self.asked(self.adapter.config.scale(&name, rank))?;
        Some(Lora { name, rank, scale })
    }

    /// Whether the settings give the module `name` a LoRA; nothing if they do not say, which is noted.
    fn is_target(&mut self, name: &str, layer: Layer) -> Option<bool> {
        let is_target = self.adapter.config.targets(&Target { name, layer });
        self.asked(is_target)
    }

    /// Whether the module is one matrix with a target, and the settings want one LoRA for both.
    fn is_tied_target(&mut self, path: &str) -> bool {
        let partner = self.partner(path).filter(|_| self.adapter.config.ties_loras());
        let names = partner.map(|partner| self.names(&partner).to_vec()).unwrap_or_default();
        names.iter().any(|name| self.is_target(name, Layer::Other) == Some(true))
    }

    /// The key of a whole copy of the module for this adapter alone; a copy that should be there and is not is noted.
    fn copy_key(&mut self, place: &Place) -> Option<String> {
        let names = self.names(&place.foreign);
        if !names.iter().any(|name| self.adapter.config.saves(name)) {
            return None;
        }
        let keys: Vec<String> = names.iter().map(|name| key(name, place.leaf)).collect();
        // With `bias="all"` PEFT stores the base's bias and the copy's under these names too.
        let twins = ["original_module", "modules_to_save"].map(|twin| format!("{twin}.{}", place.leaf));
        let twins: Vec<String> =
            names.iter().flat_map(|name| twins.each_ref().map(|twin| key(name, twin))).collect();
        self.used.extend(twins);
        let found = keys.iter().find(|key| self.has(key)).cloned();
        if found.is_none() {
            self.note(format!("`{}` is missing, though `modules_to_save` names the module", keys[0]));
        }
        found
    }

    /// The key of a new value of the base: a trained bias, or an embedding that PEFT stores beside its LoRA.
    fn base_key(&mut self, place: &Place) -> Option<String> {
        let partner = self.partner(place.module);
        // Of two names of one matrix, PEFT loads that of the head last.
        let homes = match (&partner, self.adapter.tied) {
            (Some(partner), Some(tied)) if tied.embedding == place.module => vec![partner, &place.foreign],
            (Some(partner), _) => vec![&place.foreign, partner],
            (None, _) => vec![&place.foreign],
        };
        let names: Vec<String> = homes.into_iter().flat_map(|home| self.names(home)).cloned().collect();
        let is_of_base = |name: &&String| !self.adapter.config.saves(name);
        let in_module = |name: &String| {
            ["base_layer.", "token_adapter.base_layer.", ""]
                .map(|wrapper| key(name, &format!("{wrapper}{}", place.leaf)))
        };
        let keys: Vec<String> = names.iter().filter(is_of_base).flat_map(in_module).collect();
        let keys: Vec<String> = keys.into_iter().filter(|key| self.has(key)).collect();
        self.used.extend(keys.iter().cloned());
        keys.into_iter().next()
    }

    /// The module that is one matrix with `module` in the base, if there is one.
    fn partner(&self, module: &str) -> Option<ForeignModule> {
        let tied = self.adapter.tied?;
        match module {
            of if of == tied.embedding => Some((self.modules)(tied.head)),
            of if of == tied.head => Some((self.modules)(tied.embedding)),
            _ => None,
        }
    }

    /// The values of a parameter from the tensor `key`, which may hold other modules too.
    fn whole(&mut self, key: &str, place: &Place) -> Option<Vec<f32>> {
        let Place { param, foreign, .. } = place;
        if !param.is_of_linear() {
            return self.take(key, &param.shape);
        }
        let (last, inputs) = param.shape.split_last()?;
        let d_out = foreign.part.whole(*last);
        let whole = match (inputs.first(), foreign.layout) {
            (Some(&d_in), Layout::Linear) => transposed(&self.take(key, &[d_out, d_in])?, d_in),
            (Some(&d_in), Layout::Conv1d) => self.take(key, &[d_in, d_out])?,
            (None, Layout::Linear | Layout::Conv1d) => self.take(key, &[d_out])?,
        };
        Some(part_of(&whole, d_out, foreign))
    }

    pub(super) fn take(&mut self, key: &str, shape: &[usize]) -> Option<Vec<f32>> {
        self.used.insert(key.to_owned());
        match self.adapter.tensors.get(key) {
            None => self.note(format!("`{key}` is missing")),
            Some((found, _)) if found != shape => {
                self.note(format!("`{key}` has shape {found:?}, expected {shape:?}"));
            }
            Some((_, values)) => return Some(values.clone()),
        }
        None
    }

    /// Every tensor must have a place.
    fn name_surplus(&mut self) {
        let made_for = match &self.adapter.config.task_type {
            Some(task) => format!(" (the adapter was made for the task {task})"),
            None => String::new(),
        };
        let is_surplus = |name: &&String| {
            !self.used.contains(*name) && !OF_TRAINING.iter().any(|part| name.contains(part))
        };
        for name in self.adapter.tensors.keys().filter(is_surplus) {
            let why =
                if [".lora_", ".vera_"].iter().any(|part| name.contains(part)) { "" } else { &made_for };
            self.problems.push(format!("`{name}` belongs to nothing in this model{why}"));
        }
    }

    /// The names that the folder may use for a module.
    pub(super) fn names<'n>(&self, module: &'n ForeignModule) -> &'n [String] {
        let [new, old] = &module.names;
        if new == old { slice::from_ref(new) } else { &module.names }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.adapter.tensors.contains_key(key)
    }

    /// What a pattern of the settings says; that it says nothing is a problem.
    fn asked<T, E: Display>(&mut self, answer: Result<T, E>) -> Option<T> {
        answer.map_err(|error| self.note(format!("`{CONFIG}`: {error}"))).ok()
    }

    /// Notes a problem once, though every part of a module meets it.
    pub(super) fn note(&mut self, problem: String) {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

/// What of the tensor's name follows the module's: lengths of DoRA's columns.
pub(super) const MAGNITUDE: &str = "lora_magnitude_vector";

/// What of the tensor's name follows the module's: LoRA-XS's R, as its authors' program stores it.
const LATENT: [&str; 2] = ["_lora_latent_mapping.weight", ".default_lora_latent_mapping.weight"];

/// `Rᵀ·B`, each number rounded once: what a plain LoRA has in place of B, in our order.
///
/// # Shapes
/// - `latent`: R, `[rank, rank]`
/// - `b` and output: `[rank, d_out]`
fn latent_product(latent: &[f32], b: &[f32], rank: usize) -> Vec<f32> {
    let d_out = b.len() / rank;
    let entry = |row: usize, column: usize| -> f64 {
        (0..rank).map(|n| f64::from(latent[n * rank + row]) * f64::from(b[n * d_out + column])).sum()
    };
    (0..rank).flat_map(|row| (0..d_out).map(move |column| entry(row, column) as f32)).collect()
}

/// What of the names of A and B follows the module's.
pub(super) fn factor_names(kind: SiteKind) -> [&'static str; 2] {
    match kind {
        SiteKind::Linear => ["lora_A.weight", "lora_B.weight"],
        SiteKind::Embedding => ["lora_embedding_A", "lora_embedding_B"],
    }
}

pub(super) fn key(name: &str, inside: &str) -> String {
    format!("{PREFIX}{name}.{inside}")
}
