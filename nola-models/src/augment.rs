//! Random changes to training images.
/// a
#[derive(Debug, Clone, Default)]
pub struct Augmentation {}
