//! What a run leaves that is killed, interrupted, or loses a file, a disk or a reader.
#![cfg(unix)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::{Outcome, Workshop, bytes_of};
use crate::running::Running;

/// A run without an end, unless it is given one.
const ENDLESS: [&str; 3] = ["train", "colours.toml", "--set=train.steps=1000000"];

fn manifest(workshop: &Workshop, run: &str) -> Value {
    let file = workshop.at(run).join("adapter/adapter_config.json");
    serde_json::from_slice(&bytes_of(&file)).expect("JSON")
}

#[test]
fn fault_27_a_kill_leaves_the_best_evaluation_of_every_method() {
    let workshop = Workshop::new();
    for (method, kept) in [("nola", "adapter"), ("lora", "adapter"), ("linear", "adapter"), ("full", "model")]
    {
        let (set, run) = (format!("method.kind={method}"), format!("runs/{method}"));
        let dir = format!("output.dir={run}");
        let sets = ["--set", &set, "--set", &dir, "--set", "train.evaluate_every=1"];
        let mut running = Running::start(&workshop, &[&ENDLESS[..], &sets].concat());
        running.wait_for("validation loss", 3);
        running.signal("-KILL");
        assert_eq!(running.ended().0, None);
        workshop.run(&["evaluate", "--run", &run, "--json"]).json();
        let again = workshop.run(&["train", "colours.toml", "--set", &dir]);
        again.assert_refused(9, &[&run, "was cut off", &format!("{run}/{kept}"), "output.dir"]);
    }
}

#[test]
fn a_kill_before_anything_was_kept_leaves_a_free_folder() {
    let workshop = Workshop::new();
    let mut running = Running::start(&workshop, &[&ENDLESS[..], &["--set=train.evaluate_every=0"]].concat());
    running.wait_for("memory: ", 1);
    running.signal("-KILL");
    running.ended();
    assert!(workshop.at("runs/colours/recipe.toml").is_file());
    workshop.run(&["evaluate", "--run", "runs/colours"]).assert_refused(6, &["runs/colours", "cut off"]);
    workshop.trained();
    assert!(!workshop.at("runs/colours/.lock").exists());
}

#[test]
fn fault_27_a_signal_ends_a_run_after_its_step_and_keeps_what_was_learned() {
    for (signal, name, exit) in [("-INT", "Ctrl-C", 130), ("-TERM", "SIGTERM", 143), ("-HUP", "SIGHUP", 129)]
    {
        let workshop = Workshop::new();
        let mut running =
            Running::start(&workshop, &[&ENDLESS[..], &["--set=train.evaluate_every=0"]].concat());
        running.wait_for("memory: ", 1);
        running.signal(signal);
        let (code, stderr) = running.ended();
        assert_eq!(code, Some(exit), "{stderr}");
        for part in
            ["interrupted by {}: the run ends", "interrupted by {} after step ", "error: interrupted by {}"]
        {
            assert!(stderr.contains(&part.replace("{}", name)), "{part:?}: {stderr}");
        }
        let result: Value =
            serde_json::from_slice(&bytes_of(&workshop.at("runs/colours/result.json"))).expect("JSON");
        assert_eq!((&result["interrupted"], &result["interrupted_by"]), (&true.into(), &name.into()));
        let report = String::from_utf8(bytes_of(&workshop.at("runs/colours/report.html"))).expect("text");
        assert!(
            report.contains(&format!("interrupted by {name} after step")),
            "the report says why it ended"
        );
        assert_eq!(workshop.run(&["evaluate", "--run", "runs/colours"]).code, 0);
    }
}

#[test]
fn fault_27_a_signal_behind_the_last_step_lets_the_files_be_finished() {
    let workshop = Workshop::new();
    let sets = ["train", "colours.toml", "--set=train.evaluate_every=0", "--set=output.coefficient_bits=8"];
    for (signal, exit) in [("-INT", 130), ("-TERM", 143)] {
        let dir = format!("--set=output.dir=runs/a{signal}");
        let mut running = Running::start(&workshop, &[&sets[..], &[&dir]].concat());
        running.wait_for("step 40/40  validation", 1);
        running.signal(signal);
        let (code, stderr) = running.ended();
        assert!([Some(0), Some(exit)].contains(&code), "{code:?}: {stderr}");
        let run = format!("runs/a{signal}");
        assert!(workshop.at(&run).join("report.html").is_file());
        assert_eq!(workshop.run(&["evaluate", "--run", &run]).code, 0);
    }
}

