//! A disk that is full, fails or may not be written, and folders that vanish or are none: the last good state stays, and the
//! message names the file and the cure.

use std::fs;
use std::process::{Command, Output, Stdio};

use crate::program::{Outcome, Workshop, bytes_of};
use crate::program_kills::{arguments, in_parallel, into, recover, workshop_with_whole_run};
use crate::program_resume::{assert_same, assert_same_adapters};
use crate::running::Running;
use crate::strace::{self, Call, Fault};
use crate::text_workshop::text_workshop;

/// Errors of a disk, and how the program reports them.
const FULL: (&str, &str) = ("ENOSPC", "No space left on device");
const BROKEN: (&str, &str) = ("EIO", "Input/output error");
const READ_ONLY: (&str, &str) = ("EROFS", "Read-only file system");
/// Calls of each name that are tried.
const TRIED: usize = 3;
/// A run that goes on until somebody ends it.
const ENDLESS: [&str; 5] = [
    "train",
    "colours.toml",
    "--set=train.steps=1000000",
    "--set=train.evaluate_every=5",
    "--set=train.save_every=5",
];

/// A few calls of every name but `write`.
fn tried(calls: &[Call]) -> Vec<Call> {
    let of_name = |name: &str| {
        let calls: Vec<Call> = calls.iter().filter(|call| call.name == name).cloned().collect();
        strace::spread(&calls, TRIED)
    };
    strace::CALLS.iter().filter(|name| **name != "write").flat_map(|name| of_name(name)).collect()
}

fn stderr_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asserts that stderr reports a failure with a path, the cure, and what the system says.
fn assert_reported(stderr: &str, path: &str, problem: &str) {
    assert!(!stderr.contains("panicked"), "{stderr}");
    let is_reported = |line: &&str| {
        (line.starts_with("error: ") || line.contains("warning: "))
            && [path, "cannot be written", "free space", problem].iter().all(|part| line.contains(part))
    };
    assert!(stderr.lines().any(|line| is_reported(&line)), "no `{path}` … `{problem}` in: {stderr}");
}

#[test]
fn a_disk_that_fails_at_any_call_leaves_a_run_that_goes_on() {
    if !strace::is_here() {
        return;
    }
    let workshop = workshop_with_whole_run();
    let (calls, _) = strace::calls(&workshop, &arguments(&into("runs/counted")));
    let faults = |call: &Call| {
        let other = if call.name.ends_with("sync") { BROKEN } else { READ_ONLY };
        [
            (call.clone(), FULL.1, Fault::FromThen(FULL.0)),
            (call.clone(), other.1, Fault::FromThen(other.0)),
            (call.clone(), FULL.1, Fault::Once(FULL.0)),
        ]
    };
    let cases: Vec<_> = tried(&calls).iter().flat_map(faults).collect();
    in_parallel(&cases, |number, (call, problem, fault)| {
        let run = format!("runs/failed-{number}");
        let mut command = strace::faulty(&workshop, &arguments(&into(&run)), call, *fault);
        let output = command.output().expect("strace starts");
        let stderr = stderr_of(&output);
        println!("{call:?} {fault:?}: {:?}", output.status.code());
        match output.status.code() {
            // Only what is removed afterwards may fail without a word.
            Some(0) if !stderr.contains(problem) => {}
            Some(0 | 9) => assert_reported(&stderr, &run, problem),
            code => panic!("{call:?}: {code:?}: {stderr}"),
        }
        recover(&workshop, &run);
        assert_same_adapters(&workshop, &run, "runs/whole");
    });
}

#[test]
fn a_full_disk_in_the_middle_of_a_file_leaves_a_run_that_goes_on() {
    if !strace::is_here() {
        return;
    }
    let workshop = workshop_with_whole_run();
    let (calls, _) = strace::calls(&workshop, &arguments(&into("runs/counted")));
    let writes: Vec<Call> = calls.into_iter().filter(|call| call.name == "write").collect();
    in_parallel(&strace::spread(&writes, 24), |number, call| {
        // From then on nothing can be said, either.
        let fault = if number % 2 == 0 { Fault::Once(FULL.0) } else { Fault::FromThen(FULL.0) };
        let run = format!("runs/full-{number}");
        let output = strace::faulty(&workshop, &arguments(&into(&run)), call, fault).output();
        let output = output.expect("strace starts");
        let stderr = stderr_of(&output);
        assert!(matches!(output.status.code(), Some(0 | 1 | 9)), "{call:?}: {:?}: {stderr}", output.status);
        assert!(!stderr.contains("panicked"), "{stderr}");
        recover(&workshop, &run);
        assert_same_adapters(&workshop, &run, "runs/whole");
    });
}

