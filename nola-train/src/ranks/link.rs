//! What carries messages between ranks.

use std::time::Duration;

/// Carries messages between ranks, and knows nothing of their content.
pub(super) trait Link: Send {
    /// Hands `message` to every other rank, and gives one message of each rank in their order, this one's own among them.
    ///
    /// # Errors
    /// With the ranks that sent nothing within `limit`, or never will.
    fn exchange(&mut self, message: Vec<u8>, limit: Duration) -> Result<Vec<Vec<u8>>, Vec<usize>>;

    /// Closes the connection after the last exchange.
    fn finalize(&mut self);

    /// Ends the processes of all ranks, this one too, unless another one does within so much time.
    fn abort(&mut self, exit_code: u8, within: Duration);
}
