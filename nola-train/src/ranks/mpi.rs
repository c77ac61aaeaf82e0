//! Ranks that are processes which MPI connects: the only file that knows it.
//!
//! One thread alone calls MPI, and looks for messages without waiting inside it: so a rank that is silent is found after a
//! time, by its number, and what this one has learned can be written before all are ended.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mpi::point_to_point::MatchedReceiveVec;
use mpi::request::{LocalScope, Request, scope};
use mpi::topology::{Rank, SimpleCommunicator};
use mpi::traits::{Communicator, Destination, Source};
use mpi::{Threading, initialize_with_threading};

use super::RankError;
use super::link::Link;

/// Most bytes of a piece: MPI counts them in 32 bits, and a rank that sends is heard of with each piece. A shorter piece is the
/// last of its message.
const PIECE: usize = 1 << 26;
/// How often messages are looked for at once; then ever longer pauses come between, for other ranks of this machine.
const LOOKS: u32 = 200;
/// The longest pause.
const PAUSE: Duration = Duration::from_millis(1);
/// A pause that took longer than this was one of the whole process.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The messages of all ranks, or the ranks that sent none.
type Answer = Result<Vec<Vec<u8>>, Vec<usize>>;

/// What the thread is asked for.
enum Command {
    Exchange { message: Vec<u8>, limit: Duration, answer: Sender<Answer> },
    Finalize,
    Abort(u8),
}

/// This process among those that MPI connects.
pub(super) struct MpiLink {
    rank: usize,
    size: usize,
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

impl MpiLink {
    /// Starts MPI.
    ///
    /// # Errors
    /// If it was started before, or the other processes do not start it in time.
    pub(super) fn start(limit: Duration) -> Result<Self, RankError> {
        let (commands, asked) = channel();
        let (started, is_started) = channel();
        let serving = thread::Builder::new().name("ranks".to_owned()).spawn(move || serve(&started, &asked));
        let wrong = |problem: String| RankError::Start { problem };
        let thread = serving.map_err(|error| wrong(error.to_string()))?;
        match is_started.recv_timeout(limit) {
            Ok((rank, size)) => Ok(Self { rank, size, commands, thread: Some(thread) }),
            Err(RecvTimeoutError::Disconnected) => Err(wrong("it was started before".to_owned())),
            Err(RecvTimeoutError::Timeout) => Err(wrong(format!(
                "the other processes did not come within {} s (NOLA_RANK_SECONDS)",
                limit.as_secs()
            ))),
        }
    }

    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Asks the thread, which lives until it is told to end.
    fn ask(&self, command: Command) {
        // It has ended after the last exchange; then nobody asks.
        let _ = self.commands.send(command);
    }
}

impl Link for MpiLink {
    fn exchange(&mut self, message: Vec<u8>, limit: Duration) -> Answer {
        let (answer, answered) = channel();
        self.ask(Command::Exchange { message, limit, answer });
        answered.recv().unwrap_or_else(|_| Err((0..self.size).filter(|rank| *rank != self.rank).collect()))
    }

    fn finalize(&mut self) {
        self.ask(Command::Finalize);
        // A panic of it has no one left to reach.
        let _ = self.thread.take().map(JoinHandle::join);
    }

