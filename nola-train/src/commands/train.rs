//! `nola-train train RECIPE`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::ArgValueCompleter;

use super::completions::{recipes_and_files, settings};
use super::{Global, print_json, print_line, print_rows};
use crate::fit::fit;
use crate::recipe::{CheckedRecipe, Modality, Recipe};
use crate::run::RunFolder;
use crate::task::{ImageTask, Task, Text};
use crate::terminal::err_line;
use crate::{Error, device};

#[derive(Debug, Args)]
pub struct TrainArgs {
    /// A recipe file, or the name of a shipped recipe; `nola-train recipes` lists those.
    #[arg(add = recipes_and_files())]
    recipe: PathBuf,
    /// Change a value of the recipe, as in `--set train.steps=100`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", add = ArgValueCompleter::new(settings))]
    set: Vec<String>,
}

pub fn run(args: &TrainArgs, global: &Global) -> Result<(), Error> {
    let recipe = Recipe::named(&args.recipe, &args.set)?.pinned();
    let recipe = recipe.map_err(|error| error.with_data_note(Recipe::data_note(&args.recipe)))?;
    match recipe.data.format.modality() {
        Modality::Images => train::<ImageTask>(&recipe, global),
        Modality::Text => train::<Text>(&recipe, global),
    }
}

fn train<T: Task>(recipe: &CheckedRecipe, global: &Global) -> Result<(), Error> {
    let folder = RunFolder::create(&recipe.output.dir)?;
    let open = device::open(global.device)?;
    let task = T::open(recipe, &open.device)?;
    let recipe = &recipe.clone().for_samples(task.counts().samples_in_epoch());
    folder.begin(recipe)?;
    let _running = global.stop.run();
    let fitted = fit(&task, recipe, &global.terms(&open.device), &folder.keeper(&task, recipe))?;
    let saved = folder.save(&task, recipe, &fitted, &open.name)?;
    let result = &saved.result;
    if global.json {
        print_json(result)?;
    } else {
        print_rows(&[result.row()])?;
        print_line(&format!("adapter  {}", result.adapter.display()))?;
        print_line(&format!("report   {}", result.report.display()))?;
    }
    let ended = global.ended([fitted.failure, saved.failure]);
    if ended.is_err() {
        err_line(&format!("the best evaluation so far is kept in {}", result.adapter.display()));
    }
    ended
}
