//! Measurements: training steps, the kernels of the basis, the start of the program, adapters; and two of them side by side.
//!
//! Every measurement is a line of JSON. Models have random weights of published sizes; what is measured is the code that
//! training runs, not a copy of it.

pub mod adapters;
mod case;
pub mod cases;
pub mod kernels;
pub(crate) mod machine;
mod measure;
pub mod memory;
mod needs;
pub mod rows;
pub mod scale;
pub mod serve;
pub mod simulate;
pub mod start;
pub(crate) mod statistics;
pub mod steps;
pub mod steps_args;
pub mod table;
mod traffic;

pub use crate::error::BenchError;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::device::DeviceChoice;
use crate::terminal::{StdoutError, err_line, print_json, print_line};

/// Where the lines of a measurement go: to stdout at once as JSON, or into a table at the end.
pub struct Output<T> {
    /// Where to compute.
    pub(crate) device: DeviceChoice,
    json: bool,
    quiet: bool,
    lines: Vec<T>,
}

impl<T: Serialize> Output<T> {
    /// Where the lines of a command with these options go.
    pub(crate) fn new(device: DeviceChoice, json: bool, quiet: bool) -> Self {
        Self { device, json, quiet, lines: Vec::new() }
    }

    /// Takes a line.
    fn line(&mut self, line: T) -> Result<(), StdoutError> {
        if self.json {
            print_json(&line)?;
        }
        self.lines.push(line);
        Ok(())
    }

    /// Says on stderr what comes now.
    fn note(&self, text: &str) {
        if !self.quiet {
            err_line(text);
        }
    }

    /// The lines as one table, where they were not printed already.
    pub(crate) fn finish(self, fill: impl FnOnce(&[T], &mut Table)) -> Result<(), StdoutError> {
        if self.json || self.lines.is_empty() {
            return Ok(());
        }
        let mut table = markdown();
        fill(&self.lines, &mut table);
        print_line(&table.to_string())
    }
}

/// An empty table that prints as Markdown.
fn markdown() -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table
}
