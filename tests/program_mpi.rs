//! Runs of several processes that MPI connects, started by mpirun. `NOLA_MPI_PROGRAM` names a program that was built with the
//! feature `mpi`; without it, or without mpirun, these tests say "skipped".

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::Value;

use crate::program::{Outcome, Workshop};
use crate::program_resume::assert_same;
use crate::text_workshop::{e2e_row, text_workshop};

/// How long a run may take that is to end by itself.
const LONG: Duration = Duration::from_secs(300);

/// The program, if there is one.
pub fn program() -> Option<PathBuf> {
    let Some(program) = std::env::var_os("NOLA_MPI_PROGRAM") else {
        println!("skipped: NOLA_MPI_PROGRAM names no program that was built with --features mpi");
        return None;
    };
    let is_there = Command::new("mpirun").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !is_there {
        println!("skipped: there is no mpirun");
    }
    is_there.then_some(PathBuf::from(program))
}

/// mpirun in the folder of a workshop, ready to get its arguments.
pub fn mpirun(workshop: &Workshop) -> Command {
    let mut command = Command::new("mpirun");
    command.current_dir(workshop.at(".")).arg("--oversubscribe").stdin(Stdio::null());
    command.env("NOLA_CACHE", env!("CARGO_TARGET_TMPDIR"));
    // Ranks share the cores of this machine.
    command.env("RAYON_NUM_THREADS", "1");
    for allow in ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] {
        command.env(allow, "1");
    }
    command
}

/// So many ranks of the program.
fn ranks(workshop: &Workshop, program: &Path, count: usize, arguments: &[&str]) -> Command {
    let mut command = mpirun(workshop);
    command.args(["-n", &count.to_string()]).arg(program).args(["--device", "cpu"]).args(arguments);
    command
}

fn outcome(mut command: Command) -> Outcome {
    Outcome::of(command.output().expect("mpirun starts"))
}

