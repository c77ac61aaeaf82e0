//! The program from its first line to its exit code.

use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use crate::train::{INTERRUPTED, TRAINING};
use crate::{Error, commands, memory};

/// Runs the command line; `main` does no more than this.
pub fn run() -> ExitCode {
    memory::keep_freed();
    // The first interrupt ends a training run after its step; any other one ends the program.
    let handler = ctrlc::set_handler(|| {
        if !TRAINING.load(Ordering::Relaxed) || INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(Error::Interrupted.exit_code()));
        }
    });
    if let Err(error) = handler {
        eprintln!("warning: interrupts end the program at once: {error}");
    }
    match commands::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where nobody reads any more, the exit code still tells.
            let _ = writeln!(std::io::stderr(), "error: {}", with_sources(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

/// The error and what caused it, on one line.
fn with_sources(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
