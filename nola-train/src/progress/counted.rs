//! Work of a known amount, such as an evaluation over many rows.

use std::time::Instant;

use super::Style;
use crate::amounts::duration;
use crate::terminal::{Rank, Status, StatusLine};

/// A bar on a terminal, until it is dropped; elsewhere nothing.
#[derive(Debug)]
pub struct Counted {
    of: usize,
    started: Instant,
    status: Option<Status>,
}

impl Counted {
    /// Starts to show work on so many of something.
    pub fn start(of: usize, style: Style) -> Self {
        let status = match style {
            Style::Bar => Some(Status::open()),
            Style::Lines | Style::Quiet => None,
        };
        Self { of, started: Instant::now(), status }
    }

    /// Shows how many are done.
    pub fn show(&self, done: usize) {
        if let Some(status) = &self.status {
            let left = self.started.elapsed().as_secs_f64() * (self.of - done.min(self.of)) as f64;
            let left = format!("{} left", duration(left / done.max(1) as f64));
            let line = StatusLine::default().done(done as u64, self.of as u64);
            status.set(line.text(Rank::TimeLeft, &left));
        }
    }
}
