//! `expand` and `project` of all sites of a model, as an optimizer step calls them.

use burn::module::{Module, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use clap::ValueEnum;
use nola_core::adapter::NolaConfig;
use nola_core::basis::Distribution;
use nola_core::{Adapted, float_params};
use nola_models::{Gpt2, Llama, Vit};
use serde::Serialize;

use super::{NANO, Probe, Rate, Timed};
use crate::Error;
use crate::attach::attach;
use crate::bench::cases::{self, AdapterSizes, Method, Preset, drawn};
use crate::bench::statistics::{median, rounded};
use crate::sizes::Sizes;

/// `expand` or `project` of every site of a model.
#[derive(Debug, Serialize)]
pub(super) struct BasisRate {
    #[serde(flatten)]
    case: BasisCase,
    median_s: f64,
    cpu_median_s: Option<f64>,
    pub(super) gelem_s_best: f64,
    pub(super) gelem_s_median: f64,
    /// CPU time over numbers; absent on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ns_per_number_and_core: Option<f64>,
}

/// What is mixed.
#[derive(Debug, Clone, Serialize)]
struct BasisCase {
    model: String,
    method: String,
    distribution: Distribution,
    sites: usize,
    rank: usize,
    k: usize,
    /// Entries times coefficients: what a plain loop would draw and multiply.
    numbers: f64,
}

impl BasisCase {
    fn of<M: Module>(preset: Preset, method: Method, nola: &NolaConfig, adapted: &Adapted<M>) -> Self {
        let widths = adapted.sites().iter().map(|site| (site.d_in + site.d_out) as f64).sum::<f64>();
        Self {
            model: preset.name(),
            method: method.name(),
            distribution: nola.basis,
            sites: adapted.sites().len(),
            rank: nola.rank,
            k: nola.k,
            numbers: widths * (nola.rank * nola.k) as f64,
        }
    }
}

impl Probe<'_> {
    /// Both calls for adapters of all kinds on one model.
    ///
    /// # Errors
    /// If a setting of the adapter cannot be used.
    pub(super) fn basis(&mut self, preset: Preset) -> Result<(), Error> {
        let device = self.open.device.clone().autodiff();
        for method in Method::value_variants().iter().copied().filter(|method| method.is_nola()) {
            // The weights themselves are never used, and so take no memory.
            match preset.sizes() {
                Sizes::Vit(config) => self.mixed(preset, method, Vit::uninitialized(&config, &device)),
                Sizes::Gpt2(config) => self.mixed(preset, method, Gpt2::uninitialized(&config, &device)),
                Sizes::Llama(config) => self.mixed(preset, method, Llama::uninitialized(&config, &device)),
            }?;
        }
        Ok(())
    }

    /// `expand` and `project` of all sites of `model`.
    fn mixed<M: Module>(&mut self, preset: Preset, method: Method, model: M) -> Result<(), Error> {
        let name = |call: &str| format!("{call}_{}_{}", preset.name(), method.name());
        let (expand, project) = (name("expand"), name("project"));
        let [wants_expand, wants_project] = [&expand, &project].map(|what| self.wants(what));
        let Method::Nola(sharing, basis) = method else { return Ok(()) };
        if !(wants_expand || wants_project) {
            return Ok(());
        }
        let nola = cases::nola(sharing, basis, self.sizes(preset));
        let device = self.open.device.clone().autodiff();
        let adapted = attach(model, &nola.clone().into(), &[], &device)?;
        let case = BasisCase::of(preset, method, &nola, &adapted);
        if wants_project {
            let gradients = FactorGradients::of(&adapted, &self.open.device);
            let timed = self.timed((), |()| drop(adapted.project(gradients.get())));
            self.line(&project, Rate::Basis(self.basis_rate(&case, &timed)))?;
        }
        if wants_expand {
            let timed = self.timed(adapted, Adapted::expand);
            self.line(&expand, Rate::Basis(self.basis_rate(&case, &timed)))?;
        }
        Ok(())
    }

    fn sizes(&self, preset: Preset) -> AdapterSizes {
        let defaults = preset.defaults();
        let (rank, k) = (self.args.rank.unwrap_or(defaults.rank), self.args.k.unwrap_or(defaults.k));
        AdapterSizes { lora_rank: 0, rank, k, l: k }
    }

    fn basis_rate(&self, case: &BasisCase, timed: &Timed) -> BasisRate {
        let [best, typical] = timed.rates(case.numbers / NANO).map(|rate| rounded(rate, 4));
        let cpu = median(&timed.cpus).filter(|_| self.on_cpu());
        BasisRate {
            case: case.clone(),
            median_s: rounded(median(&timed.walls).unwrap_or_default(), 6),
            cpu_median_s: timed.cpu_median_s(),
            gelem_s_best: best,
            gelem_s_median: typical,
            ns_per_number_and_core: cpu.map(|seconds| rounded(seconds * NANO / case.numbers, 4)),
        }
    }
}

/// Gradients of the factors of every site, as a pass would leave them.
struct FactorGradients(Vec<(ParamId, Tensor<2>)>);

impl FactorGradients {
    fn of<M: Module>(adapted: &Adapted<M>, device: &Device) -> Self {
        let factors = float_params(&adapted.model).into_iter().filter(|p| p.path.contains(".adapter."));
        let gradient = |shape: Vec<usize>| {
            let values = drawn(9, shape.iter().product(), 1e-3);
            Tensor::<2>::from_data(TensorData::new(values, shape), device)
        };
        let gradients: Vec<_> = factors.map(|factor| (factor.id, gradient(factor.shape))).collect();
        assert_eq!(gradients.len(), 2 * adapted.sites().len(), "every site has two factors");
        Self(gradients)
    }

    fn get(&self) -> GradientsParams {
        let mut gradients = GradientsParams::new();
        for (id, gradient) in &self.0 {
            gradients.register(*id, gradient.clone());
        }
        gradients
    }
}
