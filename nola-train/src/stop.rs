//! What an interrupt does: the first one ends a run after its step, and the run keeps what was learned and finishes its
//! files; where nothing would be lost, and at the second, the program ends at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::terminal::err_line;

/// Asks a run to end; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_asked: AtomicBool,
    /// How many runs have something to lose.
    runs: AtomicUsize,
}

/// What has to become of the program that was interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A run goes on to the end of its step.
    AfterStep,
    /// It ends.
    AtOnce,
}

impl Stop {
    /// Takes an interrupt.
    pub fn interrupt(&self) -> Answer {
        let is_second = self.0.is_asked.swap(true, Ordering::SeqCst);
        if is_second || self.0.runs.load(Ordering::SeqCst) == 0 { Answer::AtOnce } else { Answer::AfterStep }
    }

    /// Whether there was an interrupt.
    pub fn is_asked(&self) -> bool {
        self.0.is_asked.load(Ordering::SeqCst)
    }

    /// A run that has something to lose from here on, until it is dropped.
    pub fn run(&self) -> Running {
        self.0.runs.fetch_add(1, Ordering::SeqCst);
        Running(self.clone())
    }

    /// Listens for Ctrl-C, and for what a batch system or a terminal that is closed sends. What was ignored when the program
    /// started, as `nohup` does it, stays ignored.
    ///
    /// # Errors
    /// If the system does not let it listen.
    pub fn listen(&self, at_once: impl Fn() + Send + 'static) -> Result<(), ctrlc::Error> {
        let stop = self.clone();
        let ignored = ignored::Signals::take();
        ctrlc::set_handler(move || match stop.interrupt() {
            Answer::AtOnce => at_once(),
            Answer::AfterStep => {
                err_line(
                    "interrupted: the run ends after this step and keeps what it learned; once more to end at once",
                );
            }
        })?;
        ignored.stay();
        Ok(())
    }
}

/// A run with something to lose.
#[derive(Debug)]
pub struct Running(Stop);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.runs.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(unix)]
mod ignored {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    /// Signals that were ignored before anybody listened for them.
    pub struct Signals(Vec<Signal>);

    impl Signals {
        /// Finds them, among those that end a program.
        pub fn take() -> Self {
            let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
            Self(signals.into_iter().filter(|&signal| is_ignored(signal)).collect())
        }

        /// Ignores them again.
        pub fn stay(self) {
            for signal in self.0 {
                set(signal, &ignore());
            }
        }
    }

    fn ignore() -> SigAction {
        SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty())
    }

    /// What is done about a signal is told only when something else is to be done.
    fn is_ignored(signal: Signal) -> bool {
        let Some(before) = set(signal, &ignore()) else { return false };
        set(signal, &before);
        matches!(before.handler(), SigHandler::SigIgn)
    }

    /// Sets what is done about a signal, and returns what was done before.
    fn set(signal: Signal, action: &SigAction) -> Option<SigAction> {
        // SAFETY: no function of ours becomes a handler here; what was there before may become one again.
        unsafe { sigaction(signal, action) }.ok()
    }
}

/// Elsewhere a program cannot be started so.
#[cfg(not(unix))]
mod ignored {
    pub struct Signals;

    impl Signals {
        pub fn take() -> Self {
            Self
        }

        pub fn stay(self) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_where_nothing_is_lost_ends_the_program() {
        assert_eq!(Stop::default().interrupt(), Answer::AtOnce);
        let stop = Stop::default();
        drop(stop.run());
        assert_eq!(stop.interrupt(), Answer::AtOnce);
    }

    #[test]
    fn the_first_interrupt_of_a_run_waits_for_it_and_the_second_does_not() {
        let stop = Stop::default();
        let (_outer, inner) = (stop.run(), stop.clone().run());
        drop(inner);
        assert!(!stop.is_asked());
        assert_eq!([stop.interrupt(), stop.interrupt()], [Answer::AfterStep, Answer::AtOnce]);
        assert!(stop.is_asked());
    }
}
