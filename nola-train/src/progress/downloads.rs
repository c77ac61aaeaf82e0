//! How files that are fetched from the hub show on stderr.

use std::cell::RefCell;
use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};
use nola_models::hub::{Note, Progress};

use crate::printable::name;
use crate::terminal::err_line;

/// A bar for each file on a terminal; elsewhere a line when it begins.
#[derive(Debug, Default)]
pub struct Downloads {
    bar: RefCell<Option<ProgressBar>>,
}

impl Progress for Downloads {
    fn started(&self, file: &str, total_bytes: u64) {
        if !std::io::stderr().is_terminal() {
            err_line(&format!("fetching {file} ({total_bytes} bytes)"));
            return;
        }
        let template = "fetching {prefix} {bar:28.cyan/dim} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
        let style = ProgressStyle::with_template(template).expect("the template is a constant");
        let bar = ProgressBar::new(total_bytes)
            .with_style(style.progress_chars("━━─"))
            .with_prefix(name(file).into_owned());
        // A file that begins again takes the place of its first try.
        if let Some(old) = self.bar.replace(Some(bar)) {
            old.finish_and_clear();
        }
    }

    fn advanced(&self, bytes: u64) {
        if let Some(bar) = self.bar.borrow().as_ref() {
            bar.inc(bytes);
        }
    }

    fn finished(&self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }

    fn note(&self, note: &Note) {
        match self.bar.borrow().as_ref() {
            Some(bar) => bar.suspend(|| err_line(&note.to_string())),
            None => err_line(&note.to_string()),
        }
    }
}
