//! Packed whole numbers of Parquet, walked without being unpacked: levels in runs, and numbers by their differences.

use parquet::basic::Encoding;

/// The levels at the start of a page of the first version, which are taken off; `None` within if there are none, or if they
/// have no runs. `None` if the page is too short.
pub(super) fn plain_levels<'a>(
    rest: &mut &'a [u8],
    max_level: i16,
    encoding: Encoding,
    count: usize,
) -> Option<Option<&'a [u8]>> {
    if max_level == 0 {
        return Some(None);
    }
    if encoding != Encoding::RLE {
        taken(rest, (count * width_of(max_level)).div_ceil(8))?;
        return Some(None);
    }
    let length = u32::from_le_bytes(taken(rest, 4)?.try_into().ok()?);
    taken(rest, length as usize).map(Some)
}

/// Calls `run` with each of `count` levels and how often it stands there in a row; levels that are not there are the
/// reader's to tell.
pub(super) fn level_runs<E>(
    mut bytes: &[u8],
    max_level: i16,
    count: usize,
    mut run: impl FnMut(u64, usize) -> Result<(), E>,
) -> Result<(), E> {
    let (width, mut left) = (width_of(max_level), count);
    while left > 0 {
        let Some(header) = number(&mut bytes) else { break };
        let length = (header >> 1) as usize;
        if header & 1 == 0 {
            let Some(level) = taken(&mut bytes, width.div_ceil(8)) else { break };
            run(bits(level, 0, width), length.min(left))?;
            left -= length.min(left);
        } else {
            let packed = length.saturating_mul(width).min(bytes.len());
            let packed = taken(&mut bytes, packed).unwrap_or_default();
            let levels = (packed.len() * 8 / width).min(left);
            (0..levels).try_for_each(|at| run(bits(packed, at * width, width), 1))?;
            left -= levels;
        }
    }
    Ok(())
}

/// Numbers that are stored by their differences.
pub(super) struct Deltas<'a> {
    /// How many.
    pub count: usize,
    /// Their sum, without those below 0.
    pub sum: usize,
    /// What stands behind them.
    pub rest: &'a [u8],
}

/// Walks `most` numbers at most.
///
/// # Errors
/// If there are more, or if they are damaged.
pub(super) fn deltas(mut bytes: &[u8], most: usize) -> Result<Deltas<'_>, String> {
    let damaged = || "lengths that are damaged".to_owned();
    let mut header =
        || Some([number(&mut bytes)?, number(&mut bytes)?, number(&mut bytes)?, number(&mut bytes)?]);
    let [block, parts, count, first] = header().ok_or_else(damaged)?;
    if count as usize > most {
        return Err(format!("{count} lengths for {most} values at most"));
    }
    let part = block.checked_div(parts).ok_or_else(damaged)? as usize;
    if count > 1 && part == 0 {
        return Err(damaged());
    }
    let mut value = signed(first) as i32;
    let mut sum = value.max(0) as usize;
    let mut left = (count as usize).saturating_sub(1);
    while left > 0 {
        let least = signed(number(&mut bytes).ok_or_else(damaged)?) as i32;
        let widths = taken(&mut bytes, parts as usize).ok_or_else(damaged)?;
        for &width in widths.iter().take(left.div_ceil(part)) {
            let width = usize::from(width);
            let packed = taken(&mut bytes, width.saturating_mul(part) / 8);
            let packed = packed.filter(|_| width <= 32).ok_or_else(damaged)?;
            for at in 0..part.min(left) {
                value = value.wrapping_add(least).wrapping_add(bits(packed, at * width, width) as i32);
                sum = sum.saturating_add(value.max(0) as usize);
            }
            left -= part.min(left);
        }
    }
    Ok(Deltas { count: count as usize, sum, rest: bytes })
}

/// Bits that a level needs.
fn width_of(max_level: i16) -> usize {
    (i16::BITS - max_level.leading_zeros()) as usize
}

/// Takes bytes off the start.
fn taken<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

/// Takes a number of seven bits a byte off the start.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = taken(bytes, 1)?[0];
        number |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Some(number);
        }
    }
    None
}

/// A number whose lowest bit is its sign.
fn signed(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// The number in `width` bits from the bit `start` on, the lowest first.
fn bits(bytes: &[u8], start: usize, width: usize) -> u64 {
    let bit = |at: usize| u64::from(bytes[at / 8] >> (at % 8) & 1);
    (0..width).map(|at| bit(start + at) << at).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_in_runs_and_packed_levels_are_walked_in_order() {
        // Three times 1, then 8 packed ones of two bits: 0 1 2 3 0 1 2 3.
        let bytes = [3 << 1, 1, 1 << 1 | 1, 0b1110_0100, 0b1110_0100];
        let mut found = Vec::new();
        let mut take = |level, times| {
            found.push((level, times));
            Ok::<_, ()>(())
        };
        level_runs(&bytes, 3, 10, &mut take).unwrap();
        assert_eq!(found, [(1, 3), (0, 1), (1, 1), (2, 1), (3, 1), (0, 1), (1, 1), (2, 1)]);
    }

    #[test]
    fn levels_that_are_cut_short_end_the_walk() {
        for bytes in [&[][..], &[128], &[6], &[255, 255, 255, 255, 15], &[3, 1]] {
            let _ = level_runs(bytes, 1, 1 << 40, |_, _| Ok::<_, ()>(()));
        }
    }

    #[test]
    fn numbers_stored_by_their_differences_are_summed() {
        // 7, 5, 3, 1, 2, 3, 4, 5 of the format's documentation: the least difference is -2, and two bits hold the rest.
        let packed = [0b1100_0000, 0b0011_1111];
        let numbers = [&[128, 1, 4, 8, 14, 3, 2, 0, 0, 0][..], &packed, &[0; 6], b"rest"].concat();
        let Deltas { count, sum, rest } = deltas(&numbers, 8).unwrap();
        assert_eq!((count, sum, rest), (8, 30, b"rest".as_slice()));
        assert!(deltas(&numbers, 7).is_err());
    }

    #[test]
    fn damaged_differences_are_errors() {
        let whole = [128, 1, 4, 8, 14, 3, 2, 0, 0, 0, 192, 63, 0, 0, 0, 0, 0, 0];
        for end in 0..whole.len() {
            assert!(deltas(&whole[..end], 8).is_err(), "{end}");
        }
        for damaged in [[128, 1, 0, 8, 14], [0, 0, 4, 8, 14], [255, 255, 255, 255, 255]] {
            assert!(deltas(&damaged, 8).is_err(), "{damaged:?}");
        }
    }
}
