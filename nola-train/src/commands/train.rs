//! `nola-train train RECIPE`.

use std::path::PathBuf;

use clap::Args;

use super::{Global, print_json, print_line, print_rows};
use crate::base::Base;
use crate::fit::{Splits, fit};
use crate::recipe::Recipe;
use crate::run::RunFolder;
use crate::{Error, device};

#[derive(Debug, Args)]
pub struct TrainArgs {
    /// A recipe file; `nola-train recipes` lists those that are shipped.
    recipe: PathBuf,
    /// Change a value of the recipe, as in `--set train.steps=100`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

pub fn run(args: &TrainArgs, global: &Global) -> Result<(), Error> {
    let recipe = Recipe::read(&args.recipe, &args.set)?;
    let folder = RunFolder::create(&recipe.output.dir)?;
    let splits = Splits::open(&recipe.data)?;
    let open = device::open(global.device)?;
    let base = Base::open(&recipe.model, recipe.train.seed, &open.device)?;
    let fitted = fit(&base, &splits, &recipe, &open.device, global.style())?;
    let result = folder.save(&base, &splits, &recipe, &fitted, &open.name)?;
    if global.json {
        print_json(&result);
    } else {
        print_rows(&[result.row()]);
        print_line(&format!("adapter  {}", result.adapter.display()));
        print_line(&format!("report   {}", result.report.display()));
    }
    match fitted.failure {
        Some(error) => {
            eprintln!(
                "the best evaluation before the following error is kept in {}",
                result.adapter.display()
            );
            Err(error)
        }
        None if result.interrupted => Err(Error::Interrupted),
        None => Ok(()),
    }
}
