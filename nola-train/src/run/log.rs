//! `metrics.jsonl`: one JSON object for each optimizer step.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};

use super::run_log::RunLog;
use crate::fit::Note;
use crate::progress::{Scores, Target};
use crate::train::{Between, StepReport, StepSamples};

/// Loss, rate and scores of every step.
pub const METRICS: &str = "metrics.jsonl";

/// A line: what one optimizer step did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepLine {
    /// Optimizer step, counted from 1.
    pub step: usize,
    /// Mean training loss in nats per target; null where it is not finite.
    #[serde(deserialize_with = "null_as_nan")]
    pub loss: f32,
    /// Learning rate.
    pub learning_rate: f64,
    /// 2-norm of all gradients, before it was limited; null where it is not finite.
    #[serde(deserialize_with = "null_as_nan")]
    pub gradient_norm: f64,
    /// Targets of the step: images, or tokens with a loss.
    pub targets: usize,
    /// Seconds of training when its loss was known; those of several steps are known at once.
    pub seconds: f64,
    /// Whether it was skipped, as loss or gradient are not finite; absent where it was not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// What a skipped step is made of; absent of others.
    #[serde(default, skip_serializing_if = "StepSamples::is_empty")]
    pub samples: StepSamples,
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
    /// The line of a step that was reported after so many seconds.
    pub fn new(report: &StepReport, seconds: f64) -> Self {
        let StepReport { step, loss, gradient_norm, learning_rate, targets } = *report;
        Self {
            step,
            loss,
            learning_rate,
            gradient_norm,
            targets,
            seconds,
            skipped: false,
            samples: StepSamples::default(),
            validation: None,
        }
    }

    /// The same of a step that was skipped.
    pub fn skipped(report: &StepReport, samples: StepSamples, seconds: f64) -> Self {
        Self { skipped: true, samples, ..Self::new(report, seconds) }
    }
}

/// A number, or what JSON has where there is none.
fn null_as_nan<'de, T: From<f32> + Deserialize<'de>, D: Deserializer<'de>>(number: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(number)?.unwrap_or_else(|| f32::NAN.into()))
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

/// The steps of a run, as far as its log can be read.
///
/// # Errors
/// If there is no log.
pub fn logged_steps(run: &Path) -> io::Result<Vec<StepLine>> {
    let lines = BufReader::new(File::open(run.join(METRICS))?).lines();
    Ok(lines.map_while(|line| serde_json::from_str(&line.ok()?).ok()).collect())
}

/// How scores begin that are added to a line.
const SCORES: &str = ",\"validation\":";
/// How a line ends.
const END: &str = "}\n";

/// The file, open for more lines.
#[derive(Debug)]
pub(super) struct MetricsLog {
    file: BufWriter<File>,
    /// Bytes so far.
    bytes: u64,
    /// Whether there is a last line, and it has no scores yet.
    takes_scores: bool,
    /// The line of the step after which a run goes on.
    newest: Option<StepLine>,
}

impl MetricsLog {
    /// An empty file in the folder of a run.
    pub(super) fn create(run: &Path) -> io::Result<Self> {
        let file = BufWriter::new(File::create(run.join(METRICS))?);
        Ok(Self { file, bytes: 0, takes_scores: false, newest: None })
    }

    /// The file of a run that goes on after `step` optimizer steps: what comes later is cut off, and so are scores of an
    /// evaluation that is still to be made.
    pub(super) fn resume(run: &Path, step: usize, between: Between) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(run.join(METRICS))?;
        let (mut start, mut last, mut newest, mut bytes) = (0, String::new(), None, 0);
        for line in BufReader::new(&file).split(b'\n') {
            let Ok(text) = String::from_utf8(line?) else { break };
            let Some(line) = serde_json::from_str::<StepLine>(&text).ok().filter(|line| line.step <= step)
            else {
                break;
            };
            start = bytes;
            bytes += text.len() as u64 + 1;
            (last, newest) = (text, (line.step == step).then_some(line));
        }
        let scores = last.find(SCORES);
        let takes_scores = scores.is_none() && !last.is_empty();
        let is_newest = newest.is_some();
        let mut log = Self { file: BufWriter::new(file), bytes, takes_scores, newest };
        // The last line may have been cut off before its end, or saved with another one.
        log.cut(start + last.trim_end().len() as u64)?;
        log.write(if bytes > 0 { "\n" } else { "" })?;
        if let (Between::Due, true, Some(scores)) = (between, is_newest, scores) {
            log.cut(start + scores as u64)?;
            log.write(END)?;
            log.takes_scores = true;
        }
        Ok(log)
    }

    /// The line of the step after which a run goes on; none of a run that begins.
    pub(super) fn newest(&self) -> Option<&StepLine> {
        self.newest.as_ref()
    }

    /// Forgets everything behind so many bytes.
    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_mut().set_len(bytes)?;
        self.file.seek(io::SeekFrom::Start(bytes))?;
        self.bytes = bytes;
        Ok(())
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.bytes += text.len() as u64;
        self.file.write_all(text.as_bytes())
    }

    /// Adds a line.
    fn add(&mut self, line: &StepLine) -> io::Result<()> {
        self.takes_scores = line.validation.is_none();
        self.write(&(serde_json::to_string(line)? + "\n"))
    }

    /// Adds scores to the last line, if it has none.
    fn evaluated(&mut self, scores: &ValidationLine) -> io::Result<()> {
        if !std::mem::take(&mut self.takes_scores) {
            return Ok(());
        }
        // Not cut off first: a kill would leave a line without its end.
        self.file.flush()?;
        self.bytes -= END.len() as u64;
        self.file.seek(io::SeekFrom::Start(self.bytes))?;
        self.write(&format!("{SCORES}{}{END}", serde_json::to_string(scores)?))?;
        self.file.flush()
    }
}

