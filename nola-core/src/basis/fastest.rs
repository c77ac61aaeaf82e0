//! The choice of the fastest kernel that this processor runs.

use super::generator::{Distribution, Generator, Stream};
use super::kernel::{Kernel, SIGN_BATCH, Words};
use super::plain::Plain;
use crate::instructions::Instructions;

/// The kernels of this processor's instruction sets, the fastest first.
#[cfg(target_arch = "x86_64")]
fn vectorised() -> [Option<&'static dyn Kernel>; 2] {
    let avx512 = super::avx512::Avx512::detect().map(|kernel| kernel as &dyn Kernel);
    [avx512, super::avx2::Avx2::detect().map(|kernel| kernel as &dyn Kernel)]
}

#[cfg(not(target_arch = "x86_64"))]
fn vectorised() -> [Option<&'static dyn Kernel>; 2] {
    [None; 2]
}

/// The fastest kernel that this processor runs and that is allowed.
pub(super) fn fastest() -> &'static dyn Kernel {
    let allowed = Instructions::allowed();
    let mut of_processor = vectorised().into_iter().flatten();
    of_processor.find(|kernel| kernel.instructions() <= allowed).unwrap_or(&Plain)
}

/// The instruction set that [`Basis::expand`](super::Basis::expand) and its kin use here: `avx512`, `avx2` or `plain`.
pub fn instruction_set() -> &'static str {
    fastest().instructions().name()
}

/// Makes `count` words of the generator, or a few more, on this thread, and returns their exclusive or.
///
/// The speed limit of everything else here, for benchmarks.
pub fn philox_words(count: usize) -> u32 {
    let kernel = fastest();
    let generator = Generator { distribution: Distribution::Sign, seed: 0, site: 0, stream: Stream::A };
    let mut words = Words([[0; SIGN_BATCH]; 4]);
    let mut checksum = 0;
    for block in 0..count.div_ceil(4 * SIGN_BATCH) {
        kernel.sign_words(&generator, block as u32, 0, SIGN_BATCH, &mut words);
        checksum ^= words.0.as_flattened().iter().fold(0, |sum, word| sum ^ word);
    }
    checksum
}

/// Every kernel that this processor runs, the plain one first: for tests.
#[cfg(test)]
pub(super) fn available() -> Vec<&'static dyn Kernel> {
    let plain: &dyn Kernel = &Plain;
    std::iter::once(plain).chain(vectorised().into_iter().flatten()).collect()
}
