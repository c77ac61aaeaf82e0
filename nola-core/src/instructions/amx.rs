//! Whether there are tiles (AMX): the processor must have them, and the system must let this process keep their registers.

#![allow(unsafe_code, reason = "a question to the processor, and a call of the system that has no wrapper")]

use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

/// Whether this process may multiply tiles of bf16. The system is asked once; its answer holds for every thread.
pub(super) fn is_usable() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| is_here() && is_permitted())
}

/// Whether the processor has tiles, and products of bf16 in them.
fn is_here() -> bool {
    const BF16: u32 = 1 << 22;
    const TILES: u32 = 1 << 24;
    let features = __cpuid_count(7, 0).edx;
    features & (BF16 | TILES) == BF16 | TILES
}

/// Asks Linux for the registers of tiles, eight KiB a thread, which it keeps only for processes that asked.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: the call takes two numbers and changes nothing but the permission.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}
