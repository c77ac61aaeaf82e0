//! What a product reads and writes, and the parts of it that threads share.

#![allow(unsafe_code, reason = "parts of a result are written by several threads")]

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::slice;

use burn::backend::flex::Layout;

/// Columns of a result that a kernel makes together.
pub(super) const PANEL: usize = 32;
/// Rows of a part at least, where there are as many: each part prepares its weight anew, which must pay.
const LEAST_ROWS: usize = 128;
/// Parts of a thread, so that one that is held up does not hold up the others.
const PARTS_PER_THREAD: usize = 4;

/// What a product is made of, but for the weight.
pub(super) struct Operands<'a> {
    /// `[rows, d_in]`
    pub(super) x: &'a [f32],
    /// `[d_out]`
    pub(super) bias: Option<&'a [f32]>,
    pub(super) sums: Sums<'a>,
}

/// Rows and columns of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
}

impl Operands<'_> {
    /// Inputs of the product.
    pub(super) fn d_in(&self) -> usize {
        self.x.len() / self.sums.sizes()[0].max(1)
    }

    /// A row of `x`.
    pub(super) fn inputs_of(&self, row: usize) -> &[f32] {
        &self.x[row * self.d_in()..][..self.d_in()]
    }

    /// The result in parts of whole panels, which cover it. Rows are divided only where columns do not give every thread its share.
    pub(super) fn parts(&self) -> Vec<Part> {
        let ([rows, columns], threads) = (self.sums.sizes(), rayon::current_num_threads());
        let wanted = threads * PARTS_PER_THREAD;
        let width = columns.div_ceil(PANEL).div_ceil(wanted).max(1) * PANEL;
        let beside = columns.div_ceil(width).max(1);
        let below =
            if beside < threads { (wanted / beside).clamp(1, rows.div_ceil(LEAST_ROWS).max(1)) } else { 1 };
        let height = rows.div_ceil(below).max(1);
        let of_rows = |first: usize| {
            let rows = first..rows.min(first + height);
            (0..columns).step_by(width).map(move |first| {
                let columns = first..columns.min(first + width);
                Part { rows: rows.clone(), columns }
            })
        };
        (0..rows).step_by(height).flat_map(of_rows).collect()
    }

    /// Sets a part that nobody else uses meanwhile to the bias, or to zero: what is added to must begin so.
    pub(super) fn begin(&self, part: &Part) {
        for row in part.rows.clone() {
            let start = self.sums.at(&Part { rows: row..row + 1, columns: part.columns.clone() });
            let count = part.columns.len();
            // SAFETY: the caller promised that the part is nobody else's, and `at` that the row is within it.
            let sums = unsafe { slice::from_raw_parts_mut(start.cast::<MaybeUninit<f32>>(), count) };
            match self.bias {
                Some(bias) => _ = sums.write_copy_of_slice(&bias[part.columns.clone()]),
                None => sums.fill(MaybeUninit::new(0.0)),
            }
        }
    }
}

/// A result `[rows, d_out]`, undefined at first, whose parts are written at the same time.
pub(super) struct Sums<'a> {
    start: *mut f32,
    count: usize,
    d_out: usize,
    borrowed: PhantomData<&'a mut [MaybeUninit<f32>]>,
}

// SAFETY: it stands for a slice that it has borrowed for writing, and those who write through `at` share no part.
unsafe impl Sync for Sums<'_> {}

impl<'a> Sums<'a> {
    pub(super) fn new(numbers: &'a mut [MaybeUninit<f32>], d_out: usize) -> Self {
        Self { start: numbers.as_mut_ptr().cast(), count: numbers.len(), d_out, borrowed: PhantomData }
    }

    /// Rows and columns.
    pub(super) fn sizes(&self) -> [usize; 2] {
        [self.count / self.d_out.max(1), self.d_out]
    }

    /// Where a part begins; its rows are `d_out` numbers apart. Whoever writes there must be the only one who uses the
    /// part meanwhile, and must stay within it.
    ///
    /// # Panics
    /// If the part is empty or not within the result.
    pub(super) fn at(&self, part: &Part) -> *mut f32 {
        let ([rows, columns], Part { rows: of_rows, columns: of_columns }) = (self.sizes(), part);
        assert!(!of_rows.is_empty() && of_rows.end <= rows, "rows of the result");
        assert!(!of_columns.is_empty() && of_columns.end <= columns, "columns of the result");
        // SAFETY: by the assertions this is within the slice that was borrowed.
        unsafe { self.start.add(of_rows.start * self.d_out + of_columns.start) }
    }
}

/// A part of a weight in f32.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub(super) numbers: &'a [f32],
    /// From one input to the next, and from one output to the next; one of them is 1.
    pub(super) strides: [usize; 2],
}

/// A weight whose parts are f32, or become it in the cache.
pub(super) trait Widen: Sync {
    /// Inputs of the product.
    fn inputs(&self) -> usize;

    /// Whether the numbers of one input lie side by side; if not, those of one output do.
    fn lies_by_input(&self) -> bool;

    /// A part of the weight, which is written to `scratch` if it is not f32 already.
    fn widen<'a>(
        &'a self,
        inputs: &Range<usize>,
        columns: &Range<usize>,
        scratch: &'a mut [f32],
    ) -> Block<'a>;
}

/// A weight `[d_in, d_out]` as it lies in memory, straight or transposed.
pub(super) struct Weight<'a, N> {
    numbers: &'a [N],
    pub(super) d_in: usize,
    /// From one input to the next, and from one output to the next; one of them is 1.
    strides: [usize; 2],
}

impl<'a, N> Weight<'a, N> {
    /// # Panics
    /// If neither its rows nor its columns lie side by side.
    pub(super) fn new(storage: &'a [N], layout: &Layout) -> Self {
        let strides = [layout.strides()[0], layout.strides()[1]];
        assert!(strides.contains(&1), "a matrix whose rows or columns lie side by side");
        let strides = strides.map(|stride| stride.try_into().expect("a matrix that lies forwards"));
        Self { numbers: &storage[layout.start_offset()..], d_in: layout.shape()[0], strides }
    }

    /// The weight `[d_in, ..]` whose numbers lie so.
    pub(super) fn of_block(numbers: &'a [N], d_in: usize, strides: [usize; 2]) -> Self {
        Self { numbers, d_in, strides }
    }

    /// The numbers from the first on, and the strides of inputs and outputs.
    pub(super) fn layout(&self) -> (&'a [N], [usize; 2]) {
        (self.numbers, self.strides)
    }

    /// Whether the numbers of one input lie side by side; if not, those of one output do.
    pub(super) fn is_straight(&self) -> bool {
        self.strides[1] == 1
    }

    /// What one input gives to the outputs `columns`, of a straight weight.
    pub(super) fn of_input(&self, input: usize, columns: &Range<usize>) -> &'a [N] {
        &self.numbers[input * self.strides[0] + columns.start..][..columns.len()]
    }

    /// What the `inputs` give to one output, of a transposed weight.
    pub(super) fn of_output(&self, output: usize, inputs: &Range<usize>) -> &'a [N] {
        &self.numbers[output * self.strides[1] + inputs.start..][..inputs.len()]
    }
}
