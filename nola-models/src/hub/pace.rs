//! How slowly bytes may come: a line that is slow but steady may take its time, one that drips is given up.

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::time::{Duration, Instant};

/// Fewer bytes a second than this are no download.
pub(super) const SLOWEST_BYTES_A_SECOND: u64 = 1000;

/// Reads on while enough bytes come.
pub(super) struct Paced<R> {
    inner: R,
    /// How long fewer may come.
    window: Duration,
    /// What the current window has waited for, and what it got.
    waited: Duration,
    bytes: u64,
}

impl<R> Paced<R> {
    pub fn new(inner: R, window: Duration) -> Self {
        Self { inner, window, waited: Duration::ZERO, bytes: 0 }
    }

    /// Counts what one read brought.
    fn count(&mut self, bytes: usize, waited: Duration) -> io::Result<()> {
        self.bytes += bytes as u64;
        self.waited += waited;
        if self.waited < self.window {
            return Ok(());
        }
        if (self.bytes as f64) < enough_bytes(self.waited) {
            return Err(io::Error::new(ErrorKind::TimedOut, TooSlow { over: self.waited }));
        }
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        Ok(())
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let asked = Instant::now();
        let count = self.inner.read(buffer)?;
        // The last bytes may come as they like: there is nothing left to wait for.
        if count > 0 {
            self.count(count, asked.elapsed())?;
        }
        Ok(count)
    }
}

/// The fewest bytes that a time must bring.
pub(super) fn enough_bytes(time: Duration) -> f64 {
    SLOWEST_BYTES_A_SECOND as f64 * time.as_secs_f64()
}

/// Too few bytes came over this time.
#[derive(Debug, Clone, Copy)]
pub(super) struct TooSlow {
    pub over: Duration,
}

impl TooSlow {
    /// That this is what `error` says, if it is.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref::<Self>().copied()
    }
}

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.over.as_secs_f64();
        write!(f, "less than {SLOWEST_BYTES_A_SECOND} bytes a second came over {seconds:.0} s")
    }
}

impl std::error::Error for TooSlow {}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(6);

    /// What becomes of reads that bring so many bytes, each after so many seconds.
    fn read(bytes: usize, seconds: f64, times: usize) -> io::Result<()> {
        let mut paced = Paced::new(io::empty(), WINDOW);
        (0..times).try_for_each(|_| paced.count(bytes, Duration::from_secs_f64(seconds)))
    }

    #[test]
    fn bytes_that_drip_are_given_up_once_the_window_is_over() {
        for (bytes, seconds) in [(1, 0.5), (1, 1.9), (400, 0.5), (999, 1.0)] {
            let in_window = (WINDOW.as_secs_f64() / seconds) as usize;
            assert!(read(bytes, seconds, in_window.saturating_sub(1)).is_ok(), "{bytes} each {seconds} s");
            let error = read(bytes, seconds, in_window + 1).expect_err("too slow");
            assert!(TooSlow::of(&error).is_some(), "{error}");
        }
    }

    #[test]
    fn a_slow_but_steady_line_may_take_hours() {
        for (bytes, seconds) in [(1000, 1.0), (600, 0.5), (40_000, 5.9), (3000, 2.0)] {
            assert!(read(bytes, seconds, 10_000).is_ok(), "{bytes} each {seconds} s");
        }
    }

    #[test]
    fn a_line_that_becomes_slow_is_given_up_too() {
        let mut paced = Paced::new(io::empty(), WINDOW);
        let mut read = |bytes| paced.count(bytes, Duration::from_secs(1));
        assert!((0..60).all(|_| read(1 << 20).is_ok()));
        assert!((0..60).any(|_| read(10).is_err()));
    }

    #[test]
    fn another_error_is_not_slowness() {
        assert!(TooSlow::of(&ErrorKind::TimedOut.into()).is_none());
    }
}
