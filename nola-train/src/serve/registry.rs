//! Adapters by name: those of folders, found while the server runs, and those that somebody loaded.
//!
//! What is read never changes: an adapter whose folder changed is read again as a new generation, and who began with the
//! old one ends with it. Folders are read while nobody is held up: what was read counts if nothing changed meanwhile.

mod change;
mod entry;
mod reader;
mod roots;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nola_core::bundle::check_name;
use rayon::prelude::*;

pub use self::change::{Change, ChangeError, Expected, Missing};
use self::entry::parts;
pub use self::entry::{Entry, Served};
use self::reader::Reader;
pub use self::reader::{Check, FixedAdapter};
use self::roots::{Found, Listing, NoFolder, Roots};
use super::ServedAdapter;
use crate::Error;

/// Called with what a request or an administrator changed.
type ChangeCallback = Box<dyn Fn(&Change) + Send + Sync>;

/// All adapters.
pub struct Registry {
    base_name: String,
    on_change: ChangeCallback,
    roots: Roots,
    reader: Reader,
    /// Held by whoever changes `entries`, never while folders are read.
    wishes: Mutex<Wishes>,
    entries: RwLock<BTreeMap<String, Entry>>,
    /// Folders of adapters that could not be read at the last scan.
    unreadable: Mutex<BTreeSet<PathBuf>>,
}

/// What was asked for beside what lies in the folders.
#[derive(Debug, Default, Clone)]
struct Wishes {
    /// Names with the folders that they mean.
    loaded: BTreeMap<String, PathBuf>,
    /// Names that are not served, though their folders are there.
    unloaded: BTreeSet<String>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("roots", &self.roots).finish_non_exhaustive()
    }
}

impl Registry {
    /// A registry of the adapters in `folders` that `check` lets through, before the first scan; `base_name` is no adapter's. One of
    /// the folders may be a bundle itself.
    ///
    /// # Errors
    /// If one of the folders is none.
    pub fn open(
        base_name: String,
        folders: &[PathBuf],
        fixed: Option<FixedAdapter>,
        check: Check,
    ) -> Result<Self, Error> {
        Ok(Self {
            base_name,
            on_change: Box::new(|_| ()),
            roots: Roots::open(folders)?,
            reader: Reader::new(check, fixed),
            wishes: Mutex::default(),
            entries: RwLock::default(),
            unreadable: Mutex::default(),
        })
    }

    /// The same, and `callback` is called with each change that a request or an administrator makes; those of a scan are its
    /// result.
    pub fn on_change(self, callback: impl Fn(&Change) + Send + Sync + 'static) -> Self {
        Self { on_change: Box::new(callback), ..self }
    }

    /// The name of the base.
    pub fn base_name(&self) -> &str {
        &self.base_name
    }

    /// All folders, the damaged ones too, by name.
    pub fn list(&self) -> Vec<(String, Entry)> {
        self.entries().iter().map(|(name, entry)| (name.clone(), entry.clone())).collect()
    }

    /// What is listed under the name of a folder, or of a member behind it.
    pub fn entry(&self, name: &str) -> Option<Entry> {
        let (folder, member) = parts(name);
        let entry = self.entries().get(folder).cloned()?;
        let is_there = member.is_none() || entry.adapter(member).is_ok();
        is_there.then_some(entry)
    }

    /// The adapter of a name, as far as it is known.
    ///
    /// # Errors
    /// If there is none, or it is damaged.
    pub fn get(&self, name: &str) -> Result<Arc<ServedAdapter>, Missing> {
        let (folder, member) = parts(name);
        self.entries().get(folder).map_or(Err(Missing::Unknown), |entry| entry.adapter(member))
    }

