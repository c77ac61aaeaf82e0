//! How a run shows on stderr: a bar on a terminal, now and then a line elsewhere, or nothing.
//!
//! On a terminal evaluations and notes stay as lines above the bar. Colours follow `NO_COLOR`.

mod counted;
mod downloads;
mod scores;
mod weights;

use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::time::{Duration, Instant};

pub use counted::Counted;
pub use downloads::Downloads;
pub use scores::{Scores, Target};
pub use weights::weights_read;

use crate::amounts::duration;
use crate::completion::Completion;
use crate::printable;
use crate::terminal::{FilteredStderr, Rank, Status, StatusLine, err_line, line_to};

/// Time between two lines where there is no bar.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// Characters that are shown of a prompt, and of what follows it.
const SAMPLE_CHARS: usize = 72;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A bar that is redrawn in place.
    Bar,
    /// A line every few seconds and after each evaluation.
    Lines,
    /// Nothing, but for what is left out, warnings and notes about the run.
    Quiet,
}

impl Style {
    /// A bar if stderr is a terminal that can redraw, else lines.
    pub fn detect() -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if std::io::stderr().is_terminal() && !dumb { Self::Bar } else { Self::Lines }
    }

    /// Writes a line to stderr that only says that all is as it should be; nothing if quiet.
    pub fn info(self, text: &str) {
        match self {
            Self::Bar | Self::Lines => err_line(text),
            Self::Quiet => {}
        }
    }
}

/// The state of training after an optimizer step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Optimizer steps taken.
    pub step: usize,
    /// Images or tokens learned from by this process.
    pub targets: usize,
    /// Mean training loss, in nats.
    pub loss: f32,
    /// Learning rate of the step.
    pub learning_rate: f64,
}

/// Shows one run.
pub struct Progress {
    label: String,
    steps: Range<usize>,
    style: Style,
    /// When the first step began.
    started: Instant,
    last_line: Instant,
    last_step: Option<StepReport>,
    last_scores: Option<Scores>,
    target: Target,
    status: Option<Status>,
    out: Box<dyn Write + Send>,
}

impl Progress {
    /// Starts to show a run over these optimizer steps; `label` names it.
    pub fn start(label: impl Into<String>, steps: Range<usize>, target: Target, style: Style) -> Self {
        Self::writing_to(label, steps, target, style, Box::new(FilteredStderr))
    }

    fn writing_to(
        label: impl Into<String>,
        steps: Range<usize>,
        target: Target,
        style: Style,
        out: Box<dyn Write + Send>,
    ) -> Self {
        let status = match style {
            Style::Bar => Some(Status::open()),
            Style::Lines | Style::Quiet => None,
        };
        let (label, now) = (label.into(), Instant::now());
        Self {
            label,
            steps,
            style,
            started: now,
            last_line: now,
            last_step: None,
            last_scores: None,
            target,
            status,
            out,
        }
    }

    /// Shows an optimizer step.
    pub fn step(&mut self, report: &StepReport) {
        self.last_step = Some(*report);
        match self.style {
            Style::Bar => self.show(self.bar(report)),
            Style::Lines => {
                let is_last = report.step >= self.steps.end;
                if is_last || self.last_line.elapsed() >= BETWEEN_LINES {
                    let StepReport { step, loss, learning_rate, .. } = report;
                    let scores =
                        self.last_scores.map_or(String::new(), |scores| format!("  {}", scores.short()));
                    let (steps, pace, left) = (self.steps.end, self.pace(report), self.left(report));
                    self.line(&format!(
                        "step {step}/{steps}  loss {loss:.4}  rate {learning_rate:.2e}{scores}  {pace}  {left}"
                    ));
                }
            }
            Style::Quiet => {}
        }
    }

    /// The bar of a step.
    fn bar(&self, report: &StepReport) -> StatusLine {
        let scores = self.last_scores.map_or(String::new(), |scores| scores.short());
        self.position(report.step)
            .text(Rank::Main, &format!("loss {:.4}", report.loss))
            .text(Rank::Further, &format!("lr {:.1e}", report.learning_rate))
            .text(Rank::Score, &scores)
            .text(Rank::Pace, &self.pace(report))
            .text(Rank::TimeLeft, &self.left(report))
    }

    fn position(&self, step: usize) -> StatusLine {
        StatusLine::default().label(&self.label).done(step as u64, self.steps.end as u64)
    }

    fn show(&self, line: StatusLine) {
        if let Some(status) = &self.status {
            status.set(line);
        }
    }

    /// Shows that the model is being evaluated.
    pub fn evaluating(&self) {
        let step = self.last_step.map_or(self.steps.start, |report| report.step);
        self.show(self.position(step).text(Rank::Main, "evaluating"));
    }

