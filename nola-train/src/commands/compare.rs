//! `nola-train compare`: methods side by side over several seeds.

mod done;
mod page;
mod plan;
mod table;

use std::path::PathBuf;

use clap::Args;
use clap_complete::ArgValueCompleter;
use nola_core::folder::write_atomically;

use super::completions::{recipes_and_files, settings};
use super::{Global, print_json};
use crate::chosen::Named;
use crate::device::OpenDevice;
use crate::evaluate::TextScores;
use crate::fit::{Fitted, Terms, fit, resume};
use crate::memory::peak_bytes;
use crate::recipe::{CheckedRecipe, Modality};
use crate::run::{InterruptedRun, RunFolder, RunResult};
use crate::task::{ImageTask, Task, Text};
use crate::terminal::err_line;
use crate::{Error, device};
use done::Found;
use plan::Planned;
use table::{Compared, Comparison, show, summary};

#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Recipe files or names of shipped recipes, one line of the table each.
    #[arg(required = true, add = recipes_and_files())]
    recipes: Vec<PathBuf>,
    /// Change a value of every recipe, as in `--set train.steps=100`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", add = ArgValueCompleter::new(settings))]
    set: Vec<String>,
    /// Runs of each recipe, with seeds 0, 1, …: of the few shots, the order, the basis.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Complete each prompt of this file, greedily, and compare the text with the references (text only).
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// Folder of the comparison: every run, `compare.json` and `compare.html`; runs that are finished there are not made
    /// again, and those that were interrupted go on from their last checkpoint.
    #[arg(long, value_name = "FOLDER", default_value = "runs/compare")]
    out: PathBuf,
}

/// Checks everything, then makes the runs that are not there yet; the table is written after each of them.
///
/// # Errors
/// If something cannot be used, before anything is trained; later, what cut the comparison off.
pub fn run(args: &CompareArgs, global: &Global) -> Result<(), Error> {
    let planned = plan::plan(args)?;
    let open = device::open(global.device)?;
    let _running = global.stop.run();
    let mut comparing = Comparing { args, open: &open, global, rows: Vec::new() };
    let ended = comparing.run(&planned);
    let comparison = comparing.comparison();
    // What was finished is shown whatever cut off the rest.
    if ended.is_ok() || !comparison.rows.is_empty() {
        if global.json {
            print_json(&comparison)?;
        } else {
            show(&comparison)?;
        }
        err_line(&format!("compare: {} holds every run, compare.json and compare.html", args.out.display()));
    }
    ended
}

/// A comparison that goes on.
struct Comparing<'a> {
    args: &'a CompareArgs,
    open: &'a OpenDevice,
    global: &'a Global,
    /// Recipes with runs that are finished.
    rows: Vec<Compared>,
}

