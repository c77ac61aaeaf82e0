//! `bench adapters`: what it costs to load, attach, exchange and merge an adapter.

use std::path::Path;
use std::time::Instant;

use burn::tensor::{Device, TensorData};
use clap::Args;
use comfy_table::{CellAlignment, Table};
use nola_core::adapter::Format;
use nola_core::bundle::{About, Bundle, LowRankAdapter};
use nola_core::folder::{self, BaseIdentity, CoefficientBits, Description, peft};
use nola_core::joint::{Kind, Options};
use nola_core::{Adapted, TrainedState};
use nola_models::CausalLm;
use serde::Serialize;

use super::Output;
use super::cases::{self, AdapterSizes, Method, Preset};
use super::measure::synchronize;
use super::start::language_model;
use super::statistics::{median, rounded};
use crate::attach::attach;
use crate::option_values::positive;
use crate::recipe::MethodRecipe;
use crate::session::{Base, TextBase};
use crate::{Error, device};

/// Options of `bench adapters`.
#[derive(Debug, Args)]
pub struct AdaptersArgs {
    /// The language model that adapters are attached to.
    #[arg(long, default_value = "gpt2", value_name = "MODEL", value_parser = language_model)]
    model: Preset,
    /// Adapters to measure, with commas between them.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "lora,nola,nola-shared,nola-sign",
        value_name = "METHODS"
    )]
    methods: Vec<Method>,
    /// Rank of NOLA; default: the model's.
    #[arg(long, value_name = "N", value_parser = positive())]
    rank: Option<usize>,
    /// Rank of LoRA.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive())]
    lora_rank: usize,
    /// Random matrices of NOLA, for each factor; default: the model's.
    #[arg(long, value_name = "N", value_parser = positive())]
    k: Option<usize>,
    /// Repetitions of each measurement, after one that is not counted.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = positive())]
    repeats: usize,
}

/// What `bench adapters` found of one method; seconds are medians.
#[derive(Debug, Serialize)]
pub struct AdapterLine {
    what: &'static str,
    model: String,
    method: String,
    device: String,
    threads: usize,
    n: usize,
    sites: usize,
    trainable: usize,
    /// Bytes of the adapter folder, configuration and card included.
    adapter_bytes: u64,
    /// Bytes of its weights file.
    weights_bytes: u64,
    /// Attach a fresh adapter to the base in memory.
    attach_s: f64,
    /// Write its folder.
    save_s: f64,
    /// Read the folder, check it and attach it to the base in memory.
    load_s: f64,
    /// Take the values of another adapter of the same settings.
    swap_s: f64,
    /// Bake it into dense weights.
    merge_s: f64,
}

/// Measures each method.
///
/// # Errors
/// If the device or the temporary folder cannot be used, or a method attaches nothing to the model.
pub fn run(args: &AdaptersArgs, output: &mut Output<AdapterLine>) -> Result<(), Error> {
    let open = device::open(output.device)?;
    output.note(&format!("{} with random weights", args.model.name()));
    let bench = Bench { args, device: &open.device, base: cases::causal(args.model, &open.device) };
    for &method in &args.methods {
        output.note(&method.name());
        output.line(bench.line(method, &open.name)?)?;
    }
    Ok(())
}

struct Bench<'a> {
    args: &'a AdaptersArgs,
    device: &'a Device,
    base: CausalLm,
}

impl Bench<'_> {
    fn line(&self, method: Method, device: &str) -> Result<AdapterLine, Error> {
        let recipe = self.recipe(method)?;
        let attach = || attach(self.base.clone(), &recipe, &[], self.device);
        let (fresh, attach_s) = self.timed(|_| attach())?;
        let other = moved(fresh.state());
        let (adapted, swap_s) = self.timed(|_| {
            let with_state = fresh.clone().with_state(other.clone());
            Ok(with_state.expect("moved values have the names and shapes of the state they come from"))
        })?;
        let scratch =
            tempfile::tempdir().map_err(|source| Error::Output { path: std::env::temp_dir(), source })?;
        let folder = |number: usize| scratch.path().join(number.to_string());
        let (adapter_bytes, save_s) = self.timed(|number| self.save(&folder(number), &adapted))?;
        let (_, load_s) = self.timed(|_| self.load(&folder(0)))?;
        let (_, merge_s) = self.timed(|_| Ok(adapted.clone().merge()?))?;
        let weights = folder(0).join("adapter_model.safetensors");
        let metadata =
            std::fs::metadata(&weights).map_err(|source| Error::Output { path: weights, source })?;
        Ok(AdapterLine {
            what: "adapter",
            model: self.args.model.name(),
            method: method.name(),
            device: device.to_owned(),
            threads: rayon::current_num_threads(),
            n: self.args.repeats,
            sites: adapted.sites().len(),
            trainable: adapted.trainable_parameters().adapter,
            adapter_bytes,
            weights_bytes: metadata.len(),
            attach_s,
            save_s,
            load_s,
            swap_s,
            merge_s,
        })
    }

    fn recipe(&self, method: Method) -> Result<MethodRecipe, Error> {
        let defaults = self.args.model.defaults();
        let k = self.args.k.unwrap_or(defaults.k);
        let (lora_rank, rank) = (self.args.lora_rank, self.args.rank.unwrap_or(defaults.rank));
        let recipe = method.recipe(AdapterSizes { lora_rank, rank, k, l: k });
        // What attaches nothing to the model has nothing to load.
        recipe
            .filter(|recipe| *recipe != MethodRecipe::Full)
            .ok_or_else(|| Error::NothingTrained { method: method.name() })
    }

    /// The last result of `work`, and its median seconds; it gets the number of the repetition.
    fn timed<T>(&self, work: impl Fn(usize) -> Result<T, Error>) -> Result<(T, f64), Error> {
        let (mut last, mut walls) = (work(0)?, Vec::new());
        for repeat in 1..=self.args.repeats {
            synchronize(self.device);
            let started = Instant::now();
            let found = work(repeat)?;
            synchronize(self.device);
            walls.push(started.elapsed().as_secs_f64());
            last = found;
        }
        Ok((last, rounded(median(&walls).unwrap_or_default(), 6)))
    }

    fn identity(&self) -> BaseIdentity {
        let name = format!("{} with random weights", self.args.model.name());
        let hash = folder::sha256_hex(name.as_bytes());
        BaseIdentity {
            name,
            config_sha256: hash.clone(),
            weights_sha256: hash,
            tensors_sha256: None,
            quantization: None,
        }
    }

    fn save(&self, folder: &Path, adapted: &Adapted<CausalLm>) -> Result<u64, Error> {
        write(folder, adapted, &self.base, self.identity())
    }

    fn load(&self, folder: &Path) -> Result<Adapted<CausalLm>, Error> {
        let base = self.base.clone();
        if peft::is_peft(folder) {
            let modules = |site: &str| self.base.peft_module(site);
            return Ok(peft::read(folder)?.attach(base, &modules, self.device)?);
        }
        Ok(folder::read(folder)?.attach(base, &self.identity(), self.device)?)
    }
}

