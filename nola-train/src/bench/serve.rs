//! `bench serve`: how fast many adapters of one base answer together, in the engine of `serve`, without HTTP.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table};
use nola_core::bundle::Bundle;
use nola_models::generate::GenerationConfig;
use serde::Serialize;

use super::adapters::{random_bundle, write_random};
use super::cases::{AdapterSizes, Method, Preset};
use super::machine::resident_mib;
use super::simulate::is_found;
use super::start::write_files;
use super::statistics::{median, percentile, rounded};
use super::traffic::Traffic;
use super::{BenchError, Output};
use crate::option_values::positive;
use crate::serve::{Counts, Engine, EngineOptions, Event, Lru, ServedAdapter, Size, TextRequest};
use crate::session::{Base, ReadBundle, Silent, TextBase};
use crate::settings::ModelSettings;
use crate::{Error, assets, device};

/// Requests of which the first token is timed alone, with an adapter that was never used and once more.
const ALONE: usize = 16;

/// Options of `bench serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// A language model of a published size with random weights, such as gpt2, or a model folder.
    #[arg(long, default_value = "assets/llama-micro", value_name = "MODEL")]
    model: PathBuf,
    /// Numbers of adapters, with commas between them.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000", value_name = "COUNTS", value_parser = positive())]
    adapters: Vec<usize>,
    /// Kinds of adapters, with commas between them.
    #[arg(long, value_delimiter = ',', default_value = "nola,lora", value_name = "METHODS")]
    methods: Vec<Method>,
    /// What the adapters lie in, with commas between them: folders of their own, or a bundle, whatever they were before.
    #[arg(long = "as", value_delimiter = ',', value_enum, default_value = "folders", value_name = "KINDS")]
    kept_as: Vec<KeptAs>,
    /// Rank of the bundle.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = positive())]
    bundle_rank: usize,
    /// Clusters of the bundle.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = positive())]
    clusters: usize,
    /// How often each adapter is asked.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "uniform,zipf", value_name = "KINDS")]
    traffic: Vec<Traffic>,
    /// Rank of LoRA.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive())]
    lora_rank: usize,
    /// Rank of NOLA.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive())]
    rank: usize,
    /// Random matrices of NOLA, for each factor.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive())]
    k: usize,
    /// Requests that are timed, after as many that are not.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = positive())]
    requests: usize,
    /// Tokens of each prompt.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = positive())]
    prompt_tokens: usize,
    /// New tokens of each answer.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = positive())]
    new_tokens: usize,
    /// Requests that are under way at a time.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = positive())]
    running: usize,
    /// MiB of adapters' matrices that are kept.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    adapter_mib: u64,
}

/// What adapters lie in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KeptAs {
    Folders,
    Bundle,
}

/// What `bench serve` found of one case.
#[derive(Debug, Serialize)]
pub struct ServeLine {
    what: &'static str,
    model: String,
    method: String,
    adapters: usize,
    traffic: Traffic,
    device: String,
    threads: usize,
    /// Requests that were timed, and how many of them were under way at a time.
    requests: usize,
    running: usize,
    prompt_tokens: usize,
    new_tokens: usize,
    /// New tokens of all requests a second.
    tokens_per_second: f64,
    /// Of a request, from when it is sent until its last token; its median and its 99th percentile.
    request_s: Option<f64>,
    request_p99_s: Option<f64>,
    /// Until its first token.
    first_token_s: Option<f64>,
    first_token_p99_s: Option<f64>,
    /// The same of a request alone, with an adapter that was never used, and with one whose matrices are there.
    cold_first_token_s: Option<f64>,
    warm_first_token_s: Option<f64>,
    /// How often matrices were made while requests were timed, and how often they were there.
    made: u64,
    found: u64,
    /// How often the same cache would make them if requests came one after the other.
    simulated_made: u64,
    /// Bytes of the trainable parameters of all adapters.
    coefficient_bytes: u64,
    /// Bytes of the matrices that are kept.
    matrix_bytes: u64,
    /// MiB of this process afterwards.
    memory_mib: Option<f64>,
}

/// Seconds from when a request was sent.
#[derive(Debug, Clone, Copy)]
struct Times {
    first_token: f64,
    last_token: f64,
}

