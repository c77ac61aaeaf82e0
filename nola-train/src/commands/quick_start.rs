//! The quick start: three methods on a few shipped images, and how to go on.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Global, print_json, print_line, print_rows};
use crate::fit::{Fitted, fit};
use crate::memory::peak_bytes;
use crate::recipe::{CheckedRecipe, ShippedRecipe};
use crate::report::ResultRow;
use crate::run::{ReportParts, RunFolder, RunResult};
use crate::task::{ImageTask, Splits, Task};
use crate::terminal::{StdoutError, err_line};
use crate::{Error, device};

/// The methods compared; the last one is shown in detail.
const METHODS: [&str; 3] = ["linear", "lora", "nola"];

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
    let recipe = |method: &&str| ShippedRecipe::named(&format!("vit-digits-{method}"))?.read(&[]);
    let recipes: Vec<CheckedRecipe> = METHODS.iter().map(recipe).collect::<Result<_, _>>()?;
    let last = recipes.last().expect("there are three methods");
    let folder = RunFolder::create_numbered(Path::new("runs/quick-start"))?;
    let open = device::open(global.device)?;
    let task = ImageTask::open(last, &open.device)?;
    let splits = &task.splits;
    err_line(&format!(
        "quick start: {} images of {} classes, scored on {} others",
        splits.train.len(),
        splits.train.classes().len(),
        splits.validation.len()
    ));
    let mut done: Vec<(Fitted<ImageTask>, RunResult)> = Vec::new();
    let _running = global.stop.run();
    for recipe in &recipes {
        let of_method = RunFolder::create(&folder.path().join(recipe.method.kind()))?;
        of_method.begin(recipe)?;
        let keeper = of_method.keeper(&task, recipe, &open.name);
        let mut fitted = fit(&task, recipe, &global.terms(&open.device), &keeper)?;
        let saved = of_method.save(&task, recipe, &fitted, &open.name)?;
        if let Err(error) = global.ended([fitted.failure.take(), saved.failure]) {
            show_finished(&done)?;
            return Err(error);
        }
        done.push((fitted, saved.result));
    }
    let rows: Vec<ResultRow> = done.iter().map(|(_, result)| result.row()).collect();
    let (fitted, result) = done.last().expect("three methods were run");
    let report = folder.save_report(&ReportParts {
        task: &task,
        fitted,
        histories: done.iter().map(|(fitted, _)| fitted.history.clone()).collect(),
        device: &open.name,
        toml: last.resolved_toml(),
        rows: rows.clone(),
    })?;
    let quick_start = QuickStart {
        rows,
        device: open.name,
        peak_memory_bytes: peak_bytes(),
        run: folder.path().to_owned(),
        adapter: result.adapter.clone(),
        report,
    };
    Ok(show(&quick_start, &result.run, splits, global)?)
}

/// What was finished before the program is cut off.
fn show_finished(done: &[(Fitted<ImageTask>, RunResult)]) -> Result<(), StdoutError> {
    let rows: Vec<ResultRow> = done.iter().map(|(_, result)| result.row()).collect();
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