impl RunLog for MetricsLog {
    fn name(&self) -> &'static str {
        METRICS
    }

    fn note(&mut self, note: &Note) -> io::Result<()> {
        match *note {
            Note::Step { report, seconds } => self.add(&StepLine::new(report, seconds)),
            Note::Skipped { report, samples, seconds } => {
                self.add(&StepLine::skipped(report, samples.clone(), seconds))
            }
            Note::Scores { scores, .. } => self.evaluated(&ValidationLine::from(scores)),
            Note::Samples { .. } => Ok(()),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(step: usize) -> StepLine {
        let report = StepReport { step, loss: 0.5, gradient_norm: 1.0, learning_rate: 1e-3, targets: 4 };
        StepLine::new(&report, 0.25)
    }

    fn scores() -> ValidationLine {
        ValidationLine { loss: 0.25, accuracy: 0.75, perplexity: None }
    }

    fn lines(run: &Path) -> Vec<StepLine> {
        logged_steps(run).expect("a file")
    }

    fn with_steps(steps: usize) -> tempfile::TempDir {
        let run = tempfile::tempdir().expect("a temporary folder");
        let mut log = MetricsLog::create(run.path()).expect("a free disk");
        for step in 1..=steps {
            log.add(&line(step)).expect("a free disk");
            if step % 2 == 0 {
                log.evaluated(&scores()).expect("a free disk");
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
    fn a_skipped_step_has_a_line_with_its_samples_and_null_for_what_is_not_finite() {
        let run = tempfile::tempdir().expect("a temporary folder");
        let report = StepReport {
            step: 1,
            loss: f32::INFINITY,
            gradient_norm: f64::NAN,
            learning_rate: 1e-3,
            targets: 4,
        };
        let mut log = MetricsLog::create(run.path()).expect("a free disk");
        log.add(&StepLine::skipped(&report, StepSamples(vec!["a.txt:3".to_owned()]), 0.25))
            .expect("a free disk");
        log.add(&line(2)).expect("a free disk");
        log.sync().expect("a free disk");
        let text = std::fs::read_to_string(run.path().join(METRICS)).expect("a file");
        let expected = "{\"step\":1,\"loss\":null,\"learning_rate\":0.001,\"gradient_norm\":null,\"targets\":4,\
                        \"seconds\":0.25,\"skipped\":true,\"samples\":[\"a.txt:3\"]}\n";
        assert!(text.starts_with(expected), "{text}");
        // And a run goes on behind it.
        MetricsLog::resume(run.path(), 1, Between::Done).expect("a file").sync().expect("a free disk");
        assert_eq!(std::fs::read_to_string(run.path().join(METRICS)).expect("a file"), expected);
    }

    #[test]
    fn a_resumed_run_has_no_step_twice() {
        let run = with_steps(6);
        let mut text = std::fs::read(run.path().join(METRICS)).expect("a file");
        text.extend(b"{\"step\": 7, \"lo");
        std::fs::write(run.path().join(METRICS), text).expect("a file");
        let mut log = MetricsLog::resume(run.path(), 3, Between::Done).expect("a file");
        log.add(&line(4)).expect("a free disk");
        log.evaluated(&scores()).expect("a free disk");
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
        log.evaluated(&scores()).expect("a free disk");
        assert_eq!((lines(run.path()).len(), lines(run.path())[3].validation.is_some()), (4, true));
    }

    #[test]
    fn an_evaluation_stands_in_its_line_whatever_ended_that() {
        for end in ["", " \n", "\r\n"] {
            let run = with_steps(1);
            let text = std::fs::read_to_string(run.path().join(METRICS)).expect("a file");
            std::fs::write(run.path().join(METRICS), text.trim_end().to_owned() + end).expect("a file");
            let mut log = MetricsLog::resume(run.path(), 1, Between::Done).expect("a file");
            log.evaluated(&scores()).expect("a free disk");
            assert_eq!(lines(run.path()), [StepLine { validation: Some(scores()), ..line(1) }], "{end:?}");
        }
    }

    proptest! {
        #[test]
        fn a_run_goes_on_behind_the_lines_before_a_damage(
            place in 0_usize..800,
            bytes in prop::collection::vec(any::<u8>(), 0..40),
            is_due: bool,
        ) {
            let run = with_steps(4);
            let mut text = std::fs::read(run.path().join(METRICS)).expect("a file");
            let place = place.min(text.len());
            let whole = text[..place].iter().filter(|byte| **byte == b'\n').count();
            text.splice(place..(place + bytes.len() / 2).min(text.len()), bytes);
            std::fs::write(run.path().join(METRICS), text).expect("a file");
            let between = if is_due { Between::Due } else { Between::Done };
            let mut log = MetricsLog::resume(run.path(), 4, between).expect("a file");
            log.evaluated(&scores()).expect("a free disk");
            log.add(&line(5)).expect("a free disk");
            log.sync().expect("a free disk");
            let steps: Vec<usize> = lines(run.path()).iter().map(|line| line.step).collect();
            prop_assert!(steps.len() > whole && steps[..whole] == [1, 2, 3, 4][..whole], "{steps:?}");
            prop_assert_eq!(steps.last(), Some(&5));
        }
    }
}
