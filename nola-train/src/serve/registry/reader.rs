//! Reads folders of adapters, and numbers what it reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nola_core::bundle;

use super::entry::{Entry, Served};
use super::roots::{Found, Stamp};
use crate::Error;
use crate::adapter_data::AdapterData;
use crate::serve::ServedAdapter;
use crate::session::ReadBundle;

/// Whether an adapter that was read can be served on the base.
pub type Check = Box<dyn Fn(&ServedAdapter) -> Result<(), Error> + Send + Sync>;

/// An adapter that is served from the start, wherever its folder lies.
#[derive(Debug, Clone)]
pub struct FixedAdapter {
    /// What requests call it.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// What it was trained on, if its folder does not say so.
    pub data: Option<AdapterData>,
}

/// Reads folders, whoever asks.
pub(super) struct Reader {
    check: Check,
    fixed: Option<FixedAdapter>,
    last_generation: AtomicU64,
    last_reading: AtomicU64,
}

impl Reader {
    pub(super) fn new(check: Check, fixed: Option<FixedAdapter>) -> Self {
        Self { check, fixed, last_generation: AtomicU64::new(0), last_reading: AtomicU64::new(0) }
    }

    /// The adapter that is served from the start.
    pub(super) fn fixed(&self) -> Option<&FixedAdapter> {
        self.fixed.as_ref()
    }

    /// What a folder holds, to be served as `name`; nothing if it changed while it was read, which may have given half of the old and
    /// half of the new.
    pub(super) fn read(&self, name: &str, found: Found) -> Option<Entry> {
        let Found { folder, problem } = found;
        let reading = self.last_reading.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(problem) = problem {
            return Some(Entry { folder, served: Err(problem), reading, stamp: None });
        }
        let stamp = Stamp::of(&folder).ok();
        let served = match bundle::is_bundle(&folder) {
            true => self.bundle(name, &folder),
            false => self.adapter(name, &folder).map_err(|error| error.with_sources()),
        };
        let is_same = Stamp::of(&folder).ok() == stamp;
        is_same.then_some(Entry { folder, served, reading, stamp })
    }

    fn adapter(&self, name: &str, folder: &Path) -> Result<Served, Error> {
        let mut adapter = ServedAdapter::open(name.to_owned(), self.generations(1), folder)?;
        if let Some(fixed) = self.fixed.as_ref().filter(|fixed| fixed.folder == folder) {
            adapter.data = adapter.data.or_else(|| fixed.data.clone());
        }
        (self.check)(&adapter)?;
        Ok(Served::Adapter(Arc::new(adapter)))
    }

    /// A bundle all of whose members can be served.
    fn bundle(&self, name: &str, folder: &Path) -> Result<Served, String> {
        let bundle = ReadBundle::open(folder).map_err(|error| error.with_sources())?;
        let listed = &bundle.bundle().manifest().members;
        let generation = self.generations(listed.len() as u64);
        let mut members = BTreeMap::new();
        for (place, member) in listed.iter().enumerate() {
            let adapter = ServedAdapter::of_member(&bundle, name, place, generation + place as u64);
            let checked = adapter.and_then(|adapter| (self.check)(&adapter).map(|()| adapter));
            let adapter =
                checked.map_err(|error| format!("member `{}`: {}", member.name, error.with_sources()))?;
            members.insert(member.name.clone(), Arc::new(adapter));
        }
        Ok(Served::Bundle { generation, members })
    }

    /// So many new generations; the first of them.
    fn generations(&self, count: u64) -> u64 {
        self.last_generation.fetch_add(count, Ordering::Relaxed) + 1
    }
}
