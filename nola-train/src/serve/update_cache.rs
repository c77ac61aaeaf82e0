//! Matrices of the adapters that are used, made when they are first asked for.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use nola_core::Updates;

use super::lru::{Lru, Size};

/// Failures that are remembered: an adapter that changes is a new generation, and nobody asks for the old ones any more.
const MOST_PROBLEMS: usize = 1024;

/// The matrices of adapters by generation, up to a number of bytes; those that were not used for the longest time leave first.
#[derive(Debug)]
pub(super) struct UpdateCache {
    ready: Lru<Arc<Updates>>,
    /// Generations whose matrices are being made.
    making: HashSet<u64>,
    /// Why those of some generations cannot be made: of the latest that failed.
    problems: BTreeMap<u64, String>,
    found: u64,
    made: u64,
}

/// What there is of an adapter.
#[derive(Debug)]
pub(super) enum Found {
    /// Its matrices.
    Ready(Arc<Updates>),
    /// They are being made.
    InTheMaking,
    /// They have to be made, which whoever asks now does.
    Absent,
    /// They cannot be made.
    Impossible(String),
}

impl UpdateCache {
    /// An empty one.
    pub(super) fn new(limit_bytes: u64) -> Self {
        let (making, problems) = (HashSet::new(), BTreeMap::new());
        Self { ready: Lru::new(limit_bytes), making, problems, found: 0, made: 0 }
    }

    /// The matrices of a generation, which are used now. Those that rows still use stay, so for a while there may be more than the
    /// cache may hold.
    pub(super) fn get(&mut self, generation: u64) -> Found {
        if let Some(updates) = self.ready.get(generation) {
            self.found += 1;
            return Found::Ready(Arc::clone(updates));
        }
        if let Some(problem) = self.problems.get(&generation) {
            return Found::Impossible(problem.clone());
        }
        if self.making.insert(generation) {
            self.made += 1;
            return Found::Absent;
        }
        self.found += 1;
        Found::InTheMaking
    }

    /// Takes what was made, or why that cannot be.
    pub(super) fn put(&mut self, generation: u64, made: &Result<Arc<Updates>, String>) {
        self.making.remove(&generation);
        match made {
            Ok(updates) => {
                let shared = updates.shared().map(|factors| (Arc::as_ptr(factors).addr(), factors.bytes()));
                let size = Size { own: updates.bytes(), shared };
                self.ready.insert(generation, Arc::clone(updates), size, is_held);
            }
            Err(problem) => {
                self.problems.insert(generation, problem.clone());
                if self.problems.len() > MOST_PROBLEMS {
                    // One that is asked for after all is tried again.
                    self.problems.pop_first();
                }
            }
        }
    }

    /// Lets go of matrices that are beyond the limit, and that no row uses any more.
    pub(super) fn trim(&mut self) {
        self.ready.trim(is_held);
    }

    /// Adapters in it.
    pub(super) fn len(&self) -> usize {
        self.ready.len()
    }

    /// Bytes of the matrices in it.
    pub(super) fn bytes(&self) -> u64 {
        self.ready.bytes()
    }

    /// How often matrices were there, or on their way.
    pub(super) fn found(&self) -> u64 {
        self.found
    }

    /// How often matrices had to be made.
    pub(super) fn made(&self) -> u64 {
        self.made
    }
}

/// Whether somebody else has them, too: a row.
fn is_held(updates: &Arc<Updates>) -> bool {
    Arc::strong_count(updates) > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_the_oldest_generations_are_forgotten() {
        let mut cache = UpdateCache::new(0);
        let most = MOST_PROBLEMS as u64;
        (1..=most + 1).for_each(|generation| cache.put(generation, &Err("broken".to_owned())));
        assert!(matches!(cache.get(1), Found::Absent), "it is tried again");
        for generation in [2, most + 1] {
            assert!(matches!(cache.get(generation), Found::Impossible(_)), "{generation}");
        }
    }
}
