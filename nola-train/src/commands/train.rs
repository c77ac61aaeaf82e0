//! `nola-train train RECIPE`, and `train --resume RUN`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use clap_complete::ArgValueCompleter;

use super::completions::{recipes_and_files, settings};
use super::{Global, print_json, print_line, print_rows};
use crate::recipe::{CheckedRecipe, Recipe};
use crate::recipe_files::pinned_recipe;
use crate::run::{
    Continued, Followed, InterruptedRun, Made, RunFolder, compare_setup, follow, for_ranks, go_on_with,
    is_resumable,
};
use crate::settings::Modality;
use crate::task::{ImageTask, Task, Text};
use crate::terminal::{err_line, filter_lines};
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
    let ranks = &global.ranks;
    if ranks.size() > 1 {
        filter_lines(ranks.line_filter());
    }
    let ended = trained(args, global);
    ranks.warnings().iter().for_each(|warning| err_line(warning));
    ended
}

fn trained(args: &TrainArgs, global: &Global) -> Result<(), Error> {
    match (&args.resume, &args.recipe) {
        (Some(run), _) => match go_on_with(run, &args.set, &global.ranks)? {
            Continued::First(run) => match run.recipe.data.format.modality() {
                Modality::Images => go_on::<ImageTask>(*run, global),
                Modality::Text => go_on::<Text>(*run, global),
            },
            Continued::Other(run) => match run.recipe.data.format.modality() {
                Modality::Images => go_on_behind::<ImageTask>(*run, global),
                Modality::Text => go_on_behind::<Text>(*run, global),
            },
        },
        (None, Some(recipe)) => begin(recipe, &args.set, global),
        (None, None) => unreachable!("clap requires a recipe or --resume"),
    }
}

fn begin(recipe: &Path, set: &[String], global: &Global) -> Result<(), Error> {
    let checked = pinned_recipe(Recipe::named(recipe, set)?);
    let checked = checked.map_err(|error| error.with_data_note(Recipe::data_note(recipe)))?;
    let checked = for_ranks(checked, &global.ranks)?;
    match checked.data.format.modality() {
        Modality::Images => train::<ImageTask>(&checked, global),
        Modality::Text => train::<Text>(&checked, global),
    }
}

fn train<T: Task>(recipe: &CheckedRecipe, global: &Global) -> Result<(), Error> {
    let ranks = &global.ranks;
    let folder = ranks.is_first().then(|| RunFolder::create(&recipe.output.dir)).transpose()?;
    let open = device::open(global.device)?;
    let task = T::open(recipe, &open.device, global.style())?;
    let recipe = &recipe.clone().for_samples(task.counts().samples_in_epoch());
    compare_setup(ranks, &task, recipe, &open.name)?;
    let _running = global.stop.run();
    let terms = global.terms(&open.device);
    match folder {
        Some(folder) => finish(folder.path(), folder.make(&task, recipe, &terms, &open.name), global),
        None => follow(&task, recipe, &terms),
    }
}

fn go_on<T: Task>(run: InterruptedRun, global: &Global) -> Result<(), Error> {
    let open = device::open(global.device)?;
    let task = T::open(&run.recipe, &open.device, global.style())?;
    compare_setup(&global.ranks, &task, &run.recipe, &open.name)?;
    let _running = global.stop.run();
    let folder = run.folder.path().to_owned();
    finish(&folder, run.make(&task, &global.terms(&open.device), &open.name), global)
}

/// The same on another rank than the first.
fn go_on_behind<T: Task>(run: Followed, global: &Global) -> Result<(), Error> {
    let open = device::open(global.device)?;
    let task = T::open(&run.recipe, &open.device, global.style())?;
    compare_setup(&global.ranks, &task, &run.recipe, &open.name)?;
    let _running = global.stop.run();
    run.follow(&task, &global.terms(&open.device))
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
