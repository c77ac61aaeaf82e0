//! Faults of runs: training that goes wrong, and folders that cannot be written.

use std::fs;

use super::{TRAIN, forget_hash, refused, set_tensor};
use crate::program::Workshop;
use crate::text_workshop::{sets, text_workshop, train};

#[test]
fn fault_23_a_learning_rate_that_diverges_ends_the_run() {
    let workshop = Workshop::new();
    let sets =
        ["--set", "train.learning_rate=1e30", "--set", "train.optimizer=sgd", "--set", "method.kind=full"];
    let run = workshop.run(&[&TRAIN[..], &sets].concat());
    run.assert_refused(8, &["training diverged", "at step", "train.learning_rate"]);
}

#[test]
fn fault_29_an_output_folder_that_holds_something_stays_as_it_is() {
    let workshop = Workshop::new();
    fs::create_dir_all(workshop.at("runs/colours")).expect("a folder");
    fs::write(workshop.at("runs/colours/mine.txt"), "mine").expect("a file");
    refused(&workshop, &TRAIN, 9, &["runs/colours", "not empty"]);
}

#[test]
fn fault_28_an_output_folder_that_cannot_be_made_is_found_before_training() {
    let workshop = Workshop::new();
    fs::write(workshop.at("runs"), "a file").expect("a file");
    refused(&workshop, &TRAIN, 9, &["runs/colours"]);
}

#[cfg(unix)]
#[test]
fn fault_28_an_output_folder_that_is_read_only_is_found_before_training() {
    use std::os::unix::fs::PermissionsExt;
    let workshop = Workshop::new();
    fs::create_dir_all(workshop.at("runs/colours")).expect("a folder");
    fs::set_permissions(workshop.at("runs/colours"), fs::Permissions::from_mode(0o555)).expect("permissions");
    if fs::write(workshop.at("runs/colours/probe"), "").is_ok() {
        println!("skipped: this user may write everywhere");
        return;
    }
    refused(&workshop, &TRAIN, 9, &["runs/colours"]);
}

/// A base whose last norm is zero hands no gradient to anything before it.
#[test]
fn fault_24_gradients_that_are_all_zero_end_the_run_at_its_first_steps() {
    let workshop = text_workshop();
    set_tensor(&workshop.at("base/model.safetensors"), "transformer.ln_f.weight", |bytes| bytes.fill(0));
    forget_hash(&workshop);
    let outcome = train(&workshop, &sets(&["train.steps=1000", "train.evaluate_every=0"]));
    outcome.assert_refused(8, &["every gradient of the first 10 steps is zero", "method.targets"]);
    assert!(!workshop.at("runs/food/adapter").exists(), "nothing was learned that could be kept");
}

/// The longest batch comes first, so that a run for which memory is short ends before its first step.
#[test]
fn fault_25_the_largest_pass_is_tried_before_the_first_step() {
    let workshop = text_workshop();
    let rows = "name : A | food : B||A serves B .\n".repeat(11);
    let long = format!("name : A | food : B||{}\n", "A serves B . ".repeat(15));
    workshop.write("rows/uneven.txt", rows + &long);
    let changes = sets(&["data.train=rows/uneven.txt", "train.batch=2", "train.steps=12"]);
    let stderr = train(&workshop, &changes).stderr;
    let at = |part: &str| stderr.find(part).unwrap_or_else(|| panic!("no `{part}` in: {stderr}"));
    assert!(at("memory: the largest pass (2 x ") < at("step 8/12"), "{stderr}");
}

#[cfg(target_os = "linux")]
#[test]
fn fault_25_memory_that_ends_is_told_with_the_cure() {
    let workshop = text_workshop();
    let (kib, batch) = (3 << 20, "train.batch=100000");
    let program = workshop.command("cpu");
    let mut limited = std::process::Command::new("sh");
    limited
        .args(["-c", &format!("ulimit -v {kib} || exit 77; exec \"$0\" \"$@\"")])
        .arg(program.get_program());
    limited
        .args(program.get_args())
        .args(["train", "food.toml"])
        .args(sets(&[batch, "train.evaluate_every=0"]));
    limited.current_dir(workshop.at(""));
    let outcome = crate::program::Outcome::of(limited.output().expect("a shell"));
    if outcome.code == 77 {
        return println!("skipped: no limit of memory can be set");
    }
    outcome.assert_refused(7, &["out of memory", "train.micro_batch", "train.gradient_checkpointing"]);
    assert!(!workshop.at("runs/food/adapter").exists());
}

#[test]
fn fault_23_a_base_that_overflows_is_told_from_training_that_diverges() {
    let workshop = Workshop::new();
    set_tensor(&workshop.at("base/model.safetensors"), "vit.layernorm.weight", |bytes| {
        bytes.as_chunks_mut().0.fill(3e38_f32.to_le_bytes());
    });
    forget_hash(&workshop);
    workshop.run(&TRAIN).assert_refused(5, &["the model gives ", "its weights or its adapter are damaged"]);
}

#[cfg(unix)]
#[test]
fn fault_27_a_second_interrupt_ends_the_program_at_once() {
    use crate::running::Running;
    let workshop = text_workshop();
    // One step of minutes, so that the first interrupt waits for its end.
    let changes = sets(&["train.batch=30000", "train.micro_batch=1", "train.evaluate_every=0"]);
    let mut running = Running::start(&workshop, &[&["train", "food.toml"], &changes[..]].concat());
    running.wait_for("validation loss", 1);
    running.signal("-INT");
    running.wait_for("once more to end at once", 1);
    running.signal("-TERM");
    let (code, stderr) = running.ended();
    assert_eq!(code, Some(143), "{stderr}");
    assert!(stderr.contains("error: interrupted by SIGTERM") && !stderr.contains("panicked"), "{stderr}");
    assert!(!workshop.at("runs/food/adapter").exists());
}
