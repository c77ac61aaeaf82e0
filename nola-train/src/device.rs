//! Which device computes: the only file that knows the Cargo features of the backends.

pub(crate) mod differences;
pub(crate) mod lost;
mod self_check;
pub(crate) mod small_models;
pub(crate) mod steps;

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use nola_models::WeightDtype;

use crate::Error;
use crate::ranks::local_rank;
use crate::terminal::err_line;
pub(crate) use self_check::TOLERANCE;
use self_check::self_check;

/// What is typed before the name of a device that is taken though it computes wrongly.
const FORCE: &str = "force:";
/// What is typed behind the kind of a GPU of which each process of a machine takes another one.
const LOCAL: &str = "local";

/// A device as the user names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The best device that passes the self-check.
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU, if it passes the self-check.
    Gpu(Gpu),
    /// A GPU, whatever the self-check says.
    Forced(Gpu),
    /// The GPU whose number is that of this process among those that were started on its machine.
    Local(GpuKind),
}

/// An interface to GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuKind {
    /// Vulkan, Metal or DX12.
    Wgpu,
    /// CUDA.
    Cuda,
}

/// A GPU as the user names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gpu {
    /// Through Vulkan, Metal or DX12, counted from 0.
    Wgpu(usize),
    /// From NVIDIA through CUDA, counted from 0.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            _ => {}
        }
        let is_local = |kind: &GpuKind| text == Self::Local(*kind).to_string();
        if let Some(kind) = [GpuKind::Wgpu, GpuKind::Cuda].into_iter().find(is_local) {
            return Ok(Self::Local(kind));
        }
        let (of, name): (fn(Gpu) -> Self, &str) = match text.strip_prefix(FORCE) {
            Some(forced) => (Self::Forced, forced),
            None => (Self::Gpu, text),
        };
        Gpu::parse(name).map(of).ok_or_else(|| {
            format!(
                "`{text}` is no device; use auto, cpu, wgpu, wgpu:N, wgpu:local, cuda, cuda:N or cuda:local, or {FORCE}wgpu for one that \
                 fails its check"
            )
        })
    }
}

impl Gpu {
    fn parse(text: &str) -> Option<Self> {
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => (name, index.parse().ok()?),
            None => (text, 0),
        };
        match name {
            "wgpu" => Some(Self::Wgpu(index)),
            "cuda" => Some(Self::Cuda(index)),
            _ => None,
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Cpu => write!(f, "cpu"),
            Self::Gpu(gpu) => write!(f, "{gpu}"),
            Self::Forced(gpu) => write!(f, "{FORCE}{gpu}"),
            Self::Local(GpuKind::Wgpu) => write!(f, "wgpu:{LOCAL}"),
            Self::Local(GpuKind::Cuda) => write!(f, "cuda:{LOCAL}"),
        }
    }
}

impl GpuKind {
    fn numbered(self, index: usize) -> Gpu {
        match self {
            Self::Wgpu => Gpu::Wgpu(index),
            Self::Cuda => Gpu::Cuda(index),
        }
    }

    fn devices(self) -> Result<Vec<Device>, String> {
        match self {
            Self::Wgpu => wgpu_devices(),
            Self::Cuda => cuda_devices(),
        }
    }

