//! Whether this program computes rightly here: which devices there are, what their kernels compute beside numbers that are known,
//! and what models need in memory.
//!
//! The CPU is compared with plain loops and with numbers recorded on a machine that met all golden values; every other device
//! with the CPU.

mod adapters;
mod basis;
mod check;
mod facts;
mod growth;
mod models;
#[cfg(test)]
mod oracle;
mod processor;
mod products;
mod text;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use burn::tensor::Device;
use serde::Serialize;

use crate::bench::machine::BURN;
use crate::bench::statistics::rounded;
use crate::device::{self, DeviceChoice, Gpu, OpenDevice};
use crate::{Error, memory};
use adapters::Reference;
use check::{Checked, Comparison};
use facts::{DtypesThere, Limits};
use growth::Growth;
use models::Needed;
use processor::Processor;

/// What was found; the JSON object of `doctor --json`.
#[derive(Debug, Serialize)]
pub struct Diagnosis {
    version: &'static str,
    burn: &'static str,
    /// Whether operations on GPUs are joined.
    fusion: bool,
    processor: Processor,
    devices: Vec<Examined>,
    absent: Vec<Absent>,
    seconds: f64,
}

/// A device that was examined.
#[derive(Debug, Serialize)]
struct Examined {
    /// As `--device` takes it.
    device: String,
    name: String,
    driver: Option<String>,
    /// Whether it is the CPU that plays a GPU.
    software: bool,
    memory_bytes: Option<u64>,
    free_bytes: Option<u64>,
    limits: Option<Limits>,
    dtypes: DtypesThere,
    checks: Vec<Checked>,
    memory_growth: Growth,
    models: Vec<Needed>,
    /// `ok` or `wrong`.
    verdict: Verdict,
    problems: Vec<String>,
    /// What helps, if something is wrong.
    cure: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Wrong,
}

/// Devices that are not there.
#[derive(Debug, Serialize)]
struct Absent {
    device: &'static str,
    reason: String,
}

/// What is examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Cpu,
    Gpu(Gpu),
}

impl Diagnosis {
    /// Examines the device that is named, or all at hand with `auto`; `note` is called with what comes next.
    ///
    /// # Errors
    /// If the named device is not there.
    pub fn of(choice: DeviceChoice, note: &dyn Fn(&str)) -> Result<Self, Error> {
        let started = Instant::now();
        let (subjects, absent) = subjects(choice);
        let devices =
            subjects.into_iter().map(|subject| examined(subject, note)).collect::<Result<Vec<_>, Error>>()?;
        Ok(Self {
            version: env!("CARGO_PKG_VERSION"),
            burn: BURN,
            fusion: cfg!(feature = "fusion"),
            processor: Processor::here(),
            devices,
            absent,
            seconds: rounded(started.elapsed().as_secs_f64(), 1),
        })
    }

    /// Nothing, if every device that was examined computes rightly.
    ///
    /// # Errors
    /// With the first device that does not, and its first problem.
    pub fn verdict(&self) -> Result<(), Error> {
        let Some(wrong) = self.devices.iter().find(|device| device.verdict == Verdict::Wrong) else {
            return Ok(());
        };
        let others = wrong.problems.len().saturating_sub(1);
        let more = if others > 0 { format!(" (and {others} more)") } else { String::new() };
        let problem = wrong.problems.first().cloned().unwrap_or_default();
        let cure = wrong.cure.clone().unwrap_or_default();
        Err(Error::Device { requested: wrong.device.clone(), problem: format!("{problem}{more}; {cure}") })
    }

    /// The same for people.
    pub fn text(&self) -> String {
        text::of(self)
    }
}

/// What is examined, and what is not there to be.
fn subjects(choice: DeviceChoice) -> (Vec<Subject>, Vec<Absent>) {
    match choice {
        DeviceChoice::Cpu => (vec![Subject::Cpu], Vec::new()),
        DeviceChoice::Gpu(gpu) | DeviceChoice::Forced(gpu) => (vec![Subject::Gpu(gpu)], Vec::new()),
        DeviceChoice::Local(kind) => (vec![Subject::Gpu(kind.of_this_process())], Vec::new()),
        DeviceChoice::Auto => {
            let (mut subjects, mut absent) = (vec![Subject::Cpu], Vec::new());
            for family in device::families() {
                match family.gpus {
                    Ok(gpus) => subjects.extend(gpus.into_iter().map(Subject::Gpu)),
                    Err(reason) => absent.push(Absent { device: family.name, reason }),
                }
            }
            (subjects, absent)
        }
    }
}

