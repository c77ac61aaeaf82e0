//! How files that are fetched from the hub show on stderr.

use std::cell::RefCell;
use std::time::Instant;

use nola_models::hub::{Note, Progress};

use super::Style;
use crate::amounts::{bytes, duration};
use crate::terminal::{Rank, Status, StatusLine, err_line};

/// A bar for each file on a terminal; elsewhere a line when it begins.
#[derive(Debug, Default)]
pub struct Downloads {
    file: RefCell<Option<File>>,
}

/// A file that is being fetched.
#[derive(Debug)]
struct File {
    name: String,
    total: u64,
    fetched: u64,
    started: Instant,
    status: Status,
}

impl Progress for Downloads {
    fn started(&self, file: &str, total_bytes: u64) {
        match Style::detect() {
            Style::Bar => {
                let (name, status) = (file.to_owned(), Status::open());
                let file = File { name, total: total_bytes, fetched: 0, started: Instant::now(), status };
                file.show();
                // A file that begins again takes the place of its first try.
                self.file.replace(Some(file));
            }
            Style::Lines | Style::Quiet => err_line(&format!("fetching {file} ({total_bytes} bytes)")),
        }
    }

    fn advanced(&self, bytes: u64) {
        if let Some(file) = self.file.borrow_mut().as_mut() {
            file.fetched += bytes;
            file.show();
        }
    }

    fn finished(&self) {
        if let Some(file) = self.file.take() {
            err_line(&format!("fetched {} ({})", file.name, bytes(file.total)));
        }
    }

    fn note(&self, note: &Note) {
        err_line(&note.to_string());
    }
}

impl File {
    fn show(&self) {
        let pace = self.fetched as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
        let left = self.total.saturating_sub(self.fetched) as f64 / pace;
        let line = StatusLine::default()
            .label(&format!("fetching {}", self.name))
            .share(self.fetched as f64 / self.total.max(1) as f64)
            .text(Rank::Position, &format!("{}/{}", bytes(self.fetched), bytes(self.total)))
            .text(Rank::Pace, &format!("{}/s", bytes(pace as u64)))
            .text(Rank::TimeLeft, &format!("{} left", duration(left)));
        self.status.set(line);
    }
}