    fn abort(&mut self, exit_code: u8, within: Duration) {
        thread::sleep(within);
        self.ask(Command::Abort(exit_code));
        // MPI ends this process meanwhile.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The thread that calls MPI, from its start to its end.
fn serve(started: &Sender<(usize, usize)>, asked: &Receiver<Command>) {
    let Some((universe, _)) = initialize_with_threading(Threading::Funneled) else { return };
    let world = universe.world();
    let _ = started.send((world.rank() as usize, world.size() as usize));
    for command in asked {
        match command {
            Command::Exchange { message, limit, answer } => {
                let answers = exchange(&world, &message, limit, &answer, asked);
                let _ = answer.send(Ok(with_own(answers, message)));
            }
            Command::Finalize => return,
            Command::Abort(exit_code) => world.abort(exit_code.into()),
        }
    }
    // Dropped without a word: this process ends for a reason of its own, and the others would wait for it.
    world.abort(1);
}

/// The messages of all ranks, where this one's own has no place yet.
fn with_own(mut answers: Vec<Vec<u8>>, own: Vec<u8>) -> Vec<Vec<u8>> {
    let place = answers.iter().position(Vec::is_empty).expect("no message is empty");
    answers[place] = own;
    answers
}

/// Sends a message to all, and waits for one of each. If no piece comes or goes for too long, `answer` says whose are missing or
/// not taken, and the end of all processes is waited for: MPI cannot take back what it is about to send.
fn exchange(
    world: &SimpleCommunicator,
    message: &[u8],
    limit: Duration,
    answer: &Sender<Answer>,
    asked: &Receiver<Command>,
) -> Vec<Vec<u8>> {
    scope(|scope| {
        let others = || (0..world.size()).filter(|rank| *rank != world.rank());
        let pieces = |rank| send(world, message, rank, scope).into_iter().map(move |piece| (rank, piece));
        let mut sent: Vec<_> = others().flat_map(pieces).collect();
        let mut messages = vec![Vec::new(); world.size() as usize];
        let mut missing: Vec<Rank> = others().collect();
        let mut wait = Wait::default();
        while !(missing.is_empty() && sent.is_empty()) {
            let before = (bytes_of(&messages), sent.len());
            missing.retain(|&rank| !receive(world, rank, &mut messages[rank as usize]));
            sent = sent
                .into_iter()
                .filter_map(|(rank, piece)| piece.test().err().map(|piece| (rank, piece)))
                .collect();
            if (bytes_of(&messages), sent.len()) != before {
                wait.so_far = Duration::ZERO;
            }
            if wait.so_far > limit {
                let is_silent = |rank: &Rank| missing.contains(rank) || sent.iter().any(|(to, _)| to == rank);
                let _ = answer.send(Err(others().filter(is_silent).map(|rank| rank as usize).collect()));
                wait_for_the_end(world, asked);
            }
            wait.pause();
        }
        messages
    })
}

/// Bytes of all messages as far as they came.
fn bytes_of(messages: &[Vec<u8>]) -> usize {
    messages.iter().map(Vec::len).sum()
}

/// Begins to send a message to a rank, in pieces.
fn send<'message, 'scope>(
    world: &SimpleCommunicator,
    message: &'message [u8],
    rank: Rank,
    scope: &'scope LocalScope<'message>,
) -> Vec<Request<'message, [u8], &'scope LocalScope<'message>>> {
    let process = world.process_at_rank(rank);
    let end = message.len().is_multiple_of(PIECE).then_some(&message[..0]);
    message.chunks(PIECE).chain(end).map(|piece| process.immediate_send(scope, piece)).collect()
}

/// Takes the next piece of a rank's message, if it is there; whether it was the last.
fn receive(world: &SimpleCommunicator, rank: Rank, message: &mut Vec<u8>) -> bool {
    let Some(found) = world.process_at_rank(rank).immediate_matched_probe() else { return false };
    let (piece, _) = found.matched_receive_vec::<u8>();
    message.extend_from_slice(&piece);
    piece.len() < PIECE
}

/// Waits until this process has written what it has to, and ends all.
fn wait_for_the_end(world: &SimpleCommunicator, asked: &Receiver<Command>) -> ! {
    let exit_code = loop {
        match asked.recv() {
            Ok(Command::Abort(exit_code)) => break exit_code,
            Ok(Command::Exchange { .. } | Command::Finalize) => {}
            Err(_) => break 1,
        }
    };
    world.abort(exit_code.into())
}

/// A wait for messages, between looks for them.
#[derive(Default)]
struct Wait {
    looks: u32,
    /// Since a piece came or went, without the time in which this process itself was suspended, as batch systems do with all ranks
    /// of a job.
    so_far: Duration,
}

impl Wait {
    /// Lets others compute, ever longer up to a millisecond.
    fn pause(&mut self) {
        let started = Instant::now();
        self.looks += 1;
        match self.looks.checked_sub(LOOKS) {
            None => thread::yield_now(),
            Some(more) => thread::sleep(PAUSE.min(Duration::from_micros(10 * u64::from(more)))),
        }
        self.so_far += started.elapsed().min(LONGEST_PAUSE);
    }
}