    /// The same; one that came since the last scan is read now.
    ///
    /// # Errors
    /// If there is none, or it is damaged.
    pub fn find(&self, name: &str) -> Result<Arc<ServedAdapter>, Missing> {
        let (folder, member) = parts(name);
        let known = self.entries().get(folder).cloned();
        if name == self.base_name || known.as_ref().is_some_and(|entry| entry.is_current(member)) {
            return self.get(name);
        }
        let found = match &known {
            Some(entry) => Some(self.found_again(&entry.folder)),
            None if self.wishes().unloaded.contains(folder) => None,
            None => self.roots.named(folder),
        };
        let Some(found) = found else { return Err(Missing::Unknown) };
        // What changes right now is read by the next scan.
        let Some(entry) = self.reader.read(folder, found) else { return self.get(name) };
        let wishes = self.wishes();
        // Another request may have been faster, or somebody does not want it.
        let reading = |entry: &Entry| entry.reading;
        let is_as_it_was = self.entries().get(folder).map(reading) == known.as_ref().map(reading);
        if !is_as_it_was || wishes.unloaded.contains(folder) {
            return self.get(name);
        }
        let adapter = entry.adapter(member);
        self.notify(entry.news(folder, known.as_ref()));
        self.entries_mut().insert(folder.to_owned(), entry);
        adapter
    }

    /// A folder that is served already; what was put in its place meanwhile may be a link that leads out.
    fn found_again(&self, folder: &Path) -> Found {
        let is_fixed = self.reader.fixed().is_some_and(|fixed| fixed.folder == folder);
        let problem = match is_fixed {
            true => None,
            false => self.roots.inside(folder).err().map(|refused| refused.problem),
        };
        Found { folder: folder.to_owned(), problem }
    }

    /// Looks at all folders, and reads what is new or changed; says what is otherwise than before.
    pub fn scan(&self) -> Vec<Change> {
        let (wishes, before) = (self.wishes().clone(), self.readings());
        let wanted = self.wanted(&wishes);
        let stale: Vec<(&String, &Found)> = {
            let entries = self.entries();
            let is_stale = |(name, found): &(&String, &Found)| {
                entries.get(*name).is_none_or(|entry| entry.is_stale(found))
            };
            wanted.found.iter().filter(is_stale).collect()
        };
        let read =
            |(name, found): (&String, &Found)| Some((name.clone(), self.reader.read(name, found.clone())?));
        let read: Vec<(String, Entry)> = stale.into_par_iter().filter_map(read).collect();
        let now = self.wishes();
        // What somebody changed meanwhile is newer than what was looked at.
        let is_as_it_was = |name: &str, entries: &BTreeMap<String, Entry>| {
            let is_wished_alike = now.loaded.get(name) == wishes.loaded.get(name)
                && now.unloaded.contains(name) == wishes.unloaded.contains(name);
            is_wished_alike && entries.get(name).map(|entry| entry.reading) == before.get(name).copied()
        };
        let mut entries = self.entries_mut();
        let is_known = |folder: &Path| !wanted.unreadable.iter().any(|(root, _)| folder.starts_with(root));
        let is_gone = |(name, entry): &(&String, &Entry)| {
            !wanted.found.contains_key(*name) && is_known(&entry.folder) && is_as_it_was(name, &entries)
        };
        let gone: Vec<String> = entries.iter().filter(is_gone).map(|(name, _)| name.clone()).collect();
        entries.retain(|name, _| !gone.contains(name));
        let mut changes = self.newly_unreadable(wanted.unreadable);
        changes.extend(gone.into_iter().map(Change::Gone));
        for (name, entry) in read {
            if is_as_it_was(&name, &entries) {
                changes.extend(entry.news(&name, entries.get(&name)));
                entries.insert(name, entry);
            }
        }
        changes
    }

    /// Serves what the folder `path` holds, inside of the folders of adapters, as `name`.
    ///
    /// # Errors
    /// If `expected` is not so, or the folder cannot be served; what was served before still is.
    pub fn load(&self, name: &str, path: &Path, expected: Expected) -> Result<Served, ChangeError> {
        check_name(name).map_err(ChangeError::Name)?;
        if name == self.base_name {
            return Err(ChangeError::Name(format!("`{name}` is the base model's name")));
        }
        self.check_expected(name, expected)?;
        let folder = self.roots.inside(path)?;
        let entry = self.reader.read(name, Found { folder: folder.clone(), problem: None });
        let changed =
            || ChangeError::Folder("it changed while it was read; load it once it is whole".to_owned());
        let entry = entry.ok_or_else(changed)?;
        let served = entry.served.clone().map_err(ChangeError::Folder)?;
        let mut wishes = self.wishes();
        // Somebody else may have been faster.
        self.check_expected(name, expected)?;
        self.notify(entry.news(name, None));
        self.entries_mut().insert(name.to_owned(), entry);
        wishes.unloaded.remove(name);
        wishes.loaded.insert(name.to_owned(), folder);
        Ok(served)
    }

