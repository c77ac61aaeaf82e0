//! Memory of this process.

/// Largest resident memory of this process so far, in bytes; absent where the system does not say.
#[cfg(unix)]
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
