//! Matrices of the adapters that are used, made when they are first asked for.

use std::collections::HashMap;
use std::sync::Arc;

use burn::tensor::Device;
use nola_core::{RowAdapters, Updates};
use nola_models::caught;

use super::ServedAdapter;
use crate::Error;
use crate::session::{Base, TextBase};

/// The matrices of adapters by generation, up to a number of bytes; those that were not used for the longest time leave first.
#[derive(Debug)]
pub struct UpdateCache {
    base: TextBase,
    device: Device,
    rows: RowAdapters,
    limit_bytes: u64,
    entries: HashMap<u64, Entry>,
    /// Why those of some generations cannot be made.
    problems: HashMap<u64, String>,
    bytes: u64,
    clock: u64,
    misses: u64,
}

#[derive(Debug)]
struct Entry {
    updates: Arc<Updates>,
    last_used: u64,
}

impl UpdateCache {
    /// An empty cache for adapters of `base`, for `rows` of a model.
    pub fn new(base: TextBase, device: Device, rows: RowAdapters, limit_bytes: u64) -> Self {
        let (entries, problems) = (HashMap::new(), HashMap::new());
        Self { base, device, rows, limit_bytes, entries, problems, bytes: 0, clock: 0, misses: 0 }
    }

    /// The matrices of an adapter. Those that rows still use stay, so for a while there may be more than the cache may hold.
    ///
    /// # Errors
    /// If the adapter does not fit the base, or trained more than adapters; that is found out once.
    pub fn get(&mut self, adapter: &ServedAdapter) -> Result<Arc<Updates>, String> {
        self.clock += 1;
        if let Some(entry) = self.entries.get_mut(&adapter.generation) {
            entry.last_used = self.clock;
            return Ok(Arc::clone(&entry.updates));
        }
        if let Some(problem) = self.problems.get(&adapter.generation) {
            return Err(problem.clone());
        }
        self.misses += 1;
        let made = caught(|| self.made(adapter)).and_then(|made| made.map_err(|error| error.with_sources()));
        let updates = made.inspect_err(|problem| {
            self.problems.insert(adapter.generation, problem.clone());
        })?;
        self.make_room(updates.bytes());
        self.bytes += updates.bytes();
        let entry = Entry { updates: Arc::clone(&updates), last_used: self.clock };
        self.entries.insert(adapter.generation, entry);
        Ok(updates)
    }

    fn made(&self, adapter: &ServedAdapter) -> Result<Arc<Updates>, Error> {
        let attached = self.base.clone().with_adapter(adapter.content.clone(), &self.device, &|_| {})?;
        let updates = attached.adapted.updates()?;
        self.rows.check(&updates)?;
        Ok(Arc::new(updates))
    }

    /// Lets go of matrices that are beyond the limit, and that no row uses any more.
    pub fn trim(&mut self) {
        self.make_room(0);
    }

    fn make_room(&mut self, bytes: u64) {
        while self.bytes + bytes > self.limit_bytes {
            let unused = self.entries.iter().filter(|(_, entry)| Arc::strong_count(&entry.updates) == 1);
            let oldest = unused.min_by_key(|(_, entry)| entry.last_used);
            let Some(generation) = oldest.map(|(&generation, _)| generation) else { break };
            let entry = self.entries.remove(&generation).expect("it was just found");
            self.bytes -= entry.updates.bytes();
        }
    }

    /// Adapters in it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of the matrices in it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How often matrices had to be made.
    pub fn misses(&self) -> u64 {
        self.misses
    }
}