    /// The GPU of this process among those that were started on its machine.
    pub(crate) fn of_this_process(self) -> Gpu {
        // Some launchers show each process its own GPU alone.
        let is_only = self.devices().is_ok_and(|devices| devices.len() == 1);
        self.numbered(if is_only { 0 } else { local_rank() })
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wgpu(index) => write!(f, "wgpu:{index}"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// A device that was opened and has passed the self-check.
#[derive(Debug, Clone)]
pub struct OpenDevice {
    /// Where tensors live.
    pub device: Device,
    /// What it is called in results: the choice, and the device's own name.
    pub name: String,
}

/// Opens a device and checks that it computes as the CPU does; says on stderr what `auto` took and why.
///
/// # Errors
/// If there is no such device, this program was built without it, or it computes wrongly and is not forced.
pub fn open(choice: DeviceChoice) -> Result<OpenDevice, Error> {
    match choice {
        DeviceChoice::Auto => Ok(best()),
        DeviceChoice::Cpu => Ok(cpu()),
        DeviceChoice::Gpu(gpu) => checked(gpu),
        DeviceChoice::Local(kind) => checked(kind.of_this_process()),
        DeviceChoice::Forced(gpu) => find(gpu).map(forced),
    }
}

fn checked(gpu: Gpu) -> Result<OpenDevice, Error> {
    let candidate = find(gpu)?;
    check(&candidate).map_err(|problem| refused(gpu, &format!("{problem}; {}", cure(gpu))))?;
    Ok(candidate)
}

/// What helps against a device that computes wrongly.
pub(crate) fn cure(gpu: Gpu) -> String {
    format!(
        "update its driver or use --device cpu; `nola-train doctor` says more, and --device {FORCE}{gpu} computes on it all the \
         same"
    )
}

/// A device that is taken whatever the self-check says.
fn forced(candidate: OpenDevice) -> OpenDevice {
    match check(&candidate) {
        Ok(()) => candidate,
        Err(problem) => despite(candidate, &problem),
    }
}

/// The same device under a name that says in every result that it computes wrongly.
fn despite(candidate: OpenDevice, problem: &str) -> OpenDevice {
    err_line(&format!(
        "warning: device {}: {problem}; taken all the same, since it is forced",
        candidate.name
    ));
    OpenDevice { name: format!("{}, which failed its check", candidate.name), ..candidate }
}

fn check(candidate: &OpenDevice) -> Result<(), String> {
    self_check(&candidate.device, &cpu().device)
}

/// CUDA before wgpu before the CPU; software GPUs are left out, since the CPU itself is faster.
fn best() -> OpenDevice {
    for gpu in [Gpu::Cuda(0), Gpu::Wgpu(0)] {
        let Ok(candidate) = find(gpu) else { continue };
        if is_software(&candidate.device) {
            err_line(&format!(
                "device: {} is a software renderer, slower than the CPU; left out",
                candidate.name
            ));
            continue;
        }
        match check(&candidate) {
            Ok(()) => {
                err_line(&format!("device: {} (the best one that passes the self-check)", candidate.name));
                return candidate;
            }
            Err(problem) => err_line(&format!("device: {} is left out: {problem}", candidate.name)),
        }
    }
    let cpu = cpu();
    err_line(&format!("device: {} (no usable GPU found)", cpu.name));
    cpu
}

fn refused(requested: Gpu, problem: &str) -> Error {
    Error::Device { requested: requested.to_string(), problem: problem.to_owned() }
}

/// Checks that `device` computes in `dtype`.
///
/// # Errors
/// If it does not.
pub fn check_dtype(device: &Device, dtype: WeightDtype) -> Result<(), Error> {
    if dtype.is_supported_by(device) {
        return Ok(());
    }
    Err(Error::Dtype { device: part_name(device), dtype })
}

/// The CPU, which needs no self-check: it is what the others are compared with.
#[cfg(feature = "cpu")]
pub fn cpu() -> OpenDevice {
    OpenDevice { device: Device::flex(), name: "cpu".to_owned() }
}

#[cfg(not(feature = "cpu"))]
compile_error!("nola-train needs its `cpu` feature: checks and merges run on the CPU");

/// The GPU, unchecked.
///
/// # Errors
/// If there is none of that number, or this program was built without it.
pub(crate) fn find(gpu: Gpu) -> Result<OpenDevice, Error> {
    let (index, kind) = match gpu {
        Gpu::Wgpu(index) => (index, GpuKind::Wgpu),
        Gpu::Cuda(index) => (index, GpuKind::Cuda),
    };
    let devices = kind.devices().map_err(|problem| refused(gpu, &problem))?;
    let count = devices.len();
    let device = devices.into_iter().nth(index).ok_or_else(|| {
        let cure = "check the driver with `vulkaninfo` or `nvidia-smi`, or use --device cpu";
        refused(gpu, &format!("{count} such devices found; {cure}"))
    })?;
    let name = format!("{gpu} {}", part_name(&device));
    Ok(OpenDevice { device, name: name.trim_end().to_owned() })
}

/// The GPUs of one interface, or why there is none.
#[derive(Debug)]
pub(crate) struct Family {
    /// What it is called before a number.
    pub(crate) name: &'static str,
    /// Its devices.
    pub(crate) gpus: Result<Vec<Gpu>, String>,
}

/// Every interface to GPUs, with the devices at hand.
pub(crate) fn families() -> [Family; 2] {
    let numbered = |devices: Result<Vec<Device>, String>, of: fn(usize) -> Gpu| {
        let count = devices?.len();
        if count == 0 { Err("none found".to_owned()) } else { Ok((0..count).map(of).collect()) }
    };
    [
        Family { name: "cuda", gpus: numbered(cuda_devices(), Gpu::Cuda) },
        Family { name: "wgpu", gpus: numbered(wgpu_devices(), Gpu::Wgpu) },
    ]
}

#[cfg(feature = "wgpu")]
fn wgpu_devices() -> Result<Vec<Device>, String> {
    Ok(Device::enumerate(burn::tensor::DeviceType::Wgpu).into_vec())
}

#[cfg(not(feature = "wgpu"))]
fn wgpu_devices() -> Result<Vec<Device>, String> {
    Err("this program was built without it; build with --features wgpu".to_owned())
}

#[cfg(feature = "cuda")]
fn cuda_devices() -> Result<Vec<Device>, String> {
    Ok(Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec())
}

#[cfg(not(feature = "cuda"))]
fn cuda_devices() -> Result<Vec<Device>, String> {
    Err("this program was built without it; build with --features cuda".to_owned())
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn part_name(device: &Device) -> String {
    device.identity().map_or(String::new(), |identity| identity.name)
}

#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
fn part_name(_device: &Device) -> String {
    String::new()
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(crate) fn is_software(device: &Device) -> bool {
    device.identity().is_some_and(|identity| identity.physical.is_none())
}

#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
pub(crate) fn is_software(_device: &Device) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_reads_back_as_it_is_written() {
        for text in ["auto", "cpu", "wgpu:2", "cuda:0", "force:wgpu:1", "wgpu:local", "cuda:local"] {
            let choice: DeviceChoice = text.parse().expect("a device");
            assert_eq!(choice.to_string(), text);
        }
    }

    #[test]
    fn a_device_that_is_forced_carries_its_failure_in_its_name() {
        assert_eq!(forced(cpu()).name, "cpu", "it passes");
        assert_eq!(despite(cpu(), "it computes otherwise").name, "cpu, which failed its check");
    }

    #[test]
    fn a_typo_lists_the_devices() {
        for text in
            ["gpu", "cpu:0", "wgpu:x", "force:cpu", "auto:1", "local", "cpu:local", "force:cuda:local"]
        {
            let error = text.parse::<DeviceChoice>().expect_err("no device");
            assert!(error.contains("use auto, cpu, wgpu"), "{error}");
        }
    }
}
