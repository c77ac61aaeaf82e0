//! `nola-train completions`: completion in shells.
//!
//! A script asks this program at each TAB, so that it completes names of recipes and keys, too; and scripts that know
//! every option beforehand break in bash for names with a hyphen (clap-rs/clap#6421).

use std::ffi::OsStr;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::engine::{PathCompleter, ValueCompleter};
use clap_complete::env::{CompleteEnv, Shells};
use clap_complete::{ArgValueCompleter, CompletionCandidate, Shell};

use super::{Cli, print_part};
use crate::Error;
use crate::recipe::{Section, ShippedRecipe, sections};

/// The variable by which a script says that it asks.
const VARIABLE: &str = "NOLA_TRAIN_COMPLETE";
const PROGRAM: &str = "nola-train";

/// Prints the script of a shell.
pub fn run(shell: Shell) -> Result<(), Error> {
    let shells = Shells::builtins();
    let shell = shells.completer(&shell.to_string()).expect("every shell that can be typed");
    let mut script = Vec::new();
    let written = shell.write_registration(VARIABLE, PROGRAM, PROGRAM, &this_program(), &mut script);
    written.expect("memory takes every script");
    Ok(print_part(&String::from_utf8_lossy(&script))?)
}

/// How a script starts this program: as it was started now, from whatever folder.
fn this_program() -> String {
    let typed = std::env::args_os().next().unwrap_or_else(|| PROGRAM.into());
    let is_path = Path::new(&typed).components().count() > 1;
    let whole = if is_path { std::path::absolute(&typed).unwrap_or(typed.into()) } else { typed.into() };
    whole.to_string_lossy().into_owned()
}

/// Answers the script of a shell, if it is one that asks; to be called before there are threads.
pub fn answered() -> bool {
    let folder = std::env::current_dir().ok();
    let complete = CompleteEnv::with_factory(Cli::command).var(VARIABLE);
    complete.try_complete(std::env::args_os(), folder.as_deref()).unwrap_or_else(|error| error.exit())
}

/// Names of shipped recipes.
pub fn recipes() -> Vec<CompletionCandidate> {
    let candidate = |recipe: ShippedRecipe| {
        CompletionCandidate::new(recipe.name).help(Some(recipe.summary().purpose.into()))
    };
    ShippedRecipe::all().map(candidate).collect()
}

/// Names of shipped recipes, and files.
pub fn recipes_and_files() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let mut candidates = beginning_with(typed, recipes());
        candidates.extend(PathCompleter::file().complete(typed));
        candidates
    })
}

/// Keys of recipes, and sections.
pub fn keys() -> Vec<CompletionCandidate> {
    let of_section = |section: Section| {
        let path = (section.path, section.effect);
        std::iter::once(path).chain(section.keys.into_iter().map(|key| (key.path, key.effect)))
    };
    let mut keys: Vec<(String, String)> = sections().into_iter().flat_map(of_section).collect();
    keys.sort();
    keys.dedup_by(|a, b| a.0 == b.0);
    keys.into_iter().map(|(path, effect)| CompletionCandidate::new(path).help(Some(effect.into()))).collect()
}

/// What `--set` takes: `key=`, and after it what the key offers.
pub fn settings(typed: &OsStr) -> Vec<CompletionCandidate> {
    let mut candidates = Vec::new();
    let mut known = Vec::new();
    for key in sections().into_iter().flat_map(|section| section.keys) {
        let values = key.choices.iter().map(|(name, effect)| (format!("{}={name}", key.path), effect));
        for (setting, effect) in std::iter::once((format!("{}=", key.path), &key.effect)).chain(values) {
            if !known.contains(&setting) {
                candidates.push(CompletionCandidate::new(&setting).help(Some(effect.into())));
                known.push(setting);
            }
        }
    }
    let has_key = typed.to_string_lossy().contains('=');
    candidates.retain(|candidate| candidate.get_value().to_string_lossy().ends_with('=') != has_key);
    beginning_with(typed, candidates)
}

fn beginning_with(typed: &OsStr, candidates: Vec<CompletionCandidate>) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let begins =
        |candidate: &CompletionCandidate| candidate.get_value().to_string_lossy().starts_with(&*typed);
    candidates.into_iter().filter(begins).collect()
}