    /// Shows an evaluation after `step` optimizer steps.
    pub fn evaluated(&mut self, step: usize, scores: &Scores) {
        self.last_scores = Some(*scores);
        let text = format!("step {step}/{}  {scores}", self.steps.end);
        match self.style {
            Style::Bar => err_line(&format!("{}: {text}", self.label)),
            Style::Lines => self.line(&text),
            Style::Quiet => {}
        }
        if step == self.steps.start {
            // What was spent before the first step says nothing about the steps.
            self.started = Instant::now();
        }
        if let Some(report) = self.last_step {
            self.show(self.bar(&report));
        }
    }

    /// Shows the beginning of what the model wrote after each of some prompts.
    pub fn samples(&mut self, step: usize, samples: &[Completion]) {
        for Completion { prompt, text } in samples {
            let text = format!("sample at step {step}: {} -> {}", short(prompt), short(text));
            match self.style {
                Style::Bar => err_line(&format!("{}: {text}", self.label)),
                Style::Lines => self.line(&text),
                Style::Quiet => {}
            }
        }
    }

    /// Says what is kept of the run: the adapter or the model of a step.
    pub fn kept(&mut self, what: &str, step: usize, scores: &Scores) {
        let text = format!("the {what} of step {step} is kept: {scores}");
        match self.style {
            Style::Bar => err_line(&format!("{}: {text}", self.label)),
            Style::Lines => self.line(&text),
            Style::Quiet => {}
        }
    }

    /// Says something that is worth a line of its own whatever the style.
    pub fn note(&mut self, text: &str) {
        match self.style {
            Style::Bar => err_line(text),
            Style::Lines | Style::Quiet => self.line(text),
        }
    }

    fn line(&mut self, text: &str) {
        // A reader that has gone away is no reason to stop training.
        let _ = line_to(&mut self.out, &format!("{}: {text}", self.label));
        self.last_line = Instant::now();
    }

    /// Images or tokens a second.
    fn pace(&self, report: &StepReport) -> String {
        let targets = report.targets as f64 / self.elapsed();
        format!("{targets:.0} {}/s", self.target.plural())
    }

    /// The time left.
    fn left(&self, report: &StepReport) -> String {
        let taken = report.step.saturating_sub(self.steps.start).max(1);
        let left = self.steps.end.saturating_sub(report.step);
        format!("{} left", duration(self.elapsed() * left as f64 / taken as f64))
    }

    fn elapsed(&self) -> f64 {
        self.started.elapsed().as_secs_f64().max(1e-9)
    }
}

/// The beginning of a text as a part of a line.
fn short(text: &str) -> String {
    let text = printable::name(text);
    let mut shown: String = text.chars().take(SAMPLE_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn shown(style: Style, show: impl FnOnce(&mut Progress)) -> String {
        let sink = Sink::default();
        let mut progress = Progress::writing_to("nola", 0..200, Target::Image, style, Box::new(sink.clone()));
        show(&mut progress);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn report(step: usize) -> StepReport {
        StepReport { step, targets: 64 * step, loss: 1.25, learning_rate: 1e-3 }
    }

    #[test]
    fn lines_tell_the_last_step_and_every_evaluation() {
        let text = shown(Style::Lines, |progress| {
            (1..=199).for_each(|step| progress.step(&report(step)));
            progress
                .evaluated(100, &Scores { target: Target::Image, loss: 0.5, accuracy: 0.724, answers: 500 });
            progress.step(&report(200));
        });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0], "nola: step 100/200  validation loss 0.5000, accuracy 72.4 %");
        assert!(
            lines[1].starts_with("nola: step 200/200  loss 1.2500  rate 1.00e-3  accuracy 72.4 %  "),
            "{text}"
        );
        assert!(lines[1].ends_with("images/s  00:00:00 left"), "{text}");
    }

    #[test]
    fn a_sample_is_one_short_line() {
        let sample = Completion { prompt: "two\nlines".to_owned(), text: "word ".repeat(40) };
        let text = shown(Style::Lines, |progress| progress.samples(100, std::slice::from_ref(&sample)));
        assert!(text.starts_with("nola: sample at step 100: two\\nlines -> word word"), "{text}");
        assert!(text.ends_with("…\n") && text.lines().count() == 1, "{text}");
        assert_eq!(shown(Style::Quiet, |progress| progress.samples(100, &[sample])), "");
    }

    #[test]
    fn quiet_tells_notes_only() {
        let text = shown(Style::Quiet, |progress| {
            progress.step(&report(200));
            progress.evaluated(200, &Scores { target: Target::Image, loss: 0.5, accuracy: 0.7, answers: 10 });
            progress.note("2 images were left out");
        });
        assert_eq!(text, "nola: 2 images were left out\n");
    }

    #[test]
    fn a_resumed_run_estimates_from_its_own_steps() {
        let mut progress = Progress::start("nola", 100..200, Target::Image, Style::Quiet);
        progress.started = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        let report = StepReport { targets: 640, ..report(110) };
        assert_eq!(progress.pace(&report), "64 images/s");
        assert_eq!(progress.left(&report), "00:01:30 left");
    }
}
