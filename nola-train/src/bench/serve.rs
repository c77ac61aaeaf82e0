//! `bench serve`: how fast many adapters of one base answer together, in the engine of `serve`, without HTTP.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table};
use nola_models::generate::GenerationConfig;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::adapters::write_random;
use super::cases::{AdapterSizes, Method, Preset};
use super::machine::resident_mib;
use super::start::write_files;
use super::statistics::{median, percentile, rounded};
use super::{BenchError, Output};
use crate::option_values::positive;
use crate::serve::{Engine, EngineOptions, Event, ServedAdapter, TextRequest};
use crate::session::{Base, Silent, TextBase};
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

/// Which adapters are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Traffic {
    /// Each as often as any other.
    Uniform,
    /// The n-th in proportion to 1/n.
    Zipf,
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
    /// How often matrices were made while requests were timed.
    made: u64,
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
    for &method in &args.methods {
        let folder = scratch.path().join(method.name());
        let sizes = AdapterSizes { lora_rank: args.lora_rank, rank: args.rank, k: args.k, l: args.k };
        write_random(&base, method, sizes, &folder, &open.device)?;
        for (&adapters, &traffic) in
            args.adapters.iter().flat_map(|count| args.traffic.iter().map(move |traffic| (count, traffic)))
        {
            output.note(&format!("{name}, {} adapters, {}", adapters, method.name()));
            let case = Case { args, base: &base, folder: &folder, adapters, traffic };
            let line = case.line(&name, method, &open)?;
            output.line(line)?;
        }
    }
    Ok(())
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
    /// An adapter, of which all others are copies.
    folder: &'a Path,
    adapters: usize,
    traffic: Traffic,
}

impl Case<'_> {
    fn line(&self, model: &str, method: Method, open: &device::OpenDevice) -> Result<ServeLine, Error> {
        let args = self.args;
        let adapters = self.in_memory()?;
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
            method: method.name(),
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
            coefficient_bytes: adapters.iter().map(|adapter| adapter.bytes()).sum(),
            matrix_bytes: counts.adapter_bytes,
            memory_mib: resident_mib().map(|mib| rounded(mib, 1)),
        })
    }

    /// The adapters, each with numbers of its own.
    fn in_memory(&self) -> Result<Vec<Arc<ServedAdapter>>, Error> {
        let first = ServedAdapter::open("0".to_owned(), 1, self.folder)?;
        let copy = |place: usize| {
            let (name, generation) = (place.to_string(), place as u64 + 1);
            Arc::new(ServedAdapter { name, generation, data: None, content: first.content.clone() })
        };
        Ok((0..self.adapters).map(copy).collect())
    }

    /// Which adapter each request asks; the same ones every time.
    fn chosen(&self) -> Vec<usize> {
        let weight = |place: usize| match self.traffic {
            Traffic::Uniform => 1.0,
            Traffic::Zipf => 1.0 / (place + 1) as f64,
        };
        let mut sums = Vec::with_capacity(self.adapters);
        let mut sum = 0.0;
        for place in 0..self.adapters {
            sum += weight(place);
            sums.push(sum);
        }
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let draw = |_| {
            let at = random.random::<f64>() * sum;
            sums.partition_point(|&sum| sum <= at).min(self.adapters - 1)
        };
        (0..self.args.requests).map(draw).collect()
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
        let failed = |said: String| Error::from(BenchError::Answer { said });
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
                Some(Event::Failed(said)) => return Err(failed(said)),
                None => return Err(failed("it ended without a last token".to_owned())),
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
        "coefficients MB",
        "matrices MB",
        "process MiB",
    ]);
    let shown = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.3}"));
    for line in lines {
        let traffic = line.traffic.to_possible_value().expect("no kind is hidden");
        let mb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
        table.add_row([
            line.model.clone(),
            line.method.clone(),
            line.adapters.to_string(),
            traffic.get_name().to_owned(),
            format!("{:.1}", line.tokens_per_second),
            shown(line.request_s),
            shown(line.request_p99_s),
            shown(line.first_token_s),
            shown(line.first_token_p99_s),
            line.cold_first_token_s.map_or(String::new(), |value| format!("{value:.4}")),
            line.warm_first_token_s.map_or(String::new(), |value| format!("{value:.4}")),
            mb(line.coefficient_bytes),
            mb(line.matrix_bytes),
            line.memory_mib.map_or(String::new(), |mib| format!("{mib:.0}")),
        ]);
    }
    for column in table.column_iter_mut().skip(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}
