//! Why a run cannot be resumed.

use std::path::PathBuf;

/// Why a run cannot be resumed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// There is no run.
    #[error("{}: holds no run; `--resume` takes the folder of an interrupted run, such as runs/first", run.display())]
    NoRun {
        /// The folder.
        run: PathBuf,
    },

    /// The run came to its end.
    #[error(
        "{}: the run is finished, so there is nothing to resume; to train longer, begin a new run with a larger train.steps",
        run.display()
    )]
    Finished {
        /// The run folder.
        run: PathBuf,
    },

    /// Nothing was kept of it to go on from.
    #[error(
        "{}: holds no checkpoint to resume from; train again in another place with --set output.dir=FOLDER, and save more often \
         with train.save_every",
        run.display()
    )]
    NoCheckpoint {
        /// The run folder.
        run: PathBuf,
    },

    /// A checkpoint is not as it was written.
    #[error("{}: not a whole checkpoint: {problem}", checkpoint.display())]
    Damaged {
        /// Its folder.
        checkpoint: PathBuf,
        /// What is wrong with it.
        problem: String,
    },

    /// The recipe is another one.
    #[error("{}: the recipe is not that of the run:\n{}", run.display(), changes.join("\n"))]
    Recipe {
        /// The run folder.
        run: PathBuf,
        /// Each key with both values, and what can be done.
        changes: Vec<String>,
    },

    /// The base is another one.
    #[error("{}: the base model `{base}` is not the one that the run trained on; its bytes differ", run.display())]
    Base {
        /// The run folder.
        run: PathBuf,
        /// The base.
        base: String,
    },

    /// The data is not the same.
    #[error(
        "{}: the run has seen other data:\n{}\nput the old data back, or begin a new run",
        run.display(),
        changes.join("\n")
    )]
    Data {
        /// The run folder.
        run: PathBuf,
        /// Each key with its file or folder.
        changes: Vec<String>,
    },

    /// The state does not fit the model.
    #[error("the checkpoint does not fit the model: {}", problems.join("; "))]
    State {
        /// One text for each tensor.
        problems: Vec<String>,
    },
}

impl ResumeError {
    /// The exit code of the program, as in the table of [`Error`](crate::Error).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Recipe { .. } => 3,
            Self::Data { .. } => 4,
            Self::Base { .. } => 5,
            Self::NoRun { .. }
            | Self::Finished { .. }
            | Self::NoCheckpoint { .. }
            | Self::Damaged { .. }
            | Self::State { .. } => 9,
        }
    }
}
