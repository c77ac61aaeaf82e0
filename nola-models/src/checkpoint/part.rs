//! How much of a stored tensor a parameter is.

pub use nola_core::folder::peft::Shares;

/// How much of a stored tensor a parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    Whole,
    /// Some shares of the first axis, of a fused projection.
    Rows(Shares),
    /// Some shares of the last axis, of a fused projection stored as `[d_in, d_out]`.
    Columns(Shares),
}
