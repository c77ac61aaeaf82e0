//! What a process knows of itself and of the machine: memory, CPU time, load.

use burn::tensor::Device;
use sysinfo::{CpuRefreshKind, RefreshKind, System};

use crate::memory;

/// The release of burn that computes.
pub(crate) const BURN: &str = "0.22.1";

/// Bytes of a MiB.
pub(crate) const MIB: f64 = 1_048_576.0;

/// CPU seconds of this process so far, user and system, all threads; absent where the system does not output.
#[cfg(unix)]
pub(super) fn cpu_seconds() -> Option<f64> {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Some(microseconds as f64 / 1e6)
}

/// CPU seconds of this process so far; absent where the system does not output.
#[cfg(not(unix))]
pub(super) fn cpu_seconds() -> Option<f64> {
    None
}

/// Forgets the largest resident memory so far, where the system can (Linux); says whether it did.
pub(super) fn reset_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Largest resident memory since [`reset_peak`], in MiB; where that did nothing, since the start.
pub(super) fn peak_mib() -> Option<f64> {
    status_mib("VmHWM").or_else(|| memory::peak_bytes().map(|bytes| bytes as f64 / MIB))
}

/// Resident memory, in MiB; absent where the system does not say (Linux does).
pub(crate) fn resident_mib() -> Option<f64> {
    status_mib("VmRSS")
}

/// Memory that tensors take on a device, in MiB; on the CPU what the process holds.
pub(crate) fn used_mib(device: &Device) -> Option<f64> {
    match device.memory_pool_usage() {
        Some(pools) => Some(pools.bytes_in_use as f64 / MIB),
        None => resident_mib(),
    }
}

/// A size of this process, in MiB, as Linux tells it.
fn status_mib(field: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}

/// Mean number of processes that ran or waited in the last minute; absent where the system does not output.
pub(super) fn load() -> Option<f64> {
    System::load_average().ok().map(|load| load.one)
}

/// Name of the CPU.
pub(crate) fn cpu_name() -> String {
    let cpus = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing());
    let brand = |system: System| system.cpus().first().map(|cpu| cpu.brand().trim().to_owned());
    System::new_with_specifics(cpus).ok().and_then(brand).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_of_burn_is_the_pinned_one() {
        let manifest = include_str!("../../../Cargo.toml");
        assert!(manifest.contains(&format!("burn = {{ version = \"={BURN}\"")), "{BURN}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_knows_its_memory_and_its_time() {
        let (peak, now) = (peak_mib().expect("Linux says"), resident_mib().expect("Linux says"));
        assert!(now > 0.0 && peak > 0.0, "{peak} and {now}");
        assert!(cpu_seconds().is_some_and(|seconds| seconds >= 0.0));
        assert!(load().is_some());
    }
}
