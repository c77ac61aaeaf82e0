//! The processes of a data-parallel run, and how they agree.
//!
//! Everything is made of one exchange, an all-gather: every rank sends a payload, and receives those of all, in the order of
//! ranks. With it travels what all have to know: interrupts, the clock of the first rank, warnings, and that a rank ended. So
//! all decide the same after it. One process that trains alone is the first rank of one, and exchanges nothing.

mod launcher;
mod link;
mod message;
#[cfg(feature = "mpi")]
mod mpi;
mod peers;
mod threads;
mod warnings;

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use launcher::Launched;
pub(crate) use launcher::{is_started_as_another, local_rank};
use link::Link;
pub use message::Topic;
use message::{Content, Header, Message};
use peers::Peers;
pub use peers::Traffic;
use warnings::Warnings;

pub use crate::error::RankError;

use crate::stop::{Interrupt, Stop};

/// How long others are waited for, where `NOLA_RANK_SECONDS` says nothing else.
const LIMIT: Duration = Duration::from_secs(600);

/// Whether this program can exchange anything with other processes.
pub const HAS_MPI: bool = cfg!(feature = "mpi");

/// This process among those of its run.
pub struct Ranks {
    rank: usize,
    size: usize,
    stop: Stop,
    started: Instant,
    /// How long others are waited for.
    limit: Duration,
    /// Machine and number of this process.
    process: String,
    warnings: Warnings,
    /// None of a process that is alone.
    link: Option<RefCell<Box<dyn Link>>>,
    peers: RefCell<Peers>,
}

impl Default for Ranks {
    fn default() -> Self {
        Self::alone(&Stop::default())
    }
}

impl fmt::Debug for Ranks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.size)
    }
}

impl Ranks {
    /// One process that trains alone.
    pub fn alone(stop: &Stop) -> Self {
        Self::new(0, 1, None, stop, LIMIT)
    }

    /// The ranks of one process, to be moved to a thread each; each is ended by its own of `stops`.
    pub fn in_threads(stops: &[Stop], limit: Duration) -> Vec<Self> {
        let links = threads::links(stops.len()).into_iter();
        let rank = |(rank, (link, stop)): (usize, (threads::ThreadLink, &Stop))| {
            Self::new(rank, stops.len(), Some(Box::new(link)), stop, limit)
        };
        links.zip(stops).enumerate().map(rank).collect()
    }

    /// What a launcher such as mpirun started together with this process; alone if there was none.
    ///
    /// # Errors
    /// If there was one, and this program cannot exchange anything with the other processes.
    pub fn join(stop: &Stop) -> Result<Self, RankError> {
        let Some(launched) = launcher::launched()? else { return Ok(Self::alone(stop)) };
        let limit = launcher::limit()?.unwrap_or(LIMIT);
        connected(&launched, stop, limit)
    }

    fn new(rank: usize, size: usize, link: Option<Box<dyn Link>>, stop: &Stop, limit: Duration) -> Self {
        let names = (0..size).map(|rank| format!("rank {rank}")).collect();
        Self {
            rank,
            size,
            stop: stop.clone(),
            started: Instant::now(),
            limit,
            process: message::this_process(),
            warnings: Warnings::of(rank),
            link: link.map(RefCell::new),
            peers: RefCell::new(Peers::of(names)),
        }
    }

    /// The number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether this is the rank that writes and shows.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// What a rank is called: with its machine and process, once they are known.
    pub fn name(&self, rank: usize) -> String {
        self.peers.borrow().names[rank].clone()
    }

    /// Which of so many shards this rank computes; every rank has one at least, if there are enough.
    pub fn shards(&self, shards: usize) -> Range<usize> {
        shards * self.rank / self.size..shards * (self.rank + 1) / self.size
    }

    /// What stops the run, as all ranks know it since the last exchange.
    pub fn stopped(&self) -> Option<Interrupt> {
        match self.link {
            Some(_) => self.peers.borrow().stopped,
            None => self.stop.asked(),
        }
    }

