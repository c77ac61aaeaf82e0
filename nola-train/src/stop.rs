//! What an interrupt does: the first one ends a run after its step, and the run keeps what was learned and finishes its
//! files; where nothing would be lost, and at the second, the program ends at once.

#![allow(unsafe_code, reason = "what was done about a signal is asked")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::{fmt, io};

use serde::{Deserialize, Serialize};

use crate::terminal::err_line;

/// What interrupts a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Interrupt {
    /// Somebody at the keyboard (SIGINT).
    #[serde(rename = "Ctrl-C")]
    CtrlC,
    /// A batch system, or `kill`.
    #[serde(rename = "SIGTERM")]
    Terminate,
    /// The terminal was closed.
    #[serde(rename = "SIGHUP")]
    HangUp,
}

impl Interrupt {
    /// The exit code of a program that it ended: 128 and the number of the signal, as shells have it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::HangUp => 129,
            Self::CtrlC => 130,
            Self::Terminate => 143,
        }
    }
}

impl fmt::Display for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CtrlC => "Ctrl-C",
            Self::Terminate => "SIGTERM",
            Self::HangUp => "SIGHUP",
        })
    }
}

/// Asks a run to end; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<State>);

#[derive(Debug, Default)]
struct State {
    asked: OnceLock<Interrupt>,
    /// How many runs have something to lose.
    runs: AtomicUsize,
    /// What the last of them does when it is interrupted.
    ends: Mutex<&'static str>,
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
    pub fn interrupt(&self, interrupt: Interrupt) -> Answer {
        let is_second = self.0.asked.set(interrupt).is_err();
        if is_second || self.0.runs.load(Ordering::SeqCst) == 0 { Answer::AtOnce } else { Answer::AfterStep }
    }

    /// The first interrupt, if there was one.
    pub fn asked(&self) -> Option<Interrupt> {
        self.0.asked.get().copied()
    }

    /// A run that has something to lose from here on, until it is dropped.
    pub fn run(&self) -> Running {
        self.run_that("the run ends after this step and keeps what it learned")
    }

    /// The same of what ends in a way of its own, which an interrupt says.
    pub fn run_that(&self, ends: &'static str) -> Running {
        *self.ends() = ends;
        self.0.runs.fetch_add(1, Ordering::SeqCst);
        Running(self.clone())
    }

    fn ends(&self) -> MutexGuard<'_, &'static str> {
        self.0.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens for Ctrl-C, and for what a batch system or a terminal that is closed sends. What was ignored when the program
    /// started, as `nohup` does it, stays ignored.
    ///
    /// # Errors
    /// If the system does not let it listen.
    pub fn listen(&self, at_once: impl Fn(Interrupt) + Send + 'static) -> io::Result<()> {
        let stop = self.clone();
        signals::listen(move |interrupt| match stop.interrupt(interrupt) {
            Answer::AtOnce => at_once(interrupt),
            Answer::AfterStep => {
                let ends = *stop.ends();
                err_line(&format!("interrupted by {interrupt}: {ends}; once more to end at once"));
            }
        })
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
mod signals {
    use std::sync::mpsc;
    use std::{io, thread};

    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    use signal_hook::iterator::Signals;

    use super::Interrupt;

    const KNOWN: [(Signal, Interrupt); 3] = [
        (Signal::SIGINT, Interrupt::CtrlC),
        (Signal::SIGTERM, Interrupt::Terminate),
        (Signal::SIGHUP, Interrupt::HangUp),
    ];

    /// Hands every interrupt to `hear`, in a thread of its own; signals that are ignored stay so.
    pub fn listen(hear: impl Fn(Interrupt) + Send + 'static) -> io::Result<()> {
        let known = KNOWN.into_iter().filter(|&(signal, _)| !is_ignored(signal)).collect::<Vec<_>>();
        let (sender, receiver) = mpsc::channel();
        // The thread first: without one, a signal that is caught would never be heard.
        thread::Builder::new().name("interrupts".to_owned()).spawn(move || {
            let signals = Signals::new(known.iter().map(|&(signal, _)| signal as i32));
            let (mut signals, result) =
                signals.map_or_else(|error| (None, Err(error)), |found| (Some(found), Ok(())));
            let _ = sender.send(result);
            for caught in signals.iter_mut().flat_map(Signals::forever) {
                known
                    .iter()
                    .filter(|&&(signal, _)| signal as i32 == caught)
                    .for_each(|&(_, which)| hear(which));
            }
        })?;
        receiver.recv().map_err(io::Error::other)?
    }

    /// What is done about a signal is told only when something else is to be done.
    fn is_ignored(signal: Signal) -> bool {
        let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        let Some(before) = set(signal, &ignore) else { return false };
        set(signal, &before);
        matches!(before.handler(), SigHandler::SigIgn)
    }

    /// Sets what is done about a signal, and returns what was done before.
    fn set(signal: Signal, action: &SigAction) -> Option<SigAction> {
        // SAFETY: no function of ours becomes a handler here; what was there before may become one again.
        unsafe { sigaction(signal, action) }.ok()
    }
}

/// Windows knows Ctrl-C and its like alone.
#[cfg(not(unix))]
mod signals {
    use std::io;

    use super::Interrupt;

    pub fn listen(hear: impl Fn(Interrupt) + Send + 'static) -> io::Result<()> {
        ctrlc::set_handler(move || hear(Interrupt::CtrlC)).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_where_nothing_is_lost_ends_the_program() {
        assert_eq!(Stop::default().interrupt(Interrupt::CtrlC), Answer::AtOnce);
        let stop = Stop::default();
        drop(stop.run());
        assert_eq!(stop.interrupt(Interrupt::CtrlC), Answer::AtOnce);
    }

    #[test]
    fn the_first_interrupt_of_a_run_waits_for_it_and_the_second_does_not() {
        let stop = Stop::default();
        let (_outer, inner) = (stop.run(), stop.clone().run());
        drop(inner);
        assert_eq!(stop.asked(), None);
        let answers = [Interrupt::Terminate, Interrupt::CtrlC].map(|interrupt| stop.interrupt(interrupt));
        assert_eq!(answers, [Answer::AfterStep, Answer::AtOnce]);
        assert_eq!(stop.asked(), Some(Interrupt::Terminate));
    }

    #[test]
    fn an_interrupt_is_stored_as_it_is_shown() {
        for interrupt in [Interrupt::CtrlC, Interrupt::Terminate, Interrupt::HangUp] {
            assert_eq!(serde_json::to_value(interrupt).unwrap(), interrupt.to_string());
        }
    }
}
