//! What people bring: small inputs with a right result that Hugging Face's libraries, timm, Pillow or plain reckoning
//! gave. The inputs lie in `tests/cases`, a folder a case; files that several cases share lie once in `common`, and
//! `common.tsv` says where each belongs.
//!
//! `../shared/cases`, or the folder that `NOLA_CASES` names, may hold more of them: folders with a `check.sh`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::program::{Outcome, Workshop};
use crate::shared::shared;

/// Largest difference of a loss from the value of a reference in float32.
const LOSS_TOLERANCE: f64 = 1e-4;

/// Largest difference of a probability from the value of a reference in float32.
const PROBABILITY_TOLERANCE: f64 = 2e-5;

/// Checks that say nothing of the program, and why.
const NOT_TRIED: [(&str, &str); 2] = [
    ("interop-golden-relative-tolerance", "it builds the tests once more; golden_nola tests the rule itself"),
    (
        "fault-adapter-settings-unprotected",
        "its adapter is of a format that nothing can check; cases_adapters does it with today's",
    ),
];

/// A copy of the inputs of a case, and the program inside it.
pub fn case(name: &str) -> Workshop {
    let workshop = Workshop::empty();
    let inputs = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    copy(&inputs.join(name), &workshop.at(""));
    let index = std::fs::read_to_string(inputs.join("common.tsv")).expect("the index of shared files");
    for (file, common) in index.lines().filter_map(|line| line.split_once('\t')) {
        if let Some(file) = file.strip_prefix(name).and_then(|file| file.strip_prefix('/')) {
            workshop.write(file, crate::program::bytes_of(&inputs.join(common)));
        }
    }
    workshop
}

/// Copies a folder with all that is in it; nothing if there is none.
pub fn copy(from: &Path, to: &Path) {
    let Ok(entries) = std::fs::read_dir(from) else { return };
    std::fs::create_dir_all(to).expect("a folder");
    for path in entries.map(|entry| entry.expect("a readable folder").path()) {
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("a copy");
        }
    }
}

/// The program in the case's folder, on the CPU; arguments are parted by spaces.
pub fn run(workshop: &Workshop, arguments: &str) -> Outcome {
    workshop.run_on("cpu", &arguments.split(' ').collect::<Vec<_>>())
}

/// The JSON of a command that must go well in the case's folder.
pub fn json(name: &str, arguments: &str) -> Value {
    run(&case(name), &format!("{arguments} --json")).json()
}

/// Asserts that a command is refused with this exit code, and that its message holds every one of `parts`.
pub fn assert_refused(name: &str, arguments: &str, code: i32, parts: &[&str]) {
    run(&case(name), arguments).assert_refused(code, parts);
}

/// Asserts a number of a JSON object.
pub fn assert_number(json: &Value, key: &str, expected: f64, tolerance: f64) {
    let found = json[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {json}"));
    assert!((found - expected).abs() <= tolerance, "{key}: {found}, expected {expected}");
}

/// Asserts the loss that a command prints, in nats per target.
pub fn assert_loss(name: &str, arguments: &str, loss: f64) {
    assert_number(&json(name, arguments), "loss", loss, LOSS_TOLERANCE);
}

/// Asserts loss and number of learned tokens of an `evaluate` of text.
pub fn assert_scored(name: &str, arguments: &str, loss: f64, tokens: u32) {
    let scored = json(name, &format!("evaluate {arguments}"));
    assert_number(&scored, "loss", loss, LOSS_TOLERANCE);
    assert_number(&scored, "tokens", f64::from(tokens), 0.0);
}

/// Asserts the probability of each class of one image.
pub fn assert_probabilities(name: &str, image: &str, expected: &[(&str, f64)]) {
    let found = json(name, &format!("predict --model base --top {} {image}", expected.len()));
    let classes = found["predictions"][0]["classes"].as_array().expect("a list of classes");
    for (class, probability) in expected {
        let found = classes.iter().find(|found| found["name"] == *class);
        let found = found.unwrap_or_else(|| panic!("no class {class} in {classes:?}"));
        assert_number(found, "probability", *probability, PROBABILITY_TOLERANCE);
    }
}

/// Folders with a `check.sh`, in name order.
fn checks() -> Vec<PathBuf> {
    let Some(folder) = shared("cases") else { return Vec::new() };
    let entries = std::fs::read_dir(folder).expect("a readable folder");
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let mut checks: Vec<PathBuf> = paths.filter(|path| path.join("check.sh").is_file()).collect();
    checks.sort();
    checks
}

/// What a check came to.
enum Verdict {
    Right,
    Wrong(String),
    NotTried(String),
}

/// A folder with the shipped assets and nothing else, so that what a check leaves behind meets no other and no user.
#[cfg(unix)]
fn folder_like_the_checkout() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a temporary folder");
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets");
    let assets = assets.canonicalize().expect("the shipped assets");
    std::os::unix::fs::symlink(assets, root.path().join("assets")).expect("a link");
    root
}

/// Runs the `check.sh` of a case from a folder like the workspace's root.
#[cfg(unix)]
fn verdict(case: &Path) -> Verdict {
    if let Some((_, reason)) = NOT_TRIED.iter().find(|(name, _)| case.ends_with(name)) {
        return Verdict::NotTried((*reason).to_owned());
    }
    let root = folder_like_the_checkout();
    let output = Command::new("bash")
        .arg(case.join("check.sh").canonicalize().expect("it is there"))
        .current_dir(root.path())
        .env("NOLA_TRAIN", env!("CARGO_BIN_EXE_nola-train-under-test"))
        .output()
        .expect("bash starts");
    let stdout = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match output.status.code() {
        Some(0) => Verdict::Right,
        Some(77) => Verdict::NotTried(stdout),
        Some(_) | None => Verdict::Wrong(stdout),
    }
}

#[cfg(unix)]
#[test]
fn every_check_of_the_shared_cases_says_right() {
    let checks = checks();
    let (mut right, mut wrong) = (0, Vec::new());
    for case in &checks {
        let name = case.file_name().expect("a name").to_string_lossy();
        // The limits of time in a check are those of a machine without other work.
        let verdict = match verdict(case) {
            Verdict::Wrong(stdout) => {
                println!("{name} once more: {stdout}");
                verdict(case)
            }
            verdict => verdict,
        };
        match verdict {
            Verdict::Right => right += 1,
            Verdict::NotTried(reason) => println!("skipped {name}: {reason}"),
            Verdict::Wrong(stdout) => wrong.push(format!("{name}: {stdout}")),
        }
    }
    println!("{right} of {} cases are right", checks.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_case_has_its_inputs() {
    let inputs = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let index = std::fs::read_to_string(inputs.join("common.tsv")).expect("the index of shared files");
    for line in index.lines() {
        let (file, common) = line.split_once('\t').expect("a file and its content");
        assert!(inputs.join(common).is_file(), "{file}: no {common}");
        assert!(!inputs.join(file).exists(), "{file} lies there and in common");
    }
}