/// Asserts that a command that writes `out` leaves nothing or all of it, whatever call fails, and can be tried again.
fn assert_all_or_nothing(workshop: &Workshop, arguments: &[&str], out: &str, is_same: impl Fn(&str) -> bool) {
    let into =
        |out: &str| [arguments, &["--out", out]].concat().iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let run = |out: &str| {
        let arguments = into(out);
        workshop.run_on("cpu", &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert_eq!(run(out).code, 0);
    let counted = into("counted");
    let (calls, _) = strace::calls(workshop, &counted.iter().map(String::as_str).collect::<Vec<_>>());
    for (number, call) in tried(&calls).iter().enumerate() {
        let again = format!("{out}-{number}");
        let arguments = into(&again);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = strace::faulty(workshop, &arguments, call, Fault::FromThen(FULL.0));
        let outcome = Outcome::of(command.output().expect("strace starts"));
        match outcome.code {
            0 => {}
            9 => {
                outcome.assert_refused(9, &[&again, FULL.1]);
                assert!(outcome.stderr.contains("room") || outcome.stderr.contains("free space"));
                assert!(run(&again).code == 0, "{call:?}");
            }
            code => panic!("{call:?}: {code}: {}", outcome.stderr),
        }
        assert!(is_same(&again), "{call:?}: {again} differs from {out}");
        assert_eq!(hidden(workshop), Vec::<String>::new(), "{call:?}");
    }
}

/// Names in the workshop that begin with a dot.
fn hidden(workshop: &Workshop) -> Vec<String> {
    let entries = fs::read_dir(workshop.at(".")).expect("the workshop");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with('.')).collect()
}

#[test]
fn a_merged_model_and_an_export_are_there_whole_or_not_at_all_on_a_full_disk() {
    if !strace::is_here() {
        return;
    }
    let workshop = workshop_with_whole_run();
    for (verb, file) in [("merge", "model.safetensors"), ("export", "adapter_model.safetensors")] {
        let of = |out: &str| bytes_of(&workshop.at(out).join(file));
        let is_same = |out: &str| of(out) == of(verb);
        assert_all_or_nothing(&workshop, &[verb, "--run", "runs/whole"], verb, is_same);
    }
}

#[test]
fn a_comparison_on_a_full_disk_goes_on_later() {
    if !strace::is_here() {
        return;
    }
    let workshop = Workshop::new();
    let short = ["--set=train.evaluate_every=2", "--set=train.save_every=2"];
    let adapter = |out: &str, json: &str| {
        let table: serde_json::Value =
            serde_json::from_slice(&bytes_of(&workshop.at(out).join(json))).expect("JSON");
        let run = table["rows"][0]["runs"][0].as_str().expect("a folder").to_owned();
        bytes_of(&workshop.at(&run).join("adapter/adapter_model.safetensors"))
    };
    let compare = [&["compare", "colours.toml", "--seeds=1", "--set=train.steps=4"], &short[..]].concat();
    assert_all_or_nothing(&workshop, &compare, "compared", |out| {
        adapter(out, "compare.json") == adapter("compared", "compare.json")
    });
    let sweep = ["sweep", "colours.toml", "--set=train.steps=3", "--set=method.k=4,8"];
    assert_all_or_nothing(&workshop, &sweep, "swept", |out| {
        workshop.at(out).join("best.toml").is_file()
            && adapter(out, "sweep.json") == adapter("swept", "sweep.json")
    });
}

#[test]
fn texts_and_pages_that_were_there_stay_on_a_full_disk() {
    if !strace::is_here() {
        return;
    }
    let workshop = text_workshop();
    workshop.write("texts.txt", "mine");
    workshop.write("man/nola-train.1", "mine");
    let data = ["--data", "val.txt", "--format", "e2e", "--metrics", "--max-new-tokens", "2"];
    let evaluate = [&["evaluate", "--model", "base"], &data[..], &["--save-texts", "texts.txt"]].concat();
    for (arguments, file) in [(&evaluate[..], "texts.txt"), (&["man", "--out", "man"], "man/nola-train.1")] {
        let call = Call { name: "fsync".to_owned(), number: 1 };
        let output = strace::faulty(&workshop, arguments, &call, Fault::FromThen(FULL.0)).output();
        let outcome = Outcome::of(output.expect("strace starts"));
        outcome.assert_refused(9, &["cannot be written", "free space", FULL.1]);
        assert_eq!(fs::read_to_string(workshop.at(file)).expect("a file"), "mine");
        assert_eq!(hidden(&workshop), Vec::<String>::new());
        assert_eq!(workshop.run(arguments).code, 0);
        assert_ne!(fs::read_to_string(workshop.at(file)).expect("a file"), "mine");
    }
}

#[test]
fn texts_go_into_a_pipe_as_they_are() {
    let workshop = text_workshop();
    let data = ["--data", "val.txt", "--format", "e2e", "--metrics", "--max-new-tokens", "2", "--quiet"];
    let to = |place: &str| {
        let run = [&["evaluate", "--model", "base"], &data[..], &["--save-texts", place]].concat();
        workshop.run(&run)
    };
    assert_eq!(to("texts.txt").code, 0);
    let texts = fs::read_to_string(workshop.at("texts.txt")).expect("texts");
    let piped = to("/dev/stdout");
    assert!(piped.code == 0 && piped.stdout.starts_with(&texts), "{}", piped.stdout);
    assert!(fs::symlink_metadata("/dev/stdout").expect("a link").is_symlink(), "it is still what it was");
}

#[test]
fn a_place_where_nothing_can_be_written_is_named_before_anything_is_trained() {
    let workshop = Workshop::new();
    workshop.trained();
    workshop.write("file", "mine");
    for place in ["/proc/nola", "file", "file/run", "file/runs/run"] {
        let run = workshop.run(&["train", "colours.toml", &into(place)]);
        run.assert_refused(9, &[place, "cannot be written", "output.dir"]);
        assert!(!run.stderr.contains("step "), "{}", run.stderr);
        for verb in ["merge", "export"] {
            let outcome = workshop.run(&[verb, "--run", "runs/colours", "--out", place]);
            let beginning = place.trim_start_matches('/').split('/').next().unwrap_or(place);
            outcome.assert_refused(9, &[beginning, "choose another folder"]);
        }
        for verb in [&["compare", "colours.toml"][..], &["sweep", "colours.toml", "--set=method.k=4,8"]] {
            let outcome = workshop.run(&[verb, &["--out", place]].concat());
            outcome.assert_refused(9, &[place, "cannot be written"]);
        }
    }
    assert_eq!(fs::read_to_string(workshop.at("file")).expect("a file"), "mine");
}

#[test]
fn a_folder_that_vanishes_under_a_run_costs_nothing_of_what_it_learns() {
    let workshop = Workshop::new();
    let mut running = Running::start(&workshop, &ENDLESS);
    running.wait_for("validation loss", 3);
    fs::rename(workshop.at("runs/colours"), workshop.at("runs/moved")).expect("a folder");
    running.wait_for("runs/colours was removed while the run went on", 1);
    running.wait_for("validation loss", 3);
    running.signal("-TERM");
    let (code, stderr) = running.ended();
    assert_eq!(code, Some(143), "{stderr}");
    for file in
        ["recipe.toml", "result.json", "report.html", "metrics.jsonl", "adapter/adapter_model.safetensors"]
    {
        assert!(workshop.at("runs/colours").join(file).is_file(), "{file}");
    }
    // Both can be put to use, and both go on: what was moved away from its last checkpoint.
    for run in ["runs/colours", "runs/moved"] {
        assert_eq!(workshop.run(&["evaluate", "--run", run]).code, 0, "{run}");
        let mut resumed = Running::start(&workshop, &["train", "--resume", run]);
        resumed.wait_for("goes on after step", 1);
        resumed.signal("-KILL");
        resumed.ended();
    }
}

#[test]
fn a_folder_that_another_run_took_meanwhile_is_left_to_it() {
    let workshop = Workshop::new();
    let mut first = Running::start(&workshop, &ENDLESS);
    first.wait_for("validation loss", 3);
    // It must not make its folder again before the other one has it.
    first.signal("-STOP");
    fs::remove_dir_all(workshop.at("runs/colours")).expect("a folder");
    let mut second = Running::start(&workshop, &[&ENDLESS[..], &["--set=method.k=6"]].concat());
    second.wait_for("validation loss", 3);
    first.signal("-CONT");
    first.signal("-TERM");
    let (code, stderr) = first.ended();
    assert_eq!(code, Some(9), "{stderr}");
    assert!(stderr.contains("is in use by another run"), "{stderr}");
    second.signal("-TERM");
    assert_eq!(second.ended().0, Some(143));
    let recipe = fs::read_to_string(workshop.at("runs/colours/recipe.toml")).expect("the recipe");
    assert!(recipe.contains("k = 6\n"), "{recipe}");
    assert_eq!(workshop.run(&["evaluate", "--run", "runs/colours"]).code, 0);
}

#[test]
fn a_file_in_the_place_of_checkpoints_is_named_and_the_run_comes_to_its_end() {
    let workshop = Workshop::new();
    let sets = ["--set=train.evaluate_every=0", "--set=train.save_every=500", "--set=train.steps=1500"];
    let mut running = Running::start(&workshop, &[&["train", "colours.toml"], &sets[..]].concat());
    running.wait_for("memory: ", 1);
    workshop.write("runs/colours/checkpoints", "mine");
    let (code, stderr) = running.ended();
    assert_reported(&stderr, "runs/colours/checkpoints", "");
    assert!(stderr.contains("training goes on, and it is tried again at the next checkpoint"), "{stderr}");
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(workshop.run(&["evaluate", "--run", "runs/colours"]).code, 0);
}

/// The program started by a shell that redirects its output so.
fn redirected(workshop: &Workshop, redirection: &str, arguments: &[&str]) -> Output {
    let program = workshop.command("cpu");
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec \"$0\" \"$@\" {redirection}")]).arg(program.get_program());
    shell.args(program.get_args()).args(arguments).current_dir(program.get_current_dir().expect("a folder"));
    shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.stdin(Stdio::null()).output().expect("a shell")
}

