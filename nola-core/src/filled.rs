//! Results that several threads clear and fill, a part each.

#![allow(unsafe_code, reason = "memory is taken as it comes, and cleared part by part")]

use std::mem::MaybeUninit;

use rayon::prelude::*;

/// Numbers of a part of [`zeros`].
const PART: usize = 1 << 14;

/// `count` numbers in parts of `size`, the last of which may be shorter: `fill` gets the place of a part's first number, and the
/// part, which is zero. Each part is cleared by the thread that fills it, in its cache.
///
/// # Panics
/// If `size` is zero.
pub fn filled(count: usize, size: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let mut numbers = Vec::with_capacity(count);
    let parts = numbers.spare_capacity_mut()[..count].par_chunks_mut(size);
    parts.enumerate().for_each(|(number, part)| {
        part.fill(MaybeUninit::new(0.0));
        // SAFETY: each of its numbers was written just now.
        fill(number * size, unsafe { part.assume_init_mut() });
    });
    // SAFETY: there is room for so many, and the parts cover them.
    unsafe { numbers.set_len(count) };
    numbers
}

/// `count` zeros, cleared by all threads.
pub fn zeros(count: usize) -> Vec<f32> {
    filled(count, PART, |_, _| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_knows_where_it_begins_and_is_zero_before() {
        let numbers = filled(10, 4, |first, part| {
            assert!(part.iter().all(|number| *number == 0.0));
            part.iter_mut().zip(first..).for_each(|(number, place)| *number = place as f32);
        });
        assert_eq!(numbers, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
    }

    #[test]
    fn nothing_has_no_parts() {
        assert!(filled(0, 4, |_, _| panic!("there is no part")).is_empty());
        assert_eq!(zeros(2 * PART + 1), vec![0.0; 2 * PART + 1]);
    }
}