fn examined(subject: Subject, note: &dyn Fn(&str)) -> Result<Examined, Error> {
    // Asked before the device is opened: two instances of a driver must not come and go at once.
    let drivers = facts::drivers();
    let (device, open) = match subject {
        Subject::Cpu => ("cpu".to_owned(), device::cpu()),
        Subject::Gpu(gpu) => (gpu.to_string(), opened(gpu)?),
    };
    let checks = checked(subject, &open.device, &|what| note(&format!("{device}: {what}")));
    note(&format!("{device}: memory over {} steps", growth::STEPS));
    let memory_growth = Growth::on(&open.device);
    let problems: Vec<String> =
        checks.iter().filter_map(Checked::problem).chain(memory_growth.problem()).collect();
    let verdict = if problems.is_empty() { Verdict::Ok } else { Verdict::Wrong };
    let limits = facts::limits(&open.device);
    let [memory_bytes, free_bytes] = memory_of(subject, &open);
    let name = facts::part_name(subject, &open);
    Ok(Examined {
        driver: facts::driver_of(&name, drivers),
        models: models::needed(free_bytes.or(memory_bytes), limits.as_ref()),
        cure: (verdict == Verdict::Wrong).then(|| cure(subject)),
        software: device::is_software(&open.device),
        dtypes: DtypesThere::of(&open.device),
        device,
        name,
        memory_bytes,
        free_bytes,
        limits,
        checks,
        memory_growth,
        verdict,
        problems,
    })
}

/// The memory of a device, and what of it is free.
fn memory_of(subject: Subject, open: &OpenDevice) -> [Option<u64>; 2] {
    match subject {
        Subject::Cpu => [memory::total_bytes(), memory::free_bytes()],
        Subject::Gpu(_) => [facts::memory_bytes(&open.device), None],
    }
}

/// A GPU, unless its driver fails.
fn opened(gpu: Gpu) -> Result<OpenDevice, Error> {
    catch_unwind(|| device::find(gpu)).unwrap_or_else(|_| {
        let problem = "its driver fails when it is opened; update it, or use --device cpu".to_owned();
        Err(Error::Device { requested: gpu.to_string(), problem })
    })
}

fn cure(subject: Subject) -> String {
    match subject {
        Subject::Cpu => "do not trust what this machine computes: test its memory, leave out any overclocking, and report it if it \
                         stays so"
            .to_owned(),
        Subject::Gpu(gpu) => device::cure(gpu),
    }
}

/// All checks of a device, those that fail on it included.
fn checked(subject: Subject, device: &Device, note: &dyn Fn(&str)) -> Vec<Checked> {
    let cpu = device::cpu().device;
    let mut checked = Vec::new();
    let mut run = |group: &'static str, compared: &dyn Fn() -> Vec<Comparison>| {
        note(group);
        match catch_unwind(AssertUnwindSafe(compared)) {
            Ok(comparisons) => {
                checked.extend(comparisons.into_iter().map(|comparison| comparison.checked(group)));
            }
            Err(_) => checked.push(Checked::failed(group)),
        }
    };
    run("basis", &|| match subject {
        Subject::Cpu => basis::on_cpu(&basis::Ours),
        Subject::Gpu(_) => basis::on_gpu(device, &cpu),
    });
    run("products", &|| products::on(device));
    for kind in adapters::KINDS {
        run(kind.name(), &|| match subject {
            Subject::Cpu => adapters::beside_recorded(kind, device),
            Subject::Gpu(_) => adapters::beside_cpu(kind, device, &cpu),
        });
    }
    run("half precision", &|| adapters::in_half_precision(device, &cpu));
    run("few bits", &|| match subject {
        Subject::Cpu => adapters::in_few_bits(device, &cpu, Reference::DenseWeights),
        Subject::Gpu(_) => adapters::in_few_bits(device, &cpu, Reference::SameWeights),
    });
    checked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_at_hand_is_examined_and_every_other_one_is_absent_for_a_reason() {
        let (subjects, absent) = subjects(DeviceChoice::Auto);
        assert_eq!(subjects[0], Subject::Cpu);
        for family in ["cuda", "wgpu"] {
            let is_examined = subjects.iter().any(|subject| match subject {
                Subject::Cpu => false,
                Subject::Gpu(gpu) => gpu.to_string().starts_with(family),
            });
            let reason = absent.iter().find(|absent| absent.device == family).map(|absent| &absent.reason);
            assert_eq!(is_examined, reason.is_none(), "{family}: {reason:?}");
        }
    }

    #[test]
    fn a_device_that_computes_wrongly_is_an_error_with_the_number_and_the_cure() {
        let mut diagnosis = Diagnosis::of(DeviceChoice::Cpu, &|_| {}).expect("there is a CPU");
        let cpu = &mut diagnosis.devices[0];
        // Other tests of this process take memory too.
        let of_memory = |problem: &String| problem.starts_with("memory grows");
        assert!(cpu.problems.iter().all(of_memory), "{:?}", cpu.problems);
        cpu.verdict = Verdict::Wrong;
        cpu.problems = vec!["1 of 2 numbers of it are wrong".to_owned(), "another".to_owned()];
        cpu.cure = Some(cure(Subject::Gpu(Gpu::Wgpu(0))));
        let error = diagnosis.verdict().expect_err("it is wrong");
        assert_eq!(error.exit_code(), 7);
        let message = error.to_string();
        assert!(message.contains("1 of 2 numbers of it are wrong (and 1 more); "), "{message}");
        assert!(message.contains("use --device cpu"), "{message}");
        assert!(diagnosis.text().contains("wrong: 1 of 2 numbers of it are wrong"), "{}", diagnosis.text());
    }
}
