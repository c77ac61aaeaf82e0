//! `nola-train bench`: how fast this program is on this machine.

use clap::{Args, Subcommand};
use comfy_table::Table;
use serde::Serialize;

use super::Global;
use crate::Error;
use crate::bench::{
    Output, adapters, kernels, memory, rows, scale, serve, simulate, start, steps, steps_args, table,
};

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Time training steps of models of published sizes with random weights, each case in a process of its own.
    Steps(steps_args::StepsArgs),
    /// Time the linear combinations of the random basis alone, beside the memory, the products and the words that the machine can do.
    Kernels(kernels::KernelsArgs),
    /// Time a run of `train` from the start of its process to the end of its first optimizer step.
    Start(start::StartArgs),
    /// Time how adapters are attached to a model, saved, loaded, exchanged and merged.
    Adapters(adapters::AdaptersArgs),
    /// Watch the memory of long runs of small models: whether it is the same after step 100 and step 10,000.
    Memory(memory::MemoryArgs),
    /// Time the engine of `serve` with many adapters: tokens a second, waiting times, and what all that takes in memory.
    Serve(serve::ServeArgs),
    /// Simulate the cache of `serve` with up to hundreds of millions of adapters and several replicas.
    Simulate(simulate::SimulateArgs),
    /// Time training steps of several ranks on this machine, and compute what their exchange takes over slower networks.
    Scale(scale::ScaleArgs),
    /// Put two results of `bench steps` side by side, or one and that of the PyTorch script.
    Table(table::TableArgs),
}

pub fn run(args: &BenchArgs, global: &Global) -> Result<(), Error> {
    match &args.what {
        What::Steps(args) => shown(global, rows::table, |output| steps::run(args, output)),
        What::Kernels(args) => shown(global, kernels::table, |output| kernels::run(args, output)),
        What::Start(args) => shown(global, start::table, |output| start::run(args, output)),
        What::Adapters(args) => shown(global, adapters::table, |output| adapters::run(args, output)),
        What::Memory(args) => shown(global, memory::table, |output| memory::run(args, output)),
        What::Serve(args) => shown(global, serve::table, |output| serve::run(args, output)),
        What::Simulate(args) => shown(global, simulate::table, |output| simulate::run(args, output)),
        What::Scale(args) => shown(global, scale::table, |output| scale::run(args, output)),
        What::Table(args) => shown(global, table::table, |output| table::run(args, output)),
    }
}

/// Measures, and shows what was found until an error, if there is one.
fn shown<T: Serialize>(
    global: &Global,
    fill: fn(&[T], &mut Table),
    measure: impl FnOnce(&mut Output<T>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut output = Output::new(global.device, global.json, global.quiet);
    let ended = measure(&mut output);
    // What could not be measured is the reason for what could not be shown.
    ended.and(output.finish(fill).map_err(Error::from))
}
