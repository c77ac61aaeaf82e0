//! A run that goes on: what it must find unchanged, and what may change.

use std::path::Path;

use nola_core::folder::BaseIdentity;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::checkpoints::newest;
use super::{RECIPE, RunFolder};
use crate::Error;
use crate::data_hash::DataHash;
use crate::fit::{Course, Resumed};
use crate::recipe::{CheckedRecipe, Recipe};
use crate::session::Base;
use crate::settings::ScheduleKind;
use crate::task::Task;
use crate::terminal::err_line;
use crate::train::{Checkpoint, ResumeError};

/// Keys that change nothing of what was computed.
const FREE: [&str; 11] = [
    "data.cache_mib",
    "data.text.cache",
    "output.coefficient_bits",
    "output.tensorboard",
    "samples.max_new_tokens",
    "samples.prompts",
    "train.keep_checkpoints",
    "train.max_skipped",
    "train.on_non_finite",
    "train.save_every",
    // The last bits alone, of which a run that goes on says so.
    SHARDS,
];
const SHARDS: &str = "train.shards";
const STEPS: &str = "train.steps";
const EPOCHS: &str = "train.epochs";
const DIR: &str = "output.dir";

/// What a run was made of, as its checkpoints say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Origin {
    /// Of this program.
    pub version: String,
    /// With every default filled in.
    pub recipe: String,
    pub base: BaseIdentity,
    pub data: Vec<DataHash>,
    /// As results call it.
    pub device: String,
}

impl Origin {
    /// Of a run on a device that results call so; hashing all data takes its time.
    pub(super) fn of<T: Task>(task: &T, recipe: &CheckedRecipe, device: &str) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            recipe: recipe.resolved_toml(),
            base: task.base().identity().clone(),
            data: task.data_hashes(recipe),
            device: device.to_owned(),
        }
    }
}

/// What a run adds to the state of its training.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OfRun {
    pub origin: Origin,
    pub course: serde_json::Value,
}

/// A run that ended before its time, claimed to go on.
pub struct InterruptedRun {
    /// Its folder.
    pub folder: RunFolder,
    /// Its recipe, with what may change changed.
    pub recipe: CheckedRecipe,
    origin: Origin,
    resumed: Resumed,
}

impl InterruptedRun {
    /// Claims a run and reads its newest whole checkpoint; `overrides` change its recipe, as `--set` does.
    ///
    /// # Errors
    /// If there is nothing to resume, the run still goes on, or the recipe changes what was computed already.
    pub fn open(run: &Path, overrides: &[String]) -> Result<Self, Error> {
        Ok(Self::with_checkpoint(run, overrides)?.0)
    }

    /// The same, and the checkpoint that was read.
    pub(super) fn with_checkpoint(run: &Path, overrides: &[String]) -> Result<(Self, Checkpoint), Error> {
        let folder = RunFolder::resumed(run)?;
        let damaged = |error: &ResumeError| err_line(&format!("warning: {error}; it is left out"));
        let checkpoint = newest(run, damaged)?;
        let (origin, resumed) = parts(checkpoint.clone())?;
        let recipe = Recipe::read(&run.join(RECIPE), overrides)?;
        let changes = changes(&origin.recipe, &recipe);
        if !changes.is_empty() {
            return Err(ResumeError::Recipe { run: run.to_owned(), changes }.into());
        }
        Ok((Self { folder, recipe, origin, resumed }, checkpoint))
    }

    /// Checks that base and data are those that the run has seen, and says from where it goes on; `device` is what results
    /// call the one it goes on with.
    ///
    /// # Errors
    /// With what is different.
    pub fn checked<T: Task>(
        self,
        task: &T,
        device: &str,
    ) -> Result<(RunFolder, CheckedRecipe, Resumed), Error> {
        let Self { folder, recipe, origin, resumed } = self;
        let run = || folder.path().to_owned();
        if !is_same_base(&origin.base, task.base().identity()) {
            return Err(ResumeError::Base { run: run(), base: task.base().identity().name.clone() }.into());
        }
        let changes = changed_data(&origin.data, &task.data_hashes(&recipe));
        if !changes.is_empty() {
            return Err(ResumeError::Data { run: run(), changes }.into());
        }
        let step = resumed.state.step;
        err_line(&format!(
            "{}: goes on after step {step} of {}",
            folder.path().display(),
            recipe.train.steps
        ));
        if kind(device) != kind(&origin.device) {
            err_line(&format!(
                "note: the run was on {} and goes on on {device}: what it gives may differ in the last bits",
                origin.device
            ));
        }
        let shards = shards_of(&origin.recipe);
        if shards != recipe.train.shards() {
            err_line(&format!(
                "note: the steps of the run were cut into {shards} shards and are cut into {} from here on: what it gives may differ \
                 in the last bits",
                recipe.train.shards()
            ));
        }
        if origin.version != env!("CARGO_PKG_VERSION") {
            err_line(&format!(
                "note: version {} began the run: what this version gives may differ in the last bits",
                origin.version
            ));
        }
        folder.go_on(&recipe, &resumed)?;
        Ok((folder, recipe, resumed))
    }
}

