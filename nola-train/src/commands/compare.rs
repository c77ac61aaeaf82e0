//! `nola-train compare`: methods side by side over several seeds.

mod done;
mod page;
mod plan;
mod table;

use std::path::{Path, PathBuf};

use clap::Args;
use clap_complete::ArgValueCompleter;
use nola_core::folder::write_atomically;

use super::completions::{recipes_and_files, settings};
use super::{Global, print_json};
use crate::chosen::Named;
use crate::device::OpenDevice;
use crate::evaluate::TextScores;
use crate::fit::Terms;
use crate::memory::peak_bytes;
use crate::recipe::CheckedRecipe;
use crate::run::{Found, InterruptedRun, Made, RunFolder, RunResult, find};
use crate::settings::Modality;
use crate::task::{ImageTask, Task, Text};
use crate::terminal::err_line;
use crate::{Error, device};
pub(super) use plan::{Planned, Wanted, plan};
use table::{Compared, Comparison, Diverged, show, summary};

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
    let together = Together {
        purpose: Purpose::Compare,
        seeds: args.seeds,
        metrics: args.metrics.as_deref(),
        out: &args.out,
    };
    let planned = plan(plan::of_recipes(&args.recipes, &args.set), &together)?;
    compared(&planned, &together, global, &|_| Ok(()))
}

/// What all runs of a comparison have in common.
#[derive(Debug)]
pub(super) struct Together<'a> {
    pub(super) purpose: Purpose,
    pub(super) seeds: u64,
    pub(super) metrics: Option<&'a Path>,
    pub(super) out: &'a Path,
}

/// What runs are compared for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Recipes as they are given, each of which has to come to its end.
    Compare,
    /// Values of settings; the best comes first, and one with which training diverges is a result, too.
    Sweep,
}

impl Purpose {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Compare => "compare",
            Self::Sweep => "sweep",
        }
    }
}

/// Makes the runs that are not there yet, and shows what they came to; `after_each` gets the name of the best so far.
///
/// # Errors
/// What cut the comparison off.
pub(super) fn compared(
    planned: &[Planned],
    together: &Together,
    global: &Global,
    after_each: &dyn Fn(&str) -> Result<(), Error>,
) -> Result<(), Error> {
    let open = device::open(global.device)?;
    let _running = global.stop.run();
    let (rows, diverged) = (Vec::new(), Vec::new());
    let mut comparing = Comparing { together, open: &open, global, after_each, rows, diverged };
    let ended = comparing.run(planned);
    let comparison = comparing.comparison();
    // What was finished is shown whatever cut off the rest.
    if ended.is_ok() || !comparison.rows.is_empty() || !comparison.diverged.is_empty() {
        if global.json {
            print_json(&comparison)?;
        } else {
            show(&comparison)?;
        }
        let (name, out) = (together.purpose.name(), together.out.display());
        err_line(&format!("{name}: {out} holds every run, {name}.json and {name}.html"));
    }
    ended
}

/// A comparison that goes on.
struct Comparing<'a> {
    together: &'a Together<'a>,
    open: &'a OpenDevice,
    global: &'a Global,
    after_each: &'a dyn Fn(&str) -> Result<(), Error>,
    /// Recipes with runs that are finished; in a sweep the best first.
    rows: Vec<Compared>,
    /// Recipes with a run that diverged.
    diverged: Vec<Diverged>,
}

