//! `tensorboard/events.out.tfevents.…`: the course of a run for TensorBoard.
//!
//! A file is a list of records: length, CRC of it, an `Event` of TensorFlow's protocol buffers, CRC of that.
//!
//! # Source
//! TensorFlow's `record_writer.cc`, `event.proto`, `summary.proto`, `tensor.proto`, and PyTorch's `SummaryWriter` for how
//! scalars and texts are written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use super::log::{StepLine, ValidationLine};
use super::run_log::RunLog;
use super::until::Until;
use crate::completion::Completion;
use crate::fit::Note;
use crate::train::Between;

/// Folder of the event files.
pub(super) const TENSORBOARD: &str = "tensorboard";
/// How the name of an event file begins; the second in which it was begun follows.
const PREFIX: &str = "events.out.tfevents.";
/// The first event of every file.
const VERSION: &str = "brain.Event:2";

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(enumeration = "SessionStatus", tag = "1")]
    status: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum SessionStatus {
    Unspecified = 0,
    /// What was noted of this step and later ones is void.
    Start = 1,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<SummaryValue>,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryValue {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(message, optional, tag = "9")]
    metadata: Option<Metadata>,
    #[prost(oneof = "Content", tags = "2, 8")]
    content: Option<Content>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Content {
    #[prost(float, tag = "2")]
    Scalar(f32),
    #[prost(message, tag = "8")]
    Tensor(TensorProto),
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(message, optional, tag = "1")]
    plugin_data: Option<PluginData>,
}

#[derive(Clone, PartialEq, Message)]
struct PluginData {
    #[prost(string, tag = "1")]
    plugin_name: String,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    /// 7 is text.
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<TensorShape>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    string_val: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorShape {
    #[prost(message, repeated, tag = "2")]
    dim: Vec<Dim>,
}

#[derive(Clone, PartialEq, Message)]
struct Dim {
    #[prost(int64, tag = "1")]
    size: i64,
}

/// The type number of texts.
const DT_STRING: i32 = 7;

/// An event file, open for more events; each is written at once, so that a page that is open shows it.
#[derive(Debug)]
pub(super) struct TensorboardLog(File);

impl TensorboardLog {
    /// The first event file of a run.
    pub(super) fn create(run: &Path) -> io::Result<Self> {
        let folder = run.join(TENSORBOARD);
        fs::create_dir_all(&folder)?;
        let mut log = Self(new_file(&folder)?);
        log.write(0, What::FileVersion(VERSION.to_owned()))?;
        Ok(log)
    }

    /// One more event file of a run that goes on: it takes back what those before it say of steps that will be made again.
    pub(super) fn resume(run: &Path, until: Until) -> io::Result<Self> {
        let mut log = Self::create(run)?;
        let start = What::SessionLog(SessionLog { status: SessionStatus::Start.into() });
        match (until.between, until.newest) {
            (Between::Due, Some(newest)) => {
                // The evaluation after this step is taken back, and with it all that was noted of the step.
                log.write(newest.step, start)?;
                log.step(newest)?;
            }
            (Between::Due, None) | (Between::Done, _) => log.write(until.step + 1, start)?,
        }
        Ok(log)
    }

    fn step(&mut self, line: &StepLine) -> io::Result<()> {
        if line.skipped {
            return Ok(());
        }
        let values = [
            ("train/loss", f64::from(line.loss)),
            ("train/learning_rate", line.learning_rate),
            ("train/gradient_norm", line.gradient_norm),
        ];
        self.scalars(line.step, &values)
    }

    fn scores(&mut self, step: usize, scores: &ValidationLine) -> io::Result<()> {
        let values = [("validation/loss", f64::from(scores.loss)), ("validation/accuracy", scores.accuracy)];
        let perplexity = scores.perplexity.map(|perplexity| ("validation/perplexity", perplexity));
        self.scalars(step, &values.into_iter().chain(perplexity).collect::<Vec<_>>())
    }