/// What a checkpoint says of its run: what that was made of, and where it stands.
pub(super) fn parts(checkpoint: Checkpoint) -> Result<(Origin, Resumed), ResumeError> {
    let Checkpoint { state, run, history } = checkpoint;
    let unreadable = |problem: String| ResumeError::State { problems: vec![problem] };
    let of_run = OfRun::deserialize(run).map_err(|error| unreadable(error.to_string()))?;
    let course = Course::from_stored(&of_run.course, &history).map_err(unreadable)?;
    Ok((of_run.origin, Resumed { state, course }))
}

/// The shards of a step, as the recipe of a run says.
fn shards_of(recipe: &str) -> usize {
    let leaves = toml::from_str::<Table>(recipe).map(|table| leaves(&table)).unwrap_or_default();
    let shards = leaves.iter().find(|(key, _)| key == SHARDS).and_then(|(_, value)| value.as_integer());
    shards.map_or(1, |shards| shards as usize)
}

/// The kind of a device, whatever its number and name.
fn kind(device: &str) -> &str {
    device.split([':', ' ']).next().unwrap_or(device)
}

pub(super) fn is_same_base(was: &BaseIdentity, is: &BaseIdentity) -> bool {
    was.config_sha256 == is.config_sha256
        && was.weights_sha256 == is.weights_sha256
        && was.tensors_sha256 == is.tensors_sha256
}

/// Parts of the data that are not as they were.
fn changed_data(was: &[DataHash], is: &[DataHash]) -> Vec<String> {
    let differs = |(was, is): &(&DataHash, &DataHash)| was.sha256 != is.sha256;
    let changed = was.iter().zip(is).filter(differs);
    let mut changes: Vec<String> =
        changed.map(|(_, is)| format!("`{}`: {} has changed", is.key, is.name)).collect();
    if was.len() != is.len() {
        changes.push(format!("it was in {} parts, and is in {}", was.len(), is.len()));
    }
    changes
}

/// Keys of a recipe that change what a run has computed already, each with both values and the reason.
fn changes(was: &str, recipe: &CheckedRecipe) -> Vec<String> {
    let was = toml::from_str::<Table>(was).map(|table| leaves(&table)).unwrap_or_default();
    let is = toml::from_str::<Table>(&recipe.resolved_toml()).map(|table| leaves(&table)).unwrap_or_default();
    let value = |leaves: &[(String, Value)], key: &str| {
        leaves.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone())
    };
    let mut keys: Vec<&String> = was.iter().chain(&is).map(|(key, _)| key).collect();
    keys.sort();
    keys.dedup();
    let change = |key: &String| {
        let (before, now) = (value(&was, key), value(&is, key));
        if before == now || FREE.contains(&key.as_str()) {
            return None;
        }
        let shown = |value: &Option<Value>| value.as_ref().map_or("absent".to_owned(), Value::to_string);
        let why = refusal(key, before.as_ref(), now.as_ref(), recipe)?;
        Some(format!("`{key}` is {} and was {}: {why}", shown(&now), shown(&before)))
    };
    keys.into_iter().filter_map(change).collect()
}

/// Why a key cannot have another value; nothing if it can.
fn refusal(key: &str, before: Option<&Value>, now: Option<&Value>, recipe: &CheckedRecipe) -> Option<String> {
    let steps = |value: Option<&Value>| value.and_then(Value::as_integer).unwrap_or(0);
    match key {
        STEPS if recipe.train.epochs.is_some() => None,
        EPOCHS => Some("give the length of the run as train.steps".to_owned()),
        STEPS if steps(now) < steps(before) => Some("a run can become longer, not shorter".to_owned()),
        STEPS => depends_on_length(recipe).map(|what| {
            format!("{what} follows from the length of the run, so the steps that were made would be others")
        }),
        DIR => Some("a run goes on in its folder".to_owned()),
        _ => Some("the steps that were made would be others; begin a new run".to_owned()),
    }
}

