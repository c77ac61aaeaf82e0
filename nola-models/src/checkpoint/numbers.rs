//! Numbers of stored tensors, straight from the mapped file into the order and type a model wants: no copy in between.

use std::borrow::Cow;
use std::ops::Range;

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

use super::Part;

/// Columns that are turned together: their lines fit the cache.
const TILE_COLUMNS: usize = 32;
/// Numbers that a thread takes at a time.
const CHUNK: usize = 1 << 16;

/// A stored float tensor.
pub(super) struct Numbers<'a> {
    /// F32, F16 or BF16; the caller has refused others.
    pub(super) dtype: Dtype,
    pub(super) shape: &'a [usize],
    pub(super) bytes: Cow<'a, [u8]>,
}

impl Numbers<'_> {
    /// How many of them are NaN or infinite.
    pub(super) fn not_finite(&self) -> usize {
        self.count(|number| !number.is_finite())
    }

    /// How many of them are finite, but not as f16.
    pub(super) fn beyond_f16(&self) -> usize {
        self.count(|number| number.is_finite() && !f16::from_f32(number).is_finite())
    }

    fn count(&self, is_bad: impl Fn(f32) -> bool + Sync) -> usize {
        match self.dtype {
            Dtype::F16 => count(&self.bytes, |number| is_bad(f16_to_f32(number))),
            Dtype::BF16 => count(&self.bytes, |number| is_bad(bf16_to_f32(number))),
            // The caller lets only three types through; this is the third.
            _ => count(&self.bytes, |number| is_bad(f32::from_le_bytes(number))),
        }
    }

    /// A part of them as `H`, row-major; of a matrix that is `transposed`, column after column.
    pub(super) fn read<H: Held>(&self, part: Part, transposed: bool) -> Vec<H> {
        let window = Window::of(part, self.shape);
        match self.dtype {
            Dtype::F16 => window.read(&self.bytes, transposed, |number| H::of(f16_to_f32(number))),
            Dtype::BF16 => window.read(&self.bytes, transposed, |number| H::of(bf16_to_f32(number))),
            _ => window.read(&self.bytes, transposed, |number| H::of(f32::from_le_bytes(number))),
        }
    }
}

/// A number as a model holds it.
pub(super) trait Held: Copy + Default + Send {
    /// The nearest one, to even between two; exact where it is as wide as what was stored.
    fn of(number: f32) -> Self;
}

impl Held for f32 {
    fn of(number: f32) -> Self {
        number
    }
}

impl Held for bf16 {
    fn of(number: f32) -> Self {
        Self::from_f32(number)
    }
}

impl Held for f16 {
    fn of(number: f32) -> Self {
        Self::from_f32(number)
    }
}