/// A run of one process, of so many shards.
pub fn whole(workshop: &Workshop, shards: usize, arguments: &[&str]) {
    let shards = format!("--set=train.shards={shards}");
    let run = workshop.run_on("cpu", &[arguments, &[&shards, "--set=output.dir=runs/whole"]].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
}

/// Steps, evaluations and checkpoints, with rows of unequal lengths and a clipped gradient.
pub const TEXT: [&str; 7] = [
    "train",
    "food.toml",
    "--set=train.steps=8",
    "--set=train.batch=5",
    "--set=train.micro_batch=1",
    "--set=train.clip_norm=1.0",
    "--set=train.evaluate_every=4",
];

/// What makes the same run longer than any test takes.
const ENDLESS: [&str; 2] = ["--set=train.steps=100000", "--set=train.save_every=3"];

fn assert_ranks_make_the_run(workshop: &Workshop, program: &Path, count: usize, arguments: &[&str]) {
    whole(workshop, count, arguments);
    let into = "--set=output.dir=runs/ranks";
    let run = outcome(ranks(workshop, program, count, &[arguments, &[into, "--json"]].concat()));
    assert_eq!(run.json()["interrupted"], false, "one object: only the first rank shows");
    assert_same(workshop, "runs/ranks", "runs/whole");
}

#[test]
fn two_and_three_processes_leave_the_bytes_of_one() {
    let Some(program) = program() else { return };
    let colours = ["train", "colours.toml", "--set=train.steps=8", "--set=data.augment.flip_probability=0.5"];
    assert_ranks_make_the_run(&Workshop::new(), &program, 2, &colours);
    assert_ranks_make_the_run(&text_workshop(), &program, 3, &TEXT);
    let llama = ["--set=model.path=llama", "--set=method.kind=lora", "--set=train.exchange_every=2"];
    assert_ranks_make_the_run(&text_workshop(), &program, 2, &[&TEXT[..], &llama].concat());
}

/// A rank of a running mpirun.
struct Process {
    rank: usize,
    id: String,
}

/// The ranks that a process of mpirun started here, once all are there.
fn processes(mpirun: u32, count: usize) -> Vec<Process> {
    let started = Instant::now();
    loop {
        let children =
            fs::read_to_string(format!("/proc/{mpirun}/task/{mpirun}/children")).unwrap_or_default();
        let rank = |id: &str| {
            let environment = fs::read(format!("/proc/{id}/environ")).ok()?;
            let environment = String::from_utf8_lossy(&environment).into_owned();
            let rank = environment.split('\0').find_map(|one| one.strip_prefix("OMPI_COMM_WORLD_RANK="))?;
            Some(Process { rank: rank.parse().ok()?, id: id.to_owned() })
        };
        let found: Vec<Process> = children.split_whitespace().filter_map(rank).collect();
        if found.len() == count {
            return found;
        }
        assert!(started.elapsed() < LONG, "mpirun starts {count} processes");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A run that saves after every step, once it has saved three times, and the process of its rank 1.
fn begun(workshop: &Workshop, mut command: Command, count: usize) -> (Child, Process) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mpirun starts");
    let child = Child(Some(child));
    let process = processes(child.id(), count).into_iter().find(|process| process.rank == 1);
    let started = Instant::now();
    while !workshop.at("runs/food/checkpoints/step-000003").exists() {
        assert!(started.elapsed() < LONG, "it saves");
        thread::sleep(Duration::from_millis(20));
    }
    (child, process.expect("rank 1"))
}

/// An mpirun that must not outlive a test that fails.
struct Child(Option<std::process::Child>);

impl Child {
    fn id(&self) -> u32 {
        self.0.as_ref().expect("it was not waited for").id()
    }

    /// How it ends, which must be soon.
    fn ended(mut self) -> Outcome {
        let started = Instant::now();
        let output = self.0.take().expect("it was not waited for").wait_with_output().expect("a child");
        assert!(started.elapsed() < LONG, "it ends by itself");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may be over.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn signal(process: &Process, name: &str) {
    let sent = Command::new("kill").args([name, &process.id]).status();
    assert!(sent.expect("kill runs").success());
}

#[test]
fn a_killed_process_ends_the_run_which_goes_on_with_fewer_to_the_same_bytes() {
    let Some(program) = program() else { return };
    let workshop = text_workshop();
    let long = [&TEXT[..], &["--set=train.steps=150", "--set=train.save_every=1"]].concat();
    whole(&workshop, 3, &long);
    let (child, process) = begun(&workshop, ranks(&workshop, &program, 3, &long), 3);
    signal(&process, "-KILL");
    let ended = child.ended();
    assert_ne!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("rank 1 ") && ended.stderr.contains("signal 9"), "{}", ended.stderr);
    let resumed = outcome(ranks(&workshop, &program, 2, &["train", "--resume", "runs/food", "--json"]));
    assert_eq!(resumed.json()["steps"], 150);
    assert_same(&workshop, "runs/food", "runs/whole");
}

#[test]
fn a_process_that_hangs_is_named_after_the_limit_and_what_was_learned_is_kept() {
    let Some(program) = program() else { return };
    let workshop = text_workshop();
    let mut command = ranks(&workshop, &program, 3, &[&TEXT[..], &ENDLESS].concat());
    // Longer than the first rank takes to save.
    command.env("NOLA_RANK_SECONDS", "10");
    let (child, process) = begun(&workshop, command, 3);
    signal(&process, "-STOP");
    let ended = child.ended();
    assert_eq!(ended.code, 10, "{}", ended.stderr);
    let expected = format!("error: rank 1 (process {} on ", process.id);
    assert!(
        ended.stderr.contains(&expected) && ended.stderr.contains("said nothing for 10 s"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("train --resume runs/food"), "{}", ended.stderr);
    assert!(workshop.at("runs/food/adapter-last").is_dir());
}

#[test]
fn an_interrupt_of_one_process_ends_all_with_a_checkpoint() {
    let Some(program) = program() else { return };
    let workshop = text_workshop();
    let (child, process) =
        begun(&workshop, ranks(&workshop, &program, 2, &[&TEXT[..], &ENDLESS].concat()), 2);
    signal(&process, "-TERM");
    let ended = child.ended();
    assert_eq!(ended.code, 143, "{}", ended.stderr);
    for expected in ["interrupted by SIGTERM after step", "train --resume runs/food"] {
        assert!(ended.stderr.contains(expected), "no `{expected}` in: {}", ended.stderr);
    }
}

#[test]
fn a_process_with_another_data_file_is_named_before_the_first_step() {
    let Some(program) = program() else { return };
    let (workshop, other) = (text_workshop(), text_workshop());
    other.write(
        "rows/e2e.txt",
        (0..12).map(|row| e2e_row(&format!("Cafe {row}"), "Thai") + "\n").collect::<String>(),
    );
    let one = |command: &mut Command, workshop: &Workshop| {
        command.args(["-n", "1", "-wdir"]).arg(workshop.at(".")).arg(&program);
        command.args(["--device", "cpu"]).args(TEXT);
    };
    let mut command = mpirun(&workshop);
    one(&mut command, &workshop);
    command.arg(":");
    one(&mut command, &other);
    let refused = outcome(command);
    let parts = ["rank 1 (process ", "`data.train`: rows/e2e.txt holds something else than on rank 0"];
    refused.assert_refused(10, &parts);
    assert_eq!(refused.stderr.matches("error: ").count(), 1, "one rank says it: {}", refused.stderr);
    assert!(!workshop.at("runs").exists() && !other.at("runs").exists());
}

#[test]
fn an_error_of_all_is_said_once_and_with_its_own_exit_code() {
    let Some(program) = program() else { return };
    let workshop = text_workshop();
    let refused =
        outcome(ranks(&workshop, &program, 2, &[&TEXT[..], &["--set=data.train=nowhere"]].concat()));
    refused.assert_refused(4, &["nowhere"]);
    assert_eq!(refused.stderr.matches("error: ").count(), 1, "{}", refused.stderr);
}

#[test]
fn bench_scale_measures_ranks_and_their_exchange() {
    let Some(program) = program() else { return };
    let scale =
        ["bench", "scale", "--model", "tiny-gpt2", "--steps", "2", "--ranks", "2", "--nodes", "2", "--json"];
    let workshop = Workshop::empty();
    let mut command = Command::new(&program);
    // What is said of mpirun here holds for the one that the program starts.
    let variables = mpirun(&workshop);
    command.envs(variables.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let run =
        Outcome::of(command.args(["--device", "cpu"]).args(scale).output().expect("the program starts"));
    assert_eq!(run.code, 0, "{}", run.stderr);
    let lines: Vec<Value> =
        run.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for line in &lines[..2] {
        assert!(["step_s", "exchange_ms", "wait_ms"].iter().all(|key| line[key].is_number()), "{line}");
        let numbers = line["trainable"].as_f64().expect("a number");
        assert!(
            line["bytes"]
                .as_f64()
                .is_some_and(|bytes| bytes > 4.0 * numbers && bytes < 4.0 * numbers + 1000.0)
        );
    }
    assert!(lines[2]["here_ms"].is_number(), "{}", lines[2]);
}