/// Writes the folder of an adapter of `base` with random numbers.
///
/// # Errors
/// If the method attaches nothing, or the folder cannot be written.
pub(super) fn write_random(
    base: &TextBase,
    method: Method,
    sizes: AdapterSizes,
    folder: &Path,
    device: &Device,
) -> Result<(), Error> {
    let recipe = method.recipe(sizes).filter(|recipe| *recipe != MethodRecipe::Full);
    let recipe = recipe.ok_or_else(|| Error::NothingTrained { method: method.name() })?;
    let fresh = attach(base.model.clone(), &recipe, &[], device)?;
    let state = moved(fresh.state());
    let adapted = fresh.with_state(state).expect("moved values have the names and shapes of their own state");
    write(folder, &adapted, &base.model, base.identity().clone())?;
    Ok(())
}

/// A bundle of LoRAs of `base` with random numbers, one for each cluster.
///
/// # Errors
/// If the method attaches nothing.
pub(super) fn random_bundle(
    base: &TextBase,
    rank: usize,
    clusters: usize,
    device: &Device,
) -> Result<Bundle, Error> {
    let method = Method::Adapter("lora");
    let sizes = AdapterSizes { lora_rank: rank, rank, k: 1, l: 1 };
    let recipe = method.recipe(sizes).expect("it attaches something");
    let fresh = attach(base.model.clone(), &recipe, &[], device)?;
    let adapter = |number: usize| {
        let state = fresh.state().into_iter().map(|(path, data)| {
            let values = (0..data.shape().num_elements()).map(|n| ((n * (number + 2)) as f32 * 0.7).sin());
            (path, TensorData::new(values.map(|value| 1e-2 * value).collect::<Vec<f32>>(), data.shape()))
        });
        let adapted = fresh.clone().with_state(state.collect()).expect("names and shapes of its own state");
        let (method, labels, data) = (method.name(), Vec::new(), serde_json::Value::Null);
        Ok(LowRankAdapter::of(&adapted, About { name: number.to_string(), method, labels, data })?)
    };
    let adapters = (0..clusters).map(adapter).collect::<Result<Vec<_>, Error>>()?;
    let options = Options { kind: Kind::Full, rank, clusters, iterations: 1 };
    Ok(Bundle::compressed(adapters, base.identity().clone(), options, |_| ())?)
}

/// Writes an adapter folder in the format of its method.
fn write(
    folder: &Path,
    adapted: &Adapted<CausalLm>,
    base: &CausalLm,
    identity: BaseIdentity,
) -> Result<u64, Error> {
    let (labels, summary) = (Vec::new(), "Random numbers.".to_owned());
    let description = Description { base: identity, labels, summary, data: serde_json::Value::Null };
    let modules = |site: &str| base.peft_module(site);
    if adapted.config().is_some_and(|config| config.method().format() == Format::Peft) {
        let (generation, task) = (peft::Generation::default(), peft::Task::CausalLanguageModel);
        return Ok(peft::write(folder, adapted, &modules, generation, task, &description)?);
    }
    Ok(folder::write(folder, adapted, &description, CoefficientBits::default())?)
}

/// Other values, so that no factor is zero.
fn moved(mut state: TrainedState) -> TrainedState {
    for data in state.values_mut() {
        let shape = data.shape();
        let values: Vec<f32> = data.clone().convert::<f32>().try_into_vec().expect("trained values are f32");
        let moved: Vec<f32> = values
            .iter()
            .zip(0_u32..)
            .map(|(value, n)| 0.5 * value + 1e-3 * (n as f32 * 0.7).sin())
            .collect();
        *data = TensorData::new(moved, shape);
    }
    state
}

/// The lines for people.
pub fn table(lines: &[AdapterLine], table: &mut Table) {
    table.set_header([
        "model",
        "method",
        "trained",
        "folder bytes",
        "attach s",
        "save s",
        "load s",
        "swap s",
        "merge s",
    ]);
    for line in lines {
        let seconds = [line.attach_s, line.save_s, line.load_s, line.swap_s, line.merge_s];
        let numbers = [line.trainable.to_string(), line.adapter_bytes.to_string()];
        let names = [line.model.clone(), line.method.clone()];
        table.add_row(names.into_iter().chain(numbers).chain(seconds.map(|seconds| format!("{seconds:.4}"))));
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}