/// Measures each number of adapters of each kind.
///
/// # Errors
/// If the model cannot be opened, or an answer fails.
pub fn run(args: &ServeArgs, output: &mut Output<ServeLine>) -> Result<(), Error> {
    let scratch =
        tempfile::tempdir().map_err(|source| Error::Output { path: std::env::temp_dir(), source })?;
    let open = device::open(output.device)?;
    let name = args.model.to_string_lossy().into_owned();
    let path = match super::start::language_model(&name) {
        Ok(preset) => written(preset, scratch.path(), output)?,
        Err(_) => assets::located(&args.model)?,
    };
    let settings = ModelSettings { path, ..ModelSettings::default() };
    let base = TextBase::open(&settings, 0, &open.device, &Silent)?;
    let mut cases = Vec::new();
    for kept_as in &args.kept_as {
        match kept_as {
            KeptAs::Folders => {
                for &method in &args.methods {
                    let folder = scratch.path().join(method.name());
                    let sizes =
                        AdapterSizes { lora_rank: args.lora_rank, rank: args.rank, k: args.k, l: args.k };
                    write_random(&base, method, sizes, &folder, &open.device)?;
                    cases.push((method.name(), Source::Folder(folder)));
                }
            }
            KeptAs::Bundle => {
                let bundle = random_bundle(&base, args.bundle_rank, args.clusters, &open.device)?;
                cases.push(("bundle".to_owned(), Source::Bundle(Box::new(bundle))));
            }
        }
    }
    for (method, source) in &cases {
        for (&adapters, &traffic) in
            args.adapters.iter().flat_map(|count| args.traffic.iter().map(move |traffic| (count, traffic)))
        {
            output.note(&format!("{name}, {adapters} adapters, {method}"));
            let case = Case { args, base: &base, source, adapters, traffic };
            let line = case.line(&name, method, &open)?;
            output.line(line)?;
        }
    }
    Ok(())
}

/// What all adapters of a case are copies of.
enum Source {
    Folder(PathBuf),
    Bundle(Box<Bundle>),
}

fn written(preset: Preset, folder: &Path, output: &Output<ServeLine>) -> Result<PathBuf, Error> {
    output.note(&format!("writing {} with random weights", preset.name()));
    write_files(preset, folder)?;
    Ok(folder.join("base"))
}

/// One number of adapters under one kind of traffic.
struct Case<'a> {
    args: &'a ServeArgs,
    base: &'a TextBase,
    source: &'a Source,
    adapters: usize,
    traffic: Traffic,
}