    /// Time since the start of the run, as all ranks know it since the last exchange.
    pub fn elapsed(&self) -> Duration {
        match self.link {
            Some(_) => self.peers.borrow().elapsed,
            None => self.started.elapsed(),
        }
    }

    /// What this rank has exchanged so far.
    pub fn traffic(&self) -> Traffic {
        self.peers.borrow().traffic
    }

    /// Whether a line for stderr is shown by this rank: all are by the first, and the warnings of the others reach it.
    pub fn line_filter(&self) -> impl Fn(&str) -> bool + Send + Sync + 'static {
        let warnings = self.warnings.clone();
        move |line| warnings.is_shown(line)
    }

    /// What the other ranks warned of since it was asked last, and the first one did not itself.
    pub fn warnings(&self) -> Vec<String> {
        let warnings = std::mem::take(&mut self.peers.borrow_mut().warnings);
        let new = warnings.into_iter().filter(|(_, text)| self.warnings.is_new(text));
        new.map(|(rank, text)| format!("{}: warning: {text}", self.name(rank))).collect()
    }

    /// The payloads of all ranks, in their order.
    ///
    /// # Errors
    /// If a rank ended, or does not answer.
    pub fn all_gather(&self, topic: Topic, payload: Vec<u8>) -> Result<Vec<Vec<u8>>, RankError> {
        self.exchange(topic, Content::Payload(payload))
    }

    /// The payload of the first rank, on every rank; only the first one calls `payload`.
    ///
    /// # Errors
    /// If `payload` fails, a rank ended, or does not answer.
    pub fn broadcast<E: From<RankError>>(
        &self,
        topic: Topic,
        payload: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Vec<u8>, E> {
        let mine = if self.is_first() { payload()? } else { Vec::new() };
        Ok(self.all_gather(topic, mine)?.swap_remove(0))
    }

    /// Work on `count` things that the ranks share: `own` does this rank's, and every rank gets all results in their order.
    /// Once a rank has ended, each does all.
    ///
    /// # Errors
    /// If the work fails, a rank ended, or does not answer.
    pub fn share<T: Serialize + DeserializeOwned, E: From<RankError>>(
        &self,
        topic: Topic,
        count: usize,
        own: impl FnOnce(Vec<usize>) -> Result<Vec<T>, E>,
    ) -> Result<Vec<T>, E> {
        if self.size == 1 || self.peers.borrow().is_over {
            return own((0..count).collect());
        }
        let done = own((self.rank..count).step_by(self.size).collect())?;
        let done = serde_json::to_vec(&done).expect("results are made of numbers and text");
        let read = |(rank, payload): (usize, Vec<u8>)| {
            let read: Result<Vec<T>, _> = serde_json::from_slice(&payload);
            read.map(Vec::into_iter).map_err(|_| self.unreadable(rank, topic))
        };
        let of_ranks = self.all_gather(topic, done)?.into_iter().enumerate().map(read);
        let mut of_ranks = of_ranks.collect::<Result<Vec<_>, _>>()?;
        let next = |thing: usize| {
            let rank = thing % self.size;
            of_ranks[rank].next().ok_or_else(|| self.unreadable(rank, topic).into())
        };
        (0..count).map(next).collect()
    }

    /// The error of a rank whose message is not what it should be.
    pub(crate) fn unreadable(&self, rank: usize, topic: Topic) -> RankError {
        RankError::Unreadable { rank: self.name(rank), topic: topic.to_string() }
    }

    /// Tells the other ranks, in place of the next exchange, that this one ended with an error; nothing if a rank has ended
    /// already.
    pub fn report_failure(&self, error: &str) {
        if self.link.is_some() && !self.peers.borrow().is_over {
            // This rank has an error already, and reports that one.
            let _ = self.exchange(Topic::End, Content::Failed(error.to_owned()));
            self.peers.borrow_mut().is_over = true;
        }
    }

    /// Whether this rank has to say how the run ended: the first does it for all, as long as it answers.
    pub fn reports(&self) -> bool {
        self.is_first() || self.peers.borrow().silent.contains(&0)
    }

    /// The end of this process with an exit code: it waits for the others, so that no launcher kills the first while it
    /// writes, and where some are silent it ends them all.
    pub fn end(&self, exit_code: u8) {
        let Some(link) = &self.link else { return };
        let all_answer = || self.peers.borrow().silent.is_empty();
        // One that only now says that it ended comes to its end after that.
        while all_answer()
            && let Err(RankError::Failed { .. }) =
                self.exchange_within(self.limit.max(LIMIT), Topic::End, Content::Payload(Vec::new()))
        {
        }
        let silent = self.peers.borrow().silent.clone();
        match silent.is_empty() {
            true => link.borrow_mut().finalize(),
            // The first rank has something to write before it ends them.
            false if !self.is_first() && !silent.contains(&0) => link.borrow_mut().abort(exit_code, LIMIT),
            false => link.borrow_mut().abort(exit_code, Duration::ZERO),
        }
    }

    fn exchange(&self, topic: Topic, content: Content) -> Result<Vec<Vec<u8>>, RankError> {
        // The first rank waits half as long as the others: it is the one that names who is silent and keeps what was learned,
        // also where the others wait for it because it waits for a silent one.
        let limit = if self.is_first() { self.limit } else { 2 * self.limit };
        self.exchange_within(limit, topic, content)
    }

    fn exchange_within(
        &self,
        limit: Duration,
        topic: Topic,
        content: Content,
    ) -> Result<Vec<Vec<u8>>, RankError> {
        let Some(link) = &self.link else { return Ok(vec![content.into_payload()]) };
        let header = self.header(topic);
        let ours = header.what();
        let message = Message { header, content }.to_bytes();
        let (bytes, started) = (message.len(), Instant::now());
        let answers = link.borrow_mut().exchange(message, limit);
        let mut peers = self.peers.borrow_mut();
        peers.traffic.add(bytes, started.elapsed());
        let contents = match answers {
            Ok(answers) => peers.receive(answers, &ours, topic),
            Err(silent) => Err(peers.timed_out(silent, started.elapsed().min(limit), topic)),
        };
        peers.is_over |= contents.is_err();
        contents
    }

    /// What travels with a message now.
    fn header(&self, topic: Topic) -> Header {
        Header {
            topic,
            exchange: self.peers.borrow().traffic.exchanges,
            interrupt: self.stop.asked(),
            elapsed_ns: self.started.elapsed().as_nanos() as u64,
            process: self.process.clone(),
            warnings: self.warnings.taken(),
        }
    }
}

/// Checks that a command of one process was not started several times.
///
/// # Errors
/// If it was.
pub fn only_one(command: &'static str) -> Result<(), RankError> {
    launcher::launched()?.map_or(Ok(()), |Launched { by: launcher, processes }| {
        Err(RankError::OneProcess { launcher, processes, command })
    })
}

#[cfg(feature = "mpi")]
fn connected(launched: &Launched, stop: &Stop, limit: Duration) -> Result<Ranks, RankError> {
    let mut link = mpi::MpiLink::start(limit)?;
    let (rank, connected) = (link.rank(), link.size());
    if connected != launched.processes {
        link.finalize();
        let (launcher, processes) = (launched.by, launched.processes);
        return Err(RankError::Unconnected { launcher, processes, connected });
    }
    Ok(Ranks::new(rank, connected, Some(Box::new(link)), stop, limit))
}

#[cfg(not(feature = "mpi"))]
fn connected(launched: &Launched, _stop: &Stop, _limit: Duration) -> Result<Ranks, RankError> {
    Err(RankError::WithoutMpi { launcher: launched.by, processes: launched.processes })
}
