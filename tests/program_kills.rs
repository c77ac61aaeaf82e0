//! A run that is killed at any moment, also inside a save, goes on and ends with the bytes of one that never was.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nola_train::train::Checkpoint;

use crate::program::{Outcome, Workshop, bytes_of};
use crate::program_resume::assert_same;
use crate::running::Running;
use crate::strace::{self, Call, Fault};
use crate::text_workshop::text_workshop;

/// How often the program is killed at least.
const KILLS: usize = 200;
/// How many kills hit a call of a run that goes on, beside one for each call of a run from its beginning.
const ON_THE_WAY: usize = 30;
/// How many kills at least hit a moment that nobody chose.
const AT_RANDOM: usize = 16;

/// Steps, evaluations, each of which is the best so far, and checkpoints in turn, in a moment.
const SHORT: [&str; 6] = [
    "train",
    "food.toml",
    "--set=train.steps=6",
    "--set=train.save_every=2",
    "--set=train.evaluate_every=2",
    "--set=train.batch=2",
];

/// The short run in a folder.
pub fn train(workshop: &Workshop, run: &str) -> Outcome {
    workshop.run_on("cpu", &arguments(&into(run)))
}

/// The short run with another value.
pub fn arguments(into: &str) -> Vec<&str> {
    [&SHORT[..], &[into]].concat()
}

/// What makes a folder that of a run.
pub fn into(run: &str) -> String {
    format!("--set=output.dir={run}")
}

/// A workshop with the unbroken run in `runs/whole`.
pub fn workshop_with_whole_run() -> Workshop {
    let workshop = text_workshop();
    let whole = train(&workshop, "runs/whole");
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    workshop
}

/// Does something with each of several things, on as many threads as there are cores.
pub fn in_parallel<T: Sync>(things: &[T], work: impl Fn(usize, &T) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let number = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(thing) = things.get(number)
                {
                    work(number, thing);
                }
            });
        }
    });
}

/// Whether the kill came before the run was over.
fn is_killed(mut command: Command) -> bool {
    let output = command.output().expect("strace starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!([None, Some(0)].contains(&output.status.code()), "{stderr}");
    output.status.code().is_none()
}

/// Asserts that what has the name of something finished is whole.
fn assert_whole(run: &Path) {
    for adapter in ["adapter", "adapter-last"].map(|name| run.join(name)).iter().filter(|path| path.exists())
    {
        nola_core::folder::read(adapter).unwrap_or_else(|error| panic!("{}: {error}", adapter.display()));
    }
    for entry in fs::read_dir(run.join("checkpoints")).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("step-")) {
            Checkpoint::check(&path).unwrap_or_else(|error| panic!("{error}"));
        }
    }
    for (name, end) in [("result.json", "}"), ("report.html", "</html>"), ("curves.svg", "</svg>")] {
        let text = fs::read_to_string(run.join(name)).unwrap_or_else(|_| end.to_owned());
        assert!(text.trim_end().ends_with(end), "{name} has {} bytes and no end", text.len());
    }
}

/// Goes on with a run that was killed, and asserts that it ends as the unbroken one did.
fn assert_recovers(workshop: &Workshop, run: &str) {
    recover(workshop, run);
    assert_same(workshop, run, "runs/whole");
    fs::remove_dir_all(workshop.at(run)).expect("a finished run");
}

/// Does what the program says after a run that was killed, or whose disk failed, until it has come to its end.
pub fn recover(workshop: &Workshop, run: &str) {
    assert_whole(&workshop.at(run));
    let resumed = workshop.run_on("cpu", &["train", "--resume", run]);
    let stderr = &resumed.stderr;
    match resumed.code {
        0 => {}
        9 if stderr.contains("the run is finished") => {}
        9 if stderr.contains("holds no run") || stderr.contains("holds no checkpoint") => {
            let again = train(workshop, run);
            if again.code == 9 && again.stderr.contains("was cut off") {
                // It had kept an adapter, but no checkpoint yet.
                fs::remove_dir_all(workshop.at(run)).expect("the run");
                assert_eq!(train(workshop, run).code, 0);
            } else {
                assert_eq!(again.code, 0, "{}", again.stderr);
            }
        }
        code => panic!("{run}: {code}: {stderr}"),
    }
}

/// Leaves a run in `runs/begun` that was killed between its two checkpoints.
fn begin(workshop: &Workshop, calls: &[Call]) {
    for call in calls.iter().rev().filter(|call| call.name == "rename") {
        let _ = fs::remove_dir_all(workshop.at("runs/begun"));
        let command = strace::faulty(workshop, &arguments(&into("runs/begun")), call, Fault::Kill);
        assert!(is_killed(command), "{call:?}");
        let found = fs::read_dir(workshop.at("runs/begun/checkpoints")).into_iter().flatten();
        let names = found.map(|entry| entry.expect("an entry").file_name());
        if names.filter(|name| name.to_string_lossy().starts_with("step-")).count() == 1 {
            return;
        }
    }
    panic!("no rename comes between the checkpoints");
}

