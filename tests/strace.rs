//! Faults at the program's system calls: a kill before a call, or an error in its place. By `strace`, so that the program
//! itself holds nothing for its tests.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use crate::program::{Outcome, Workshop};

/// Calls by which a program changes what is on a disk. `write` also serves terminals and pipes.
pub const CALLS: [&str; 14] = [
    "write",
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
    "mkdir",
    "mkdirat",
    "unlink",
    "unlinkat",
    "rmdir",
    "ftruncate",
    "pwrite64",
    "copy_file_range",
];

/// A system call of the program's first thread, which does all of its saving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// Which of its calls of this name, counted from 1.
    pub number: usize,
}

/// What happens in the place of a call.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The program is killed.
    Kill,
    /// It fails once with this error.
    Once(&'static str),
    /// It fails with this error, and so do all calls of this name that follow.
    FromThen(&'static str),
}

/// Whether programs can be traced here; says so if they cannot.
pub fn is_here() -> bool {
    let traced = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).output();
    let is_here = traced.is_ok_and(|output| output.status.success());
    if !is_here {
        println!("skipped: no strace, or it may not trace");
    }
    is_here
}

/// The program in the folder of a workshop with a fault at a call.
pub fn faulty(workshop: &Workshop, arguments: &[&str], call: &Call, fault: Fault) -> Command {
    let (name, number) = (&call.name, call.number);
    let injected = match fault {
        Fault::Kill => format!("signal=KILL:when={number}"),
        Fault::Once(error) => format!("error={error}:when={number}"),
        Fault::FromThen(error) => format!("error={error}:when={number}+"),
    };
    let inject = format!("inject={name}:{injected}");
    traced(workshop, &["-o", "/dev/null", "-e", &format!("trace={name}"), "-e", &inject], arguments)
}

/// Every call in [`CALLS`] that a run of the program makes, and how it ended.
pub fn calls(workshop: &Workshop, arguments: &[&str]) -> (Vec<Call>, Outcome) {
    let file = workshop.at("calls");
    let list = CALLS.map(|call| format!("?{call}")).join(",");
    let options = ["-o", &file.to_string_lossy(), "-e", &format!("trace={list}")];
    let outcome = Outcome::of(traced(workshop, &options, arguments).output().expect("strace starts"));
    let text = fs::read_to_string(&file).expect("what strace wrote");
    (of_first_thread(&text), outcome)
}

fn traced(workshop: &Workshop, options: &[&str], arguments: &[&str]) -> Command {
    let program = workshop.command("cpu");
    let mut traced = Command::new("strace");
    // `--seccomp-bpf` would be faster, but sends no signals.
    traced.args(["-f", "-qq"]).args(options).arg("--");
    traced.arg(program.get_program()).args(program.get_args()).args(arguments);
    traced.current_dir(program.get_current_dir().expect("a folder"));
    traced.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    traced
}

/// The calls of the thread that made the first one; strace counts those of each thread for itself.
fn of_first_thread(trace: &str) -> Vec<Call> {
    let mut lines = trace.lines().filter_map(|line| line.split_once(' ')).peekable();
    let first = lines.peek().map_or("", |(thread, _)| *thread);
    let mut counts = BTreeMap::new();
    let call = |(_, text): (&str, &str)| {
        let (name, _) = text.trim_start().split_once('(')?;
        let name = CALLS.iter().find(|call| **call == name)?;
        let number: &mut usize = counts.entry(*name).or_default();
        *number += 1;
        Some(Call { name: (*name).to_owned(), number: *number })
    };
    lines.filter(|(thread, _)| *thread == first).filter_map(call).collect()
}

/// At most `most` of some calls, evenly spread over them.
pub fn spread(calls: &[Call], most: usize) -> Vec<Call> {
    let taken = calls.len().min(most);
    (0..taken).map(|number| calls[number * calls.len() / taken].clone()).collect()
}

#[test]
fn calls_are_counted_by_thread_and_name() {
    let trace = "12 rename(\"a\", \"b\") = 0\n12 fsync(3 <unfinished ...>\n13 fsync(4) = 0\n\
                 12 <... fsync resumed>) = 0\n12 fsync(3) = 0\n";
    let found: Vec<(String, usize)> =
        of_first_thread(trace).into_iter().map(|call| (call.name, call.number)).collect();
    let expected =
        [("rename", 1), ("fsync", 1), ("fsync", 2)].map(|(name, number)| (name.to_owned(), number));
    assert_eq!(found, expected);
}
