//! The program where a launcher started several of it, built without MPI; and `bench scale` in one process.

use nola_train::ranks::HAS_MPI;
use serde_json::Value;

use crate::program::{Outcome, Workshop, device, keys};

/// Whether the program was built without MPI, so that variables of a launcher are all that it can know.
fn is_without_mpi() -> bool {
    if HAS_MPI {
        println!("skipped: the program was built with --features mpi");
    }
    !HAS_MPI
}

/// The program as a launcher starts it that sets these variables.
fn launched(workshop: &Workshop, variables: &[(&str, &str)], arguments: &[&str]) -> Outcome {
    let mut command = workshop.command(&device());
    let output = command.envs(variables.iter().copied()).args(arguments).output();
    Outcome::of(output.expect("the program starts"))
}

const MPIRUN: [(&str, &str); 2] = [("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "0")];
const SRUN: [(&str, &str); 3] = [("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_NTASKS", "2"), ("SLURM_PROCID", "0")];

#[test]
fn a_launcher_that_starts_several_programs_without_mpi_is_refused_by_its_name() {
    if !is_without_mpi() {
        return;
    }
    let workshop = Workshop::new();
    for (variables, name) in
        [(&MPIRUN[..], "mpirun started 4 processes"), (&SRUN, "srun started 2 processes")]
    {
        let refused = launched(&workshop, variables, &["train", "colours.toml"]);
        refused.assert_refused(10, &[name, "built without MPI", "--features mpi", "NOLA_RANKS=separate"]);
    }
    let other = launched(&workshop, &[MPIRUN[0], ("OMPI_COMM_WORLD_RANK", "3")], &["train", "colours.toml"]);
    assert_eq!((other.code, other.stderr.as_str()), (10, ""), "one of them says it");
    assert!(!workshop.at("runs").exists());
}

#[test]
fn commands_that_one_process_does_are_refused_too_and_all_others_are_not() {
    let workshop = Workshop::new();
    let compare = launched(&workshop, &MPIRUN, &["compare", "colours.toml"]);
    compare.assert_refused(2, &["mpirun started 4 processes of `compare`, which one process does"]);
    assert_eq!(launched(&workshop, &MPIRUN, &["recipes"]).code, 0);
}

#[test]
fn separate_runs_are_made_where_they_are_meant() {
    let workshop = Workshop::new();
    let separate = [MPIRUN[0], MPIRUN[1], ("NOLA_RANKS", "separate")];
    let run = launched(&workshop, &separate, &["train", "colours.toml", "--set=train.steps=2", "--json"]);
    assert_eq!(run.json()["steps"], 2);
}

#[test]
fn the_local_gpu_is_that_of_the_process_and_named_if_it_is_not_there() {
    let workshop = Workshop::new();
    let mut command = workshop.command("cuda:local");
    let output = command.env("OMPI_COMM_WORLD_LOCAL_RANK", "3").args(["train", "colours.toml"]).output();
    Outcome::of(output.expect("the program starts")).assert_refused(7, &["device `cuda:3`"]);
}

fn lines(outcome: &Outcome) -> Vec<Value> {
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    outcome.stdout.lines().map(parse).collect()
}

#[test]
fn bench_scale_measures_one_process_and_computes_networks() {
    let scale =
        ["bench", "scale", "--model", "tiny-gpt2", "--methods", "nola,full", "--steps", "2", "--json"];
    let run = Workshop::empty().run_on("cpu", &[&scale[..], &["--ranks", "1", "--nodes", "2,8"]].concat());
    let lines = lines(&run);
    assert!(lines[..2].iter().all(|line| line["step_s"].as_f64().is_some_and(|seconds| seconds > 0.0)));
    insta::assert_snapshot!("bench_scale_json", format!("{}\n\n{}", keys(&lines[0]), keys(&lines[2])));
    // GPT-2 small and LLaMA-2 7B, with NOLA, LoRA and all weights, on two numbers of nodes.
    assert_eq!(lines.len(), 2 + 2 * 3 * 2);
    let seconds = |line: &Value| line["links"][5]["exchange_s"].as_f64().expect("seconds");
    let of = |method: &str| {
        lines[2..].iter().filter(|line| line["method"] == method).map(seconds).collect::<Vec<_>>()
    };
    assert!(of("nola").iter().all(|seconds| *seconds < 0.3), "{:?}", of("nola"));
    assert!(of("full").iter().all(|seconds| *seconds > 30.0), "{:?}", of("full"));
}