#[test]
fn fault_27_a_signal_that_was_ignored_at_the_start_stays_ignored() {
    for (trap, signal) in [("HUP", "-HUP"), ("INT", "-INT"), ("TERM", "-TERM")] {
        let workshop = Workshop::new();
        let program = workshop.command("cpu");
        let mut ignoring = Command::new("sh");
        ignoring.args(["-c", &format!("trap '' {trap}; exec \"$0\" \"$@\"")]).arg(program.get_program());
        ignoring.args(program.get_args()).args(["train", "colours.toml"]);
        ignoring.current_dir(program.get_current_dir().expect("a folder"));
        let mut running = Running::of(&mut ignoring);
        running.wait_for("memory: ", 1);
        running.signal(signal);
        let (code, stderr) = running.ended();
        assert_eq!(code, Some(0), "{signal}: {stderr}");
    }
}

#[test]
fn fault_29_a_second_run_in_a_folder_is_refused_at_once() {
    let workshop = Workshop::new();
    let mut first = Running::start(&workshop, &[&ENDLESS[..], &["--set=method.k=4"]].concat());
    first.wait_for("memory: ", 1);
    let started = Instant::now();
    let second = workshop.run(&["train", "colours.toml", "--set", "method.k=6"]);
    second.assert_refused(9, &["runs/colours", "is in use by another run", "process", "output.dir"]);
    assert!(started.elapsed() < Duration::from_secs(60) && !second.stderr.contains("step "));
    first.signal("-INT");
    assert_eq!(first.ended().0, Some(130));
    assert_eq!(manifest(&workshop, "runs/colours")["nola"]["k"], 4);
    let recipe = fs::read_to_string(workshop.at("runs/colours/recipe.toml")).expect("the recipe");
    assert!(recipe.contains("k = 4\n"), "{recipe}");
}

#[test]
fn coefficients_beyond_their_bits_are_kept_in_more() {
    let workshop = Workshop::new();
    let sets = ["--set=train.steps=3", "--set=train.learning_rate=1e6", "--set=output.coefficient_bits=16"];
    let run = workshop.run(&[&["train", "colours.toml"], &sets[..]].concat());
    run.assert_refused(6, &["16 bits", "output.coefficient_bits = 32"]);
    assert_eq!(manifest(&workshop, "runs/colours")["coefficient_bits"], 32);
    assert_eq!(workshop.run(&["evaluate", "--run", "runs/colours"]).code, 0);
    assert!(workshop.at("runs/colours/report.html").is_file());
}

#[test]
fn a_validation_image_that_vanishes_costs_no_training() {
    for (every, kept) in [("20", "adapter"), ("0", "adapter-last")] {
        for bits in ["32", "16", "8", "4"] {
            let workshop = Workshop::new();
            let sets = [
                "train.steps=2000".into(),
                format!("train.evaluate_every={every}"),
                "data.cache_mib=0".into(),
            ];
            let bits = format!("output.coefficient_bits={bits}");
            let sets = sets.iter().chain([&bits]).flat_map(|set| ["--set", set]);
            let arguments: Vec<&str> = ["train", "colours.toml"].into_iter().chain(sets).collect();
            let mut running = Running::start(&workshop, &arguments);
            running.wait_for(if every == "0" { "memory: " } else { "validation loss" }, 1);
            fs::remove_file(workshop.at("val/red/0.png")).expect("an image");
            let (code, stderr) = running.ended();
            assert_eq!(code, Some(4), "{stderr}");
            let folder = format!("runs/colours/{kept}");
            assert!(stderr.contains(&format!("kept in {folder}")), "{stderr}");
            assert_eq!(workshop.run(&["inspect", &folder]).code, 0);
        }
    }
}

