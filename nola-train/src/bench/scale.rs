//! `bench scale`: training steps of several ranks on this machine, and what their exchange would take over slower networks.

mod network;
mod worker;

use std::process::Command;

use clap::Args;
use comfy_table::Table;
use serde::Serialize;

use super::cases::{AdapterSizes, MethodChoice, Preset};
use super::statistics::rounded;
use super::{BenchError, Output};
use crate::Error;
use crate::option_values::positive;
use crate::ranks::HAS_MPI;
use network::{LINKS, Link, Message};
use worker::{Found, Work};

/// Rank of LoRA.
const LORA_RANK: usize = 8;
/// Models whose exchange is computed for other networks.
const MODELLED: [Preset; 2] = [Preset::Gpt2, Preset::Llama7b];
/// Longest message that is exchanged only to measure it, in bytes.
const LONGEST: usize = 64 << 20;

/// Options of `bench scale`.
#[derive(Debug, Args)]
pub struct ScaleArgs {
    /// Numbers of ranks to measure, with commas between them; more than one needs a build with --features mpi.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "1,2,4", value_parser = positive())]
    ranks: Vec<usize>,
    /// Model whose steps are measured.
    #[arg(long, value_name = "MODEL", default_value = "gpt2")]
    model: Preset,
    /// Methods whose steps are measured, with commas between them.
    #[arg(long, value_delimiter = ',', default_value = "nola,lora", value_name = "METHODS")]
    methods: Vec<MethodChoice>,
    /// Measured steps of each, after one that is not.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = positive())]
    steps: usize,
    /// Nodes whose exchange is computed, with commas between them.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "2,4,8", value_parser = positive())]
    nodes: Vec<usize>,
    /// What starts ranks; `-n`, their number and this program follow.
    #[arg(long, value_name = "COMMAND", default_value = "mpirun --oversubscribe")]
    mpirun: String,
    /// What this process measures as one of the ranks.
    #[arg(long, hide = true)]
    work: Option<Work>,
}

/// A line of `bench scale`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum ScaleLine {
    /// Steps of some ranks on this machine.
    Measured(Box<MeasuredLine>),
    /// The exchange of some nodes over other networks.
    Network(Box<NetworkLine>),
}

/// Steps of some ranks on this machine.
#[derive(Debug, Serialize)]
pub struct MeasuredLine {
    what: &'static str,
    model: String,
    method: String,
    ranks: usize,
    /// Samples of a step, all ranks together.
    batch: usize,
    #[serde(flatten)]
    found: Option<Found>,
    /// Why nothing was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
}

/// What an exchange takes: computed from the bytes, the network, and what it took on this machine without one.
#[derive(Debug, Serialize)]
pub struct NetworkLine {
    what: &'static str,
    model: String,
    method: String,
    /// Numbers of a message.
    trainable: usize,
    /// Its bytes.
    bytes: usize,
    nodes: usize,
    /// An exchange of such messages between two ranks of this machine; absent where it is too long, or nothing was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    here_ms: Option<f64>,
    links: Vec<LinkLine>,
}

/// An exchange over one network.
#[derive(Debug, Serialize)]
struct LinkLine {
    mbit_s: u32,
    latency_ms: u32,
    exchange_s: f64,
}

/// Measures and computes.
///
/// # Errors
/// If a process cannot be started, or, as a rank, if the device cannot be used or another rank ends.
pub fn run(args: &ScaleArgs, output: &mut Output<ScaleLine>) -> Result<(), Error> {
    if let Some(work) = args.work {
        return worker::run(work, args.steps, output.device);
    }
    let batch = args.ranks.iter().copied().fold(args.model.defaults().batch, usize::max);
    for method in args.methods.iter().flat_map(|choice| choice.methods().iter().copied()) {
        for &ranks in &args.ranks {
            output.note(&format!("{} {} on {ranks} ranks", args.model.name(), method.name()));
            let work = Work::Steps { preset: args.model, method, batch };
            let (found, skipped) = match args.measured(ranks, work)? {
                Ok(found) => (Some(found), None),
                Err(why) => (None, Some(why)),
            };
            output.line(ScaleLine::Measured(Box::new(MeasuredLine {
                what: "scale",
                model: args.model.name(),
                method: method.name(),
                ranks,
                batch,
                found,
                skipped,
            })))?;
        }
    }
    for message in MODELLED.iter().flat_map(|preset| network::messages(*preset)) {
        args.modelled(&message, output)?;
    }
    Ok(())
}

