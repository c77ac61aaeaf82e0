//! `nola-train doctor`: whether this program computes rightly on this machine.

use super::{Global, print_json, print_line};
use crate::Error;
use crate::doctor::Diagnosis;
use crate::terminal::err_line;

/// Examines the devices and says what was found.
///
/// # Errors
/// If the named device is not there, or one that was examined computes wrongly.
pub fn run(global: &Global) -> Result<(), Error> {
    let note = |text: &str| {
        if !global.quiet {
            err_line(&format!("doctor: {text}"));
        }
    };
    let diagnosis = Diagnosis::of(global.device, &note)?;
    if global.json {
        print_json(&diagnosis)?;
    } else {
        print_line(&diagnosis.text())?;
    }
    diagnosis.verdict()
}
