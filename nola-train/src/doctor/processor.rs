//! The processor, and which kernels it gets.

use nola_core::{basis, bf16_instructions};
use serde::Serialize;

use crate::bench::machine::cpu_name;

/// The processor.
#[derive(Debug, Serialize)]
pub(super) struct Processor {
    pub(super) name: String,
    pub(super) threads: usize,
    /// Of those that a kernel here or below could use.
    pub(super) features: Vec<&'static str>,
    pub(super) kernels: Kernels,
}

/// The instructions that kernels use.
#[derive(Debug, Serialize)]
pub(super) struct Kernels {
    /// `expand` and `project`.
    pub(super) basis: &'static str,
    /// Products with a weight in bf16.
    pub(super) products_bf16: &'static str,
}

impl Processor {
    pub(super) fn here() -> Self {
        Self {
            name: cpu_name(),
            threads: rayon::current_num_threads(),
            features: features(),
            kernels: Kernels { basis: basis::instruction_set(), products_bf16: bf16_instructions() },
        }
    }
}

/// Those features that are there.
macro_rules! found {
    ($is_there:ident: $($feature:tt)*) => {
        [$(($feature, std::arch::$is_there!($feature))),*]
            .into_iter()
            .filter_map(|(name, there)| there.then_some(name))
            .collect()
    };
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    found!(is_x86_feature_detected: "avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512dq" "avx512vl" "avx512vnni" "avx512bf16"
        "avx512fp16")
}

#[cfg(target_arch = "aarch64")]
fn features() -> Vec<&'static str> {
    found!(is_aarch64_feature_detected: "neon" "fp16" "bf16" "i8mm" "sve" "sve2")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<&'static str> {
    Vec::new()
}
