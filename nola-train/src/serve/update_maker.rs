//! The thread that makes the matrices of adapters, so that texts that run do not wait for it.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};

use burn::tensor::Device;
use nola_core::{RowAdapters, SharedFactors, Updates};
use nola_models::caught;

use super::ServedAdapter;
use super::waiting::{Made, Queue};
use crate::Error;
use crate::session::{Base, TextBase};

/// Makes matrices of adapters of one base, one adapter after the other.
pub(super) struct UpdateMaker {
    base: TextBase,
    device: Device,
    rows: RowAdapters,
    /// Factors that adapters have in common, by what they follow from, and by what they are.
    known: HashMap<String, Weak<SharedFactors>>,
}

impl UpdateMaker {
    pub(super) fn new(base: TextBase, device: Device, rows: RowAdapters) -> Self {
        Self { base, device, rows, known: HashMap::new() }
    }

    /// Starts the thread, which ends when nobody can ask it any more; what it makes goes to `queue`.
    pub(super) fn start(self, queue: Arc<Queue>) -> Sender<Arc<ServedAdapter>> {
        let (wanted, asked) = channel();
        let thread = std::thread::Builder::new().name("matrices".to_owned());
        let started = thread.spawn(move || self.run(&asked, &queue));
        started.expect("the system starts a thread");
        wanted
    }

    fn run(mut self, asked: &Receiver<Arc<ServedAdapter>>, queue: &Queue) {
        while let Ok(adapter) = asked.recv() {
            let made = caught(|| self.made(&adapter));
            let updates = made.and_then(|made| made.map_err(|error| error.with_sources())).map(Arc::new);
            queue.give(Made { generation: adapter.generation, updates });
        }
    }

    fn made(&mut self, adapter: &ServedAdapter) -> Result<Updates, Error> {
        adapter.content.check_base(self.base.identity())?;
        if let Some(path) = adapter.content.trained_in_base() {
            return Err(nola_core::Error::TrainedInBase { path }.into());
        }
        // Else its products would not fit those of the base, which ends the engine for all texts.
        adapter.content.check_fits(&self.base.model)?;
        let updates = match self.of_known_factors(adapter) {
            Some(updates) => updates,
            None => self.of_attached(adapter)?,
        };
        self.rows.check(&updates)?;
        Ok(updates)
    }

    /// Those of an adapter all of whose factors are in memory already: nothing of the base is read for it.
    fn of_known_factors(&self, adapter: &ServedAdapter) -> Option<Updates> {
        if let Some(updates) = adapter.content.updates(&self.device) {
            return Some(updates);
        }
        let factors = self.known.get(&adapter.content.factors_key()?)?.upgrade()?;
        let numbers = adapter.content.numbers_between(&factors)?;
        Some(Updates::between(factors, &numbers, &self.device))
    }

    fn of_attached(&mut self, adapter: &ServedAdapter) -> Result<Updates, Error> {
        let content = adapter.content.clone();
        let attached = self.base.clone().with_adapter(content, &self.device, &|_| {})?;
        let updates = attached.adapted.updates()?;
        let Some(parts) = attached.adapted.shared_parts() else { return Ok(updates) };
        let digest = parts.digest();
        let known = self.known.get(&digest).and_then(Weak::upgrade);
        let factors = known.unwrap_or_else(|| Arc::new(parts.factors(&self.device)));
        self.known.retain(|_, factors| factors.strong_count() > 0);
        for key in adapter.content.factors_key().into_iter().chain([digest]) {
            self.known.insert(key, Arc::downgrade(&factors));
        }
        Ok(Updates::between(factors, parts.numbers(), &self.device))
    }
}
