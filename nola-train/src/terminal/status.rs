//! The status line: one line below everything else on stderr, redrawn in place while something goes on.
//!
//! Between two drawings the cursor stands at the start of the line. A terminal that becomes narrower and breaks the line
//! in two keeps the cursor at the line's first character, so erasing from there on leaves nothing stale.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use console::{Term, measure_text_width, style, truncate_str};

use crate::printable::name;

/// Shortest time between two drawings.
const BETWEEN_DRAWINGS: Duration = Duration::from_millis(50);
/// How often it is looked whether the terminal has another width, or something new is still to be drawn.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// Between two pieces.
const GAP: &str = "  ";
/// Columns of the bar.
const BAR: std::ops::RangeInclusive<usize> = 8..=28;
/// Columns where the terminal does not say.
const USUAL_COLUMNS: usize = 80;
/// Erases the rest of the line, and the lines below, into which it may have been broken; back to its start.
///
/// Not from the start itself: there, on top of the screen, tmux takes it for clearing all, and keeps a copy.
const ERASE_REST: &str = "\x1b[J\r";

/// What a status line is made of, in the order in which it is shown.
#[derive(Debug, Clone, Default)]
pub struct StatusLine {
    pieces: Vec<(Rank, Piece)>,
}

/// Which pieces stay where there is little room: the first ones of this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// How long it will still take.
    TimeLeft,
    /// How much is done.
    Position,
    /// The loss, or whatever says how it goes.
    Main,
    /// What else should be seen.
    Further,
    /// What it is about.
    Label,
    /// The bar.
    Bar,
    /// What is seen elsewhere too.
    Score,
    /// How fast it goes.
    Pace,
}

#[derive(Debug, Clone)]
enum Piece {
    Label(String),
    /// Share that is done, 0 to 1.
    Bar(f64),
    Text(String),
}

impl StatusLine {
    /// With a name of what goes on.
    pub fn label(self, text: &str) -> Self {
        self.with(Rank::Label, Piece::Label(name(text).into_owned()))
    }

    /// With a bar of so much that is done, and how much that is.
    pub fn done(self, done: u64, of: u64) -> Self {
        let bar = Piece::Bar(done as f64 / of.max(1) as f64);
        self.with(Rank::Bar, bar).text(Rank::Position, &format!("{done}/{of}"))
    }

    /// With a bar alone, of a share from 0 to 1.
    pub fn share(self, done: f64) -> Self {
        self.with(Rank::Bar, Piece::Bar(done))
    }

    /// With more text, unless it is empty.
    pub fn text(self, rank: Rank, text: &str) -> Self {
        if text.is_empty() { self } else { self.with(rank, Piece::Text(name(text).into_owned())) }
    }

    fn with(mut self, rank: Rank, piece: Piece) -> Self {
        self.pieces.push((rank, piece));
        self
    }

    /// The line in at most so many columns: what matters least is left out.
    pub fn fitted(&self, columns: usize) -> String {
        let mut kept: Vec<&(Rank, Piece)> = self.pieces.iter().collect();
        while kept.len() > 1 && shortest(&kept) > columns {
            let least = (0..kept.len()).max_by_key(|&place| kept[place].0);
            kept.remove(least.expect("there are two"));
        }
        let bar = (BAR.start() + columns.saturating_sub(shortest(&kept))).min(*BAR.end());
        let shown: Vec<String> = kept.iter().map(|(_, piece)| piece.shown(bar)).collect();
        truncate_str(&shown.join(GAP), columns, "").into_owned()
    }
}

/// Columns of pieces with the shortest bar.
fn shortest(pieces: &[&(Rank, Piece)]) -> usize {
    let gaps = GAP.len() * pieces.len().saturating_sub(1);
    gaps + pieces.iter().map(|(_, piece)| piece.columns()).sum::<usize>()
}

impl Piece {
    /// Columns that it takes at least.
    fn columns(&self) -> usize {
        match self {
            Self::Label(text) | Self::Text(text) => measure_text_width(text),
            Self::Bar(_) => *BAR.start(),
        }
    }

    /// As it is written, a bar in so many columns; without colours where stderr or `NO_COLOR` wants none.
    fn shown(&self, bar: usize) -> String {
        match self {
            Self::Label(text) => style(text).for_stderr().bold().to_string(),
            Self::Bar(done) => {
                let full = ((done * bar as f64) as usize).min(bar);
                let (full, rest) = ("━".repeat(full), "─".repeat(bar - full));
                format!("{}{}", style(full).for_stderr().cyan(), style(rest).for_stderr().dim())
            }
            Self::Text(text) => text.clone(),
        }
    }
}

/// The line as it stands on the terminal.
struct Drawn {
    /// Of which [`Status`] it is.
    of: u64,
    line: StatusLine,
    /// Columns of the terminal when it was drawn; absent if what is to be shown is newer.
    columns: Option<usize>,
    at: Option<Instant>,
}

static DRAWN: Mutex<Option<Drawn>> = Mutex::new(None);
static IS_SHOWN: AtomicBool = AtomicBool::new(false);

fn drawn() -> MutexGuard<'static, Option<Drawn>> {
    DRAWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A status line on stderr, which must be a terminal, until it is dropped.
