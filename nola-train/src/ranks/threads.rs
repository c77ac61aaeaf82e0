//! Ranks that are threads of one process.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::link::Link;

/// A message and who sent it; none when that rank is gone.
type Sent = (usize, Option<Vec<u8>>);

/// The end of a rank.
pub(super) struct ThreadLink {
    rank: usize,
    others: Vec<Sender<Sent>>,
    inbox: Receiver<Sent>,
    /// Messages of each rank that were not read yet.
    early: Vec<VecDeque<Vec<u8>>>,
    is_gone: Vec<bool>,
}

/// One for each of so many ranks.
pub(super) fn links(size: usize) -> Vec<ThreadLink> {
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..size).map(|_| channel()).unzip();
    let link = |(rank, inbox)| ThreadLink {
        rank,
        others: senders.clone(),
        inbox,
        early: vec![VecDeque::new(); size],
        is_gone: vec![false; size],
    };
    inboxes.into_iter().enumerate().map(link).collect()
}

impl ThreadLink {
    /// Sends to every other rank; one that is gone receives nothing.
    fn send(&self, message: Option<&Vec<u8>>) {
        for (_, other) in self.others.iter().enumerate().filter(|(rank, _)| *rank != self.rank) {
            let _ = other.send((self.rank, message.cloned()));
        }
    }

    /// Others of which no message is there.
    fn missing(&self) -> Vec<usize> {
        (0..self.early.len()).filter(|&rank| rank != self.rank && self.early[rank].is_empty()).collect()
    }
}

impl Link for ThreadLink {
    fn exchange(&mut self, message: Vec<u8>, limit: Duration) -> Result<Vec<Vec<u8>>, Vec<usize>> {
        self.send(Some(&message));
        let started = Instant::now();
        loop {
            let missing = self.missing();
            if missing.is_empty() {
                break;
            }
            let gone: Vec<usize> = missing.iter().copied().filter(|&rank| self.is_gone[rank]).collect();
            if !gone.is_empty() {
                return Err(gone);
            }
            match self.inbox.recv_timeout(limit.saturating_sub(started.elapsed())) {
                Ok((rank, Some(message))) => self.early[rank].push_back(message),
                Ok((rank, None)) => self.is_gone[rank] = true,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Err(missing),
            }
        }
        self.early[self.rank].push_back(message);
        Ok(self.early.iter_mut().filter_map(VecDeque::pop_front).collect())
    }

    fn finalize(&mut self) {}

    /// The threads of other ranks see that this one is gone.
    fn abort(&mut self, _exit_code: u8, _within: Duration) {}
}

impl Drop for ThreadLink {
    fn drop(&mut self) {
        self.send(None);
    }
}
