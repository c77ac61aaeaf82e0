//! `nola-train doctor` as a user runs it.

use serde_json::Value;

use crate::program::{Workshop, keys};

/// Lines that are the machine's own.
const OF_THE_MACHINE: [&str; 6] = [
    "processor: ",
    "features: ",
    "kernels: ",
    "cpu: ",
    "memory: ",
    "growth of memory in twenty training steps: ",
];

/// The text without what differs from machine to machine: numbers, names, and what fits.
fn masked(text: &str) -> String {
    text.lines().map(masked_line).collect::<Vec<_>>().join("\n")
}

fn masked_line(line: &str) -> String {
    if let Some(label) = OF_THE_MACHINE.into_iter().find(|label| line.starts_with(label)) {
        return format!("{label}…");
    }
    let line = line.replace(" too large", " fits").replace(" fits", " …");
    let words = line.split_whitespace().map(|word| {
        let is_rule = word.len() > 2 && word.chars().all(|letter| "-:|".contains(letter));
        let is_number = word.starts_with(|letter: char| letter.is_ascii_digit());
        match (is_rule, is_number) {
            (true, _) => "---",
            (false, true) => "#",
            (false, false) => word,
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_text_says_what_was_found_and_that_the_cpu_is_ok() {
    let outcome = Workshop::empty().run_on("cpu", &["doctor"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    insta::assert_snapshot!("doctor", masked(&outcome.stdout));
    for part in ["doctor: cpu: basis", "doctor: cpu: llama", "doctor: cpu: memory over"] {
        assert!(outcome.stderr.contains(part), "no {part} in {}", outcome.stderr);
    }
}

#[test]
fn json_has_every_check_with_how_far_off_it_is() {
    let diagnosis = Workshop::empty().run_on("cpu", &["doctor", "--json", "--quiet"]).json();
    insta::assert_snapshot!("doctor_json", keys(&diagnosis));
    let device = &diagnosis["devices"][0];
    assert_eq!((&device["device"], &device["verdict"]), (&Value::from("cpu"), &Value::from("ok")));
    let checks = device["checks"].as_array().expect("a list");
    for group in ["basis", "products", "vit", "gpt2", "llama", "half precision", "few bits"] {
        assert!(checks.iter().any(|check| check["group"] == group), "no {group}");
    }
    for check in checks {
        let [largest, allowed] =
            ["largest_difference", "allowed"].map(|key| check[key].as_f64().expect("a number"));
        assert!(check["wrong"] == 0 && largest <= allowed, "{check}");
    }
}

#[test]
fn a_device_that_is_not_there_is_named_with_the_cure() {
    let workshop = Workshop::empty();
    for device in ["wgpu:99", "force:wgpu:99"] {
        workshop.run_on(device, &["doctor"]).assert_refused(7, &["device `wgpu:99`: ", "use --device cpu"]);
    }
}

#[test]
fn the_device_under_test_computes_rightly() {
    let outcome = Workshop::empty().run(&["doctor"]);
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
}
