//! Matrices of the adapters that are used, made when they are first asked for.

use std::collections::HashMap;
use std::sync::Arc;

use burn::tensor::Device;
use nola_core::Updates;

use super::ServedAdapter;
use crate::Error;
use crate::session::{Base, TextBase};

/// The matrices of adapters by generation, up to a number of bytes; those that were not used for the longest time leave first.
#[derive(Debug)]
pub struct UpdateCache {
    base: TextBase,
    device: Device,
    limit_bytes: u64,
    entries: HashMap<u64, Entry>,
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
    /// An empty cache for adapters of `base`.
    pub fn new(base: TextBase, device: Device, limit_bytes: u64) -> Self {
        Self { base, device, limit_bytes, entries: HashMap::new(), bytes: 0, clock: 0, misses: 0 }
    }

    /// The matrices of an adapter. One that is larger than the cache is made all the same, and then leaves first.
    ///
    /// # Errors
    /// If the adapter does not fit the base, or trained more than adapters.
    pub fn get(&mut self, adapter: &ServedAdapter) -> Result<Arc<Updates>, Error> {
        self.clock += 1;
        if let Some(entry) = self.entries.get_mut(&adapter.generation) {
            entry.last_used = self.clock;
            return Ok(Arc::clone(&entry.updates));
        }
        self.misses += 1;
        let attached = self.base.clone().with_adapter(adapter.content.clone(), &self.device, &|_| {})?;
        let updates = Arc::new(attached.adapted.updates()?);
        self.make_room(updates.bytes());
        self.bytes += updates.bytes();
        let entry = Entry { updates: Arc::clone(&updates), last_used: self.clock };
        self.entries.insert(adapter.generation, entry);
        Ok(updates)
    }

    fn make_room(&mut self, bytes: u64) {
        while self.bytes + bytes > self.limit_bytes {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last_used);
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
