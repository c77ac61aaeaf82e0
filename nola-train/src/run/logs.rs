//! What a run notes as it goes: several logs, each a file or a folder of its own.

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;

use super::log::{METRICS, MetricsLog};
use super::run_log::RunLog;
use super::samples::{SAMPLES, SamplesLog};
use super::tensorboard::{TENSORBOARD, TensorboardLog};
use super::until::Until;
use crate::Error;
use crate::fit::{Note, Resumed};
use crate::recipe::CheckedRecipe;

/// All logs of a run.
#[derive(Debug)]
pub(super) struct RunLogs {
    /// The folder of the run.
    run: PathBuf,
    /// Those that are open; one that cannot be written is given up.
    open: RefCell<Vec<Box<dyn RunLog>>>,
}

impl RunLogs {
    /// None so far, in the folder of a run.
    pub fn of(run: PathBuf) -> Self {
        Self { run, open: RefCell::default() }
    }

    /// Begins those that the recipe wants, in place of those that were open.
    ///
    /// # Errors
    /// If one cannot be written.
    pub fn begin(&self, recipe: &CheckedRecipe) -> Result<(), Error> {
        self.open.borrow_mut().clear();
        self.opened(METRICS, MetricsLog::create(&self.run))?;
        if recipe.output.tensorboard {
            self.opened(TENSORBOARD, TensorboardLog::create(&self.run))?;
        }
        if !recipe.samples.prompts.is_empty() {
            self.opened(SAMPLES, SamplesLog::create(&self.run))?;
        }
        Ok(())
    }

    /// Goes on with them; what they say of steps that will be made again is taken back.
    ///
    /// # Errors
    /// If one cannot be written.
    pub fn go_on(&self, recipe: &CheckedRecipe, from: &Resumed) -> Result<(), Error> {
        let (step, between) = (from.state.step, from.state.between);
        let metrics = MetricsLog::resume(&self.run, step, between);
        let newest = metrics.as_ref().ok().and_then(|log| log.newest().cloned());
        let until = Until { step, between, newest: newest.as_ref() };
        self.opened(METRICS, metrics)?;
        if recipe.output.tensorboard {
            self.opened(TENSORBOARD, TensorboardLog::resume(&self.run, until))?;
        }
        if !recipe.samples.prompts.is_empty() {
            self.opened(SAMPLES, SamplesLog::resume(&self.run, until))?;
        }
        Ok(())
    }

    fn opened(&self, name: &str, log: io::Result<impl RunLog + 'static>) -> Result<(), Error> {
        let log = log.map_err(|source| Error::Output { path: self.run.join(name), source })?;
        self.open.borrow_mut().push(Box::new(log));
        Ok(())
    }

    /// Notes something in all of them.
    ///
    /// # Errors
    /// With the first that cannot be written; it is not tried again.
    pub fn note(&self, note: &Note) -> Result<(), Error> {
        self.each(|log| log.note(note))
    }

    /// Sees to it that all of them are on the disk.
    ///
    /// # Errors
    /// As [`RunLogs::note`].
    pub fn sync(&self) -> Result<(), Error> {
        self.each(|log| log.sync())
    }

    fn each(&self, work: impl Fn(&mut dyn RunLog) -> io::Result<()>) -> Result<(), Error> {
        let mut failure = None;
        self.open.borrow_mut().retain_mut(|log| {
            let Err(source) = work(log.as_mut()) else { return true };
            failure.get_or_insert(Error::Output { path: self.run.join(log.name()), source });
            false
        });
        failure.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::progress::{Scores, Target};

    /// Counts notes up to the first that it refuses.
    #[derive(Debug)]
    struct Refusing {
        noted: Rc<Cell<usize>>,
        from: usize,
    }

    impl RunLog for Refusing {
        fn name(&self) -> &'static str {
            "refusing"
        }

        fn note(&mut self, _note: &Note) -> io::Result<()> {
            self.noted.set(self.noted.get() + 1);
            if self.noted.get() < self.from { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
        }

        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_that_cannot_be_written_is_told_once_and_the_others_go_on() {
        let (good, bad) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let logs = RunLogs::of("run".into());
        for (noted, from) in [(&bad, 2), (&good, usize::MAX)] {
            logs.opened("a", Ok(Refusing { noted: Rc::clone(noted), from })).expect("it is open");
        }
        let scores = Scores { target: Target::Image, loss: 1.0, accuracy: 0.5, answers: 2 };
        let reported: Vec<bool> =
            (0..4).map(|step| logs.note(&Note::Scores { step, scores: &scores }).is_err()).collect();
        assert_eq!(reported, [false, true, false, false]);
        assert_eq!((bad.get(), good.get()), (2, 4));
    }
}
