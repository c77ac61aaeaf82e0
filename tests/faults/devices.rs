//! Faults of devices: absent ones, and ones that compute wrongly.

use super::{TRAIN, files, refused};
use crate::program::Workshop;

#[test]
fn fault_26_a_device_that_is_not_there_is_named_with_the_cure() {
    let workshop = Workshop::new();
    let before = files(&workshop.at(""));
    let typo = workshop.run_on("gpu", &TRAIN);
    assert_eq!(typo.code, 2, "{}", typo.stderr);
    assert!(typo.stderr.contains("use auto, cpu, wgpu"), "{}", typo.stderr);
    workshop.run_on("wgpu:99", &TRAIN).assert_refused(7, &["wgpu:99", "such devices found"]);
    workshop.run_on("cuda:99", &TRAIN).assert_refused(7, &["cuda:99"]);
    assert!(files(&workshop.at("")) == before, "nothing is left where nothing was computed");
}

/// The loader of Vulkan looks only where it is told to, and finds no driver there.
#[cfg(target_os = "linux")]
#[test]
fn fault_26_a_driver_that_cannot_be_loaded_leaves_the_cpu() {
    let workshop = Workshop::new();
    workshop.write(
        "broken.json",
        r#"{"file_format_version": "1.0.0", "ICD": {"library_path": "/nowhere.so", "api_version": "1.3.0"}}"#,
    );
    let with_broken_driver = |device: &str, arguments: &[&str]| {
        let mut command = workshop.command(device);
        let icd = workshop.at("broken.json");
        command
            .env("VK_DRIVER_FILES", &icd)
            .env("VK_ICD_FILENAMES", &icd)
            .env("__EGL_VENDOR_LIBRARY_FILENAMES", &icd);
        crate::program::Outcome::of(command.args(arguments).output().expect("the program starts"))
    };
    let trained = with_broken_driver("auto", &[&TRAIN[..], &["--json"]].concat());
    assert_eq!(trained.json()["device"], "cpu", "{}", trained.stderr);
    assert!(trained.stderr.contains("device: cpu (no usable GPU found)"), "{}", trained.stderr);
    let examined = with_broken_driver("auto", &["doctor"]);
    assert!(examined.code == 0 && examined.stdout.contains("wgpu: none found"), "{}", examined.stdout);
    let again = ["train", "colours.toml", "--set=output.dir=runs/again"];
    let asked_for = with_broken_driver("wgpu", &again);
    asked_for.assert_refused(7, &["device `wgpu:0`: 0 such devices found", "use --device cpu"]);
    assert!(!workshop.at("runs/again").exists(), "what is refused leaves nothing");
}

#[test]
fn fault_26_a_number_type_that_the_device_does_not_compute_in_is_refused_before_training() {
    let workshop = Workshop::new();
    refused(&workshop, &["train", "colours.toml", "--set=model.dtype=f8"], 3, &["`model.dtype`", "f8"]);
}
