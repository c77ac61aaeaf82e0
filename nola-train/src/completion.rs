//! What a model wrote after a prompt.

/// A prompt of the recipe, and what a model wrote after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// As the recipe has it.
    pub prompt: String,
    /// What followed.
    pub text: String,
}
