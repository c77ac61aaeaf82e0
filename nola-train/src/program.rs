//! The program from its first line to its exit code.

use std::cell::OnceCell;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use crate::device::lost;
use crate::ranks::Ranks;
use crate::stop::Stop;
use crate::terminal::{err_end, err_line, line_end};
use crate::{Error, commands, memory, ranks};

/// Runs the command line; `main` does no more than this.
pub fn run() -> ExitCode {
    if commands::answered() {
        return ExitCode::SUCCESS;
    }
    memory::keep_freed();
    memory::watch_panics();
    memory::explain_cut_files();
    let stop = Stop::default();
    let ended = Arc::new(OnceLock::new());
    let has_ended = Arc::clone(&ended);
    let end = move |by| {
        // A launcher ends the others once one of them has: they have nothing more to report.
        if let Some(exit_code) = has_ended.get() {
            std::process::exit(i32::from(*exit_code));
        }
        let error = Error::Interrupted { by };
        // Where nobody reads any more, the exit code still tells.
        let _ = std::io::stderr().write_all(format!("{}error: {error}\n", line_end()).as_bytes());
        std::process::exit(i32::from(error.exit_code()))
    };
    if let Err(error) = stop.listen(end) {
        err_line(&format!("warning: interrupts end the program at once: {error}"));
    }
    let joined = OnceCell::new();
    let exit_code = match run_command(stop, &joined) {
        Ok(()) => 0,
        Err(error) if memory::has_ended(&error) => {
            let text = format!("out of memory: {}; {}", error.with_sources(), memory::CURE);
            report(&error, &text, joined.get());
            memory::EXIT_CODE
        }
        Err(error) => {
            report(&error, &error.with_sources(), joined.get());
            error.exit_code()
        }
    };
    // Nobody has set it before.
    let _ = ended.set(exit_code);
    joined.get().into_iter().for_each(|ranks| ranks.end(exit_code));
    ExitCode::from(exit_code)
}

/// Reports the error that ended the program: to the other ranks, which wait for this one, and on stderr, where one of them
/// reports for all. Where nobody reads any more, the exit code still tells.
fn report(error: &Error, text: &str, joined: Option<&Rc<Ranks>>) {
    joined.into_iter().for_each(|ranks| ranks.report_failure(text));
    match joined {
        Some(ranks) if !ranks.reports() => {}
        Some(ranks) if !ranks.is_first() => err_end(&format!("{}: error: {text}", ranks.name(ranks.rank()))),
        // Processes that cannot take part are refused for one reason.
        None if matches!(error, Error::Ranks(_)) && ranks::is_started_as_another() => {}
        Some(_) | None => err_end(&format!("error: {text}")),
    }
}

/// Runs the command; a device that fails in the middle of it is an error, as one that is not there.
fn run_command(stop: Stop, joined: &OnceCell<Rc<Ranks>>) -> Result<(), Error> {
    catch_unwind(AssertUnwindSafe(|| commands::run(stop, joined))).unwrap_or_else(|panic| {
        let message = memory::message_of(&*panic);
        if !lost::is_of_device(message) {
            resume_unwind(panic);
        }
        Err(Error::Device { requested: "that was computed on".to_owned(), problem: lost::problem(message) })
    })
}
