//! The built program, as a user runs it, on a tiny model and images of three colours.

#![allow(unsafe_code, reason = "signals of a child process")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use burn::tensor::Device;
use image::{Rgb, RgbImage};
use nola_models::{Preprocessor, WeightDtype};
use serde_json::Value;
use tempfile::TempDir;

#[cfg(unix)]
use crate::running::Running;

/// How the program ended.
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().expect("no signal ended it"),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// The one JSON object on stdout of a run that must have gone well.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.stderr);
        assert_eq!(self.stdout.lines().count(), 1, "{}", self.stdout);
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    /// Asserts the exit code, and that the message holds every one of `parts`.
    pub fn assert_refused(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        let message = self.stderr.lines().skip_while(|line| !line.starts_with("error: "));
        let message = message.collect::<Vec<_>>().join("\n");
        for part in parts {
            assert!(message.contains(part), "no `{part}` in: {}", self.stderr);
        }
    }
}

/// A folder with a tiny base model, labelled images and a recipe, and the program run inside it.
pub struct Workshop {
    folder: TempDir,
}

impl Workshop {
    /// A folder with nothing in it.
    pub fn empty() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn new() -> Self {
        let workshop = Self::empty();
        let base = crate::tiny::vit(&Device::flex());
        base.save(&workshop.at("base"), &Preprocessor::standard(8), WeightDtype::F32).expect("a free folder");
        for (class, colour) in [("blue", [0, 0, 255]), ("green", [0, 255, 0]), ("red", [255, 0, 0])] {
            for number in 0..6 {
                workshop.image(&format!("train/{class}/{number}.png"), colour, number);
                workshop.image(&format!("val/{class}/{number}.png"), colour, 100 + number);
            }
        }
        let recipe = "[model]\npath = \"base\"\n[data]\ntrain = \"train\"\nvalidation = \"val\"\n\
                      [method]\nkind = \"nola\"\nrank = 2\nk = 8\n\
                      [train]\nsteps = 40\nbatch = 6\nmicro_batch = 3\nlearning_rate = 2e-2\nevaluate_every = 20\n";
        std::fs::write(workshop.at("colours.toml"), recipe).expect("a recipe");
        workshop
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// A noisy image of one colour.
    fn image(&self, path: &str, colour: [u8; 3], seed: u32) {
        let path = self.at(path);
        std::fs::create_dir_all(path.parent().expect("a class folder")).expect("a class folder");
        let noise = |x: u32, y: u32| ((x * 37 + y * 101 + seed * 53) % 60) as u8;
        let pixel = |x, y| Rgb(colour.map(|value: u8| value.abs_diff(noise(x, y))));
        RgbImage::from_fn(8, 8, pixel).save(path).expect("an image");
    }

    /// Writes a file, and the folders around it.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.at(path);
        std::fs::create_dir_all(path.parent().expect("a folder around it")).expect("folders");
        std::fs::write(path, content).expect("a file that can be written");
    }

    /// Runs the program in the folder, on the device that `NOLA_TEST_DEVICE` names.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_on(&device(), arguments)
    }

    pub fn run_on(&self, device: &str, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(device).args(arguments).output().expect("the program starts"))
    }

    /// The program in the folder, ready to get its arguments.
    pub fn command(&self, device: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nola-train-under-test"));
        command.current_dir(self.folder.path()).args(["--device", device]);
        command.env("NOLA_CACHE", env!("CARGO_TARGET_TMPDIR"));
        #[cfg(unix)]
        heed_signals(&mut command);
        command
    }

    /// A run with the recipe, in `runs/colours`.
    pub fn trained(&self) -> Value {
        self.run(&["train", "colours.toml", "--json"]).json()
    }
}