    fn scalars(&mut self, step: usize, values: &[(&str, f64)]) -> io::Result<()> {
        let value = |&(tag, value): &(&str, f64)| SummaryValue {
            tag: tag.to_owned(),
            metadata: None,
            content: Some(Content::Scalar(value as f32)),
        };
        self.write(step, What::Summary(Summary { value: values.iter().map(value).collect() }))
    }

    fn texts(&mut self, step: usize, samples: &[Completion]) -> io::Result<()> {
        let value = |(index, Completion { prompt, text }): (usize, &Completion)| {
            let text = format!("Prompt:\n\n{}\n\nCompletion:\n\n{}\n", verbatim(prompt), verbatim(text));
            text_value(format!("samples/{}", index + 1), text)
        };
        self.write(step, What::Summary(Summary { value: samples.iter().enumerate().map(value).collect() }))
    }

    fn write(&mut self, step: usize, what: What) -> io::Result<()> {
        let event = Event { wall_time: wall_time(), step: step as i64, what: Some(what) };
        self.0.write_all(&record(&event.encode_to_vec()))
    }
}

impl RunLog for TensorboardLog {
    fn name(&self) -> &'static str {
        TENSORBOARD
    }

    fn note(&mut self, note: &Note) -> io::Result<()> {
        match *note {
            Note::Step { report, seconds } => self.step(&StepLine::new(report, seconds)),
            // There is no point for what is not finite.
            Note::Skipped { .. } => Ok(()),
            Note::Scores { step, scores } => self.scores(step, &ValidationLine::from(scores)),
            Note::Samples { step, samples } => self.texts(step, samples),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// A new event file behind those of the folder: TensorBoard reads them in the order of their names.
fn new_file(folder: &Path) -> io::Result<File> {
    let mut newest = 0;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let second = name.strip_prefix(PREFIX).and_then(|rest| rest.split('.').next()?.parse::<u64>().ok());
        newest = newest.max(second.unwrap_or(0));
    }
    let second = (wall_time() as u64).max(newest + 1);
    let name = format!("{PREFIX}{second:010}.nola-train");
    OpenOptions::new().write(true).create_new(true).open(folder.join(name))
}

/// Seconds since 1970.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A text as TensorBoard's page of texts takes it.
fn text_value(tag: String, text: String) -> SummaryValue {
    let plugin = PluginData { plugin_name: "text".to_owned() };
    let shape = TensorShape { dim: vec![Dim { size: 1 }] };
    let tensor = TensorProto { dtype: DT_STRING, shape: Some(shape), string_val: vec![text.into_bytes()] };
    SummaryValue {
        tag: format!("{tag}/text_summary"),
        metadata: Some(Metadata { plugin_data: Some(plugin) }),
        content: Some(Content::Tensor(tensor)),
    }
}

/// A text of which Markdown changes nothing: every line is indented.
fn verbatim(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// Data as a record of a TFRecord file.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length, &masked_crc(&length).to_le_bytes()[..], data, &masked_crc(data).to_le_bytes()].concat()
}

/// The CRC of data that may hold CRCs itself.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{Scores, Target};
    use crate::train::StepReport;

    fn report(step: usize) -> StepReport {
        StepReport { step, loss: 0.5, gradient_norm: 2.0, learning_rate: 1e-3, targets: 4 }
    }

    fn note(log: &mut TensorboardLog, step: usize) {
        log.note(&Note::Step { report: &report(step), seconds: 0.25 }).expect("a free disk");
    }

    /// The events of all files of a run, in the order of their names, with their CRCs checked.
    fn events(run: &Path) -> Vec<Event> {
        let folder = fs::read_dir(run.join(TENSORBOARD)).expect("a folder");
        let mut files: Vec<_> = folder.map(|entry| entry.expect("a file").path()).collect();
        files.sort();
        let mut events = Vec::new();
        for file in files {
            let bytes = fs::read(file).expect("a file");
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let length = u64::from_le_bytes(rest[..8].try_into().expect("8 bytes")) as usize;
                assert_eq!(rest[..16 + length], record(&rest[12..12 + length])[..16 + length]);
                events.push(Event::decode(&rest[12..12 + length]).expect("an event"));
                rest = &rest[16 + length..];
            }
        }
        events
    }

