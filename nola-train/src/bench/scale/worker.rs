//! One rank of a measurement.

use std::fmt;
use std::str::FromStr;
use std::time::Instant;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::super::cases::{self, Method, Preset};
use super::super::statistics::{median, rounded};
use super::adapter_sizes;
use crate::Error;
use crate::attach::attach;
use crate::device::{self, DeviceChoice, OpenDevice};
use crate::model_with_loss::ModelWithLoss;
use crate::ranks::{RankError, Ranks, Topic};
use crate::settings::{OptimizerKind, ScheduleKind, TrainSettings};
use crate::sizes::Sizes;
use crate::stop::Stop;
use crate::terminal::print_json;
use crate::train::{Optimizer, exchanged, shard_gradients, updated};

/// Learning rate of the steps: small, so that nothing diverges.
const LEARNING_RATE: f64 = 1e-4;
/// Exchanges of a message that are measured.
const EXCHANGES: usize = 15;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Work {
    /// Steps of a method, with so many samples in all.
    Steps { preset: Preset, method: Method, batch: usize },
    /// The exchange of messages of so many bytes.
    Exchange { bytes: usize },
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps { preset, method, batch } => write!(f, "{}/{}/{batch}", preset.name(), method.name()),
            Self::Exchange { bytes } => write!(f, "{bytes}"),
        }
    }
}

impl FromStr for Work {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<usize>().map_err(|error| error.to_string());
        match text.split('/').collect::<Vec<_>>()[..] {
            [preset, method, batch] => Ok(Self::Steps {
                preset: Preset::from_str(preset, false)?,
                method: <Method as ValueEnum>::from_str(method, false)?,
                batch: number(batch)?,
            }),
            _ => Ok(Self::Exchange { bytes: number(text)? }),
        }
    }
}

/// What the first rank found.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Found {
    /// Numbers that are trained; none where messages alone were exchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainable: Option<usize>,
    /// Median of the steps, exchange among them, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_s: Option<f64>,
    /// Bytes that a rank sends to each other one in a step.
    pub bytes: u64,
    /// Median of exchanges of as many bytes with nothing between them, in milliseconds; none of one rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange_ms: Option<f64>,
    /// Time of a step until all others were there, the slowest among them, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<f64>,
}

/// Measures as one of the ranks that were started together; the first one says what was found.
pub(super) fn run(work: Work, steps: usize, choice: DeviceChoice) -> Result<(), Error> {
    let ranks = Ranks::join(&Stop::default())?;
    let measured = measured(work, steps, choice, &ranks);
    if let Err(error) = &measured {
        // Else MPI ends this process, too, before it says what is wrong.
        ranks.report_failure(&error.with_sources());
        ranks.end(error.exit_code());
    }
    let found = measured?;
    if ranks.is_first() {
        print_json(&found)?;
    }
    ranks.end(0);
    Ok(())
}

fn measured(work: Work, steps: usize, choice: DeviceChoice, ranks: &Ranks) -> Result<Found, Error> {
    match work {
        Work::Steps { preset, method, batch } => {
            let open = device::open(choice)?;
            Steps { preset, method, batch, steps, ranks, open: &open }.measured()
        }
        Work::Exchange { bytes } => {
            let exchange_ms = exchange_ms(ranks, bytes)?;
            Ok(Found { trainable: None, step_s: None, bytes: bytes as u64, exchange_ms, wait_ms: None })
        }
    }
}

/// Median of exchanges of messages of so many bytes; none of one rank.
fn exchange_ms(ranks: &Ranks, bytes: usize) -> Result<Option<f64>, RankError> {
    if ranks.size() == 1 {
        return Ok(None);
    }
    let mut all = Vec::new();
    for number in 0..=EXCHANGES {
        let message = vec![0; bytes];
        let started = Instant::now();
        ranks.all_gather(Topic::Gradients, message)?;
        // Before the first one, ranks come at different times.
        if number > 0 {
            all.push(1e3 * started.elapsed().as_secs_f64());
        }
    }
    Ok(median(&all).map(|ms| rounded(ms, 3)))
}

struct Steps<'a> {
    preset: Preset,
    method: Method,
    batch: usize,
    steps: usize,
    ranks: &'a Ranks,
    open: &'a OpenDevice,
}

impl Steps<'_> {
    fn measured(&self) -> Result<Found, Error> {
        let (device, on_device) = (&self.open.device, self.open.device.clone().autodiff());
        let (rank, ranks) = (self.ranks.rank(), self.ranks.size());
        let samples = self.batch * (rank + 1) / ranks - self.batch * rank / ranks;
        let seq = self.preset.defaults().seq;
        match self.preset.sizes() {
            Sizes::Vit(config) => {
                let batch = cases::images(&config, samples, &on_device);
                self.of(cases::vit(&config, Default::default(), device), batch)
            }
            Sizes::Gpt2(_) | Sizes::Llama(_) => {
                let model = cases::causal(self.preset, device);
                let batch = cases::texts(model.info().vocab_size, samples, seq, &on_device);
                self.of(model, batch)
            }
        }
    }

    /// Steps of the training loop's own code.
    fn of<M: ModelWithLoss>(&self, model: M, batch: M::Batch) -> Result<Found, Error> {
        let on_device = self.open.device.clone().autodiff();
        let Some(method) = self.method.recipe(adapter_sizes(self.preset)) else {
            return Err(Error::NothingTrained { method: self.method.name() });
        };
        let mut model = attach(model.train(), &method, &[], &on_device)?;
        let trained = model.trainable_parameters();
        let recipe = TrainSettings {
            optimizer: OptimizerKind::AdamW,
            learning_rate: LEARNING_RATE,
            schedule: ScheduleKind::Constant,
            ..TrainSettings::default()
        };
        let mut optimizer = Optimizer::new(&recipe, &model);
        let (passes, mut seconds, mut waits, mut bytes) = ([batch], Vec::new(), Vec::new(), 0);
        for step in 0..=self.steps {
            let (started, before) = (Instant::now(), self.ranks.traffic());
            let found = shard_gradients(&model, [step, self.ranks.rank()], &passes, &recipe);
            let (gradients, mut measured) = exchanged(&model, vec![found], step, self.ranks)?;
            model = updated(model, gradients, &mut measured, &recipe, &mut optimizer);
            // One that fails here fails in the next step too, and says more.
            let _ = self.open.device.sync();
            let after = self.ranks.traffic();
            bytes = after.bytes - before.bytes;
            if step > 0 {
                seconds.push(started.elapsed().as_secs_f64());
                waits.push(1e3 * (after.seconds - before.seconds));
            }
        }
        Ok(Found {
            trainable: Some(trained.adapter + trained.other),
            step_s: median(&seconds).map(|seconds| rounded(seconds, 4)),
            bytes,
            exchange_ms: exchange_ms(self.ranks, bytes as usize)?,
            wait_ms: median(&waits).filter(|_| self.ranks.size() > 1).map(|ms| rounded(ms, 3)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_reads_back_as_it_is_written() {
        let steps = Work::Steps { preset: Preset::TinyGpt2, method: Method::Adapter("lora"), batch: 4 };
        for work in [steps, Work::Exchange { bytes: 77 }] {
            assert_eq!(work.to_string().parse::<Work>(), Ok(work));
        }
        assert!("gpt2/nola".parse::<Work>().is_err());
    }
}