/// Lets the signals that tests send reach the program, where the tests themselves run in the background or under `nohup`
/// and hand on that they are ignored.
#[cfg(unix)]
fn heed_signals(command: &mut Command) {
    use nix::sys::signal::{SigHandler, Signal, signal};
    use std::os::unix::process::CommandExt;
    let heed = || {
        for heeded in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
            // SAFETY: the default action runs no code of this process.
            unsafe { signal(heeded, SigHandler::SigDfl) }?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec it calls nothing but sigaction, which may be called there.
    unsafe { command.pre_exec(heed) };
}

/// The device that `NOLA_TEST_DEVICE` names.
pub fn device() -> String {
    std::env::var("NOLA_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned())
}

/// Every key of a JSON value, with dots for tables and `[]` for lists.
pub fn keys(value: &Value) -> String {
    fn walk(path: &str, value: &Value, found: &mut std::collections::BTreeSet<String>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                let inside =
                    |key: &String| if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                fields.iter().for_each(|(key, value)| walk(&inside(key), value, found));
            }
            Value::Array(values) if !values.is_empty() => {
                values.iter().for_each(|value| walk(&format!("{path}[]"), value, found));
            }
            Value::Array(_) | Value::Object(_) => drop(found.insert(path.to_owned())),
            Value::Null | Value::Bool(_) => drop(found.insert(format!("{path}: {}", kind(value)))),
            Value::Number(_) | Value::String(_) => drop(found.insert(format!("{path}: {}", kind(value)))),
        }
    }
    let mut found = std::collections::BTreeSet::new();
    walk("", value, &mut found);
    found.into_iter().collect::<Vec<_>>().join("\n")
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "table",
    }
}

