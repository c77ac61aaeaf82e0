//! Decoding with the instructions of x86: the table lies in registers.

#![allow(unsafe_code, reason = "intrinsics of the processor, and reads and writes of whole registers")]

use std::arch::x86_64::*;

/// Codes of a step, in half as many bytes.
pub(super) const STEP: usize = 32;

/// Sixteen bytes as 32 codes in order.
#[target_feature(enable = "avx2")]
fn codes(bytes: &[u8; STEP / 2]) -> [__m128i; 2] {
    // SAFETY: there are sixteen bytes.
    let pairs = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    let low_half = _mm_set1_epi8(15);
    let first = _mm_and_si128(_mm_srli_epi16::<4>(pairs), low_half);
    let second = _mm_and_si128(pairs, low_half);
    [_mm_unpacklo_epi8(first, second), _mm_unpackhi_epi8(first, second)]
}

/// The numbers of whole steps.
#[target_feature(enable = "avx512f,avx2")]
pub(super) fn avx512(table: &[f32; 16], bytes: &[[u8; STEP / 2]], factor: f32, numbers: &mut [[f32; STEP]]) {
    // SAFETY: the table has sixteen numbers.
    let table = unsafe { _mm512_mul_ps(_mm512_loadu_ps(table.as_ptr()), _mm512_set1_ps(factor)) };
    for (bytes, numbers) in bytes.iter().zip(numbers) {
        for (codes, numbers) in codes(bytes).into_iter().zip(numbers.as_chunks_mut::<16>().0) {
            let found = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(codes), table);
            // SAFETY: there is room for sixteen numbers.
            unsafe { _mm512_storeu_ps(numbers.as_mut_ptr(), found) };
        }
    }
}

/// The numbers of whole steps.
#[target_feature(enable = "avx2")]
pub(super) fn avx2(table: &[f32; 16], bytes: &[[u8; STEP / 2]], factor: f32, numbers: &mut [[f32; STEP]]) {
    let factor = _mm256_set1_ps(factor);
    // SAFETY: the table has twice eight numbers.
    let [below, above] = [0, 8]
        .map(|first| unsafe { _mm256_mul_ps(_mm256_loadu_ps(table.as_ptr().wrapping_add(first)), factor) });
    for (bytes, numbers) in bytes.iter().zip(numbers) {
        for (codes, numbers) in codes(bytes).into_iter().zip(numbers.as_chunks_mut::<16>().0) {
            let halves = [codes, _mm_srli_si128::<8>(codes)];
            for (codes, numbers) in halves.into_iter().zip(numbers.as_chunks_mut::<8>().0) {
                let codes = _mm256_cvtepu8_epi32(codes);
                let [below, above] = [below, above].map(|table| _mm256_permutevar8x32_ps(table, codes));
                // The fourth bit of a code becomes the sign that chooses.
                let choice = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
                // SAFETY: there is room for eight numbers.
                unsafe { _mm256_storeu_ps(numbers.as_mut_ptr(), _mm256_blendv_ps(below, above, choice)) };
            }
        }
    }
}