#[test]
fn two_hundred_kills_end_with_the_same_bytes() {
    let workshop = workshop_with_whole_run();
    let killed = AtomicUsize::new(0);
    if strace::is_here() {
        killed_at_calls(&workshop, &killed);
    }
    let started = Instant::now();
    assert_eq!(train(&workshop, "runs/timed").code, 0);
    let (micros, killed) = (started.elapsed().as_micros() as u64, killed.into_inner());
    let missing = KILLS.saturating_sub(killed).max(AT_RANDOM);
    println!("after {killed} kills at calls {missing} at random moments of {micros} us");
    killed_at_random(&workshop, missing, micros);
}

/// Kills runs at their system calls: from the beginning, and on their way after a kill.
fn killed_at_calls(workshop: &Workshop, killed: &AtomicUsize) {
    let (calls, _) = strace::calls(workshop, &arguments(&into("runs/counted")));
    println!("{} calls of a run", calls.len());
    in_parallel(&calls, |number, call| {
        let run = format!("runs/killed-{number}");
        let is_killed = is_killed(strace::faulty(workshop, &arguments(&into(&run)), call, Fault::Kill));
        // How often something is said depends on the time.
        assert!(is_killed || call.name == "write", "{call:?}");
        killed.fetch_add(usize::from(is_killed), Ordering::Relaxed);
        assert_recovers(workshop, &run);
    });
    begin(workshop, &calls);
    copy(workshop, "runs/counted-on");
    let (calls, _) = strace::calls(workshop, &["train", "--resume", "runs/counted-on"]);
    println!("{} calls of a run that goes on", calls.len());
    in_parallel(&strace::spread(&calls, ON_THE_WAY), |number, call| {
        let run = format!("runs/killed-again-{number}");
        copy(workshop, &run);
        let is_killed = is_killed(strace::faulty(workshop, &["train", "--resume", &run], call, Fault::Kill));
        assert!(is_killed || call.name == "write", "{call:?}");
        killed.fetch_add(usize::from(is_killed), Ordering::Relaxed);
        assert_recovers(workshop, &run);
    });
}

/// Copies the run that was killed.
fn copy(workshop: &Workshop, run: &str) {
    let copied = Command::new("cp").arg("-a").args([workshop.at("runs/begun"), workshop.at(run)]).status();
    assert!(copied.expect("cp runs").success());
}

/// Kills runs after a time that is drawn, each from its beginning on until it is over.
fn killed_at_random(workshop: &Workshop, kills: usize, most_micros: u64) {
    let seeds: Vec<u64> = (0..8).collect();
    in_parallel(&seeds, |number, &seed| {
        let (run, mut random, mut left) =
            (format!("runs/random-{number}"), seed, kills.div_ceil(seeds.len()));
        while left > 0 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let micros = (random >> 33) % most_micros;
            let mut running = Running::start(workshop, &arguments(&into(&run)));
            thread::sleep(Duration::from_micros(micros));
            running.child.kill().expect("it runs or is over");
            if running.ended().0.is_none() {
                left -= 1;
                println!("seed {seed}: killed after {micros} us");
                assert_recovers(workshop, &run);
            } else {
                fs::remove_dir_all(workshop.at(&run)).expect("a finished run");
            }
        }
    });
}

#[test]
fn a_comparison_that_is_killed_while_it_removes_a_run_that_was_cut_off_makes_it_anew() {
    if !strace::is_here() {
        return;
    }
    let workshop = Workshop::new();
    let compare = ["compare", "colours.toml", "--seeds=1", "--set=train.steps=2"];
    let run = workshop.at("runs/compare/colours/seed-0");
    let compared = || {
        let outcome = workshop.run_on("cpu", &compare);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        bytes_of(&run.join("adapter/adapter_model.safetensors"))
    };
    let cut_off = || fs::remove_file(run.join("result.json")).expect("a finished run");
    let whole = compared();
    cut_off();
    let (calls, _) = strace::calls(&workshop, &compare);
    let removes = |call: &Call| ["unlink", "unlinkat", "rmdir"].contains(&call.name.as_str());
    let calls: Vec<Call> = calls.into_iter().filter(removes).collect();
    for call in strace::spread(&calls, 16) {
        cut_off();
        assert!(is_killed(strace::faulty(&workshop, &compare, &call, Fault::Kill)), "{call:?}");
        assert!(compared() == whole, "{call:?}");
    }
}
