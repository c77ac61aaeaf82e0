//! `bench memory`: whether a run takes more memory the longer it lasts, each kind of model in a process of its own.
//!
//! What runs is `train` as it is: the loop with all that watches it, a run folder, evaluations and checkpoints.

use std::cell::RefCell;
use std::path::Path;

use burn::tensor::Device;
use clap::{Args, ValueEnum};
use comfy_table::Table;
use nola_core::Adapted;
use serde::{Deserialize, Serialize};

use super::cases::Preset;
use super::machine::used_mib;
use super::start::write_files;
use super::statistics::rounded;
use super::steps::in_process;
use super::{BenchError, Output};
use crate::Error;
use crate::device::{self, DeviceChoice};
use crate::fit::{Course, Keeper, Note, Terms, fit};
use crate::option_values::positive;
use crate::progress::Style;
use crate::ranks::Ranks;
use crate::recipe::{CheckedRecipe, Recipe, ShippedRecipe};
use crate::run::RunFolder;
use crate::task::{ImageTask, Model, Task, Text};
use crate::terminal::print_json;
use crate::train::TrainingState;

/// The first step after which memory is looked at, in a run that is long enough; pools, caches and threads are there by then,
/// and there were two evaluations and checkpoints.
const FIRST: usize = 100;
/// A shorter run is looked at first after this part of it.
const PARTS: usize = 10;
/// What memory may grow by until the last step. A run remembers 48 bytes of each step for its report, 0.5 MiB after 10,000 steps;
/// the rest is what an allocator keeps. A single kilobyte that a step left behind would be 10 MiB.
const ALLOWED_MIB: f64 = 4.0;

/// Options of `bench memory`.
#[derive(Debug, Args)]
pub struct MemoryArgs {
    /// Kinds of models to train, with commas between them.
    #[arg(long, value_delimiter = ',', default_value = "vit,gpt2,llama", value_name = "KINDS")]
    kinds: Vec<Kind>,
    /// Optimizer steps of each run.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = positive())]
    steps: usize,
    /// The one kind that this process trains.
    #[arg(long, value_name = "KIND", hide = true)]
    case: Option<Kind>,
}

/// A small model and data for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// The shipped ViT and digits.
    Vit,
    /// A GPT-2 for trials with random weights, and one sentence.
    #[value(name = "gpt2")]
    Gpt2,
    /// The shipped LLaMA and sentences about museum pieces.
    Llama,
}

/// What `bench memory` found of a kind.
#[derive(Debug, Serialize)]
pub struct MemoryLine {
    what: &'static str,
    model: String,
    method: &'static str,
    device: String,
    /// Memory after some of the steps; empty where nobody says, or the run failed.
    used: Vec<Used>,
    /// From the first to the last of them, in MiB.
    growth_mib: Option<f64>,
    allowed_mib: f64,
    /// Why there is no measurement.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Memory when a step was reported: what the process holds, on a GPU what tensors take there.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Used {
    /// Optimizer step, counted from 1.
    step: usize,
    mib: f64,
}

/// Trains a model of each kind.
///
/// # Errors
/// If a process cannot be started, or, after all of them, if one failed or its memory grew by too much.
pub fn run(args: &MemoryArgs, output: &mut Output<MemoryLine>) -> Result<(), Error> {
    if let Some(kind) = args.case {
        print_json(&kind.measured(args.steps, output.device)?)?;
        return Ok(());
    }
    let (mut failed, mut grown) = (0, None);
    for kind in &args.kinds {
        output.note(&format!("{}: {} steps", kind.name(), args.steps));
        let line = MemoryLine::of(*kind, in_process(&kind.name(), None)?, output.device);
        failed += usize::from(line.growth_mib.is_none());
        if let Some(growth) = line.growth_mib.filter(|growth| *growth > ALLOWED_MIB) {
            let model = line.model.clone();
            grown.get_or_insert(BenchError::MemoryGrows { model, growth, allowed: ALLOWED_MIB });
        }
        output.line(line)?;
    }
    match grown {
        Some(grown) => Err(grown.into()),
        None if failed > 0 => Err(BenchError::CasesFailed { failed, cases: args.kinds.len() }.into()),
        None => Ok(()),
    }
}

