//! `nola-train bench`: how fast this program is on this machine.

use clap::{Args, Subcommand};
use comfy_table::Table;
use serde::Serialize;

use super::Global;
use crate::Error;
use crate::bench::{Say, adapters, kernels, rows, start, steps, table};

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Time training steps of models of published sizes with random weights, each case in a process of its own.
    Steps(steps::StepsArgs),
    /// Time the mixing of the random basis alone, beside the memory, the products and the words that the machine can do.
    Kernels(kernels::KernelsArgs),
    /// Time a run of `train` from the start of its process to the end of its first optimizer step.
    Start(start::StartArgs),
    /// Time how adapters are hung on a model, saved, loaded, exchanged and merged.
    Adapters(adapters::AdaptersArgs),
    /// Put two results of `bench steps` side by side, or one and that of the PyTorch script.
    Table(table::TableArgs),
}

pub fn run(args: &BenchArgs, global: &Global) -> Result<(), Error> {
    match &args.what {
        What::Steps(args) => said(global, rows::table, |say| steps::run(args, say)),
        What::Kernels(args) => said(global, kernels::table, |say| kernels::run(args, say)),
        What::Start(args) => said(global, start::table, |say| start::run(args, say)),
        What::Adapters(args) => said(global, adapters::table, |say| adapters::run(args, say)),
        What::Table(args) => said(global, table::table, |say| table::run(args, say)),
    }
}

/// Measures, and shows what was found until an error, if there is one.
fn said<T: Serialize>(
    global: &Global,
    fill: fn(&[T], &mut Table),
    measure: impl FnOnce(&mut Say<T>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut say = Say::new(global.device, global.json, global.quiet);
    let ended = measure(&mut say);
    // What could not be measured is the reason for what could not be shown.
    ended.and(say.finish(fill).map_err(Error::from))
}
