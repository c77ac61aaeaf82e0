//! How a run shows on stderr: a bar on a terminal, now and then a line elsewhere, or nothing.
//!
//! Colours follow `NO_COLOR` (the console crate under indicatif sees to it).

mod downloads;

use std::fmt;
use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::time::{Duration, Instant};

pub use downloads::Downloads;
use indicatif::{FormattedDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::printable::name;
use crate::terminal::{err_line, line_to};

/// Time between two lines where there is no bar.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A bar that is redrawn in place.
    Bar,
    /// A line every few seconds and after each evaluation.
    Lines,
    /// Nothing, but for notes.
    Quiet,
}

impl Style {
    /// A bar if stderr is a terminal that can redraw, else lines.
    pub fn detect() -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if std::io::stderr().is_terminal() && !dumb { Self::Bar } else { Self::Lines }
    }
}

/// The state of training after an optimizer step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Optimizer steps taken.
    pub step: usize,
    /// Pictures or tokens learned from by this process.
    pub targets: usize,
    /// Mean training loss, in nats.
    pub loss: f32,
    /// Learning rate of the step.
    pub learning_rate: f64,
}

/// What a model answers: the class of a picture, or the next token of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// One class for each picture.
    Picture,
    /// One token for each place of a text.
    Token,
}

impl Target {
    /// Many of them, for people.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Picture => "pictures",
            Self::Token => "tokens",
        }
    }
}

/// How well a model does on the validation data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// What was answered.
    pub target: Target,
    /// Mean cross entropy, in nats per picture or token.
    pub loss: f32,
    /// Share of the answers that are right, from 0 to 1.
    pub accuracy: f64,
}

impl Scores {
    /// What the best evaluation has most of: right answers of a classifier, probability of a text.
    pub fn rank(&self) -> f64 {
        match self.target {
            Target::Picture => self.accuracy,
            Target::Token => -f64::from(self.loss),
        }
    }

    /// Whether they mean anything: where the model answers with NaN, some accuracy may still be counted.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.accuracy.is_finite()
    }

    /// e to the loss: among so many equally likely tokens the model is undecided.
    pub fn perplexity(&self) -> f64 {
        f64::from(self.loss).exp()
    }

    /// One sentence, for the card of an adapter.
    pub fn summary(&self) -> String {
        match self.target {
            Target::Picture => format!("Validation accuracy {:.2} %.", 100.0 * self.accuracy),
            Target::Token => format!("Best evaluation: {self}."),
        }
    }

    /// The score that a line of progress has room for.
    fn short(&self) -> String {
        match self.target {
            Target::Picture => format!("accuracy {:.1} %", 100.0 * self.accuracy),
            Target::Token => format!("validation loss {:.4}", self.loss),
        }
    }
}

impl fmt::Display for Scores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "validation loss {:.4}, ", self.loss)?;
        match self.target {
            Target::Picture => write!(f, "accuracy {:.1} %", 100.0 * self.accuracy),
            Target::Token => {
                let (perplexity, right) = (self.perplexity(), 100.0 * self.accuracy);
                write!(f, "perplexity {perplexity:.2}, next token right {right:.1} %")
            }
        }
    }
}

/// Shows one run.
pub struct Progress {
    label: String,
    steps: Range<usize>,
    style: Style,
    started: Instant,
    last_line: Instant,
    last_scores: Option<Scores>,
    target: Target,
    bar: ProgressBar,
    out: Box<dyn Write + Send>,
}

impl Progress {
    /// Starts to show a run over these optimizer steps; `label` names it.
    pub fn start(label: impl Into<String>, steps: Range<usize>, target: Target, style: Style) -> Self {
        Self::writing_to(label, steps, target, style, Box::new(std::io::stderr()))
    }

    fn writing_to(
        label: impl Into<String>,
        steps: Range<usize>,
        target: Target,
        style: Style,
        out: Box<dyn Write + Send>,
    ) -> Self {
        let label = label.into();
        let bar = match style {
            Style::Bar => ProgressBar::with_draw_target(Some(steps.end as u64), ProgressDrawTarget::stderr()),
            Style::Lines | Style::Quiet => ProgressBar::hidden(),
        };
        let template = "{prefix:>8.bold} {bar:28.cyan/dim} {pos:>5}/{len} {wide_msg}";
        bar.set_style(
            ProgressStyle::with_template(template).expect("the template is a constant").progress_chars("━━─"),
        );
        bar.set_prefix(name(&label).into_owned());
        bar.set_position(steps.start as u64);
        let now = Instant::now();
        Self { label, steps, style, started: now, last_line: now, last_scores: None, target, bar, out }
    }