fn f16_to_f32(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

fn bf16_to_f32(bytes: [u8; 2]) -> f32 {
    bf16::from_le_bytes(bytes).to_f32()
}

/// Generic over the function, here and below, since a function pointer is called anew for every number.
fn count<const N: usize>(bytes: &[u8], is_bad: impl Fn([u8; N]) -> bool + Sync) -> usize {
    // Counted in 32 bits, which fit twice as often into a vector.
    let bad = |&number: &[u8; N]| u32::from(is_bad(number));
    let of_chunk = |chunk: &[[u8; N]]| chunk.iter().map(bad).sum::<u32>() as usize;
    bytes.as_chunks().0.par_chunks(CHUNK).map(of_chunk).sum()
}

/// Some rows and columns of a row-major matrix.
struct Window {
    /// Length of a stored row.
    stride: usize,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Window {
    fn of(part: Part, shape: &[usize]) -> Self {
        let first = shape.first().copied().unwrap_or(1);
        let rest = shape.iter().skip(1).product();
        match part {
            Part::Whole | Part::LastAxes(_) => Self { stride: rest, rows: 0..first, columns: 0..rest },
            Part::Rows(shares) => Self { stride: rest, rows: shares.range(first), columns: 0..rest },
            Part::Columns(shares) => {
                let last = shape.last().copied().unwrap_or(1);
                let before = shape.iter().rev().skip(1).product();
                Self { stride: last, rows: 0..before, columns: shares.range(last) }
            }
        }
    }

    fn read<H: Held, const N: usize>(
        &self,
        bytes: &[u8],
        transposed: bool,
        decode: impl Fn([u8; N]) -> H + Sync,
    ) -> Vec<H> {
        let numbers: &[[u8; N]] = bytes.as_chunks().0;
        let row = |row: usize| &numbers[row * self.stride..][self.columns.clone()];
        let [rows, columns] = [self.rows.len(), self.columns.len()];
        let mut values = vec![H::default(); rows * columns];
        if transposed {
            values.par_chunks_mut((TILE_COLUMNS * rows).max(1)).enumerate().for_each(|(tile, turned)| {
                for (below, stored) in self.rows.clone().map(row).enumerate() {
                    let columns = stored.iter().skip(tile * TILE_COLUMNS).take(TILE_COLUMNS);
                    for (column, &number) in columns.enumerate() {
                        turned[column * rows + below] = decode(number);
                    }
                }
            });
            return values;
        }
        let rows_at_once = CHUNK.div_ceil(columns.max(1));
        let first_rows = self.rows.clone().into_par_iter().step_by(rows_at_once);
        values.par_chunks_mut((rows_at_once * columns).max(1)).zip(first_rows).for_each(|(values, first)| {
            for (values, index) in values.chunks_mut(columns).zip(first..) {
                values.iter_mut().zip(row(index)).for_each(|(value, &number)| *value = decode(number));
            }
        });
        values
    }
}

#[cfg(test)]
mod tests {
    use super::super::Shares;
    use super::*;

    fn stored(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn counted(rows: usize, columns: usize) -> Vec<f32> {
        (0..rows * columns).map(|n| n as f32).collect()
    }

    #[test]
    fn a_transposed_matrix_is_read_column_after_column() {
        let (rows, columns) = (5, 2 * TILE_COLUMNS + 3);
        let bytes = stored(&counted(rows, columns));
        let numbers = Numbers { dtype: Dtype::F32, shape: &[rows, columns], bytes: Cow::Borrowed(&bytes) };
        let expected: Vec<f32> = (0..columns)
            .flat_map(|column| (0..rows).map(move |row| (row * columns + column) as f32))
            .collect();
        assert_eq!(numbers.read::<f32>(Part::Whole, true), expected);
    }

    #[test]
    fn columns_are_a_part_of_every_row() {
        let bytes = stored(&counted(2, 6));
        let numbers = Numbers { dtype: Dtype::F32, shape: &[2, 6], bytes: Cow::Borrowed(&bytes) };
        assert_eq!(numbers.read::<f32>(Part::Columns(Shares::nth(1, 3)), false), [2.0, 3.0, 8.0, 9.0]);
    }

    #[test]
    fn rows_are_a_part_of_the_first_axis() {
        let bytes = stored(&counted(4, 2));
        let numbers = Numbers { dtype: Dtype::F32, shape: &[4, 2], bytes: Cow::Borrowed(&bytes) };
        assert_eq!(numbers.read::<f32>(Part::Rows(Shares::nth(1, 2)), false), [4.0, 5.0, 6.0, 7.0]);
    }

    #[test]
    fn columns_of_a_vector_are_a_part_of_it() {
        let bytes = stored(&counted(1, 6));
        let numbers = Numbers { dtype: Dtype::F32, shape: &[6], bytes: Cow::Borrowed(&bytes) };
        assert_eq!(numbers.read::<f32>(Part::Columns(Shares::nth(2, 3)), false), [4.0, 5.0]);
    }

    #[test]
    fn half_precision_is_widened_exactly() {
        let values = [1.5f32, -0.25, 3.0, 1024.0];
        let f16s: Vec<u8> = values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
        let bf16s: Vec<u8> = values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect();
        for (dtype, bytes) in [(Dtype::F16, f16s), (Dtype::BF16, bf16s)] {
            let numbers = Numbers { dtype, shape: &[2, 2], bytes: Cow::Borrowed(&bytes) };
            assert_eq!(numbers.read::<f32>(Part::Whole, true), [1.5, 3.0, -0.25, 1024.0], "{dtype}");
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_counted() {
        let bytes = stored(&[1.0, f32::NAN, f32::NEG_INFINITY, 0.0]);
        let numbers = Numbers { dtype: Dtype::F32, shape: &[4], bytes: Cow::Borrowed(&bytes) };
        assert_eq!(numbers.not_finite(), 2);
    }

    #[test]
    fn half_precision_is_read_as_itself_to_the_bit() {
        let values: Vec<bf16> = (0x3f80_u16..0x3f90).map(bf16::from_bits).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let numbers = Numbers { dtype: Dtype::BF16, shape: &[4, 4], bytes: Cow::Borrowed(&bytes) };
        assert_eq!(numbers.read::<bf16>(Part::Whole, false), values);
    }

    #[test]
    fn wide_numbers_are_rounded_to_the_nearest() {
        // Just above and just below the middle of 1 and the next bf16, 1 + 2^-7, and the middle itself.
        let middle = 1.0 + 2_f32.powi(-8);
        let bytes = stored(&[middle + 1e-6, middle - 1e-6, middle]);
        let numbers = Numbers { dtype: Dtype::F32, shape: &[3], bytes: Cow::Borrowed(&bytes) };
        let expected = [1.0 + 2_f32.powi(-7), 1.0, 1.0].map(bf16::from_f32);
        assert_eq!(numbers.read::<bf16>(Part::Whole, false), expected);
    }

    #[test]
    fn numbers_too_large_for_f16_are_counted() {
        let bytes = stored(&[65504.0, 70000.0, -1e9, f32::NAN, f32::INFINITY]);
        let numbers = Numbers { dtype: Dtype::F32, shape: &[5], bytes: Cow::Borrowed(&bytes) };
        assert_eq!(numbers.beyond_f16(), 2);
    }
}
