//! Memory of this process, of the machine, and of a device.

#![allow(unsafe_code, reason = "settings of the system's allocator and a signal, which no crate offers")]

mod ended;

use burn::tensor::Device;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

pub(crate) use ended::message_of;
pub use ended::{CURE, EXIT_CODE, EndingAllocator, has_ended, watch_panics};

/// Largest resident memory of this process so far, in bytes; absent where the system does not say.
///
/// Linux also has it as `ru_maxrss`, but that is kept over `exec` and so starts with the peak of the program that started
/// this one.
#[cfg(target_os = "linux")]
pub fn peak_bytes() -> Option<u64> {
    high_water_mark(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// `VmHWM` of a process's status, in bytes.
#[cfg(target_os = "linux")]
fn high_water_mark(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Largest resident memory of this process so far, in bytes; absent where the system does not say.
#[cfg(all(unix, not(target_os = "linux")))]
pub fn peak_bytes() -> Option<u64> {
    use nix::sys::resource::{UsageWho, getrusage};
    // macOS counts bytes, the others KiB.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    u64::try_from(usage.max_rss()).ok().map(|units| units * unit)
}

/// Largest resident memory of this process so far, in bytes; absent where the system does not say.
#[cfg(not(unix))]
pub fn peak_bytes() -> Option<u64> {
    None
}

/// Tells the allocator to keep what is freed for the next tensor, which in a training loop is of the same size.
///
/// glibc hands large pieces back to the system at once, which then clears every page of the next one: a tenth to a fifth
/// of the time of a step.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_freed() {
    /// Pieces up to this size, in bytes, are taken from what is kept.
    const KEPT: libc::c_int = 1 << 30;
    /// What `mallopt` takes for "never give back".
    const NEVER: libc::c_int = -1;
    for (option, value) in [(libc::M_MMAP_THRESHOLD, KEPT), (libc::M_TRIM_THRESHOLD, NEVER)] {
        // SAFETY: `mallopt` only sets how the allocator works from now on; a value it refuses changes nothing.
        unsafe { libc::mallopt(option, value) };
    }
}

/// Tells the allocator to keep what is freed, where it would not; other systems' allocators do so by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_freed() {}

/// Gives what is freed and kept back to the system: after weights were made in few bits, of copies in many.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_back_freed() {
    // SAFETY: `malloc_trim` touches only memory that nobody holds.
    unsafe { libc::malloc_trim(0) };
}

/// Gives what is freed and kept back to the system; other systems' allocators do so by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back_freed() {}

/// Makes a file of a model that is cut short while it is used end the program with a message, and not with a signal alone: it
/// is mapped, and what is not there any more cannot be read.
#[cfg(target_os = "linux")]
pub fn explain_cut_files() {
    use nix::libc::{_exit, STDERR_FILENO, c_int, write};
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    use crate::terminal::line_end;

    /// The exit code of a base model that cannot be used.
    const EXIT_CODE: c_int = 5;
    const MESSAGE: &[u8] =
        b"error: a file of the base model was cut short while it was in use, so the program cannot continue; \
        put the file back and start again; what a training run had kept lies in its folder\n";
    extern "C" fn explain(_signal: c_int) {
        let before = line_end();
        // SAFETY: both functions may be called in a signal handler, and the text lives as long as the program.
        unsafe {
            write(STDERR_FILENO, before.as_ptr().cast(), before.len());
            write(STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len());
            _exit(EXIT_CODE)
        }
    }
    let action = SigAction::new(SigHandler::Handler(explain), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler calls nothing that must not be called in one. Without it, the signal alone says what happened.
    let _ = unsafe { sigaction(Signal::SIGBUS, &action) };
}

/// Leaves it to the system to say that a file was cut short.
#[cfg(not(target_os = "linux"))]
pub fn explain_cut_files() {}

/// Memory that the machine could still give, in bytes; absent where the system does not say.
pub fn free_bytes() -> Option<u64> {
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    Some(System::new_with_specifics(memory).ok()?.available_memory())
}

/// Memory that the machine has, in bytes; absent where the system does not say.
pub fn total_bytes() -> Option<u64> {
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    Some(System::new_with_specifics(memory).ok()?.total_memory())
}

/// What the largest pass, of this `size`, has taken at its peak, and what is free.
pub fn after_largest_pass(size: &str, device: &Device) -> String {
    if let Some(pools) = device.memory_pool_usage() {
        return format!(
            "the largest pass ({size}) made the device reserve {}",
            readable(pools.bytes_reserved)
        );
    }
    let peak = peak_bytes().map_or("an unknown size".to_owned(), readable);
    let free = free_bytes().map_or("an unknown amount".to_owned(), readable);
    format!("the largest pass ({size}) brought the process to a peak of {peak}; {free} more is free")
}

/// A size in GiB or MiB.
fn readable(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib >= 1024.0 { format!("{:.1} GiB", mib / 1024.0) } else { format!("{mib:.0} MiB") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit_that_fits() {
        assert_eq!([3 << 20, 3 << 29].map(readable), ["3 MiB", "1.5 GiB"]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_is_the_high_water_mark_of_this_process() {
        let status = "Name:\tx\nVmPeak:\t  999 kB\nVmHWM:\t   26404 kB\nVmRSS:\t 12 kB\n";
        assert_eq!(high_water_mark(status), Some(26404 * 1024));
        for status in ["", "VmHWM:\n", "VmHWM:\t12 MB\n", "VmHWM:\t x kB\n"] {
            assert_eq!(high_water_mark(status), None, "{status}");
        }
        assert!(peak_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_peak_grows_with_what_was_touched() {
        let before = peak_bytes().unwrap();
        let held = vec![1_u8; before as usize + (32 << 20)];
        assert!(peak_bytes().unwrap() > before, "{}", held.len());
    }

    #[test]
    fn a_running_machine_has_some_memory() {
        assert!(free_bytes().is_some_and(|bytes| bytes > 0));
    }
}
