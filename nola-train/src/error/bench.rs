//! What can go wrong with a measurement.

use std::path::PathBuf;
use std::process::ExitStatus;

/// Why something could not be measured or compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A process that was to measure could not be started.
    #[error("a process of this program cannot be started to measure in")]
    Start {
        /// What the system said.
        source: std::io::Error,
    },

    /// Some cases ended without a measurement.
    #[error("{failed} of {cases} cases were not measured; their lines say why")]
    CasesFailed {
        /// Cases without a measurement.
        failed: usize,
        /// All of them.
        cases: usize,
    },

    /// A training run that was to be timed did not make its step.
    #[error("the training run that was timed ended without its step ({status}): {last_line}")]
    Training {
        /// How it ended.
        status: ExitStatus,
        /// The last line on its stderr.
        last_line: String,
    },

    /// A request that was to be timed got no answer.
    #[error("a request that was timed got no answer: {error}")]
    Answer {
        /// Why.
        error: String,
    },

    /// A run takes more memory the longer it lasts.
    #[error(
        "memory grows: the run of {model} took {growth:.1} MiB more after its last step than after its first steps; {allowed:.1} MiB are expected at most"
    )]
    MemoryGrows {
        /// The kind of model.
        model: String,
        /// How much, in MiB.
        growth: f64,
        /// What is expected, in MiB.
        allowed: f64,
    },

    /// A model cannot read so many tokens.
    #[error("{model} reads at most {most} tokens, not {seq}; use a smaller --seq")]
    TooLong {
        /// The preset.
        model: String,
        /// What was asked for, in tokens.
        seq: usize,
        /// Its context, in tokens.
        most: usize,
    },

    /// Weights that are trained are not stored in less than 32 bits.
    #[error(
        "`full` trains the weights, which takes f32, not {stored}; leave it out of --methods, or --dtype and --quantize away"
    )]
    TrainedWeights {
        /// What was asked for.
        stored: &'static str,
    },

    /// So many threads cannot be started.
    #[error("{threads} threads cannot be started; use fewer with --threads")]
    Threads {
        /// What was asked for.
        threads: usize,
        /// What the pool said.
        source: rayon::ThreadPoolBuildError,
    },

    /// A file of results cannot be read.
    #[error("{}: cannot be read", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// A line is not what `bench steps --json` writes.
    #[error("{}:{line}: not a line of `bench steps --json`", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What the parser said.
        source: serde_json::Error,
    },

    /// A file holds two results of one case.
    #[error("{}:{line}: {case} stands in the file twice with one shape; keep one of them, or split the file", path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// The line of the second, counted from 1.
        line: usize,
        /// Model and method.
        case: String,
    },

    /// A file holds nothing that was measured.
    #[error("{}: holds no measured case; make one with `nola-train bench steps --json`", path.display())]
    NoCase {
        /// The file.
        path: PathBuf,
    },
}

impl BenchError {
    /// The exit code of the program, as in the table of [`Error`](crate::Error).
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Start { .. }
            | Self::CasesFailed { .. }
            | Self::Training { .. }
            | Self::Answer { .. }
            | Self::MemoryGrows { .. } => 1,
            Self::TooLong { .. } | Self::TrainedWeights { .. } | Self::Threads { .. } => 2,
            Self::Io { .. } | Self::Json { .. } | Self::Twice { .. } | Self::NoCase { .. } => 4,
        }
    }
}