    /// Shows an optimizer step.
    pub fn step(&mut self, report: &StepReport) {
        let pace = self.pace(report);
        let scores = self.last_scores.map_or(String::new(), |scores| format!("  {}", scores.short()));
        match self.style {
            Style::Bar => {
                self.bar.set_position(report.step as u64);
                self.bar.set_message(format!("loss {:.4}{scores}  {pace}", report.loss));
            }
            Style::Lines => {
                let is_last = report.step >= self.steps.end;
                if is_last || self.last_line.elapsed() >= BETWEEN_LINES {
                    let StepReport { step, loss, learning_rate, .. } = report;
                    let steps = self.steps.end;
                    self.line(&format!(
                        "step {step}/{steps}  loss {loss:.4}  rate {learning_rate:.2e}{scores}  {pace}"
                    ));
                }
            }
            Style::Quiet => {}
        }
    }

    /// Shows an evaluation after `step` optimizer steps.
    pub fn evaluated(&mut self, step: usize, scores: &Scores) {
        self.last_scores = Some(*scores);
        match self.style {
            Style::Bar => self.bar.tick(),
            Style::Lines => self.line(&format!("step {step}/{}  {scores}", self.steps.end)),
            Style::Quiet => {}
        }
    }

    /// Shows what is going on while no steps are taken, for instance "evaluating".
    pub fn busy(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// Says something that is worth a line of its own whatever the style.
    pub fn note(&mut self, text: &str) {
        match self.style {
            Style::Bar => self.bar.suspend(|| err_line(text)),
            Style::Lines | Style::Quiet => self.line(text),
        }
    }

    /// Ends with a last line about the run.
    pub fn finish(mut self, summary: &str) {
        match self.style {
            Style::Bar => self.bar.finish_with_message(summary.to_owned()),
            Style::Lines => self.line(summary),
            Style::Quiet => {}
        }
    }

    fn line(&mut self, text: &str) {
        // A reader that has gone away is no reason to stop training.
        let _ = line_to(&mut self.out, &format!("{}: {text}", self.label));
        self.last_line = Instant::now();
    }

    /// Pictures or tokens a second, and the time left.
    fn pace(&self, report: &StepReport) -> String {
        let elapsed = self.started.elapsed().as_secs_f64().max(1e-9);
        let taken = report.step.saturating_sub(self.steps.start).max(1);
        let left = self.steps.end.saturating_sub(report.step);
        let seconds_left = elapsed * left as f64 / taken as f64;
        let left = FormattedDuration(Duration::from_secs_f64(seconds_left.min(1e9)));
        let targets = report.targets as f64 / elapsed;
        format!("{targets:.0} {}/s  {left} left", self.target.plural())
    }
}

impl Drop for Progress {
    /// An abandoned bar must not stand in front of an error message.
    fn drop(&mut self) {
        if !self.bar.is_finished() {
            self.bar.abandon();
        }
    }
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
        let mut progress =
            Progress::writing_to("nola", 0..200, Target::Picture, style, Box::new(sink.clone()));
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
            progress.evaluated(100, &Scores { target: Target::Picture, loss: 0.5, accuracy: 0.724 });
            progress.step(&report(200));
        });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0], "nola: step 100/200  validation loss 0.5000, accuracy 72.4 %");
        assert!(
            lines[1].starts_with("nola: step 200/200  loss 1.2500  rate 1.00e-3  accuracy 72.4 %  "),
            "{text}"
        );
        assert!(lines[1].ends_with("pictures/s  00:00:00 left"), "{text}");
    }

    #[test]
    fn a_text_is_judged_by_its_loss() {
        let scores = Scores { target: Target::Token, loss: 0.5, accuracy: 0.7 };
        assert_eq!(scores.to_string(), "validation loss 0.5000, perplexity 1.65, next token right 70.0 %");
        assert!(scores.rank() > Scores { loss: 0.6, accuracy: 0.9, ..scores }.rank());
    }

    #[test]
    fn quiet_tells_notes_only() {
        let text = shown(Style::Quiet, |progress| {
            progress.step(&report(200));
            progress.evaluated(200, &Scores { target: Target::Picture, loss: 0.5, accuracy: 0.7 });
            progress.note("2 pictures were left out");
        });
        assert_eq!(text, "nola: 2 pictures were left out\n");
    }

    #[test]
    fn a_resumed_run_estimates_from_its_own_steps() {
        let mut progress = Progress::start("nola", 100..200, Target::Picture, Style::Quiet);
        progress.started = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        let pace = progress.pace(&StepReport { targets: 640, ..report(110) });
        assert_eq!(pace, "64 pictures/s  00:01:30 left");
    }
}
