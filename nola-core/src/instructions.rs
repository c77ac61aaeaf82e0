//! The instructions that this crate's kernels may use: the fastest that the processor has, or those up to what [`VARIABLE`] names.

#[cfg(target_arch = "x86_64")]
mod amx;

use std::fmt;
use std::sync::OnceLock;

/// The environment variable that limits them: `plain`, `avx2`, `avx512`, `avx512bf16` or `amx`.
///
/// A basis has the same bits with each of them, so it is for tests, and for a processor that is not trusted. Products in f32
/// are those of the crate `gemm`, which asks the processor itself.
pub const VARIABLE: &str = "NOLA_CPU";

/// Sets of instructions; each kernel uses one of them, and those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instructions {
    /// Those that every processor has.
    Plain,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512.
    Avx512,
    /// AVX-512 and its products of bf16.
    Avx512Bf16,
    /// Tiles of bf16 (AMX) beside those.
    Amx,
}

/// The registers that instructions compute in, for kernels to which products of bf16 are nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vectors {
    /// Whatever the compiler takes for every processor.
    Plain,
    /// 256 bits.
    Avx2,
    /// 512 bits.
    Avx512,
}

/// A limit that cannot be kept to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongInstructions {
    /// There is no set of that name.
    #[error("{VARIABLE} is `{found}`; set it to plain, avx2, avx512, avx512bf16 or amx, or unset it")]
    Unknown {
        /// What it is.
        found: String,
    },
    /// This processor lacks them.
    #[error(
        "{VARIABLE} is `{asked}`, which this processor does not have; set it to {most} or less, or unset it"
    )]
    Absent {
        /// What was asked for.
        asked: Instructions,
        /// The most that there is.
        most: Instructions,
    },
}

impl Instructions {
    /// All of them, the least first.
    pub const ALL: [Self; 5] = [Self::Plain, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];

    /// Its name, as the variable has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512bf16",
            Self::Amx => "amx",
        }
    }

    /// The most that this processor has.
    pub fn most() -> Self {
        Self::ALL.into_iter().take_while(|instructions| instructions.is_here()).last().unwrap_or(Self::Plain)
    }

    /// Whether the processor has these, if it has those before them.
    #[cfg(target_arch = "x86_64")]
    fn is_here(self) -> bool {
        match self {
            Self::Plain => true,
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            Self::Avx512Bf16 => {
                is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512bf16")
            }
            Self::Amx => amx::is_usable(),
        }
    }

    /// Whether the processor has these, if it has those before them.
    #[cfg(not(target_arch = "x86_64"))]
    fn is_here(self) -> bool {
        self == Self::Plain
    }

    /// The registers that they compute in.
    pub(crate) fn vectors(self) -> Vectors {
        match self {
            Self::Plain => Vectors::Plain,
            Self::Avx2 => Vectors::Avx2,
            Self::Avx512 | Self::Avx512Bf16 | Self::Amx => Vectors::Avx512,
        }
    }

    /// The fastest that this processor has.
    ///
    /// Products of bf16 in tiles are faster than those of f32. Those in registers are so on AMD's processors, and slower on Intel's, where a
    /// step of GPT-2 small took 1.6 times as long with them.
    fn fastest() -> Self {
        match Self::most() {
            Self::Amx => Self::Amx,
            most if is_of_amd() => most,
            most => most.min(Self::Avx512),
        }
    }

    /// The most that kernels may use here.
    pub(crate) fn allowed() -> Self {
        static ALLOWED: OnceLock<Instructions> = OnceLock::new();
        // What is wrong with the variable is reported by `check`.
        *ALLOWED.get_or_init(|| asked().unwrap_or_else(|_| Self::fastest()))
    }
}

/// Whether AMD, or Hygon after AMD's design, made the processor.
#[cfg(target_arch = "x86_64")]
fn is_of_amd() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    // "AuthenticAMD" and "HygonGenuine" begin with these letters.
    [*b"Auth", *b"Hygo"].contains(&vendor.ebx.to_le_bytes())
}

#[cfg(not(target_arch = "x86_64"))]
fn is_of_amd() -> bool {
    false
}

impl fmt::Display for Instructions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether the limit of the environment, if there is one, can be kept to.
///
/// # Errors
/// If it names no instructions, or some that this processor lacks.
pub fn check() -> Result<(), WrongInstructions> {
    asked().map(drop)
}

fn asked() -> Result<Instructions, WrongInstructions> {
    match std::env::var_os(VARIABLE) {
        Some(found) if !found.is_empty() => limit(&found.to_string_lossy(), Instructions::most()),
        Some(_) | None => Ok(Instructions::fastest()),
    }
}

/// The instructions of this name, on a processor with these.
fn limit(found: &str, most: Instructions) -> Result<Instructions, WrongInstructions> {
    let named = Instructions::ALL.into_iter().find(|instructions| instructions.name() == found);
    let asked = named.ok_or_else(|| WrongInstructions::Unknown { found: found.to_owned() })?;
    if asked <= most { Ok(asked) } else { Err(WrongInstructions::Absent { asked, most }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_read_by_its_name() {
        for instructions in Instructions::ALL {
            assert_eq!(limit(instructions.name(), Instructions::Amx), Ok(instructions));
        }
    }

    #[test]
    fn what_is_not_known_or_not_there_is_refused_with_the_cure() {
        let unknown = limit("sse", Instructions::Avx512).expect_err("no such name").to_string();
        assert_eq!(
            unknown,
            "NOLA_CPU is `sse`; set it to plain, avx2, avx512, avx512bf16 or amx, or unset it"
        );
        let absent = limit("avx512", Instructions::Avx2).expect_err("not there").to_string();
        assert!(absent.contains("set it to avx2 or less, or unset it"), "{absent}");
    }
}