/// What of the steps made depends on how many there are in all.
fn depends_on_length(recipe: &CheckedRecipe) -> Option<String> {
    if recipe.train.schedule != ScheduleKind::Constant {
        return Some("the learning rate (train.schedule is not \"constant\")".to_owned());
    }
    let method = recipe.method.adapter()?.config.method();
    let is_timed = method.base_gain(0, 1).is_some() || method.rank_moves().is_some();
    is_timed.then(|| format!("method.kind = \"{}\"", recipe.method.kind()))
}

/// Every key with its value; those of tables with dots.
pub(super) fn leaves(table: &Table) -> Vec<(String, Value)> {
    fn walk(path: &str, table: &Table, found: &mut Vec<(String, Value)>) {
        for (name, value) in table {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match value {
                Value::Table(inner) => walk(&path, inner, found),
                other => found.push((path, other.clone())),
            }
        }
    }
    let mut found = Vec::new();
    walk("", table, &mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(set: &[&str]) -> CheckedRecipe {
        let text = "[model]\npath = \"m\"\n[data]\ntrain = \"t\"\nvalidation = \"v\"\n[method]\nkind = \"nola\"\n\
                    [train]\nsteps = 100\n";
        let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
        Recipe::from_text(text, Path::new("r.toml"), &set).expect("a recipe")
    }

    fn changed(before: &[&str], now: &[&str]) -> String {
        changes(&recipe(before).resolved_toml(), &recipe(now)).join("\n")
    }

    #[test]
    fn what_changes_nothing_that_was_computed_may_change() {
        for key in [
            "train.save_every=5",
            "train.save_every=1h",
            "train.keep_checkpoints=9",
            "output.tensorboard=true",
            "train.max_skipped=2",
            "train.on_non_finite=skip",
            "train.shards=4",
            "output.coefficient_bits=4",
        ] {
            assert_eq!(changed(&[], &[key]), "", "{key}");
        }
        assert_eq!(changed(&[], &[]), "");
    }

    #[test]
    fn every_other_key_is_named_with_both_values() {
        for (key, was) in [
            ("train.seed=1", "`train.seed` is 1 and was 0"),
            ("train.learning_rate=0.5", "`train.learning_rate` is 0.5 and was 0.02"),
            ("data.train=u", "`data.train` is \"u\" and was \"t\""),
            ("method.rank=3", "`method.rank` is 3"),
            ("train.clip_norm=1.0", "`train.clip_norm` is 1.0 and was absent"),
            ("output.dir=elsewhere", "a run goes on in its folder"),
            ("train.epochs=3", "`train.epochs` is 3"),
        ] {
            let message = changed(&[], &[key]);
            assert!(message.contains(was), "{key}: {message}");
        }
    }

    #[test]
    fn a_run_becomes_longer_only_where_its_steps_stay_what_they_were() {
        let constant = "train.schedule=constant";
        assert_eq!(changed(&[constant], &[constant, "train.steps=200"]), "");
        assert!(changed(&[constant], &[constant, "train.steps=50"]).contains("not shorter"));
        assert!(changed(&[], &["train.steps=200"]).contains("train.schedule is not \"constant\""));
        for method in ["method.kind=alora", "method.kind=pc-lora"] {
            let message = changed(&[constant, method], &[constant, method, "train.steps=200"]);
            assert!(message.contains("follows from the length"), "{method}: {message}");
        }
    }

    #[test]
    fn the_kind_of_a_device_has_no_number_and_no_name() {
        assert_eq!(["cpu", "wgpu:0 llvmpipe", "cuda:1 H200"].map(kind), ["cpu", "wgpu", "cuda"]);
    }

    #[test]
    fn data_that_changed_is_named() {
        let hash = |name: &str, sha256: &str| DataHash {
            key: "data.train".to_owned(),
            name: name.to_owned(),
            sha256: sha256.to_owned(),
        };
        let was = [hash("a", "1"), hash("b", "2")];
        assert!(changed_data(&was, &was).is_empty());
        assert_eq!(changed_data(&was, &[hash("a", "1"), hash("b", "3")]), ["`data.train`: b has changed"]);
        assert_eq!(changed_data(&was, &was[..1]).len(), 1);
    }
}