impl ScaleArgs {
    fn modelled(&self, message: &Message, output: &mut Output<ScaleLine>) -> Result<(), Error> {
        let bytes = message.bytes();
        let here = match bytes <= LONGEST && self.ranks.iter().any(|ranks| *ranks > 1) {
            true => self.measured(2, Work::Exchange { bytes })?.ok(),
            false => None,
        };
        let here_ms = here.and_then(|found| found.exchange_ms);
        for &nodes in &self.nodes {
            let line = |link: &Link| LinkLine {
                mbit_s: link.mbit_s,
                latency_ms: link.latency_ms,
                exchange_s: rounded(link.seconds(bytes, nodes) + here_ms.unwrap_or(0.0) / 1e3, 4),
            };
            output.line(ScaleLine::Network(Box::new(NetworkLine {
                what: "network",
                model: message.model.clone(),
                method: message.method.to_owned(),
                trainable: message.trainable,
                bytes,
                nodes,
                here_ms,
                links: LINKS.iter().map(line).collect(),
            })))?;
        }
        Ok(())
    }

    /// What some ranks found that were started for it; the inner error is why they were not, or what they said last.
    fn measured(&self, ranks: usize, work: Work) -> Result<Result<Found, String>, BenchError> {
        let start = |source| BenchError::Start { source };
        let program = std::env::current_exe().map_err(start)?;
        let mut command = match ranks {
            1 => Command::new(program),
            _ if !HAS_MPI => {
                return Ok(Err("this program was built without MPI; build with --features mpi".to_owned()));
            }
            _ => {
                let mut words = self.mpirun.split_whitespace();
                let mut mpirun = Command::new(words.next().unwrap_or("mpirun"));
                mpirun.args(words).args(["-n", &ranks.to_string()]).arg(program);
                mpirun
            }
        };
        let work = work.to_string();
        command.args(std::env::args_os().skip(1)).args(["--work", &work]).env("RUST_BACKTRACE", "0");
        let output = command.output().map_err(start)?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        let found = stdout.lines().last().and_then(|line| serde_json::from_str(line).ok());
        Ok(found.ok_or_else(|| {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let last = stderr.lines().rfind(|line| line.starts_with("error: ")).unwrap_or("it said nothing");
            format!("{}: {last}", output.status)
        }))
    }
}

/// Sizes of the adapters of a preset.
fn adapter_sizes(preset: Preset) -> AdapterSizes {
    let defaults = preset.defaults();
    AdapterSizes { lora_rank: LORA_RANK, rank: defaults.rank, k: defaults.k, l: defaults.k }
}

/// The lines for people: what was measured, and below it what is computed.
pub fn table(lines: &[ScaleLine], table: &mut Table) {
    let of_link = |link: &Link| format!("{} Mbit/s, {} ms", link.mbit_s, link.latency_ms);
    let title = ["model", "method", "ranks", "step s", "exchange ms", "bytes"].map(str::to_owned);
    table.set_header(title.into_iter().chain(LINKS.iter().map(of_link)));
    let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    for line in lines {
        match line {
            ScaleLine::Measured(line) => {
                let found = |of: fn(&Found) -> Option<f64>| number(line.found.as_ref().and_then(of));
                table.add_row([
                    line.model.clone(),
                    line.method.clone(),
                    line.ranks.to_string(),
                    line.skipped.clone().unwrap_or_else(|| found(|found| found.step_s)),
                    found(|found| found.exchange_ms),
                    found(|found| Some(found.bytes as f64)),
                ]);
            }
            ScaleLine::Network(line) => {
                let names = [line.model.clone(), line.method.clone(), format!("{} nodes", line.nodes)];
                let here = [String::new(), number(line.here_ms), line.bytes.to_string()];
                let links = line.links.iter().map(|link| format!("{} s", link.exchange_s));
                table.add_row(names.into_iter().chain(here).chain(links));
            }
        }
    }
}
