//! A run from its first step to its last file.

use super::{InterruptedRun, RunFolder, Saved};
use crate::Error;
use crate::fit::{Fitted, Terms, fit, resume};
use crate::recipe::CheckedRecipe;
use crate::task::Task;

/// A run that is over: what was trained, and what was written of it.
pub struct Made<T: Task> {
    /// What was trained.
    pub fitted: Fitted<T>,
    /// What was written.
    pub saved: Saved,
}

impl<T: Task> Made<T> {
    /// What ended the run before its time, or kept a file from being written; only once.
    pub fn take_failure(&mut self) -> Option<Error> {
        let interrupted = || self.fitted.interrupted.map(|by| Error::Interrupted { by });
        self.fitted.failure.take().or_else(|| self.saved.failure.take()).or_else(interrupted)
    }
}

impl RunFolder {
    /// Trains `recipe` and writes the run, on a device that results call so.
    ///
    /// # Errors
    /// If nothing was learned that could be kept; later, the error stands in what is returned.
    pub fn make<T: Task>(
        &self,
        task: &T,
        recipe: &CheckedRecipe,
        terms: &Terms,
        device: &str,
    ) -> Result<Made<T>, Error> {
        self.begin(recipe)?;
        let fitted = fit(task, recipe, terms, &self.keeper(task, recipe, device))?;
        let saved = self.save(task, recipe, &fitted, device)?;
        Ok(Made { fitted, saved })
    }
}

impl InterruptedRun {
    /// Makes the rest of the run, on a device that results call so.
    ///
    /// # Errors
    /// As [`RunFolder::make`], or if base or data are not those that the run has seen.
    pub fn make<T: Task>(self, task: &T, terms: &Terms, device: &str) -> Result<Made<T>, Error> {
        let (folder, recipe, from) = self.checked(task, device)?;
        let fitted = resume(from, task, &recipe, terms, &folder.keeper(task, &recipe, device))?;
        let saved = folder.save(task, &recipe, &fitted, device)?;
        Ok(Made { fitted, saved })
    }
}
