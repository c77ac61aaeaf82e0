//! What an engine may take.

/// What an engine may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// Most texts in the batch.
    pub most_running: usize,
    /// Most texts that wait for a place in it.
    pub most_waiting: usize,
    /// Tokens of a prompt that are read at a time, so that a long one does not hold up other texts.
    pub chunk_tokens: usize,
    /// Bytes of keys and values of all running texts.
    pub cache_bytes: u64,
    /// Bytes of the matrices of adapters.
    pub adapter_bytes: u64,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            most_running: 32,
            most_waiting: 1024,
            chunk_tokens: 256,
            cache_bytes: 2 << 30,
            adapter_bytes: 1 << 30,
        }
    }
}
