//! `nola-train train RECIPE`, and `train --resume RUN`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use clap_complete::ArgValueCompleter;

use super::completions::{recipes_and_files, settings};
use super::{Global, print_json, print_line, print_rows};
use crate::recipe::{CheckedRecipe, Recipe};
use crate::recipe_files::pinned_recipe;
use crate::run::{InterruptedRun, Made, RunFolder, is_resumable};
use crate::settings::Modality;
use crate::task::{ImageTask, Task, Text};
use crate::terminal::err_line;
use crate::{Error, device};

#[derive(Debug, Args)]
pub struct TrainArgs {
    /// A recipe file, or the name of a shipped recipe; `nola-train recipes` lists those.
    #[arg(required_unless_present = "resume", add = recipes_and_files())]
    recipe: Option<PathBuf>,
    /// Go on with a run that was interrupted or killed, in its folder and with its recipe.
    #[arg(long, value_name = "RUN", value_hint = ValueHint::DirPath, conflicts_with = "recipe")]
    resume: Option<PathBuf>,
    /// Change a value of the recipe, as in `--set train.steps=100`; may be repeated. With --resume only what leaves the
    /// steps already made as they are.
    #[arg(long, value_name = "KEY=VALUE", add = ArgValueCompleter::new(settings))]
    set: Vec<String>,
}

pub fn run(args: &TrainArgs, global: &Global) -> Result<(), Error> {
    match (&args.resume, &args.recipe) {
        (Some(run), _) => {
            let run = InterruptedRun::open(run, &args.set)?;
            match run.recipe.data.format.modality() {
                Modality::Images => go_on::<ImageTask>(run, global),
                Modality::Text => go_on::<Text>(run, global),
            }
        }
        (None, Some(recipe)) => begin(recipe, &args.set, global),
        (None, None) => unreachable!("clap requires a recipe or --resume"),
    }
}

fn begin(recipe: &Path, set: &[String], global: &Global) -> Result<(), Error> {
    let checked = pinned_recipe(Recipe::named(recipe, set)?);
    let checked = checked.map_err(|error| error.with_data_note(Recipe::data_note(recipe)))?;
    match checked.data.format.modality() {
        Modality::Images => train::<ImageTask>(&checked, global),
        Modality::Text => train::<Text>(&checked, global),
    }
}

fn train<T: Task>(recipe: &CheckedRecipe, global: &Global) -> Result<(), Error> {
    let folder = RunFolder::create(&recipe.output.dir)?;
    let open = device::open(global.device)?;
    let task = T::open(recipe, &open.device, global.style())?;
    let recipe = &recipe.clone().for_samples(task.counts().samples_in_epoch());
    let _running = global.stop.run();
    let made = folder.make(&task, recipe, &global.terms(&open.device), &open.name);
    finish(folder.path(), made, global)
}

fn go_on<T: Task>(run: InterruptedRun, global: &Global) -> Result<(), Error> {
    let open = device::open(global.device)?;
    let task = T::open(&run.recipe, &open.device, global.style())?;
    let _running = global.stop.run();
    let folder = run.folder.path().to_owned();
    finish(&folder, run.make(&task, &global.terms(&open.device), &open.name), global)
}

/// Says what a run came to.
fn finish<T: Task>(folder: &Path, made: Result<Made<T>, Error>, global: &Global) -> Result<(), Error> {
    if is_resumable(folder) {
        err_line(&format!(
            "`nola-train train --resume {}` goes on from the last checkpoint",
            folder.display()
        ));
    }
    let mut made = made?;
    let result = &made.saved.result;
    if global.json {
        print_json(result)?;
    } else {
        print_rows(&[result.row()])?;
        print_line(&format!("adapter  {}", result.adapter.display()))?;
        print_line(&format!("report   {}", result.report.display()))?;
    }
    let adapter = result.adapter.display().to_string();
    let ended = global.ended(made.take_failure());
    if ended.is_err() {
        err_line(&format!("the best evaluation so far is kept in {adapter}"));
    }
    ended
}