impl Comparing<'_> {
    /// Makes all runs, up to the first that is cut off.
    fn run(&mut self, planned: &[Planned]) -> Result<(), Error> {
        let count: usize = planned.iter().map(|recipe| recipe.seeds.len()).sum();
        let mut number = 0;
        'recipes: for (index, recipe) in planned.iter().enumerate() {
            let mut runs = Vec::new();
            for (seed, of_seed) in recipe.seeds.iter().enumerate() {
                number += 1;
                let label = format!("{} seed {seed} ({number} of {count})", recipe.name);
                let once = match self.one(of_seed, &label) {
                    Err(error @ Error::Diverged { .. }) if self.together.purpose == Purpose::Sweep => {
                        number += recipe.seeds.len() - seed - 1;
                        self.diverged(recipe, of_seed, &label, &error)?;
                        continue 'recipes;
                    }
                    other => other,
                };
                if once.is_err() {
                    let (finished, seeds, others) =
                        (runs.len(), recipe.seeds.len(), planned.len() - index - 1);
                    let (name, out) = (&recipe.name, self.together.out.display());
                    err_line(&format!(
                        "cut off: {name} after {finished} of {seeds} seeds; {others} recipes were not begun; the same command \
                         resumes here, since what is finished is kept in {out}"
                    ));
                }
                runs.push(once?);
                // The line of this recipe is replaced with each of its runs.
                self.rows.retain(|row| row.recipe != recipe.name);
                self.rows.push(summary(recipe, &runs));
                self.finished_one(recipe)?;
            }
        }
        Ok(())
    }

    /// A recipe whose run diverged: it has no score, whatever its other seeds came to.
    fn diverged(
        &mut self,
        recipe: &Planned,
        of_seed: &CheckedRecipe,
        label: &str,
        error: &Error,
    ) -> Result<(), Error> {
        let problem = error.to_string();
        err_line(&format!("{label}: {problem}"));
        done::keep_diverged(of_seed, error)?;
        self.rows.retain(|row| row.recipe != recipe.name);
        self.diverged.push(Diverged {
            recipe: recipe.name.clone(),
            settings: recipe.settings.clone(),
            problem,
        });
        self.finished_one(recipe)
    }

    /// Writes what is finished after a run of `recipe`.
    fn finished_one(&mut self, recipe: &Planned) -> Result<(), Error> {
        if self.together.purpose == Purpose::Sweep {
            let modality = recipe.seeds[0].data.format.modality();
            self.rows.sort_by(|a, b| Compared::best_first(a, b, modality));
        }
        self.write()?;
        self.rows.first().map_or(Ok(()), |best| (self.after_each)(&best.recipe))
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
        if self.together.purpose == Purpose::Sweep
            && let Some(error) = done::diverged(recipe)?
        {
            return Err(error);
        }
        let result = match find(recipe)? {
            Found::Nothing => return self.trained::<T>(recipe, label),
            Found::Interrupted => return self.resumed::<T>(recipe, label),
            Found::Finished(result) => *result,
        };
        err_line(&format!("{label}: finished before"));
        let Some(file) = self.together.metrics else { return Ok(Once { result, metrics: None }) };
        if let Some(scores) = done::metrics(&recipe.output.dir, file) {
            return Ok(Once { result, metrics: Some(scores) });
        }
        let task = T::open(recipe, &self.open.device, self.global.style())?;
        let kept = Named::of_run(&recipe.output.dir)?.open::<T::Base>(&self.open.device)?;
        let metrics = self.metrics(&task, &kept.adapted.model, recipe)?;
        Ok(Once { result, metrics })
    }

    fn trained<T: Task>(&self, recipe: &CheckedRecipe, label: &str) -> Result<Once, Error> {
        let device = &self.open.device;
        let task = T::open(recipe, device, self.global.style())?;
        let recipe = &recipe.clone().for_samples(task.counts().samples_in_epoch());
        let terms = Terms { label, ..self.global.terms(device) };
        let folder = RunFolder::create(&recipe.output.dir)?;
        self.finished(&task, recipe, folder.make(&task, recipe, &terms, &self.open.name)?)
    }

    /// The rest of a run that was interrupted.
    fn resumed<T: Task>(&self, recipe: &CheckedRecipe, label: &str) -> Result<Once, Error> {
        let device = &self.open.device;
        let run = InterruptedRun::open(&recipe.output.dir, &[])?;
        let (task, recipe) = (T::open(&run.recipe, device, self.global.style())?, run.recipe.clone());
        let terms = Terms { label, ..self.global.terms(device) };
        self.finished(&task, &recipe, run.make(&task, &terms, &self.open.name)?)
    }

    /// A run that is written, unless it was cut off.
    fn finished<T: Task>(&self, task: &T, recipe: &CheckedRecipe, mut made: Made<T>) -> Result<Once, Error> {
        if let Some(error) = made.take_failure() {
            return Err(error);
        }
        let metrics = self.metrics(task, &made.fitted.best.model, recipe)?;
        Ok(Once { result: made.saved.result, metrics })
    }

    /// Scores of what a run writes, kept beside it; none if nobody asked for them.
    fn metrics<T: Task>(
        &self,
        task: &T,
        model: &crate::task::Model<T>,
        recipe: &CheckedRecipe,
    ) -> Result<Option<TextScores>, Error> {
        let Some(file) = self.together.metrics else { return Ok(None) };
        let scores = task.score_writing(model, file, recipe)?;
        if let Some(scores) = scores {
            done::keep_metrics(&recipe.output.dir, file, scores)?;
        }
        Ok(scores)
    }

    fn comparison(&self) -> Comparison<'_> {
        Comparison {
            rows: &self.rows,
            diverged: &self.diverged,
            best: match self.together.purpose {
                Purpose::Compare => None,
                Purpose::Sweep => self.rows.first().map(|best| best.recipe.as_str()),
            },
            seeds: self.together.seeds,
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
        for (ending, bytes) in [("json", json), ("html", page.into_bytes())] {
            let name = format!("{}.{ending}", self.together.purpose.name());
            let written = write_atomically(&self.together.out.join(name), &bytes);
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