#[test]
fn closed_outputs_change_nothing_that_is_written() {
    let (workshop, images) = (workshop_with_whole_run(), Workshop::new());
    images.trained();
    let redirections = [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"];
    for (number, redirection) in redirections.into_iter().enumerate() {
        let run = format!("runs/closed-{number}");
        let output = redirected(&workshop, redirection, &arguments(&into(&run)));
        assert_eq!(output.status.code(), Some(0), "{redirection}: {}", stderr_of(&output));
        assert_same(&workshop, &run, "runs/whole");
        for arguments in [
            &["evaluate", "--run", "runs/colours"][..],
            &["predict", "--run", "runs/colours", "val/red/0.png"],
            &["inspect", "runs/colours", "--json"],
            &["completions", "bash"],
            &["recipes"],
        ] {
            let output = redirected(&images, redirection, arguments);
            assert_eq!(output.status.code(), Some(0), "{arguments:?} {redirection}: {}", stderr_of(&output));
        }
    }
}

#[test]
fn a_reader_of_predictions_that_has_gone_away_is_no_error() {
    let workshop = Workshop::new();
    workshop.trained();
    for arguments in [
        &["predict", "--run", "runs/colours", "val"][..],
        &["predict", "--run", "runs/colours", "val", "--json"],
    ] {
        let mut command = workshop.command("cpu");
        let child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("the program starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("a child");
        assert_eq!(output.status.code(), Some(0), "{}", stderr_of(&output));
    }
}
