//! `samples.jsonl`: what the model writes at each evaluation, one JSON object for each prompt.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::run_log::RunLog;
use super::until::Until;
use crate::completion::Completion;
use crate::fit::Note;
use crate::report::ShownSample;
use crate::train::Between;

/// What the model wrote at each evaluation.
pub const SAMPLES: &str = "samples.jsonl";

/// A line: how the model completed a prompt after some optimizer steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleLine {
    /// Optimizer steps made; 0 is before training.
    pub step: usize,
    /// The prompt, as the recipe has it.
    pub prompt: String,
    /// What the model wrote.
    pub text: String,
}

/// The lines of a run up to the first that cannot be read; none where there is no file.
pub fn sample_lines(run: &Path) -> Vec<SampleLine> {
    let text = fs::read_to_string(run.join(SAMPLES)).unwrap_or_default();
    text.lines().map_while(|line| serde_json::from_str(line).ok()).collect()
}

/// The first and the last text of each prompt.
pub(super) fn shown_samples(lines: &[SampleLine]) -> Vec<ShownSample> {
    let mut shown: Vec<ShownSample> = Vec::new();
    for SampleLine { step, prompt, text } in lines {
        let text = (*step, text.clone());
        match shown.iter_mut().find(|sample| sample.prompt == *prompt) {
            Some(sample) => {
                sample.texts.truncate(1);
                sample.texts.push(text);
            }
            None => shown.push(ShownSample { prompt: prompt.clone(), texts: vec![text] }),
        }
    }
    shown
}

/// The file, open for more lines.
#[derive(Debug)]
pub(super) struct SamplesLog(File);

impl SamplesLog {
    /// An empty file in the folder of a run.
    pub(super) fn create(run: &Path) -> io::Result<Self> {
        Ok(Self(File::create(run.join(SAMPLES))?))
    }

    /// The file of a run that goes on, without the lines of evaluations that will be made again.
    pub(super) fn resume(run: &Path, until: Until) -> io::Result<Self> {
        let is_past = |line: &SampleLine| match until.between {
            Between::Done => line.step <= until.step,
            Between::Due => line.step < until.step,
        };
        let lines = sample_lines(run).into_iter().take_while(is_past);
        let kept = lines.map(|line| json(&line)).collect::<Result<String, _>>()?;
        let path = run.join(SAMPLES);
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        file.set_len(kept.len() as u64)?;
        file.rewind()?;
        file.write_all(kept.as_bytes())?;
        Ok(Self(file))
    }
}

fn json(line: &SampleLine) -> serde_json::Result<String> {
    Ok(serde_json::to_string(line)? + "\n")
}

impl RunLog for SamplesLog {
    fn name(&self) -> &'static str {
        SAMPLES
    }

    fn note(&mut self, note: &Note) -> io::Result<()> {
        match *note {
            Note::Step { .. } | Note::Skipped { .. } | Note::Scores { .. } => Ok(()),
            Note::Samples { step, samples } => {
                let line = |Completion { prompt, text }| json(&SampleLine { step, prompt, text });
                let lines = samples.iter().cloned().map(line).collect::<Result<String, _>>()?;
                self.0.write_all(lines.as_bytes())
            }
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(log: &mut SamplesLog, step: usize) {
        let sample = |(prompt, text): (&str, String)| Completion { prompt: prompt.to_owned(), text };
        let samples = [("a", format!("text {step}")), ("b", "line\nbreak".to_owned())].map(sample);
        log.note(&Note::Samples { step, samples: &samples }).expect("a free disk");
    }

    #[test]
    fn a_resumed_run_has_no_sample_twice() {
        for (between, kept) in [(Between::Done, vec![0, 2, 4]), (Between::Due, vec![0, 2])] {
            let run = tempfile::tempdir().expect("a temporary folder");
            let mut log = SamplesLog::create(run.path()).expect("a free disk");
            [0, 2, 4, 6].into_iter().for_each(|step| add(&mut log, step));
            log.0.write_all(b"{\"step\":8,\"pro").expect("a free disk");
            let until = Until { step: 4, between, newest: None };
            let mut log = SamplesLog::resume(run.path(), until).expect("a file");
            add(&mut log, 9);
            let lines = sample_lines(run.path());
            let steps: Vec<usize> = lines.iter().step_by(2).map(|line| line.step).collect();
            assert_eq!(steps, [kept, vec![9]].concat());
            assert_eq!(lines.last().map(|line| line.text.as_str()), Some("line\nbreak"));
        }
    }

    #[test]
    fn the_first_and_the_last_text_of_each_prompt_are_shown() {
        let line = |step, prompt: &str| SampleLine {
            step,
            prompt: prompt.to_owned(),
            text: format!("{prompt} {step}"),
        };
        let lines: Vec<SampleLine> =
            [0, 50, 100].into_iter().flat_map(|step| [line(step, "a"), line(step, "b")]).collect();
        let shown = shown_samples(&lines);
        assert_eq!(shown.iter().map(|sample| sample.prompt.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(shown[1].texts, [(0, "b 0".to_owned()), (100, "b 100".to_owned())]);
    }
}
