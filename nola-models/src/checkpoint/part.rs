//! How much of a stored tensor a parameter is.

pub use nola_core::folder::peft::Shares;

/// How much of a stored tensor a parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// All of it, stored without the axes of length one before so many last ones.
    LastAxes(usize),
    /// Some shares of the first axis, of a fused projection.
    Rows(Shares),
    /// Some shares of the last axis, of a fused projection stored as `[d_in, d_out]`.
    Columns(Shares),
}

impl Part {
    /// The axes of a parameter's `shape` that are stored.
    pub(super) fn stored_axes(self, shape: &[usize]) -> &[usize] {
        match self {
            Self::LastAxes(axes) => &shape[shape.len().saturating_sub(axes)..],
            Self::Whole | Self::Rows(_) | Self::Columns(_) => shape,
        }
    }
}
