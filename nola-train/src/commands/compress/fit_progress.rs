//! How a fit shows on stderr.

use std::time::{Duration, Instant};

use crate::amounts::percent;
use crate::progress::Style;
use crate::terminal::{Rank, Status, StatusLine, err_line};

/// Time between two lines of progress.
const BETWEEN_LINES: Duration = Duration::from_secs(2);

/// Shows how a fit goes.
pub(super) struct FitProgress {
    style: Style,
    status: Option<Status>,
    iterations: usize,
    last_line: Instant,
}

impl FitProgress {
    pub(super) fn start(style: Style) -> Self {
        let status = match style {
            Style::Bar => Some(Status::open()),
            Style::Lines | Style::Quiet => None,
        };
        Self { style, status, iterations: 0, last_line: Instant::now() }
    }

    /// An iteration after which so much of the updates is lost.
    pub(super) fn show(&mut self, lost: f64) {
        self.iterations += 1;
        let text = format!("iteration {}: {} of the updates lost", self.iterations, percent(lost));
        if let Some(status) = &self.status {
            status.set(StatusLine::default().text(Rank::Main, &text));
        }
        let is_time = self.iterations == 1 || self.last_line.elapsed() >= BETWEEN_LINES;
        if self.style == Style::Lines && is_time {
            err_line(&text);
            self.last_line = Instant::now();
        }
    }
}