impl MemoryLine {
    fn of(kind: Kind, found: Result<Vec<Used>, String>, device: DeviceChoice) -> Self {
        let (used, error) = match found {
            Ok(used) => (used, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let growth = used.first().zip(used.last()).map(|(first, last)| rounded(last.mib - first.mib, 2));
        Self {
            what: "memory",
            model: kind.name(),
            method: "nola",
            device: device.to_string(),
            used,
            growth_mib: growth,
            allowed_mib: ALLOWED_MIB,
            error,
        }
    }

    fn verdict(&self) -> String {
        match (self.growth_mib, &self.error) {
            (Some(growth), _) if growth > self.allowed_mib => "grows".to_owned(),
            (Some(_), _) => "the same".to_owned(),
            (None, Some(error)) => error.clone(),
            (None, None) => "nobody says".to_owned(),
        }
    }
}

impl Kind {
    fn name(self) -> String {
        let value = self.to_possible_value().expect("no kind is hidden");
        value.get_name().to_owned()
    }

    /// Memory after some steps of a run in a folder that is gone afterwards.
    fn measured(self, steps: usize, device: DeviceChoice) -> Result<Vec<Used>, Error> {
        let scratch =
            tempfile::tempdir().map_err(|source| Error::Output { path: std::env::temp_dir(), source })?;
        let recipe = self.recipe(scratch.path(), steps)?;
        match self {
            Self::Vit => trained::<ImageTask>(&recipe, device),
            Self::Gpt2 | Self::Llama => trained::<Text>(&recipe, device),
        }
    }

    /// A recipe of so many steps in `folder`.
    fn recipe(self, folder: &Path, steps: usize) -> Result<CheckedRecipe, Error> {
        let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
        // Evaluations have batches of their own, and the first of them makes room for them.
        let every = (first_look(steps) / 2).max(1);
        let mut set = vec![
            format!("output.dir={}", path("run")),
            format!("train.steps={steps}"),
            "train.batch=4".to_owned(),
            "train.learning_rate=1e-4".to_owned(),
            format!("train.evaluate_every={every}"),
            format!("train.save_every={every}"),
        ];
        Ok(match self {
            Self::Vit => ShippedRecipe::named("vit-digits-nola")?.read(&set)?,
            Self::Llama => ShippedRecipe::named("text-museum-nola")?.read(&set)?,
            Self::Gpt2 => {
                write_files(Preset::TinyGpt2, folder)?;
                let files =
                    [("model.path", "base"), ("data.train", "text.txt"), ("data.validation", "text.txt")];
                set.extend(files.map(|(key, name)| format!("{key}={}", path(name))));
                Recipe::read(&folder.join("recipe.toml"), &set)?
            }
        })
    }
}

/// Trains as the command `train` does, and watches.
fn trained<T: Task>(recipe: &CheckedRecipe, device: DeviceChoice) -> Result<Vec<Used>, Error> {
    let folder = RunFolder::create(&recipe.output.dir)?;
    let open = device::open(device)?;
    let task = T::open(recipe, &open.device, Style::Quiet)?;
    folder.begin(recipe)?;
    let keeper = Watching {
        keeper: folder.keeper(&task, recipe, &open.name),
        device: &open.device,
        steps: looked_after(recipe.train.steps),
        used: RefCell::default(),
    };
    let terms = Terms { device: &open.device, style: Style::Quiet, ranks: &Ranks::default(), label: "" };
    let fitted = fit(&task, recipe, &terms, &keeper)?;
    fitted.failure.map_or(Ok(keeper.used.into_inner()), Err)
}

fn first_look(steps: usize) -> usize {
    FIRST.min(steps.div_ceil(PARTS))
}

/// The steps after which memory is looked at: 100, 1,000 and so on, and the last.
fn looked_after(steps: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(first_look(steps)), |step| Some(step * 10));
    powers.take_while(|step| *step < steps).chain([steps]).collect()
}

/// Looks at memory beside the keeper of a run.
struct Watching<'a, K> {
    keeper: K,
    device: &'a Device,
    /// After these steps.
    steps: Vec<usize>,
    used: RefCell<Vec<Used>>,
}

impl<T: Task, K: Keeper<T>> Keeper<T> for Watching<'_, K> {
    fn prepare(&self, model: &Adapted<Model<T>>) -> Result<(), Error> {
        self.keeper.prepare(model)
    }

    fn keep_best(&self, model: &Adapted<Model<T>>, evaluation: &T::Evaluation) -> Result<(), Error> {
        self.keeper.keep_best(model, evaluation)
    }

    fn keep_unscored(&self, model: &Adapted<Model<T>>) -> Result<(), Error> {
        self.keeper.keep_unscored(model)
    }

    fn keep_checkpoint(&self, state: TrainingState, course: &Course) -> Result<(), Error> {
        self.keeper.keep_checkpoint(state, course)
    }

    fn note(&self, note: &Note) -> Result<(), Error> {
        if let Note::Step { report, .. } = note
            && self.steps.contains(&report.step)
        {
            let used = used_mib(self.device).map(|mib| Used { step: report.step, mib: rounded(mib, 2) });
            self.used.borrow_mut().extend(used);
        }
        self.keeper.note(note)
    }
}

/// The lines for people.
pub fn table(lines: &[MemoryLine], table: &mut Table) {
    let steps: Vec<usize> =
        lines.iter().map(|line| line.used.iter().map(|used| used.step).collect()).max().unwrap_or_default();
    let after = steps.iter().map(|step| format!("MiB after step {step}"));
    let titles = ["model", "device"].map(str::to_owned).into_iter().chain(after);
    table.set_header(titles.chain(["growth MiB", "memory"].map(str::to_owned)));
    for line in lines {
        let at = |step: &usize| line.used.iter().find(|used| used.step == *step);
        let used = steps.iter().map(|step| at(step).map_or(String::new(), |used| format!("{:.1}", used.mib)));
        let growth = line.growth_mib.map_or(String::new(), |growth| format!("{growth:+.1}"));
        let names = [line.model.clone(), line.device.clone()].into_iter();
        table.add_row(names.chain(used).chain([growth, line.verdict()]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_looked_at_after_powers_of_ten_and_the_last_step() {
        assert_eq!(looked_after(10_000), [100, 1000, 10_000]);
        assert_eq!(looked_after(2500), [100, 1000, 2500]);
        assert_eq!(looked_after(20), [2, 20]);
        assert_eq!(looked_after(1), [1]);
    }

    #[test]
    fn growth_beyond_what_is_allowed_is_told() {
        let line = |last: f64| {
            let used = [(100, 50.0), (1000, 60.0), (10_000, last)].map(|(step, mib)| Used { step, mib });
            MemoryLine::of(Kind::Vit, Ok(used.to_vec()), DeviceChoice::Cpu)
        };
        assert_eq!((line(53.0).growth_mib, line(53.0).verdict()), (Some(3.0), "the same".to_owned()));
        assert_eq!(line(54.5).verdict(), "grows");
        let failed = MemoryLine::of(Kind::Gpt2, Err("it fell over".to_owned()), DeviceChoice::Cpu);
        assert_eq!(failed.verdict(), "it fell over");
    }
}
