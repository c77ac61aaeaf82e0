//! `nola-train sweep`: a recipe with every combination of some values.

mod grid;

use std::path::PathBuf;

use clap::Args;
use clap_complete::ArgValueCompleter;
use nola_core::folder::write_atomically;

use super::Global;
use super::compare::{Planned, Purpose, Together, Wanted, compared, plan};
use super::completions::{recipes_and_files, settings};
use crate::Error;
use crate::terminal::err_line;
use grid::{Grid, Point};

/// The best recipe.
const BEST: &str = "best.toml";

#[derive(Debug, Args)]
pub struct SweepArgs {
    /// A recipe file or the name of a shipped recipe.
    #[arg(add = recipes_and_files())]
    recipe: PathBuf,
    /// A key and the values to try, with commas between them, as in `--set train.learning_rate=1e-3,2e-3`; a value that is itself
    /// a list stands in brackets, as in `--set method.layers=[0],[0,1]`, and text with commas in quotes. With one value, the key
    /// is changed in every run. May be repeated.
    #[arg(long, required = true, value_name = "KEY=VALUE,VALUE", add = ArgValueCompleter::new(settings))]
    set: Vec<String>,
    /// Runs of each combination, with seeds 0, 1, …: of the few shots, the order, the basis.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Folder of the sweep: every run, `sweep.json`, `sweep.html` and the best recipe as `best.toml`; runs that are finished there
    /// are not made again.
    #[arg(long, value_name = "FOLDER", default_value = "runs/sweep")]
    out: PathBuf,
}

/// Checks everything, then makes the runs that are not there yet; table and best recipe are written after each of them.
///
/// # Errors
/// If something cannot be used, before anything is trained; later, what cut the sweep off.
pub fn run(args: &SweepArgs, global: &Global) -> Result<(), Error> {
    let grid = Grid::parse(&args.set)?;
    let wanted = |point: Point| Wanted {
        name: point.name,
        file: args.recipe.clone(),
        set: grid.common.iter().cloned().chain(point.set).collect(),
        settings: point.settings,
    };
    let together = Together { purpose: Purpose::Sweep, seeds: args.seeds, metrics: None, out: &args.out };
    let planned = plan(grid.points().map(wanted).collect(), &together)?;
    let ended = compared(&planned, &together, global, &|best| keep_best(args, &planned, best));
    if args.out.join(BEST).is_file() {
        err_line(&format!("sweep: train {} to repeat the best run", args.out.join(BEST).display()));
    }
    ended
}

/// Writes the best recipe so far: with its first seed, and where its run would go by itself.
fn keep_best(args: &SweepArgs, planned: &[Planned], best: &str) -> Result<(), Error> {
    let Some(planned) = planned.iter().find(|planned| planned.name == best) else { return Ok(()) };
    let mut recipe = planned.seeds[0].clone().into_inner();
    recipe.output.dir.clone_from(&planned.output_dir);
    let toml = recipe.check()?.resolved_toml();
    let text = format!("# The best of a sweep of {}: {best}.\n\n{toml}", args.recipe.display());
    let written = write_atomically(&args.out.join(BEST), text.as_bytes());
    written.map_err(|error| Error::from(error).about_output())
}