#[test]
fn fault_23_a_loss_that_is_far_too_high_is_told() {
    let workshop = Workshop::new();
    let sets = ["--set=train.steps=3", "--set=train.learning_rate=1e3", "--json"];
    let run = workshop.run(&[&["train", "colours.toml"], &sets[..]].concat());
    assert!(run.stderr.contains("warning: the validation loss after step 3 is "), "{}", run.stderr);
    let warning = run.json()["warnings"][0].as_str().expect("a warning").to_owned();
    assert!(warning.contains("train.learning_rate"), "{warning}");
    let page = String::from_utf8(bytes_of(&workshop.at("runs/colours/report.html"))).expect("text");
    assert!(page.contains("train.learning_rate or set"), "the report says so too");
}

#[test]
fn fault_28_a_full_disk_behind_stdout_is_an_error_and_behind_stderr_is_none() {
    let Ok(full) = File::options().write(true).open("/dev/full") else {
        return println!("skipped: no /dev/full");
    };
    let full = || Stdio::from(full.try_clone().expect("a handle"));
    let workshop = Workshop::new();
    workshop.trained();
    for arguments in [
        &["evaluate", "--run", "runs/colours", "--json"][..],
        &["predict", "--run", "runs/colours", "val/red/0.png"],
        &["inspect", "runs/colours"],
        &["train", "colours.toml", "--set=train.steps=2", "--set=output.dir=runs/again"],
        &["recipes"],
        &["completions", "zsh"],
        &["--help"],
        &["--version"],
    ] {
        let output = workshop.command("cpu").args(arguments).stdout(full()).output().expect("it starts");
        Outcome::of(output).assert_refused(1, &["stdout cannot be written"]);
    }
    let train = ["train", "colours.toml", "--set=train.steps=2", "--set=output.dir=runs/silent"];
    let output = workshop.command("cpu").args(train).stderr(full()).output().expect("it starts");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_reader_that_has_gone_away_is_no_error() {
    let workshop = Workshop::new();
    workshop.trained();
    for arguments in [
        &["train", "colours.toml", "--set=train.steps=2", "--set=output.dir=runs/again"][..],
        &["evaluate", "--run", "runs/colours"],
        &["inspect", "runs/colours", "--json"],
        &["completions", "bash"],
        &["recipes"],
        &["--help"],
    ] {
        let mut command = workshop.command("cpu");
        let mut child =
            command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        drop((child.stdout.take(), child.stderr.take()));
        assert_eq!(child.wait().expect("a child").code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn a_base_that_is_cut_short_ends_a_run_with_its_best_evaluation_kept() {
    let workshop = Workshop::new();
    for (dir, length) in [("runs/nothing", 0), ("runs/half", 5000)] {
        workshop.write("whole", bytes_of(&workshop.at("base/model.safetensors")));
        let dir_set = format!("--set=output.dir={dir}");
        let sets = ["--set=train.evaluate_every=1", &dir_set];
        let mut running = Running::start(&workshop, &[&ENDLESS[..], &sets].concat());
        running.wait_for("validation loss", 2);
        let base = File::options().write(true).open(workshop.at("base/model.safetensors")).expect("the base");
        base.set_len(length).expect("a file that can be cut");
        let (code, stderr) = running.ended();
        assert_eq!(code, Some(5), "{stderr}");
        assert_eq!(workshop.run(&["inspect", &format!("{dir}/adapter")]).code, 0);
        fs::rename(workshop.at("whole"), workshop.at("base/model.safetensors")).expect("a file");
        assert_eq!(workshop.run(&["evaluate", "--run", dir]).code, 0);
    }
}

#[test]
fn a_comparison_that_is_interrupted_shows_what_was_finished() {
    let workshop = Workshop::new();
    let recipe = fs::read_to_string(workshop.at("colours.toml")).expect("the recipe");
    workshop.write("endless.toml", recipe.replace("steps = 40", "steps = 1000000").replace("= 20", "= 0"));
    let mut command = workshop.command("cpu");
    command.args(["compare", "colours.toml", "endless.toml", "--seeds", "1"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let memory = lines.map_while(Result::ok).filter(|line| line.contains("memory: ")).take(2);
    assert_eq!(memory.count(), 2, "the second run has begun");
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.expect("kill runs").success());
    let outcome = Outcome::of(child.wait_with_output().expect("a child"));
    assert_eq!(outcome.code, 130);
    assert!(
        outcome.stdout.contains("| colours") && !outcome.stdout.contains("endless"),
        "{}",
        outcome.stdout
    );
}