impl Comparing<'_> {
    /// Makes all runs, up to the first that is cut off.
    fn run(&mut self, planned: &[Planned]) -> Result<(), Error> {
        let count: usize = planned.iter().map(|recipe| recipe.seeds.len()).sum();
        let mut number = 0;
        for (index, recipe) in planned.iter().enumerate() {
            let mut runs = Vec::new();
            for (seed, of_seed) in recipe.seeds.iter().enumerate() {
                number += 1;
                let label = format!("{} seed {seed} ({number} of {count})", recipe.name);
                let once = self.one(of_seed, &label);
                if once.is_err() {
                    let (finished, seeds, others) =
                        (runs.len(), recipe.seeds.len(), planned.len() - index - 1);
                    let (name, out) = (&recipe.name, self.args.out.display());
                    err_line(&format!(
                        "cut off: {name} after {finished} of {seeds} seeds; {others} recipes were not begun; the same command \
                         resumes here, since what is finished is kept in {out}"
                    ));
                }
                runs.push(once?);
                // The line of this recipe is replaced with each of its runs.
                self.rows.truncate(index);
                self.rows.push(summary(&recipe.name, &runs));
                self.write()?;
            }
        }
        Ok(())
    }

    fn one(&self, recipe: &CheckedRecipe, label: &str) -> Result<Once, Error> {
        if let Some(by) = self.global.stop.asked() {
            return Err(Error::Interrupted { by });
        }
        match recipe.data.format.modality() {
            Modality::Images => self.once::<ImageTask>(recipe, label),
            Modality::Text => self.once::<Text>(recipe, label),
        }
    }

    /// One run of a recipe, or what is known of it.
    fn once<T: Task>(&self, recipe: &CheckedRecipe, label: &str) -> Result<Once, Error> {
        let result = match done::find(recipe)? {
            Found::Nothing => return self.trained::<T>(recipe, label),
            Found::Interrupted => return self.resumed::<T>(recipe, label),
            Found::Finished(result) => *result,
        };
        err_line(&format!("{label}: finished before"));
        let Some(file) = &self.args.metrics else { return Ok(Once { result, metrics: None }) };
        if let Some(scores) = done::metrics(&recipe.output.dir, file) {
            return Ok(Once { result, metrics: Some(scores) });
        }
        let task = T::open(recipe, &self.open.device)?;
        let kept = Named::of_run(&recipe.output.dir)?.open::<T::Base>(&self.open.device)?;
        let metrics = self.metrics(&task, &kept.adapted.model, recipe)?;
        Ok(Once { result, metrics })
    }

    fn trained<T: Task>(&self, recipe: &CheckedRecipe, label: &str) -> Result<Once, Error> {
        let device = &self.open.device;
        let task = T::open(recipe, device)?;
        let recipe = &recipe.clone().for_samples(task.counts().samples_in_epoch());
        let folder = RunFolder::create(&recipe.output.dir)?;
        folder.begin(recipe)?;
        let terms = Terms { label, ..self.global.terms(device) };
        let fitted = fit(&task, recipe, &terms, &folder.keeper(&task, recipe, &self.open.name))?;
        self.saved(&task, recipe, &folder, fitted)
    }

    /// The rest of a run that was interrupted.
    fn resumed<T: Task>(&self, recipe: &CheckedRecipe, label: &str) -> Result<Once, Error> {
        let device = &self.open.device;
        let run = InterruptedRun::open(&recipe.output.dir, &[])?;
        let task = T::open(&run.recipe, device)?;
        let (folder, recipe, from) = run.checked(&task, &self.open.name)?;
        let terms = Terms { label, ..self.global.terms(device) };
        let fitted = resume(from, &task, &recipe, &terms, &folder.keeper(&task, &recipe, &self.open.name))?;
        self.saved(&task, &recipe, &folder, fitted)
    }

    /// Writes a run, unless it was cut off.
    fn saved<T: Task>(
        &self,
        task: &T,
        recipe: &CheckedRecipe,
        folder: &RunFolder,
        mut fitted: Fitted<T>,
    ) -> Result<Once, Error> {
        let saved = folder.save(task, recipe, &fitted, &self.open.name)?;
        let failure = fitted.failure.take().or(saved.failure);
        let interrupted = fitted.interrupted.map(|by| Error::Interrupted { by });
        if let Some(error) = failure.or(interrupted) {
            return Err(error);
        }
        let metrics = self.metrics(task, &fitted.best.model, recipe)?;
        Ok(Once { result: saved.result, metrics })
    }

    /// Scores of what a run writes, kept beside it; none if nobody asked for them.
    fn metrics<T: Task>(
        &self,
        task: &T,
        model: &crate::task::Model<T>,
        recipe: &CheckedRecipe,
    ) -> Result<Option<TextScores>, Error> {
        let Some(file) = &self.args.metrics else { return Ok(None) };
        let scores = task.score_writing(model, file, recipe)?;
        if let Some(scores) = scores {
            done::keep_metrics(&recipe.output.dir, file, scores)?;
        }
        Ok(scores)
    }

    fn comparison(&self) -> Comparison<'_> {
        Comparison {
            rows: &self.rows,
            seeds: self.args.seeds,
            device: &self.open.name,
            threads: rayon::current_num_threads(),
            peak_memory_bytes: peak_bytes(),
        }
    }

    /// Writes what is finished.
    fn write(&self) -> Result<(), Error> {
        let comparison = self.comparison();
        let json = serde_json::to_vec_pretty(&comparison).expect("numbers and text");
        let page = page::render(&comparison);
        for (name, bytes) in [("compare.json", json), ("compare.html", page.into_bytes())] {
            let written = write_atomically(&self.args.out.join(name), &bytes);
            written.map_err(|error| Error::from(error).about_output())?;
        }
        Ok(())
    }
}

/// One run, and how its texts were scored.
struct Once {
    result: RunResult,
    metrics: Option<TextScores>,
}
