//! What keeps several processes from training together.

/// Why the ranks of a run do not train together, or no longer do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RankError {
    /// A launcher started several processes of a program that cannot exchange anything.
    #[error(
        "{launcher} started {processes} processes, but this program was built without MPI: each would train alone; build with \
         `--features mpi`, or set NOLA_RANKS=separate where {processes} separate runs are meant"
    )]
    WithoutMpi {
        /// What started them.
        launcher: &'static str,
        /// How many it started.
        processes: usize,
    },

    /// A launcher started several processes, and MPI connects fewer.
    #[error(
        "{launcher} started {processes} processes, but MPI connects {connected} of them: launcher and library do not fit each \
         other; start with the mpirun of the MPI that this program was built with, or with `srun --mpi=pmix`"
    )]
    Unconnected {
        /// What started them.
        launcher: &'static str,
        /// How many it started.
        processes: usize,
        /// How many are connected.
        connected: usize,
    },

    /// MPI does not start.
    #[error("MPI does not start: {problem}")]
    Start {
        /// What is wrong with it.
        problem: String,
    },

    /// A command of one process was started several times.
    #[error(
        "{launcher} started {processes} processes of `{command}`, which one process does; start it without {launcher}, or set \
         NOLA_RANKS=separate where {processes} separate runs are meant"
    )]
    OneProcess {
        /// What started them.
        launcher: &'static str,
        /// How many it started.
        processes: usize,
        /// The command.
        command: &'static str,
    },

    /// A variable of the environment cannot be meant.
    #[error("{name}={value}: {expected}")]
    Variable {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },

    /// There are fewer samples in a step than ranks.
    #[error(
        "{ranks} ranks cannot share the {batch} samples of a step; start at most {batch} of them, or raise train.batch"
    )]
    TooMany {
        /// How many ranks there are.
        ranks: usize,
        /// Samples of a step.
        batch: usize,
    },

    /// Ranks do not answer any more.
    #[error(
        "{} said nothing for {seconds} s, while the others waited at the exchange of {topic}; it ended, hangs, or is too slow \
         (NOLA_RANK_SECONDS says how long is waited)", ranks.join(", ")
    )]
    Silent {
        /// The ranks, by name.
        ranks: Vec<String>,
        /// How long was waited, in seconds.
        seconds: u64,
        /// What was to be exchanged.
        topic: String,
    },

    /// A rank ended with an error of its own.
    #[error("{rank} ended: {error}")]
    Failed {
        /// The rank, by name.
        rank: String,
        /// Its error.
        error: String,
    },

    /// A rank is elsewhere in the run.
    #[error("{rank} is elsewhere in the run: it exchanges {theirs}, and this rank {ours}")]
    OutOfStep {
        /// The rank, by name.
        rank: String,
        /// What it exchanges, with the number of the exchange.
        theirs: String,
        /// The same of this rank.
        ours: String,
    },

    /// A rank sent what cannot be read.
    #[error(
        "{rank} sent something else than {topic} of this run: it is another version, or has another model"
    )]
    Unreadable {
        /// The rank, by name.
        rank: String,
        /// What was to be exchanged.
        topic: String,
    },

    /// The ranks do not train the same.
    #[error("the ranks do not train the same:\n{}", differences.join("\n"))]
    Differ {
        /// One text for each difference to the first rank.
        differences: Vec<String>,
    },

    /// The ranks do not hold the same trained values any more.
    #[error(
        "after step {step} {} trained values that differ from those of rank 0: the machines compute differently, or one of them \
         wrongly; go on from the last checkpoint, on machines of one kind",
        held_by(ranks)
    )]
    Diverged {
        /// Optimizer steps made.
        step: usize,
        /// Those that differ from the first, by name.
        ranks: Vec<String>,
    },
}

fn held_by(ranks: &[String]) -> String {
    match ranks {
        [rank] => format!("{rank} holds"),
        ranks => format!("{} hold", ranks.join(", ")),
    }
}

impl RankError {
    /// The exit code of the program, as in the table of [`Error`](super::Error).
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::OneProcess { .. } | Self::Variable { .. } => 2,
            Self::WithoutMpi { .. }
            | Self::Unconnected { .. }
            | Self::Start { .. }
            | Self::TooMany { .. }
            | Self::Silent { .. }
            | Self::Failed { .. }
            | Self::OutOfStep { .. }
            | Self::Unreadable { .. }
            | Self::Differ { .. }
            | Self::Diverged { .. } => 10,
        }
    }
}