pub fn bytes_of(file: &Path) -> Vec<u8> {
    std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn train_learns_and_leaves_what_the_readme_lists() {
    let workshop = Workshop::new();
    let result = workshop.trained();
    assert!(result["accuracy"].as_f64().expect("a number") > 0.9, "{result}");
    insta::assert_snapshot!("train_json", keys(&result));
    let left = [
        "recipe.toml",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/README.md",
        "adapter-last/adapter_config.json",
        "result.json",
        "report.html",
        "curves.svg",
        "confusion.svg",
    ];
    for file in left {
        assert!(workshop.at("runs/colours").join(file).is_file(), "{file}");
    }
}

#[test]
fn a_run_that_is_refused_leaves_no_folder() {
    let workshop = Workshop::new();
    let refused = workshop.run(&["train", "colours.toml", "--set", "data.train=nowhere"]);
    refused.assert_refused(4, &["nowhere"]);
    assert!(!workshop.at("runs").exists());
}

#[test]
fn a_folder_that_is_not_free_is_refused_before_a_model_is_loaded() {
    let workshop = Workshop::new();
    workshop.trained();
    workshop.write("mine/file", "content");
    std::fs::remove_file(workshop.at("base/model.safetensors")).expect("the weights");
    for verb in ["merge", "export"] {
        let refused = workshop.run(&[verb, "--run", "runs/colours", "--out", "mine"]);
        refused.assert_refused(9, &["mine", "not empty"]);
    }
}

#[test]
fn a_resolved_recipe_repeats_the_run_to_the_bit() {
    let workshop = Workshop::new();
    workshop.trained();
    let again =
        workshop.run(&["train", "runs/colours/recipe.toml", "--set", "output.dir=runs/again", "--json"]);
    again.json();
    let adapter = |run: &str| bytes_of(&workshop.at(run).join("adapter/adapter_model.safetensors"));
    assert_eq!(adapter("runs/colours"), adapter("runs/again"));
}

#[test]
fn one_flag_trains_every_method() {
    let workshop = Workshop::new();
    let of_method = |method: &str| {
        let set = format!("method.kind={method}");
        let dir = format!("output.dir=runs/{method}");
        let set = ["train", "colours.toml", "--set", &set, "--set", &dir, "--json"];
        workshop.run(&set).json()["adapter_numbers"].as_u64().expect("a number")
    };
    // Two blocks, query and value: k and l of 8 each, or rank 2 on both sides of 24.
    assert_eq!(["nola", "lora", "linear", "full"].map(of_method), [4 * 16, 4 * 2 * 48, 0, 0]);
}

#[test]
fn a_trained_run_scores_the_same_again_merged_and_exported() {
    let workshop = Workshop::new();
    for method in ["nola", "lora"] {
        let (set, run) = (format!("method.kind={method}"), format!("runs/{method}"));
        let dir = format!("output.dir={run}");
        let trained = workshop.run(&["train", "colours.toml", "--set", &set, "--set", &dir, "--json"]).json();
        let scored = |arguments: &[&str]| {
            let scored = workshop.run(&[&["evaluate", "--json"], arguments].concat()).json();
            (scored["accuracy"].as_f64(), scored["loss"].as_f64().expect("a number"))
        };
        let (merged, exported) = (format!("merged-{method}"), format!("exported-{method}"));
        assert_eq!(workshop.run(&["merge", "--run", &run, "--out", &merged]).code, 0);
        assert_eq!(workshop.run(&["export", "--run", &run, "--out", &exported]).code, 0);
        let loss = trained["loss"].as_f64().expect("a number");
        for (accuracy, found) in [
            scored(&["--run", &run]),
            scored(&["--model", &merged, "--data", "val"]),
            scored(&["--model", "base", "--adapter", &exported, "--data", "val"]),
        ] {
            assert_eq!(accuracy, trained["accuracy"].as_f64(), "{method}");
            assert!((found - loss).abs() < 1e-4 * (1.0 + loss), "{method}: {found} and {loss}");
        }
    }
}

#[test]
fn coefficients_of_four_bits_are_scored_as_they_are_stored() {
    let workshop = Workshop::new();
    let set = ["--set", "output.coefficient_bits=4", "--json"];
    let trained = workshop.run(&[&["train", "colours.toml"], &set[..]].concat()).json();
    let scored = workshop.run(&["evaluate", "--run", "runs/colours", "--json"]).json();
    assert_eq!((&scored["accuracy"], &scored["loss"]), (&trained["accuracy"], &trained["loss"]));
}

#[test]
fn an_adapter_that_is_exported_with_fewer_bits_is_the_one_that_is_trained_so() {
    let workshop = Workshop::new();
    let trained = |bits: &str| {
        let set = format!("output.coefficient_bits={bits}");
        let dir = format!("output.dir=runs/{bits}");
        workshop.run(&["train", "colours.toml", "--set", &set, "--set", &dir, "--json"]).json()
    };
    let (_, eight) = (trained("32"), trained("8"));
    let export = ["export", "--run", "runs/32", "--coefficient-bits", "8", "--out", "eight"];
    assert_eq!(workshop.run(&export).code, 0);
    let exported =
        workshop.run(&["evaluate", "--model", "base", "--adapter", "eight", "--data", "val", "--json"]);
    assert_eq!(exported.json()["loss"], eight["loss"]);
}

#[test]
fn bits_of_coefficients_are_for_adapters_that_have_some() {
    let workshop = Workshop::new();
    let lora = ["--set", "method.kind=lora"];
    assert_eq!(workshop.run(&[&["train", "colours.toml"], &lora[..]].concat()).code, 0);
    let run = workshop.run(&["export", "--run", "runs/colours", "--coefficient-bits", "8", "--out", "eight"]);
    run.assert_refused(6, &["--coefficient-bits", "this adapter has none", "leave it out"]);
}

#[test]
fn the_version_and_the_help_are_printed_once() {
    let workshop = Workshop::empty();
    let version = workshop.run(&["--version"]);
    assert_eq!((version.code, version.stdout.lines().count()), (0, 1), "{}", version.stdout);
    let help = workshop.run(&["--help"]);
    assert_eq!((help.code, help.stdout.matches("Usage:").count()), (0, 1), "{}", help.stdout);
}

#[test]
fn evaluate_counts_every_image_once() {
    let workshop = Workshop::new();
    workshop.trained();
    let scored = workshop.run(&["evaluate", "--run", "runs/colours", "--json"]).json();
    insta::assert_snapshot!("evaluate_json", keys(&scored));
    let counts = scored["confusion"].as_array().expect("rows").iter();
    let sum: u64 = counts.flat_map(|row| row.as_array().expect("a row")).filter_map(Value::as_u64).sum();
    assert_eq!(sum, 18);
}

#[test]
fn predict_names_the_colour_of_a_new_image() {
    let workshop = Workshop::new();
    workshop.trained();
    workshop.image("new.png", [0, 255, 0], 9);
    let found = workshop.run(&["predict", "--run", "runs/colours", "new.png", "--json"]).json();
    insta::assert_snapshot!("predict_json", keys(&found));
    assert_eq!(found["predictions"][0]["classes"][0]["name"], "green");
    let text = workshop.run(&["predict", "--run", "runs/colours", "new.png", "--top", "1"]).stdout;
    assert!(text.starts_with("new.png: green ") && text.trim_end().ends_with(" %"), "{text}");
}

#[test]
fn inspect_says_what_training_on_images_takes() {
    let workshop = Workshop::new();
    let report = workshop.run(&["inspect", "base", "--batch", "6", "--json"]).json();
    assert_eq!((&report["model"], &report["adapter"]["sites"]), (&"vit".into(), &4.into()), "{report}");
    let wrong = workshop.run(&["inspect", "base", "--batch", "6", "--tokens", "3"]);
    wrong.assert_refused(2, &["leave --tokens out"]);
}

#[test]
fn inspect_shows_settings_hashes_and_tensors_of_every_kind_of_folder() {
    let workshop = Workshop::new();
    workshop.trained();
    assert_eq!(workshop.run(&["export", "--run", "runs/colours", "--out", "peft"]).code, 0);
    let adapter = workshop.run(&["inspect", "runs/colours/adapter", "--json"]).json();
    insta::assert_snapshot!("inspect_json", keys(&adapter));
    assert_eq!(adapter["nola"]["k"], 8);
    assert_eq!(workshop.run(&["inspect", "peft", "--json"]).json()["peft_type"], "LORA");
    assert_eq!(workshop.run(&["inspect", "base", "--json"]).json()["kind"], "model");
}

#[test]
fn few_shots_take_as_many_of_each_class() {
    let workshop = Workshop::new();
    let trained = workshop.run(&["train", "colours.toml", "--set", "data.shots=2", "--json"]);
    trained.json();
    let page = String::from_utf8(bytes_of(&workshop.at("runs/colours/report.html"))).expect("text");
    assert!(page.contains("training images <b>6</b>"), "3 classes, 2 shots");
}

#[test]
fn the_shipped_recipes_are_listed_and_printed() {
    let workshop = Workshop::new();
    let list = workshop.run(&["recipes"]).stdout;
    assert!(list.lines().any(|line| line.starts_with("vit-digits-nola ")), "{list}");
    assert!(workshop.run(&["recipes", "vit-digits-nola"]).stdout.contains("kind = \"nola\""));
    workshop
        .run(&["recipes", "vit-digits-nolla"])
        .assert_refused(3, &["vit-digits-nolla", "vit-digits-nola"]);
}

#[test]
fn completions_exist_for_every_shell() {
    let workshop = Workshop::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = workshop.run(&["completions", shell]).stdout;
        assert!(script.contains("nola-train") && script.contains("NOLA_TRAIN_COMPLETE"), "{shell}: {script}");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_quick_start_goes_on_and_compares_three_methods_on_the_shipped_digits() {
    let workshop = Workshop::new();
    let mut running = Running::start(&workshop, &[]);
    running.wait_for("lora", 3);
    running.signal("-TERM");
    let (code, stderr) = running.ended();
    assert_eq!(code, Some(143), "{stderr}");
    let finished = || bytes_of(&workshop.at("runs/quick-start/linear/result.json"));
    let linear = finished();
    let outcome = workshop.run_on("cpu", &["--json"]);
    assert!(outcome.stderr.contains("linear: finished before"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("lora: goes on after step "), "{}", outcome.stderr);
    assert!(finished() == linear, "a finished method is not trained again");
    let result = outcome.json();
    insta::assert_snapshot!("quick_start_json", keys(&result));
    let row = |index: usize, key: &str| result["rows"][index][key].clone();
    assert_eq!([0, 1, 2].map(|index| row(index, "method")), ["linear", "lora", "nola"]);
    // Chance is 10 %.
    assert!((0..3).all(|index| row(index, "accuracy").as_f64().expect("a number") > 0.5), "{result}");
    let head = row(0, "trainable").as_u64().expect("a number");
    let adapter = |index| row(index, "trainable").as_u64().expect("a number") - head;
    assert!(2 * adapter(2) <= adapter(1), "NOLA trains at most half of LoRA's numbers: {result}");
    assert!(workshop.at(result["report"].as_str().expect("a path")).is_file());
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_run_after_its_step_and_keeps_what_was_learned() {
    let workshop = Workshop::new();
    let sets = ["--set", "train.steps=1000000", "--set", "train.evaluate_every=0"];
    let mut running = workshop
        .command("cpu")
        .args(["train", "colours.toml"])
        .args(sets)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(running.stderr.take().expect("it is piped")).lines();
    let shown = lines.find(|line| line.as_ref().expect("text").contains("step "));
    assert!(shown.is_some(), "it ended before its first step");
    // Nobody reads the rest, and the program must not mind.
    drop(lines);
    let interrupt = Command::new("kill").args(["-INT", &running.id().to_string()]).status();
    assert!(interrupt.expect("kill runs").success());
    assert_eq!(running.wait().expect("a child").code(), Some(130));
    let result: Value =
        serde_json::from_slice(&bytes_of(&workshop.at("runs/colours/result.json"))).expect("JSON");
    assert_eq!((&result["interrupted"], &result["interrupted_by"]), (&true.into(), &"Ctrl-C".into()));
    assert_eq!(workshop.run(&["evaluate", "--run", "runs/colours"]).code, 0);
}
