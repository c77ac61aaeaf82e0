//! What a rank knows of the others since the last exchange.

use std::time::Duration;

use super::RankError;
use super::message::{Content, Header, Message, Topic};
use crate::stop::Interrupt;

/// What is known since the last exchange.
#[derive(Default)]
pub(super) struct Peers {
    pub traffic: Traffic,
    /// What stops the run.
    pub stopped: Option<Interrupt>,
    /// Since the start of the run, by the clock of the first rank.
    pub elapsed: Duration,
    /// What the ranks are called.
    pub names: Vec<String>,
    pub warnings: Vec<(usize, String)>,
    /// Whether a rank has ended, so that nothing is exchanged any more.
    pub is_over: bool,
    /// Ranks that did not answer in time.
    pub silent: Vec<usize>,
}

/// What a rank has exchanged.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Traffic {
    /// Exchanges.
    pub exchanges: u64,
    /// Bytes of its messages; each goes to every other rank.
    pub bytes: u64,
    /// Seconds from the sending of a message until all others were there: waiting for slower ranks is among it.
    pub seconds: f64,
}

impl Traffic {
    pub(super) fn add(&mut self, bytes: usize, time: Duration) {
        self.exchanges += 1;
        self.bytes += bytes as u64;
        self.seconds += time.as_secs_f64();
    }
}

impl Peers {
    /// Of ranks with these names.
    pub(super) fn of(names: Vec<String>) -> Self {
        Self { names, ..Self::default() }
    }

    /// The error of an exchange in which some ranks sent nothing for `time`.
    pub(super) fn timed_out(&mut self, silent: Vec<usize>, time: Duration, topic: Topic) -> RankError {
        let ranks = silent.iter().map(|&rank| self.names[rank].clone()).collect();
        self.silent = silent;
        RankError::Silent { ranks, seconds: time.as_secs(), topic: topic.to_string() }
    }

    /// The payloads of the messages of all ranks, in their order.
    pub(super) fn receive(
        &mut self,
        answers: Vec<Vec<u8>>,
        ours: &str,
        topic: Topic,
    ) -> Result<Vec<Vec<u8>>, RankError> {
        let mut contents = Vec::with_capacity(answers.len());
        for (rank, answer) in answers.into_iter().enumerate() {
            let unreadable =
                || RankError::Unreadable { rank: format!("rank {rank}"), topic: topic.to_string() };
            let Message { header, content } = Message::from_bytes(answer).ok_or_else(unreadable)?;
            self.take_header(rank, &header);
            contents.push((header.what(), content));
        }
        let failed = contents.iter().enumerate().find_map(|(rank, (_, content))| match content {
            Content::Failed(error) => Some((rank, error.clone())),
            Content::Payload(_) => None,
        });
        if let Some((rank, error)) = failed {
            return Err(RankError::Failed { rank: self.names[rank].clone(), error });
        }
        if let Some(rank) = contents.iter().position(|(theirs, _)| theirs != ours) {
            let (rank, theirs) = (self.names[rank].clone(), contents[rank].0.clone());
            return Err(RankError::OutOfStep { rank, theirs, ours: ours.to_owned() });
        }
        Ok(contents.into_iter().map(|(_, content)| content.into_payload()).collect())
    }

    /// What all have to know: the first interrupt, the clock of the first rank, names and warnings.
    fn take_header(&mut self, rank: usize, header: &Header) {
        self.names[rank] = format!("rank {rank} ({})", header.process);
        self.stopped = self.stopped.or(header.interrupt);
        if rank == 0 {
            self.elapsed = Duration::from_nanos(header.elapsed_ns);
        }
        self.warnings.extend(header.warnings.iter().map(|text| (rank, text.clone())));
    }
}