impl Case<'_> {
    fn line(&self, model: &str, method: &str, open: &device::OpenDevice) -> Result<ServeLine, Error> {
        let args = self.args;
        let (adapters, shared_bytes) = self.in_memory()?;
        let options = EngineOptions {
            most_running: args.running,
            adapter_bytes: args.adapter_mib << 20,
            ..EngineOptions::default()
        };
        let engine = Engine::start(self.base, &open.device, options);
        let alone: Vec<[Times; 2]> = adapters
            .iter()
            .take(ALONE)
            .map(|adapter| Ok([self.answered(&engine, adapter)?, self.answered(&engine, adapter)?]))
            .collect::<Result<_, Error>>()?;
        let chosen = self.chosen();
        self.all_answered(&engine, &adapters, &chosen)?;
        let before = engine.counts();
        let started = Instant::now();
        let times = self.all_answered(&engine, &adapters, &chosen)?;
        let seconds = started.elapsed().as_secs_f64();
        let counts = engine.counts();
        engine.close();
        engine.join();
        let of = |values: Vec<f64>, share: f64| percentile(&values, share).map(|value| rounded(value, 4));
        let first = || times.iter().map(|times| times.first_token).collect::<Vec<_>>();
        let last = || times.iter().map(|times| times.last_token).collect::<Vec<_>>();
        let of_alone = |place: usize| {
            median(&alone.iter().map(|times| times[place].first_token).collect::<Vec<_>>())
                .map(|value| rounded(value, 5))
        };
        Ok(ServeLine {
            what: "serve",
            model: model.to_owned(),
            method: method.to_owned(),
            adapters: self.adapters,
            traffic: self.traffic,
            device: open.name.clone(),
            threads: rayon::current_num_threads(),
            requests: times.len(),
            running: args.running,
            prompt_tokens: args.prompt_tokens,
            new_tokens: args.new_tokens,
            tokens_per_second: rounded((counts.new_tokens - before.new_tokens) as f64 / seconds, 1),
            request_s: of(last(), 0.5),
            request_p99_s: of(last(), 0.99),
            first_token_s: of(first(), 0.5),
            first_token_p99_s: of(first(), 0.99),
            cold_first_token_s: of_alone(0),
            warm_first_token_s: of_alone(1),
            made: counts.adapters_made - before.adapters_made,
            found: counts.adapters_found - before.adapters_found,
            simulated_made: self.simulated(&chosen, &counts),
            coefficient_bytes: shared_bytes + adapters.iter().map(|adapter| adapter.bytes()).sum::<u64>(),
            matrix_bytes: counts.adapter_bytes,
            memory_mib: resident_mib().map(|mib| rounded(mib, 1)),
        })
    }

    /// The adapters, each with numbers of its own, and the bytes of what they share.
    fn in_memory(&self) -> Result<(Vec<Arc<ServedAdapter>>, u64), Error> {
        match self.source {
            Source::Folder(folder) => {
                let first = ServedAdapter::open("0".to_owned(), 1, folder)?;
                let copy = |place: usize| {
                    let (name, generation) = (place.to_string(), place as u64 + 1);
                    Arc::new(ServedAdapter { name, generation, data: None, content: first.content.clone() })
                };
                Ok(((0..self.adapters).map(copy).collect(), 0))
            }
            Source::Bundle(bundle) => {
                let bundle = ReadBundle::of(Path::new("bundle"), bundle.repeated(self.adapters));
                let member = |place: usize| {
                    ServedAdapter::of_member(&bundle, "bundle", place, place as u64 + 1).map(Arc::new)
                };
                let members = (0..self.adapters).map(member).collect::<Result<_, Error>>()?;
                Ok((members, bundle.bundle().shared_numbers() as u64 * 4))
            }
        }
    }

    /// Which adapter each request asks; the same ones every time.
    fn chosen(&self) -> Vec<usize> {
        let requests = self.traffic.requests(self.adapters as u64, 1.0).take(self.args.requests);
        requests.map(|adapter| adapter as usize).collect()
    }

    /// How often the cache would make matrices in the timed requests, if all came one after the other.
    fn simulated(&self, chosen: &[usize], counts: &Counts) -> u64 {
        let own = counts.adapter_bytes / counts.adapters_ready.max(1) as u64;
        let mut cache = Lru::new(self.args.adapter_mib << 20);
        let mut is_made = |adapter: usize| !is_found(&mut cache, adapter as u64, Size { own, shared: None });
        (0..self.adapters.min(ALONE)).chain(chosen.iter().copied()).for_each(|adapter| {
            is_made(adapter);
        });
        chosen.iter().filter(|&&adapter| is_made(adapter)).count() as u64
    }

    /// Sends a request for each of `chosen`, as many at a time as may be under way.
    fn all_answered(
        &self,
        engine: &Engine,
        adapters: &[Arc<ServedAdapter>],
        chosen: &[usize],
    ) -> Result<Vec<Times>, Error> {
        let (next, times) = (AtomicUsize::new(0), Mutex::new(Ok(Vec::new())));
        let client = || {
            while let Some(&place) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                let answered = self.answered(engine, &adapters[place]);
                let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
                match (answered, &mut *times) {
                    (Ok(answered), Ok(all)) => all.push(answered),
                    (Err(error), Ok(_)) => *times = Err(error),
                    (_, Err(_)) => return,
                }
            }
        };
        std::thread::scope(|scope| {
            (0..self.args.running).for_each(|_| drop(scope.spawn(client)));
        });
        times.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one request and waits for its last token.
    fn answered(&self, engine: &Engine, adapter: &Arc<ServedAdapter>) -> Result<Times, Error> {
        let failed = |error: String| Error::from(BenchError::Answer { error });
        let started = Instant::now();
        let request = TextRequest {
            adapter: Some(Arc::clone(adapter)),
            prompt: (0..self.args.prompt_tokens as u32).map(|n| 3 + n % 200).collect(),
            generation: GenerationConfig {
                max_new_tokens: self.args.new_tokens,
                ..GenerationConfig::default()
            },
            sequence: 0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            top_scores: None,
        };
        let mut receivers = engine.submit(vec![request]).map_err(|error| failed(error.to_string()))?;
        let mut first_token = None;
        loop {
            let event = receivers[0].blocking_recv();
            let seconds = started.elapsed().as_secs_f64();
            match event {
                Some(Event::Token(_)) => first_token = first_token.or(Some(seconds)),
                Some(Event::Finished(_)) => {
                    return Ok(Times { first_token: first_token.unwrap_or(seconds), last_token: seconds });
                }
                Some(Event::Failed(error)) => return Err(failed(error)),
                Some(Event::Cut) | None => return Err(failed("it ended without a last token".to_owned())),
            }
        }
    }
}

/// The lines for people.
pub fn table(lines: &[ServeLine], table: &mut Table) {
    table.set_header([
        "model",
        "method",
        "adapters",
        "traffic",
        "tokens/s",
        "request s",
        "p99",
        "first token s",
        "p99",
        "cold, alone",
        "warm, alone",
        "made",
        "simulated",
        "coefficients MB",
        "matrices MB",
        "process MiB",
    ]);
    let shown = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.3}"));
    for line in lines {
        let mb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
        table.add_row([
            line.model.clone(),
            line.method.clone(),
            line.adapters.to_string(),
            line.traffic.name(),
            format!("{:.1}", line.tokens_per_second),
            shown(line.request_s),
            shown(line.request_p99_s),
            shown(line.first_token_s),
            shown(line.first_token_p99_s),
            line.cold_first_token_s.map_or(String::new(), |value| format!("{value:.4}")),
            line.warm_first_token_s.map_or(String::new(), |value| format!("{value:.4}")),
            line.made.to_string(),
            line.simulated_made.to_string(),
            mb(line.coefficient_bytes),
            mb(line.matrix_bytes),
            line.memory_mib.map_or(String::new(), |mib| format!("{mib:.0}")),
        ]);
    }
    for column in table.column_iter_mut().skip(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}
