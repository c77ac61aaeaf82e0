//! Scales in 8 bits: what the scales of NF4 differ from their mean, in blocks with a scale of their own.

use std::sync::OnceLock;

use super::{inverse, largest};

/// Scales that share a scale of their own.
pub const NESTED_BLOCK: usize = 256;

/// Scales in 8 bits.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Nested {
    pub codes: Vec<u8>,
    /// The largest absolute value of each block.
    pub largest: Vec<f32>,
    /// The mean of all scales.
    pub offset: f32,
}

/// `scales` in 8 bits.
pub(super) fn nested(scales: &[f32]) -> Nested {
    let sum: f64 = scales.iter().map(|&scale| f64::from(scale)).sum();
    let offset = (sum / scales.len().max(1) as f64) as f32;
    let centred: Vec<f32> = scales.iter().map(|scale| scale - offset).collect();
    let largest = largest(&centred, NESTED_BLOCK);
    let blocks = centred.chunks(NESTED_BLOCK).zip(&largest);
    let codes = blocks.flat_map(|(block, &largest)| {
        let factor = inverse(largest);
        block.iter().map(move |scale| nearest(scale * factor))
    });
    Nested { codes: codes.collect(), largest, offset }
}

/// The code whose number is nearest to `value`.
fn nearest(value: f32) -> u8 {
    let table = table();
    let above = table.partition_point(|&number| number < value).clamp(1, table.len() - 1);
    let is_lower = value - table[above - 1] <= table[above] - value;
    (if is_lower { above - 1 } else { above }) as u8
}

/// The number of each code of a scale, ascending: seven powers of ten, each cut finer than the one below.
///
/// # Source
/// `create_dynamic_map` of bitsandbytes, signed, with 8 bits.
pub fn table() -> &'static [f32; 256] {
    static TABLE: OnceLock<[f32; 256]> = OnceLock::new();
    TABLE.get_or_init(|| table_of(bound))
}

/// The table between these bounds.
pub(super) fn table_of(bound: fn(usize, usize) -> f32) -> [f32; 256] {
    let mut numbers = vec![0.0, 1.0];
    for exponent in 0..7_i32 {
        let power = 10.0_f64.powi(exponent - 6) as f32;
        let parts = 1 << exponent;
        for part in 0..parts {
            let number = power * f32::midpoint(bound(part, parts), bound(part + 1, parts));
            numbers.extend([number, -number]);
        }
    }
    numbers.sort_by(f32::total_cmp);
    numbers.try_into().expect("2 · 127 + 2 numbers")
}

/// The bounds between 0.1 and 1, as `torch.linspace` has them: from both ends to the middle, rounded once, as its
/// vectorised loops do.
fn bound(part: usize, parts: usize) -> f32 {
    let (start, end) = (0.1_f32, 1.0_f32);
    let step = (end - start) / parts as f32;
    if part < parts.div_ceil(2) {
        step.mul_add(part as f32, start)
    } else {
        step.mul_add(-((parts - part) as f32), end)
    }
}