    /// Serves an adapter or a bundle no more, until somebody loads it.
    ///
    /// # Errors
    /// If there is none, or not the expected one.
    pub fn unload(&self, name: &str, expected: Expected) -> Result<(), ChangeError> {
        let (folder, member) = parts(name);
        if member.is_some() && self.entry(name).is_some() {
            let message = format!("`{name}` is in a bundle, which is unloaded as a whole: `{folder}`");
            return Err(ChangeError::Name(message));
        }
        let mut wishes = self.wishes();
        if !self.entries().contains_key(name) {
            return Err(ChangeError::Unknown);
        }
        self.check_expected(name, expected)?;
        self.entries_mut().remove(name);
        wishes.loaded.remove(name);
        wishes.unloaded.insert(name.to_owned());
        self.notify(Some(Change::Gone(name.to_owned())));
        Ok(())
    }

    fn notify(&self, change: Option<Change>) {
        change.iter().for_each(|change| (self.on_change)(change));
    }

    fn check_expected(&self, name: &str, expected: Expected) -> Result<(), ChangeError> {
        let entries = self.entries();
        let entry = entries.get(name);
        let found = entry.and_then(|entry| entry.served.as_ref().ok()).map(Served::generation);
        let holds = match expected {
            Expected::Anything => true,
            Expected::Something => entry.is_some(),
            // A damaged one is in nobody's way.
            Expected::Nothing => entry.is_none_or(|entry| entry.served.is_err()),
            Expected::Generation(generation) => found == Some(generation),
        };
        if holds { Ok(()) } else { Err(ChangeError::Conflict { found }) }
    }

    /// Where each folder lies that is to be served.
    fn wanted(&self, wishes: &Wishes) -> Listing {
        let mut listing = self.roots.listing();
        let wanted = &mut listing.found;
        if let Some(fixed) = self.reader.fixed() {
            let found = Found { folder: fixed.folder.clone(), problem: None };
            let of_run = |other: &mut Found| {
                let (run, other_folder) = (fixed.folder.display(), other.folder.display());
                other.problem =
                    Some(format!("a run is called so, too, whose adapter is {run}; rename {other_folder}"));
            };
            wanted.entry(fixed.name.clone()).and_modify(of_run).or_insert(found);
        }
        if let Some(found) = wanted.get_mut(&self.base_name) {
            found.problem =
                Some(format!("the base model is called `{}`, too; rename the folder", self.base_name));
        }
        for (name, folder) in &wishes.loaded {
            // Its folder may have become a link meanwhile.
            let found = match self.roots.inside(folder) {
                Ok(folder) => Found { folder, problem: None },
                Err(NoFolder { problem, .. }) => Found { folder: folder.clone(), problem: Some(problem) },
            };
            wanted.insert(name.clone(), found);
        }
        wanted.retain(|name, _| !wishes.unloaded.contains(name));
        listing
    }

    /// The folders of adapters that cannot be read now, and could when it was looked at them last.
    fn newly_unreadable(&self, now: Vec<(PathBuf, String)>) -> Vec<Change> {
        let mut known = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *known, now.iter().map(|(root, _)| root.clone()).collect());
        let new = now.into_iter().filter(|(root, _)| !before.contains(root));
        new.map(|(root, problem)| Change::Unreadable(root, problem)).collect()
    }

    /// Which reading of each folder is listed.
    fn readings(&self) -> BTreeMap<String, u64> {
        self.entries().iter().map(|(name, entry)| (name.clone(), entry.reading)).collect()
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entries(&self) -> RwLockReadGuard<'_, BTreeMap<String, Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn entries_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Entry>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}
