//! Which device computes: the only file that knows the Cargo features of the backends.

mod self_check;

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use nola_models::WeightDtype;

use crate::Error;
use crate::terminal::err_line;
use self_check::self_check;

/// A device as the user names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The best device that passes the self-check.
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU through Vulkan, Metal or DX12, counted from 0.
    Wgpu(usize),
    /// An NVIDIA GPU through CUDA, counted from 0.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("`{text}` is no device; use auto, cpu, wgpu, wgpu:N, cuda or cuda:N");
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => (name, index.parse().map_err(|_| unknown())?),
            None => (text, 0),
        };
        match name {
            "auto" if name == text => Ok(Self::Auto),
            "cpu" if name == text => Ok(Self::Cpu),
            "wgpu" => Ok(Self::Wgpu(index)),
            "cuda" => Ok(Self::Cuda(index)),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Cpu => write!(f, "cpu"),
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
/// If there is no such device, this program was built without it, or it computes wrongly.
pub fn open(choice: DeviceChoice) -> Result<OpenDevice, Error> {
    match choice {
        DeviceChoice::Auto => Ok(best()),
        DeviceChoice::Cpu => Ok(cpu()),
        DeviceChoice::Wgpu(_) | DeviceChoice::Cuda(_) => {
            let candidate = find(choice)?;
            self_check(&candidate.device, &cpu().device).map_err(|problem| refused(choice, &problem))?;
            Ok(candidate)
        }
    }
}

/// CUDA before wgpu before the CPU; software GPUs are left out, since the CPU itself is faster.
fn best() -> OpenDevice {
    for choice in [DeviceChoice::Cuda(0), DeviceChoice::Wgpu(0)] {
        let Ok(candidate) = find(choice) else { continue };
        if is_software(&candidate.device) {
            err_line(&format!(
                "device: {} is a software renderer, slower than the CPU; left out",
                candidate.name
            ));
            continue;
        }
        match self_check(&candidate.device, &cpu().device) {
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

fn refused(choice: DeviceChoice, problem: &str) -> Error {
    Error::Device { requested: choice.to_string(), problem: problem.to_owned() }
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

fn find(choice: DeviceChoice) -> Result<OpenDevice, Error> {
    match choice {
        DeviceChoice::Auto => Ok(best()),
        DeviceChoice::Cpu => Ok(cpu()),
        DeviceChoice::Wgpu(index) => gpu(choice, index, wgpu_devices()),
        DeviceChoice::Cuda(index) => gpu(choice, index, cuda_devices()),
    }
}

fn gpu(
    choice: DeviceChoice,
    index: usize,
    devices: Result<Vec<Device>, String>,
) -> Result<OpenDevice, Error> {
    let devices = devices.map_err(|problem| refused(choice, &problem))?;
    let count = devices.len();
    let device = devices.into_iter().nth(index).ok_or_else(|| {
        let cure = "check the driver with `vulkaninfo` or `nvidia-smi`, or use --device cpu";
        refused(choice, &format!("{count} such devices found; {cure}"))
    })?;
    let name = format!("{choice} {}", part_name(&device));
    Ok(OpenDevice { device, name: name.trim_end().to_owned() })
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
fn is_software(device: &Device) -> bool {
    device.identity().is_some_and(|identity| identity.physical.is_none())
}

#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
fn is_software(_device: &Device) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_reads_back_as_it_is_written() {
        for text in ["auto", "cpu", "wgpu:2", "cuda:0"] {
            let choice: DeviceChoice = text.parse().expect("a device");
            assert_eq!(choice.to_string(), text);
        }
    }

    #[test]
    fn a_typo_lists_the_devices() {
        for text in ["gpu", "cpu:0", "wgpu:x"] {
            let error = text.parse::<DeviceChoice>().expect_err("no device");
            assert!(error.contains("use auto, cpu, wgpu"), "{error}");
        }
    }
}