    /// Steps and tags; what voids others as the tag `void`.
    fn shown(events: &[Event]) -> Vec<(i64, Vec<String>)> {
        let tags = |event: &Event| match event.what.as_ref().expect("every event says something") {
            What::FileVersion(version) => vec![version.clone()],
            What::SessionLog(_) => vec!["void".to_owned()],
            What::Summary(summary) => summary.value.iter().map(|value| value.tag.clone()).collect(),
        };
        events.iter().map(|event| (event.step, tags(event))).collect()
    }

    #[test]
    fn a_record_has_the_bytes_that_tensorflow_writes() {
        // `tf.io.TFRecordWriter("f").write(b"abc")`
        let expected = [
            3, 0, 0, 0, 0, 0, 0, 0, //
            0xb0, 0x99, 0x49, 0x0e, b'a', b'b', b'c', 0x6e, 0x57, 0xf1, 0x21,
        ];
        assert_eq!(record(b"abc"), expected);
    }

    #[test]
    fn a_scalar_has_the_bytes_that_torch_writes() {
        let values = vec![SummaryValue {
            tag: "train/loss".to_owned(),
            metadata: None,
            content: Some(Content::Scalar(0.5)),
        }];
        let event = Event { wall_time: 1.5, step: 3, what: Some(What::Summary(Summary { value: values })) };
        let expected = [
            &[0x09, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0x10, 3, 0x2a, 19, 0x0a, 17, 0x0a, 10][..],
            b"train/loss",
            &[0x15, 0, 0, 0, 0x3f],
        ];
        assert_eq!(event.encode_to_vec(), expected.concat());
    }

    #[test]
    fn steps_evaluations_and_samples_are_events_of_their_step() {
        let run = tempfile::tempdir().expect("a temporary folder");
        let mut log = TensorboardLog::create(run.path()).expect("a free disk");
        note(&mut log, 1);
        let scores = Scores { target: Target::Token, loss: 0.25, accuracy: 0.75, answers: 8 };
        log.note(&Note::Scores { step: 1, scores: &scores }).expect("a free disk");
        let samples = [Completion { prompt: "in".to_owned(), text: "out\n* more".to_owned() }];
        log.note(&Note::Samples { step: 1, samples: &samples }).expect("a free disk");
        let events = events(run.path());
        let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            shown(&events),
            [
                (0, of(&["brain.Event:2"])),
                (1, of(&["train/loss", "train/learning_rate", "train/gradient_norm"])),
                (1, of(&["validation/loss", "validation/accuracy", "validation/perplexity"])),
                (1, of(&["samples/1/text_summary"])),
            ]
        );
        let Some(What::Summary(Summary { value })) = &events[3].what else { panic!("a summary") };
        let Some(Content::Tensor(tensor)) = &value[0].content else { panic!("a text") };
        let expected = "Prompt:\n\n    in\n\nCompletion:\n\n    out\n    * more\n";
        assert_eq!(tensor.string_val, [expected.as_bytes()]);
    }

    #[test]
    fn a_resumed_run_voids_the_steps_that_it_makes_again() {
        let run = tempfile::tempdir().expect("a temporary folder");
        let mut log = TensorboardLog::create(run.path()).expect("a free disk");
        (1..=4).for_each(|step| note(&mut log, step));
        let until = Until { step: 2, between: Between::Done, newest: None };
        let mut log = TensorboardLog::resume(run.path(), until).expect("a free disk");
        note(&mut log, 3);
        let newest = StepLine::new(&report(3), 0.25);
        let until = Until { step: 3, between: Between::Due, newest: Some(&newest) };
        drop(TensorboardLog::resume(run.path(), until).expect("a free disk"));
        let steps: Vec<(i64, bool)> = shown(&events(run.path()))
            .into_iter()
            .filter(|(_, tags)| tags[0] != VERSION)
            .map(|(step, tags)| (step, tags[0] == "void"))
            .collect();
        let noted = |step| (step, false);
        let expected = [noted(1), noted(2), noted(3), noted(4), (3, true), noted(3), (3, true), noted(3)];
        assert_eq!(steps, expected);
    }
}
