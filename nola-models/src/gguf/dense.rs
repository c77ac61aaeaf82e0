//! A tensor of a GGUF file as the dense one of Hugging Face.

use rayon::prelude::*;

use super::blocks::Format;
use super::names::Layout;

/// A tensor that does not lie in the file as Hugging Face has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Foreign {
    pub(super) format: Format,
    pub(super) layout: Layout,
    /// Sizes of its axes in the file, the one whose numbers lie side by side last.
    pub(super) shape: Vec<usize>,
}

impl Foreign {
    /// ggml's name of how its numbers are stored.
    pub(crate) fn format(&self) -> String {
        self.format.to_string()
    }

    /// Whether Hugging Face has it with rows and columns exchanged.
    pub(crate) fn is_turned(&self) -> bool {
        self.layout == Layout::Transposed
    }

    /// How many numbers lie side by side.
    pub(super) fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// How many rows of them the file has.
    pub(crate) fn rows(&self) -> usize {
        self.shape.iter().product::<usize>() / self.columns().max(1)
    }

    /// The bytes of the row that Hugging Face has at `row`, of a matrix that is not turned, or of the file's own.
    pub(super) fn row_at<'s>(&self, stored: &'s [u8], row: usize) -> &'s [u8] {
        let source = match self.layout {
            Layout::AsStored | Layout::Transposed => row,
            Layout::Interleaved { heads } => interleaved(row, self.rows() / heads),
        };
        let row_bytes = self.format.row_bytes(self.columns());
        &stored[source * row_bytes..][..row_bytes]
    }

    /// The numbers that `stored` means, in Hugging Face's order, as the little-endian f32 of a file.
    pub(crate) fn dense(&self, stored: &[u8]) -> Vec<u8> {
        let (rows, columns) = (self.rows(), self.columns());
        match (self.layout, self.shape.len()) {
            (Layout::Interleaved { heads }, 1) => {
                let numbers = self.row(stored, columns);
                let turned = (0..columns).map(|row| numbers[interleaved(row, columns / heads)]);
                turned.flat_map(f32::to_le_bytes).collect()
            }
            (Layout::AsStored | Layout::Interleaved { .. }, _) => self.by_rows(stored, rows, columns),
            (Layout::Transposed, _) => {
                let mut bytes = vec![0; rows * columns * size_of::<f32>()];
                for (row, stored) in stored.chunks_exact(self.format.row_bytes(columns)).enumerate() {
                    let numbers = self.row(stored, columns);
                    let turned = bytes.as_chunks_mut().0.iter_mut().skip(row).step_by(rows);
                    turned.zip(numbers).for_each(|(bytes, number)| *bytes = number.to_le_bytes());
                }
                bytes
            }
        }
    }

    /// The rows of a matrix in Hugging Face's order; threads share them out.
    fn by_rows(&self, stored: &[u8], rows: usize, columns: usize) -> Vec<u8> {
        let mut bytes = vec![0; rows * columns * size_of::<f32>()];
        let turned = bytes.par_chunks_exact_mut(columns * size_of::<f32>()).enumerate();
        turned.for_each_init(
            || vec![0.0; columns],
            |numbers, (row, turned)| {
                self.format.dequantize(self.row_at(stored, row), numbers);
                let bytes = turned.as_chunks_mut().0.iter_mut();
                bytes.zip(numbers).for_each(|(bytes, number)| *bytes = number.to_le_bytes());
            },
        );
        bytes
    }

    fn row(&self, stored: &[u8], columns: usize) -> Vec<f32> {
        let mut numbers = vec![0.0; columns];
        self.format.dequantize(stored, &mut numbers);
        numbers
    }
}

/// The row of a file that is Hugging Face's at `row`, in heads of `d_head` rows.
fn interleaved(row: usize, d_head: usize) -> usize {
    let inside = row % d_head;
    row - inside + 2 * (inside % (d_head / 2)) + inside / (d_head / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(numbers: impl IntoIterator<Item = f32>) -> Vec<u8> {
        numbers.into_iter().flat_map(f32::to_le_bytes).collect()
    }

    fn dense(layout: Layout, shape: &[usize]) -> Vec<f32> {
        let count: usize = shape.iter().product();
        let foreign = Foreign { format: Format::F32, layout, shape: shape.to_vec() };
        let dense = foreign.dense(&bytes((0..count).map(|n| n as f32)));
        dense.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    #[test]
    fn rows_that_turn_together_are_put_half_a_head_apart() {
        // Two heads of four rows: in the file 0 and 1 turn together, and 2 and 3.
        let rows = [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0];
        assert_eq!(dense(Layout::Interleaved { heads: 2 }, &[8]), rows);
        let both: Vec<f32> = rows.iter().flat_map(|row| [2.0 * row, 2.0 * row + 1.0]).collect();
        assert_eq!(dense(Layout::Interleaved { heads: 2 }, &[8, 2]), both);
    }

    #[test]
    fn a_transposed_matrix_has_its_rows_as_columns() {
        assert_eq!(dense(Layout::Transposed, &[2, 3]), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    }
}
