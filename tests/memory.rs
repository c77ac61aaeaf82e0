//! Nothing grows: a run of 1,000 steps takes the memory of one of 10.
#![expect(clippy::result_large_err, reason = "an error of the program ends it, so none is moved about")]

use std::process::Command;

use burn::module::Module;
use nola_core::{Adapted, AdapterConfig, Targets};
use nola_models::CausalLm;
use nola_train::Error;
use nola_train::progress::Style;
use nola_train::settings::Period;
use nola_train::task::{Task, Text};
use nola_train::train::{Observer, StepPasses, StepReport, train};

use crate::devices::device;
use crate::text_task;
use crate::text_workshop::text_workshop;
use crate::tiny::every_adapter;

/// Steps of the run.
const STEPS: usize = 1000;
/// What a run may grow by between its 10th and its last step, in bytes: caches of the allocator.
const ALLOWED_BYTES: usize = 2 << 20;
/// What the line with the two sizes starts with.
const MARK: &str = "resident bytes after 10 and 1000 steps:";

#[test]
fn memory_after_a_thousand_steps_is_that_after_ten() {
    // In a process of its own, since other tests take memory too.
    let program = std::env::current_exe().expect("this test is a program");
    let child = ["--exact", "memory::a_thousand_steps", "--ignored", "--nocapture"];
    let output = Command::new(program).args(child).output().expect("it runs already");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let line = stdout.lines().find_map(|line| line.split_once(MARK)).map(|(_, sizes)| sizes);
    let sizes = line.unwrap_or_else(|| panic!("{stdout}{}", String::from_utf8_lossy(&output.stderr)));
    let sizes: Vec<usize> = sizes.split_whitespace().map(|size| size.parse().expect("a number")).collect();
    assert!(sizes[1] <= sizes[0] + ALLOWED_BYTES, "it grew from {} to {} bytes", sizes[0], sizes[1]);
}

#[test]
#[ignore = "the test above starts it, in a process of its own"]
fn a_thousand_steps() {
    let (workshop, device) = (text_workshop(), device());
    let mut recipe = text_task::recipe(&workshop);
    recipe.train.steps = STEPS;
    recipe.train.evaluate_every = Period(10);
    recipe.train.clip_norm = Some(1.0);
    let task = Text::open(&recipe, &device.clone().inner(), Style::Quiet).expect("a text task");
    let targets = Targets::matching("query|value");
    let adapter: AdapterConfig = every_adapter().remove(0).1;
    let model = Adapted::attach(task.model().train(), &adapter, &targets, &[], &device).expect("such layers");
    let mut sizes = Sizes(Vec::with_capacity(STEPS));
    let steps = task.steps(&recipe, 0..STEPS, 0..1, &device);
    let steps = steps.map(|passes| passes.map(StepPasses::into_passes));
    train(model, &recipe.train, steps, &mut sizes).expect("finite losses");
    println!("\n{MARK} {} {}", sizes.0[0], sizes.0[sizes.0.len() - 1]);
}

/// The memory at each evaluation.
struct Sizes(Vec<usize>);

impl Observer<CausalLm> for Sizes {
    fn stepped(&mut self, _report: StepReport) {}

    fn evaluate(&mut self, step: usize, _model: &CausalLm) -> Result<f64, Error> {
        self.0.push(resident_bytes());
        Ok(step as f64)
    }
}

/// Memory of this process that is in use now.
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux tells it");
    let resident = pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    resident.expect("the second number") * 4096
}