#[derive(Debug)]
pub struct Status {
    number: u64,
}

impl Status {
    /// Starts one, in place of any other.
    pub fn open() -> Self {
        static OPENED: AtomicU64 = AtomicU64::new(0);
        let number = OPENED.fetch_add(1, Ordering::Relaxed);
        *drawn() = Some(Drawn { of: number, line: StatusLine::default(), columns: None, at: None });
        std::thread::spawn(move || {
            while is_kept_up(number) {
                std::thread::sleep(BETWEEN_LOOKS);
            }
        });
        Self { number }
    }

    /// Shows a line instead of the one before.
    pub fn set(&self, line: StatusLine) {
        if let Some(drawn) = drawn().as_mut().filter(|drawn| drawn.of == self.number) {
            (drawn.line, drawn.columns) = (line, None);
            if drawn.at.is_none_or(|at| at.elapsed() >= BETWEEN_DRAWINGS) {
                drawn.draw();
            }
        }
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        let mut drawn = drawn();
        if drawn.as_ref().is_some_and(|drawn| drawn.of == self.number) {
            *drawn = None;
            erase();
        }
    }
}

/// Draws the line once more where the terminal has another width, or where something newer is to be shown; false when the
/// line is no longer there.
fn is_kept_up(number: u64) -> bool {
    let mut drawn = drawn();
    let Some(drawn) = drawn.as_mut().filter(|drawn| drawn.of == number) else { return false };
    if drawn.columns != Some(columns()) {
        drawn.draw();
    }
    true
}

impl Drawn {
    fn draw(&mut self) {
        let columns = columns();
        // The last column stays free: some terminals go to the next line with it.
        let line = self.line.fitted(columns.saturating_sub(1));
        if line.is_empty() {
            return;
        }
        write(&format!("\r{line}{ERASE_REST}"));
        (self.columns, self.at) = (Some(columns), Some(Instant::now()));
        IS_SHOWN.store(true, Ordering::SeqCst);
    }
}

fn columns() -> usize {
    Term::stderr().size_checked().map_or(USUAL_COLUMNS, |(_, columns)| usize::from(columns)).max(1)
}

fn erase() {
    if IS_SHOWN.swap(false, Ordering::SeqCst) {
        write(&format!("\r {ERASE_REST}"));
    }
}

fn write(text: &str) {
    // A terminal that has gone away is no reason to stop.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Writes what stays on stderr, above the status line.
pub(super) fn above(write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let mut drawn = drawn();
    erase();
    let written = write();
    if let Some(drawn) = drawn.as_mut() {
        drawn.draw();
    }
    written
}

/// What a message has to begin with that goes to stderr on another way than through this module, at the end of the program.
///
/// It waits for nobody and asks for no memory.
pub fn line_end() -> &'static str {
    if IS_SHOWN.swap(false, Ordering::SeqCst) { "\n" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_training() -> StatusLine {
        StatusLine::default()
            .label("nola")
            .done(1200, 2000)
            .text(Rank::Main, "loss 1.2345")
            .text(Rank::Further, "lr 9.8e-3")
            .text(Rank::Score, "accuracy 72.4 %")
            .text(Rank::Pace, "1234 images/s")
            .text(Rank::TimeLeft, "00:01:30 left")
    }

    fn plain(columns: usize) -> String {
        console::strip_ansi_codes(&of_training().fitted(columns)).into_owned()
    }

    #[test]
    fn all_is_shown_where_there_is_room() {
        let bar = format!("{}{}", "━".repeat(16), "─".repeat(12));
        let rest = "1200/2000  loss 1.2345  lr 9.8e-3  accuracy 72.4 %  1234 images/s  00:01:30 left";
        assert_eq!(plain(160), format!("nola  {bar}  {rest}"));
    }

    #[test]
    fn the_time_left_is_the_last_to_go() {
        assert_eq!(plain(49), "1200/2000  loss 1.2345  lr 9.8e-3  00:01:30 left");
        assert_eq!(plain(30), "1200/2000  00:01:30 left");
        assert_eq!(plain(14), "00:01:30 left");
        assert_eq!(plain(8), "00:01:30");
    }

    #[test]
    fn no_width_is_exceeded_and_the_bar_takes_what_is_left() {
        for columns in 1..200 {
            let width = measure_text_width(&plain(columns));
            assert!(width <= columns, "{width} of {columns}");
        }
        let bars: Vec<usize> = (80..140).map(|columns| plain(columns).matches(['━', '─']).count()).collect();
        assert!(bars.iter().any(|&bar| bar > 8 && bar < 28), "{bars:?}");
    }

    #[test]
    fn a_share_beyond_the_end_is_a_full_bar() {
        let line = StatusLine::default().share(7.0).fitted(80);
        assert_eq!(console::strip_ansi_codes(&line), "━".repeat(28));
    }

    #[test]
    fn names_do_not_command_the_terminal() {
        let line = StatusLine::default().label("a\u{1b}[2Jb").text(Rank::Main, "c\rd").fitted(80);
        assert!(!line.contains("\u{1b}[2J") && !line.contains('\r'), "{line}");
    }
}
