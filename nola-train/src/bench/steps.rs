//! `bench steps`: training steps of models of published sizes, each case in a process of its own.

use std::process::Command;

use nola_core::weight::Quantization;
use nola_models::WeightDtype;
use serde::de::DeserializeOwned;

use super::case::{Case, CaseInfo, Measured, Outcome};
use super::cases::{AdapterSizes, Method, Preset};
use super::rows::{Row, StepsLine};
use super::statistics::rounded;
use super::steps_args::StepsArgs;
use super::{BenchError, Output, machine, measure};
use crate::Error;
use crate::terminal::print_json;

/// Measures every case, and says one line of each in the last round.
///
/// # Errors
/// If a model cannot read so many tokens, a process cannot be started, or, after all of them, if some cases failed.
pub fn run(args: &StepsArgs, output: &mut Output<StepsLine>) -> Result<(), Error> {
    if let Some((preset, method)) = args.case {
        let outcome = measure::case(args.case_of(preset, method), args, output.device)?;
        print_json(&outcome)?;
        return Ok(());
    }
    args.check()?;
    let of_model = |&preset: &Preset| args.methods().map(move |method| (preset, method));
    let mut cases: Vec<Pooled> =
        args.models.iter().flat_map(of_model).map(|(preset, method)| Pooled::new(preset, method)).collect();
    if args.rounds.is_multiple_of(2) {
        // So that the last round, which says the lines, goes forwards.
        cases.reverse();
    }
    for round in 1..=args.rounds {
        for case in &mut cases {
            output.note(&format!("round {round} of {}: {}", args.rounds, case.name()));
            case.measure(args)?;
            if round == args.rounds {
                output.line(case.line(args))?;
            }
        }
        // What ran first runs last in the next round, so that a slow drift of the machine hits all alike.
        cases.reverse();
    }
    let failed = cases.iter().filter(|case| matches!(case.outcome, Some(Err(_)))).count();
    if failed > 0 {
        return Err(BenchError::CasesFailed { failed, cases: cases.len() }.into());
    }
    Ok(())
}

impl StepsArgs {
    fn methods(&self) -> impl Iterator<Item = Method> {
        self.methods.iter().flat_map(|choice| choice.methods().iter().copied())
    }

    /// What would only panic in the forward pass.
    fn check(&self) -> Result<(), BenchError> {
        let is_f32 = self.dtype == WeightDtype::F32 && self.quantize.quantization().is_none();
        if !is_f32 && self.methods().any(|method| method == Method::Full) {
            let stored = self.quantize.quantization().map_or(self.dtype.name(), Quantization::name);
            return Err(BenchError::TrainedWeights { stored });
        }
        for &preset in &self.models {
            let (seq, most) = (self.case_of(preset, Method::Frozen).seq, preset.max_tokens());
            if seq > most {
                return Err(BenchError::TooLong { model: preset.name(), seq, most });
            }
        }
        Ok(())
    }

    fn case_of(&self, preset: Preset, method: Method) -> Case {
        let defaults = preset.defaults();
        let k = self.k.unwrap_or(defaults.k);
        let adapter = AdapterSizes {
            lora_rank: self.lora_rank,
            rank: self.rank.unwrap_or(defaults.rank),
            k,
            l: self.l.unwrap_or(k),
        };
        let seq = if preset.is_vit() { defaults.seq } else { self.seq.unwrap_or(defaults.seq) };
        let batch = self.batch.unwrap_or(defaults.batch);
        Case {
            preset,
            method,
            batch,
            seq,
            dtype: self.dtype,
            quantize: self.quantize.quantization(),
            adapter,
        }
    }
}

/// A case over the rounds.
struct Pooled {
    preset: Preset,
    method: Method,
    /// What the rounds so far gave, or the last that a failed process said.
    outcome: Option<Result<Outcome, String>>,
    /// Load before and after the last round.
    load: [Option<f64>; 2],
}

impl Pooled {
    fn new(preset: Preset, method: Method) -> Self {
        Self { preset, method, outcome: None, load: [None; 2] }
    }

    fn name(&self) -> String {
        format!("{}/{}", self.preset.name(), self.method.name())
    }

    /// One round of the case; one that does not fit or has failed is not tried again.
    fn measure(&mut self, args: &StepsArgs) -> Result<(), BenchError> {
        let before = match self.outcome.take() {
            Some(Ok(Outcome::Measured(before))) => Some(before),
            Some(ended) => {
                self.outcome = Some(ended);
                return Ok(());
            }
            None => None,
        };
        let load = machine::load();
        let found = in_process(&self.name(), args.threads)?;
        self.load = [load, machine::load()].map(|load| load.map(|load| rounded(load, 2)));
        self.outcome = Some(found.map(|outcome| match (before, outcome) {
            (Some(before), Outcome::Measured(now)) => Outcome::Measured(Box::new(before.with(*now))),
            (_, outcome) => outcome,
        }));
        Ok(())
    }

    fn line(&mut self, args: &StepsArgs) -> StepsLine {
        let (model, method) = (self.preset.name(), self.method.name());
        match self.outcome.as_ref().expect("every round measures it") {
            Ok(Outcome::Measured(measured)) => {
                StepsLine::Measured(Box::new(Row::of(measured, self.load, args.samples)))
            }
            Ok(Outcome::Skipped { skipped }) => {
                StepsLine::Skipped { model, method, skipped: skipped.clone() }
            }
            Err(error) => StepsLine::Failed { model, method, error: error.clone() },
        }
    }
}

impl Measured {
    /// Samples of both rounds, info of the later one.
    fn with(mut self, later: Self) -> Self {
        self.samples.append(later.samples);
        let larger = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::max);
        let info = CaseInfo {
            peak_rss_mb: larger(self.info.peak_rss_mb, later.info.peak_rss_mb),
            peak_device_mb: larger(self.info.peak_device_mb, later.info.peak_device_mb),
            ..later.info
        };
        Self { info, samples: self.samples }
    }
}

/// Measures a case in a process of its own; the inner error is the last line on its stderr.
pub(super) fn in_process<T: DeserializeOwned>(
    case: &str,
    threads: Option<usize>,
) -> Result<Result<T, String>, BenchError> {
    let start = |source| BenchError::Start { source };
    let mut command = Command::new(std::env::current_exe().map_err(start)?);
    command.args(std::env::args_os().skip(1)).args(["--case", case]);
    // Else a panic's message would not stand last.
    command.env("RUST_BACKTRACE", "0");
    if let Some(threads) = threads {
        command.env("RAYON_NUM_THREADS", threads.to_string());
    }
    let output = command.output().map_err(start)?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let outcome = stdout.lines().last().and_then(|line| serde_json::from_str(line).ok());
    Ok(outcome.ok_or_else(|| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        // Behind the message of a panic stands how to get a backtrace.
        let is_message = |line: &&str| !line.trim().is_empty() && !line.starts_with("note: ");
        let last = stderr.lines().rfind(is_message).unwrap_or("it said nothing");
        format!("{}: {last}", output.status)
    }))
}
