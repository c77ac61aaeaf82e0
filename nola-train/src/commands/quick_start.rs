//! The quick start: three methods on a few shipped images, and how to go on.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Global, print_json, print_line, print_rows};
use crate::device::OpenDevice;
use crate::history::{History, HistoryPoint};
use crate::memory::peak_bytes;
use crate::progress::{Scores, Target};
use crate::recipe::{CheckedRecipe, ShippedRecipe};
use crate::report::ResultRow;
use crate::run::{
    Found, InterruptedRun, Made, ReportParts, RunFolder, RunResult, StepLine, find, logged_steps,
};
use crate::task::{ImageTask, Splits, Task};
use crate::terminal::{StdoutError, err_line};
use crate::{Error, device};

/// The methods compared; the last one is shown in detail.
const METHODS: [&str; 3] = ["linear", "lora", "nola"];

/// Where it leaves its runs.
const FOLDER: &str = "runs/quick-start";

/// The JSON object of `nola-train --json`.
#[derive(Debug, Serialize)]
struct QuickStart {
    rows: Vec<ResultRow>,
    device: String,
    peak_memory_bytes: Option<u64>,
    run: PathBuf,
    adapter: PathBuf,
    report: PathBuf,
}

pub fn run(global: &Global) -> Result<(), Error> {
    let folder = RunFolder::around_runs(Path::new(FOLDER), is_left)?;
    let recipes = recipes(folder.path())?;
    let last = recipes.last().expect("there are three methods");
    let open = device::open(global.device)?;
    let task = ImageTask::open(last, &open.device, global.style())?;
    let splits = &task.splits;
    err_line(&format!(
        "quick start: {} images of {} classes, scored on {} others",
        splits.train.len(),
        splits.train.classes().len(),
        splits.validation.len()
    ));
    let (mut results, mut newest): (Vec<RunResult>, Option<Made<ImageTask>>) = (Vec::new(), None);
    let _running = global.stop.run();
    for recipe in &recipes {
        let mut made = match find(recipe)? {
            Found::Finished(result) => {
                err_line(&format!("{}: finished before", recipe.method.kind()));
                results.push(*result);
                continue;
            }
            Found::Interrupted => go_on(recipe, &task, &open, global)?,
            Found::Nothing => begin(recipe, &task, &open, global)?,
        };
        if let Err(error) = global.ended(made.take_failure()) {
            show_finished(&results)?;
            err_line("cut off: the next quick start here goes on with what is left");
            return Err(error);
        }
        results.push(made.saved.result.clone());
        newest = Some(made);
    }
    let rows: Vec<ResultRow> = results.iter().map(RunResult::row).collect();
    let made = newest.expect("the last method was not finished before");
    let report = folder.save_report(&ReportParts {
        task: &task,
        fitted: &made.fitted,
        histories: results.iter().map(|result| history(result, &made.fitted.history)).collect(),
        device: &open.name,
        toml: last.resolved_toml(),
        rows: rows.clone(),
    })?;
    let result = made.saved.result;
    let quick_start = QuickStart {
        rows,
        device: open.name,
        peak_memory_bytes: peak_bytes(),
        run: folder.path().to_owned(),
        adapter: result.adapter,
        report,
    };
    Ok(show(&quick_start, &result.run, splits, global)?)
}

fn begin(
    recipe: &CheckedRecipe,
    task: &ImageTask,
    open: &OpenDevice,
    global: &Global,
) -> Result<Made<ImageTask>, Error> {
    let folder = RunFolder::create(&recipe.output.dir)?;
    folder.make(task, recipe, &global.terms(&open.device), &open.name)
}

fn go_on(
    recipe: &CheckedRecipe,
    task: &ImageTask,
    open: &OpenDevice,
    global: &Global,
) -> Result<Made<ImageTask>, Error> {
    let run = InterruptedRun::open(&recipe.output.dir, &[])?;
    run.make(task, &global.terms(&open.device), &open.name)
}

/// The recipes of a quick start in `folder`.
fn recipes(folder: &Path) -> Result<Vec<CheckedRecipe>, Error> {
    let recipe = |method: &&str| {
        let mut recipe = ShippedRecipe::named(&format!("vit-digits-{method}"))?.read(&[])?.into_inner();
        recipe.output.dir = folder.join(method);
        Ok(recipe.check()?)
    };
    METHODS.iter().map(recipe).collect()
}

/// Whether a quick start was cut off in `folder`, so that it can go on there: some method is begun, and the last is not finished.
fn is_left(folder: &Path) -> bool {
    let found = recipes(folder).and_then(|recipes| recipes.iter().map(find).collect::<Result<Vec<_>, _>>());
    let Ok(found) = found else { return false };
    let is_begun = found.iter().any(|found| !matches!(found, Found::Nothing));
    is_begun && !matches!(found.last(), Some(Found::Finished(_)))
}

/// The course of a run, of which its folder has the steps; what it has to be better than is the same for all.
fn history(result: &RunResult, newest: &History) -> History {
    let answers =
        newest.points.iter().rev().find_map(|point| point.validation).map_or(0, |scores| scores.answers);
    let point = |line: StepLine| HistoryPoint {
        step: line.step,
        train_loss: line.loss,
        learning_rate: line.learning_rate,
        validation: line.validation.map(|scores| Scores {
            target: Target::Image,
            loss: scores.loss,
            accuracy: scores.accuracy,
            answers,
        }),
    };
    History {
        name: result.method.clone(),
        // Without its log a run has no curve, but its scores stand in the table.
        points: logged_steps(&result.run).unwrap_or_default().into_iter().map(point).collect(),
        kept_step: result.best_step,
        baseline: newest.baseline,
    }
}

/// What was finished before the program is cut off.
fn show_finished(results: &[RunResult]) -> Result<(), StdoutError> {
    let rows: Vec<ResultRow> = results.iter().map(RunResult::row).collect();
    if rows.is_empty() { Ok(()) } else { print_rows(&rows) }
}

fn show(quick_start: &QuickStart, run: &Path, splits: &Splits, global: &Global) -> Result<(), StdoutError> {
    if global.json {
        return print_json(quick_start);
    }
    print_rows(&quick_start.rows)?;
    print_line(&format!("adapter   {}", quick_start.adapter.display()))?;
    print_line(&format!("report    {}", quick_start.report.display()))?;
    print_line("classify  an image with the adapter:")?;
    let program = started_as();
    print_line(&format!("          {program} predict --run {} {}", run.display(), splits.validation.name(0)))
}

/// How the user started the program; cargo tells what it starts its own path.
fn started_as() -> &'static str {
    if std::env::var_os("CARGO").is_some() { "cargo run --release -p nola-train --" } else { "nola-train" }
}
