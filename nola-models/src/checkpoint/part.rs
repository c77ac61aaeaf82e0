//! How much of a stored tensor a parameter is.

/// How much of a stored tensor a parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    Whole,
    /// The `index`-th of `of` equal parts, of a fused projection.
    Rows {
        /// Counted from 0.
        index: usize,
        /// Number of parts.
        of: usize,
    },
    /// The `index`-th of `of` equal parts of the last axis, of a fused projection stored as `[d_in, d_out]`.
    Columns {
        /// Counted from 0.
        index: usize,
        /// Number of parts.
        of: usize,
    },
}
