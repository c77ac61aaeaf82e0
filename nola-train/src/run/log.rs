//! `metrics.jsonl`: one JSON object for each optimizer step.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::progress::{Scores, Target};
use crate::train::{Between, StepReport};

/// Loss, rate and scores of every step.
pub const METRICS: &str = "metrics.jsonl";

/// A line: what one optimizer step did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepLine {
    /// Optimizer step, counted from 1.
    pub step: usize,
    /// Mean training loss in nats per target.
    pub loss: f32,
    /// Learning rate.
    pub learning_rate: f64,
    /// 2-norm of all gradients, before it was limited.
    pub gradient_norm: f64,
    /// Targets of the step: images, or tokens with a loss.
    pub targets: usize,
    /// Seconds of training when its loss was known; those of several steps are known at once.
    pub seconds: f64,
    /// Scores on the validation data after the step; absent where there was no evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<ValidationLine>,
}

/// Scores on the validation data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValidationLine {
    /// Mean cross-entropy in nats.
    pub loss: f32,
    /// Share of right answers, 0 to 1.
    pub accuracy: f64,
    /// e to the loss; absent for images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
}

impl StepLine {
    /// The line of a step that was told after so many seconds.
    pub fn new(report: &StepReport, seconds: f64) -> Self {
        let StepReport { step, loss, gradient_norm, learning_rate, targets } = *report;
        Self { step, loss, learning_rate, gradient_norm, targets, seconds, validation: None }
    }
}

impl From<&Scores> for ValidationLine {
    fn from(scores: &Scores) -> Self {
        let perplexity = match scores.target {
            Target::Image => None,
            Target::Token => Some(scores.perplexity()),
        };
        Self { loss: scores.loss, accuracy: scores.accuracy, perplexity }
    }
}

/// The file, open for more lines.
#[derive(Debug)]
pub(super) struct MetricsLog {
    file: BufWriter<File>,
    /// The last line, and where it begins: an evaluation is added to it.
    last: Option<(u64, StepLine)>,
    /// Where the next one begins.
    end: u64,
}

impl MetricsLog {
    /// An empty file in the folder of a run.
    pub(super) fn create(run: &Path) -> io::Result<Self> {
        Ok(Self { file: BufWriter::new(File::create(run.join(METRICS))?), last: None, end: 0 })
    }

    /// The file of a run that goes on after `step` optimizer steps: what comes later is cut off, and so is an evaluation that
    /// is still to be made.
    pub(super) fn resume(run: &Path, step: usize, between: Between) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(run.join(METRICS))?;
        let (mut last, mut end) = (None, 0);
        let mut lines = BufReader::new(&file);
        let mut text = Vec::new();
        loop {
            text.clear();
            let bytes = lines.read_until(b'\n', &mut text)? as u64;
            let line = serde_json::from_slice::<StepLine>(&text).ok().filter(|_| text.ends_with(b"\n"));
            let Some(line) = line.filter(|line| line.step <= step) else { break };
            last = Some((end, line));
            end += bytes;
        }
        let mut log = Self { file: BufWriter::new(file), last, end };
        log.cut(end)?;
        if let (Between::Due, Some((start, line))) =
            (between, log.last.take_if(|(_, line)| line.step == step))
        {
            log.cut(start)?;
            log.add(StepLine { validation: None, ..line })?;
        }
        Ok(log)
    }

    /// Forgets everything from `end` on.
    fn cut(&mut self, end: u64) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_mut().set_len(end)?;
        self.file.seek(io::SeekFrom::Start(end))?;
        self.end = end;
        Ok(())
    }

    /// Adds a line.
    pub(super) fn add(&mut self, line: StepLine) -> io::Result<()> {
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        self.file.write_all(&text)?;
        self.last = Some((self.end, line));
        self.end += text.len() as u64;
        Ok(())
    }

    /// Adds scores to the last line.
    pub(super) fn evaluated(&mut self, validation: ValidationLine) -> io::Result<()> {
        let Some((start, line)) = self.last.take() else { return Ok(()) };
        self.cut(start)?;
        self.add(StepLine { validation: Some(validation), ..line })?;
        self.file.flush()
    }

    /// Sees to it that all lines are on the disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: usize) -> StepLine {
        let report = StepReport { step, loss: 0.5, gradient_norm: 1.0, learning_rate: 1e-3, targets: 4 };
        StepLine::new(&report, 0.25)
    }

    fn scores() -> ValidationLine {
        ValidationLine { loss: 0.25, accuracy: 0.75, perplexity: None }
    }

    fn lines(run: &Path) -> Vec<StepLine> {
        let text = std::fs::read_to_string(run.join(METRICS)).expect("a file");
        text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect()
    }

    fn with_steps(steps: usize) -> tempfile::TempDir {
        let run = tempfile::tempdir().expect("a temporary folder");
        let mut log = MetricsLog::create(run.path()).expect("a free disk");
        for step in 1..=steps {
            log.add(line(step)).expect("a free disk");
            if step % 2 == 0 {
                log.evaluated(scores()).expect("a free disk");
            }
        }
        log.sync().expect("a free disk");
        run
    }

    #[test]
    fn an_evaluation_stands_in_the_line_of_its_step() {
        let run = with_steps(3);
        let evaluated = StepLine { validation: Some(scores()), ..line(2) };
        assert_eq!(lines(run.path()), [line(1), evaluated, line(3)]);
    }

    #[test]
    fn a_resumed_run_has_no_step_twice() {
        let run = with_steps(6);
        let mut text = std::fs::read(run.path().join(METRICS)).expect("a file");
        text.extend(b"{\"step\": 7, \"lo");
        std::fs::write(run.path().join(METRICS), text).expect("a file");
        let mut log = MetricsLog::resume(run.path(), 3, Between::Done).expect("a file");
        log.add(line(4)).expect("a free disk");
        log.evaluated(scores()).expect("a free disk");
        log.sync().expect("a free disk");
        assert_eq!(lines(run.path()).iter().map(|line| line.step).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(lines(run.path())[3].validation, Some(scores()));
    }

    #[test]
    fn an_evaluation_that_is_still_to_be_made_is_taken_back() {
        let run = with_steps(4);
        let mut log = MetricsLog::resume(run.path(), 4, Between::Due).expect("a file");
        log.sync().expect("a free disk");
        assert_eq!(lines(run.path())[3], line(4));
        drop(log);
        let mut log = MetricsLog::resume(run.path(), 4, Between::Done).expect("a file");
        log.evaluated(scores()).expect("a free disk");
        assert_eq!((lines(run.path()).len(), lines(run.path())[3].validation.is_some()), (4, true));
    }
}
