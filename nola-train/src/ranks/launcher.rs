//! What started this process together with others, as its environment says.

use std::time::Duration;

use super::RankError;

/// How launchers name the number of processes and the number of one: the first that is there decides.
const KNOWN: [(&str, &str, &str); 5] = [
    // Open MPI.
    ("mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    // MVAPICH.
    ("mpirun", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    // MPICH, Intel MPI, and srun with PMI-1 or PMI-2.
    ("mpirun", "PMI_SIZE", "PMI_RANK"),
    // Slurm: of a step, so not of a script that sbatch runs once.
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ("srun", "SLURM_NTASKS", "SLURM_PROCID"),
];
/// What Slurm sets for a step alone.
const STEP: &str = "SLURM_STEP_ID";
/// How launchers name the number of a process among those of its machine.
const LOCAL: [&str; 4] =
    ["OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"];
/// Whether processes that were started together are one run.
const RANKS: &str = "NOLA_RANKS";
/// They are not.
const SEPARATE: &str = "separate";
/// How long others are waited for, in seconds.
const SECONDS: &str = "NOLA_RANK_SECONDS";

/// A launcher that started several processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Launched {
    /// Its name.
    pub(crate) by: &'static str,
    /// How many it started.
    pub(crate) processes: usize,
}

/// The environment, as a function for tests.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What started this process as one of several that are one run; none if it is alone, or `NOLA_RANKS=separate`.
///
/// # Errors
/// If that variable has another value.
pub(crate) fn launched() -> Result<Option<Launched>, RankError> {
    launched_in(&environment)
}

fn launched_in(environment: Environment) -> Result<Option<Launched>, RankError> {
    match environment(RANKS) {
        Some(value) if value == SEPARATE => return Ok(None),
        Some(value) => {
            return Err(RankError::Variable { name: RANKS, value, expected: "the only value is `separate`" });
        }
        None => {}
    }
    let number = |name: &str| environment(name)?.trim().parse::<usize>().ok();
    let known = KNOWN.iter().find_map(|&(by, size, rank)| {
        let is_step = size != "SLURM_NTASKS" || environment(STEP).is_some();
        number(rank).filter(|_| is_step).and_then(|_| Some(Launched { by, processes: number(size)? }))
    });
    Ok(known.filter(|launched| launched.processes > 1))
}

/// Whether a launcher started this process as another than the first of several.
pub(crate) fn is_started_as_another() -> bool {
    let number = |(_, _, rank): &(&str, &str, &str)| environment(rank)?.trim().parse::<usize>().ok();
    KNOWN.iter().find_map(number).is_some_and(|rank| rank > 0)
}

/// The number of this process among those of its machine; 0 if it is alone.
pub(crate) fn local_rank() -> usize {
    local_rank_in(&environment)
}

fn local_rank_in(environment: Environment) -> usize {
    LOCAL.iter().find_map(|name| environment(name)?.trim().parse().ok()).unwrap_or(0)
}

/// How long others are waited for, where the environment says so.
///
/// # Errors
/// If it does not say a number of seconds.
pub(super) fn limit() -> Result<Option<Duration>, RankError> {
    limit_in(&environment)
}

fn limit_in(environment: Environment) -> Result<Option<Duration>, RankError> {
    let Some(value) = environment(SECONDS) else { return Ok(None) };
    match value.trim().parse::<u32>() {
        Ok(seconds) if seconds > 0 => Ok(Some(Duration::from_secs(seconds.into()))),
        Ok(_) | Err(_) => Err(RankError::Variable {
            name: SECONDS,
            value,
            expected: "it is a number of seconds, from 1 on",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(set: &[(&str, &str)]) -> Option<Launched> {
        launched_in(&|name| value(set, name)).expect("no wrong value")
    }

    fn value(set: &[(&str, &str)], name: &str) -> Option<String> {
        set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn every_launcher_is_known_by_what_it_sets() {
        for (by, size, rank) in [
            ("mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
            ("mpirun", "PMI_SIZE", "PMI_RANK"),
            ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
        ] {
            assert_eq!(found(&[(size, "4"), (rank, "3")]), Some(Launched { by, processes: 4 }));
            assert_eq!(found(&[(size, "1"), (rank, "0")]), None, "one process is no run of several");
        }
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn a_script_of_sbatch_is_one_process_though_its_job_has_more() {
        let script = [("SLURM_NTASKS", "4"), ("SLURM_PROCID", "0")];
        assert_eq!(found(&script), None);
        let step = [script[0], script[1], ("SLURM_STEP_ID", "0")];
        assert_eq!(found(&step), Some(Launched { by: "srun", processes: 4 }));
        let of_one = [step[0], step[1], step[2], ("SLURM_STEP_NUM_TASKS", "1")];
        assert_eq!(found(&of_one), None, "srun -n 1 in a job of four tasks");
    }

    #[test]
    fn separate_runs_are_asked_for_by_name() {
        let mpirun = [("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "0")];
        assert_eq!(found(&[mpirun[0], mpirun[1], ("NOLA_RANKS", "separate")]), None);
        let wrong = launched_in(&|name| value(&[("NOLA_RANKS", "alone")], name)).expect_err("no such value");
        assert!(wrong.to_string().contains("NOLA_RANKS=alone: the only value is `separate`"), "{wrong}");
    }

    #[test]
    fn the_local_rank_is_that_of_the_launcher() {
        assert_eq!(local_rank_in(&|name| value(&[("SLURM_LOCALID", "2")], name)), 2);
        assert_eq!(local_rank_in(&|_| None), 0);
    }

    #[test]
    fn a_time_limit_is_a_number_of_seconds() {
        let limit = |text: &'static str| limit_in(&move |name| value(&[("NOLA_RANK_SECONDS", text)], name));
        assert_eq!(limit("30").expect("seconds"), Some(Duration::from_secs(30)));
        assert!(limit("0").is_err() && limit("10m").is_err());
    }
}
