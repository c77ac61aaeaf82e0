//! A run over several ranks: the first has its folder, and the others follow it.

use std::path::Path;

use super::InterruptedRun;
use super::resume::parts;
use crate::Error;
use crate::fit::{KeepsNothing, Resumed, Terms, fit, resume};
use crate::ranks::{RankError, Ranks, Topic};
use crate::recipe::{CheckedRecipe, Recipe};
use crate::task::Task;
use crate::train::Checkpoint;

/// What stands for a file in messages about what the first rank sent.
const FIRST_RANK: &str = "rank 0";

/// A run that goes on, as one of its ranks has it.
pub enum Continued {
    /// The first, with its folder.
    First(Box<InterruptedRun>),
    /// Another one.
    Other(Box<Followed>),
}

/// A run that goes on, without its folder.
pub struct Followed {
    /// Its recipe.
    pub recipe: CheckedRecipe,
    resumed: Resumed,
}

/// The recipe for these ranks, of which each has samples in every step.
///
/// # Errors
/// If a step has too few.
pub fn for_ranks(recipe: CheckedRecipe, ranks: &Ranks) -> Result<CheckedRecipe, RankError> {
    let (ranks, batch) = (ranks.size(), recipe.train.batch);
    match ranks <= batch {
        true => Ok(recipe.for_ranks(ranks)),
        false => Err(RankError::TooMany { ranks, batch }),
    }
}

/// A run that ended before its time: the first rank claims it and reads its newest whole checkpoint, and the others get both
/// from it, since they may be on other machines. `overrides` change its recipe, as `--set` does.
///
/// # Errors
/// As [`InterruptedRun::open`], or if a step has too few samples, or a rank ended.
pub fn go_on_with(run: &Path, overrides: &[String], ranks: &Ranks) -> Result<Continued, Error> {
    let mut first = None;
    let handed = ranks.broadcast(Topic::Resumed, || {
        let (mut run, checkpoint) = InterruptedRun::with_checkpoint(run, overrides)?;
        run.recipe = for_ranks(run.recipe, ranks)?;
        let handed = if ranks.size() > 1 { handed(&run.recipe, &checkpoint) } else { Vec::new() };
        first = Some(run);
        Ok::<_, Error>(handed)
    })?;
    match first {
        Some(run) => Ok(Continued::First(Box::new(run))),
        None => Ok(Continued::Other(Box::new(followed(&handed, ranks)?))),
    }
}

/// What the first rank hands to the others: the recipe with its length before it, and the checkpoint.
fn handed(recipe: &CheckedRecipe, checkpoint: &Checkpoint) -> Vec<u8> {
    let recipe = recipe.resolved_toml();
    let length = (recipe.len() as u64).to_le_bytes();
    [&length[..], recipe.as_bytes(), &checkpoint.to_bytes()].concat()
}

fn followed(handed: &[u8], ranks: &Ranks) -> Result<Followed, Error> {
    let unreadable = || ranks.unreadable(0, Topic::Resumed);
    let (length, rest) = handed.split_first_chunk::<8>().ok_or_else(unreadable)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| unreadable())?;
    let (recipe, checkpoint) = rest.split_at_checked(length).ok_or_else(unreadable)?;
    let recipe = std::str::from_utf8(recipe).map_err(|_| unreadable())?;
    let from = Path::new(FIRST_RANK);
    let recipe = Recipe::from_text(recipe, from, &[])?;
    let (_, resumed) = parts(Checkpoint::from_bytes(checkpoint, from)?)?;
    Ok(Followed { recipe, resumed })
}

/// Trains `recipe` on another rank than the first, which keeps and shows all.
///
/// # Errors
/// As on the first rank, whose error this one receives.
pub fn follow<T: Task>(task: &T, recipe: &CheckedRecipe, terms: &Terms) -> Result<(), Error> {
    fit(task, recipe, terms, &KeepsNothing).map(drop)
}

impl Followed {
    /// Trains the rest of the run, as [`follow`].
    ///
    /// # Errors
    /// As [`follow`].
    pub fn follow<T: Task>(self, task: &T, terms: &Terms) -> Result<(), Error> {
        resume(self.resumed, task, &self.recipe, terms, &KeepsNothing).map(drop)
    }
}
