//! A bound on the memory that images take while they are decoded, on all threads together.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes that all images in the making may take; one alone may always be made.
const LIMIT: u64 = 1 << 30;

/// How much is taken.
#[derive(Debug)]
pub(super) struct Room {
    limit: u64,
    taken: Mutex<u64>,
    left: Condvar,
}

impl Default for Room {
    fn default() -> Self {
        Self::of(LIMIT)
    }
}

impl Room {
    fn of(limit: u64) -> Self {
        Self { limit, taken: Mutex::new(0), left: Condvar::new() }
    }

    /// Waits until so many bytes are free, or all are.
    ///
    /// Nobody waits while holding a part, so somebody always goes on.
    pub(super) fn enter(&self, bytes: u64) -> Part<'_> {
        let mut taken = self.taken();
        while *taken > 0 && taken.saturating_add(bytes) > self.limit {
            taken = self.left.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken = taken.saturating_add(bytes);
        Part { room: self, bytes }
    }

    fn taken(&self) -> MutexGuard<'_, u64> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory that is taken as long as this lives.
#[derive(Debug)]
pub(super) struct Part<'a> {
    room: &'a Room,
    bytes: u64,
}

impl Part<'_> {
    /// Takes more, if it is free now or nobody else has any.
    pub(super) fn grow(&mut self, bytes: u64) -> bool {
        let mut taken = self.room.taken();
        let whole = taken.saturating_add(bytes);
        if *taken > self.bytes && whole > self.room.limit {
            return false;
        }
        *taken = whole;
        self.bytes = self.bytes.saturating_add(bytes);
        true
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        *taken = taken.saturating_sub(self.bytes);
        self.room.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn a_part_grows_only_into_what_is_free() {
        let room = Room::of(100);
        let mut first = room.enter(40);
        let second = room.enter(40);
        assert!(first.grow(20) && !first.grow(1));
        drop(second);
        assert!(first.grow(40));
    }

    #[test]
    fn one_alone_may_be_larger_than_the_limit() {
        let room = Room::of(100);
        let mut alone = room.enter(250);
        assert!(alone.grow(250));
    }

    #[test]
    fn no_more_is_taken_than_there_is() {
        let (room, now, most) = (Room::of(100), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (room, now, most) = (&room, &now, &most);
                scope.spawn(move || {
                    for round in 0..200 {
                        let bytes = 10 + (thread * 7 + round * 13) % 60;
                        let part = room.enter(bytes);
                        most.fetch_max(now.fetch_add(bytes, Ordering::SeqCst) + bytes, Ordering::SeqCst);
                        now.fetch_sub(bytes, Ordering::SeqCst);
                        drop(part);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 100);
        assert_eq!(*room.taken(), 0);
    }
}
