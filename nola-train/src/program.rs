//! The program from its first line to its exit code.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;

use crate::device::lost;
use crate::stop::Stop;
use crate::terminal::{err_line, line_end};
use crate::{Error, commands, memory};

/// Runs the command line; `main` does no more than this.
pub fn run() -> ExitCode {
    if commands::answered() {
        return ExitCode::SUCCESS;
    }
    memory::keep_freed();
    memory::watch_panics();
    memory::explain_cut_files();
    let stop = Stop::default();
    let end = |by| {
        let error = Error::Interrupted { by };
        // Where nobody reads any more, the exit code still tells.
        let _ = std::io::stderr().write_all(format!("{}error: {error}\n", line_end()).as_bytes());
        std::process::exit(i32::from(error.exit_code()))
    };
    if let Err(error) = stop.listen(end) {
        err_line(&format!("warning: interrupts end the program at once: {error}"));
    }
    match run_command(stop) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if memory::has_ended(&error) => {
            err_line(&format!("error: out of memory: {}; {}", error.with_sources(), memory::CURE));
            ExitCode::from(memory::EXIT_CODE)
        }
        Err(error) => {
            // Where nobody reads any more, the exit code still tells.
            err_line(&format!("error: {}", error.with_sources()));
            ExitCode::from(error.exit_code())
        }
    }
}

/// Runs the command; a device that fails in the middle of it is an error, as one that is not there.
fn run_command(stop: Stop) -> Result<(), Error> {
    catch_unwind(AssertUnwindSafe(|| commands::run(stop))).unwrap_or_else(|panic| {
        let message = memory::message_of(&*panic);
        if !lost::is_of_device(message) {
            resume_unwind(panic);
        }
        Err(Error::Device { requested: "that was computed on".to_owned(), problem: lost::problem(message) })
    })
}
