//! Adapters by name: those of folders, found while the server runs, and those that somebody loaded.
//!
//! What is read never changes: an adapter whose folder changed is read again as a new generation, and who began with the
//! old one ends with it.

mod roots;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rayon::prelude::*;

use self::roots::{Found, NoFolder, Roots, Stamp, check_name};
use super::ServedAdapter;
use crate::Error;
use crate::adapter_data::AdapterData;

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

/// All adapters.
pub struct Registry {
    base_name: String,
    check: Check,
    roots: Roots,
    fixed: Option<FixedAdapter>,
    last_generation: AtomicU64,
    /// Held by whoever changes `entries`.
    wishes: Mutex<Wishes>,
    entries: RwLock<BTreeMap<String, Entry>>,
}

/// What was asked for beside what lies in the folders.
#[derive(Debug, Default)]
struct Wishes {
    /// Names with the folders that they mean.
    loaded: BTreeMap<String, PathBuf>,
    /// Names that are not served, though their folders are there.
    unloaded: BTreeSet<String>,
}

/// An adapter as it is listed.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its folder.
    pub folder: PathBuf,
    /// What it is, or why it is not served.
    pub adapter: Result<Arc<ServedAdapter>, String>,
    /// None if the folder could not be read.
    stamp: Option<Stamp>,
}

/// Why there is no adapter of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// Nobody knows it.
    Unknown,
    /// It is damaged.
    Damaged(String),
}

/// What has to be there for a change to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Whatever it is.
    Anything,
    /// An adapter of this name.
    Something,
    /// No adapter of this name.
    Nothing,
    /// This generation of it.
    Generation(u64),
}

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeError {
    /// There is no adapter of this name.
    Unknown,
    /// There is another generation than expected, or none.
    Conflict {
        /// What there is.
        found: Option<u64>,
    },
    /// The name cannot be an adapter's.
    Name(String),
    /// There is no such folder in the folders of adapters.
    NoFolder(String),
    /// The folder cannot be served.
    Folder(String),
}

impl From<NoFolder> for ChangeError {
    fn from(NoFolder { problem, is_missing }: NoFolder) -> Self {
        if is_missing { Self::NoFolder(problem) } else { Self::Folder(problem) }
    }
}

/// What a scan found to be otherwise than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is served from now on, as this generation.
    Served(String, u64),
    /// It is not, for this reason.
    Damaged(String, String),
    /// Its folder is gone.
    Gone(String),
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("roots", &self.roots).finish_non_exhaustive()
    }
}

impl Registry {
    /// A registry of the adapters in `folders` that `check` lets through, before the first scan; `base_name` is no adapter's.
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
            check,
            roots: Roots::open(folders)?,
            fixed,
            last_generation: AtomicU64::new(0),
            wishes: Mutex::default(),
            entries: RwLock::default(),
        })
    }

    /// The name of the base.
    pub fn base_name(&self) -> &str {
        &self.base_name
    }

    /// All adapters, the damaged ones too, by name.
    pub fn list(&self) -> Vec<(String, Entry)> {
        self.entries().iter().map(|(name, entry)| (name.clone(), entry.clone())).collect()
    }

    /// What is listed under a name.
    pub fn entry(&self, name: &str) -> Option<Entry> {
        self.entries().get(name).cloned()
    }

    /// The adapter of a name, as it was last seen.
    ///
    /// # Errors
    /// If there is none that can be served.
    pub fn get(&self, name: &str) -> Result<Arc<ServedAdapter>, Missing> {
        let entries = self.entries();
        let entry = entries.get(name).ok_or(Missing::Unknown)?;
        entry.adapter.clone().map_err(Missing::Damaged)
    }

    /// The same, and looks for a folder of that name if none is known.
    ///
    /// # Errors
    /// As [`Registry::get`].
    pub fn find(&self, name: &str) -> Result<Arc<ServedAdapter>, Missing> {
        let known = self.get(name);
        if !matches!(known, Err(Missing::Unknown)) || name == self.base_name {
            return known;
        }
        let Some(found) = self.roots.named(name) else { return known };
        let wishes = self.wishes();
        // Another request may have been faster, or somebody does not want it.
        let known = self.get(name);
        if !matches!(known, Err(Missing::Unknown)) || wishes.unloaded.contains(name) {
            return known;
        }
        let entry = self.read(name, found);
        let adapter = entry.adapter.clone();
        self.entries_mut().insert(name.to_owned(), entry);
        adapter.map_err(Missing::Damaged)
    }

    /// Looks at all folders, and reads what is new or changed; says what is otherwise than before.
    pub fn scan(&self) -> Vec<Change> {
        let wishes = self.wishes();
        let wanted = self.wanted(&wishes);
        let stale: Vec<(&String, &Found)> = {
            let entries = self.entries();
            wanted
                .iter()
                .filter(|(name, found)| entries.get(*name).is_none_or(|entry| entry.is_stale(found)))
                .collect()
        };
        let read = |(name, found): (&String, &Found)| (name.clone(), self.read(name, found.clone()));
        let read: Vec<(String, Entry)> = stale.into_par_iter().map(read).collect();
        let mut entries = self.entries_mut();
        let gone = entries.keys().filter(|name| !wanted.contains_key(*name)).cloned().map(Change::Gone);
        let mut changes: Vec<Change> = gone.collect();
        entries.retain(|name, _| wanted.contains_key(name));
        for (name, entry) in read {
            let known = entries.get(&name).and_then(|before| before.adapter.as_ref().err());
            match &entry.adapter {
                Ok(adapter) => changes.push(Change::Served(name.clone(), adapter.generation)),
                Err(problem) if known == Some(problem) => {}
                Err(problem) => changes.push(Change::Damaged(name.clone(), problem.clone())),
            }
            entries.insert(name, entry);
        }
        changes
    }

    /// Serves the adapter of the folder `path`, inside of the folders of adapters, as `name`.
    ///
    /// # Errors
    /// If `expected` is not so, or the folder cannot be served; what was served before still is.
    pub fn load(
        &self,
        name: &str,
        path: &Path,
        expected: Expected,
    ) -> Result<Arc<ServedAdapter>, ChangeError> {
        check_name(name).map_err(ChangeError::Name)?;
        if name == self.base_name {
            return Err(ChangeError::Name(format!("`{name}` is the base model's name")));
        }
        let mut wishes = self.wishes();
        self.check_expected(name, expected)?;
        let folder = self.roots.inside(path)?;
        let entry = self.read(name, Found { folder: folder.clone(), problem: None });
        let adapter = entry.adapter.clone().map_err(ChangeError::Folder)?;
        self.entries_mut().insert(name.to_owned(), entry);
        wishes.unloaded.remove(name);
        wishes.loaded.insert(name.to_owned(), folder);
        Ok(adapter)
    }

    /// Serves an adapter no more, until somebody loads it.
    ///
    /// # Errors
    /// If there is none, or not the expected one.
    pub fn unload(&self, name: &str, expected: Expected) -> Result<(), ChangeError> {
        let mut wishes = self.wishes();
        if !self.entries().contains_key(name) {
            return Err(ChangeError::Unknown);
        }
        self.check_expected(name, expected)?;
        self.entries_mut().remove(name);
        wishes.loaded.remove(name);
        wishes.unloaded.insert(name.to_owned());
        Ok(())
    }

    /// Whether `path` is the folder that `name` is served from.
    pub fn is_served_from(&self, name: &str, path: &Path) -> bool {
        let served =
            self.entries().get(name).filter(|entry| entry.adapter.is_ok()).map(|entry| entry.folder.clone());
        let [served, asked] = [served, self.roots.inside(path).ok()].map(|path| path?.canonicalize().ok());
        served.is_some() && served == asked
    }

    fn check_expected(&self, name: &str, expected: Expected) -> Result<(), ChangeError> {
        let entries = self.entries();
        let entry = entries.get(name);
        let found = entry.and_then(|entry| entry.adapter.as_ref().ok()).map(|adapter| adapter.generation);
        let holds = match expected {
            Expected::Anything => true,
            Expected::Something => entry.is_some(),
            // A damaged one is in nobody's way.
            Expected::Nothing => entry.is_none_or(|entry| entry.adapter.is_err()),
            Expected::Generation(generation) => found == Some(generation),
        };
        if holds { Ok(()) } else { Err(ChangeError::Conflict { found }) }
    }

    /// Where each adapter lies that is to be served.
    fn wanted(&self, wishes: &Wishes) -> BTreeMap<String, Found> {
        let mut wanted = self.roots.found();
        if let Some(fixed) = &self.fixed {
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
        wanted
    }

    fn read(&self, name: &str, found: Found) -> Entry {
        let Found { folder, problem } = found;
        if let Some(problem) = problem {
            return Entry { folder, adapter: Err(problem), stamp: None };
        }
        let stamp = Stamp::of(&folder).ok();
        let adapter = self.opened(name, &folder).map_err(|error| error.with_sources());
        // What changed while it was read may be half of the old and half of the new; the next scan reads it again.
        let is_same = stamp.is_some() && Stamp::of(&folder).ok() == stamp;
        let stamp = stamp.filter(|_| is_same);
        let adapter = match is_same {
            true => adapter,
            false => Err("it changed while it was read".to_owned()),
        };
        Entry { folder, adapter, stamp }
    }

    fn opened(&self, name: &str, folder: &Path) -> Result<Arc<ServedAdapter>, Error> {
        let generation = self.last_generation.fetch_add(1, Ordering::Relaxed) + 1;
        let mut adapter = ServedAdapter::open(name.to_owned(), generation, folder)?;
        if let Some(fixed) = self.fixed.as_ref().filter(|fixed| fixed.folder == folder) {
            adapter.data = adapter.data.or_else(|| fixed.data.clone());
        }
        (self.check)(&adapter)?;
        Ok(Arc::new(adapter))
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

impl Entry {
    /// Whether it has to be read again to be what was found.
    fn is_stale(&self, found: &Found) -> bool {
        if self.folder != found.folder || found.problem.is_some() {
            return self.folder != found.folder || self.adapter.as_ref().err() != found.problem.as_ref();
        }
        self.stamp.is_none() || Stamp::of(&found.folder).ok() != self.stamp
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A folder for adapters.
    struct Shelf(tempfile::TempDir);

    impl Shelf {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a temporary folder"))
        }

        /// Puts a good adapter into it.
        fn put(&self, golden: &str, name: &str) {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/golden/adapters").join(golden);
            let to = self.0.path().join(name);
            fs::create_dir_all(&to).expect("a folder");
            for file in fs::read_dir(from).expect("it is shipped").flatten() {
                fs::copy(file.path(), to.join(file.file_name())).expect("a file");
            }
        }

        fn registry(&self) -> Registry {
            let folders = [self.0.path().to_owned()];
            Registry::open("base".to_owned(), &folders, None, Box::new(|_| Ok(()))).expect("a folder")
        }
    }

    fn generation(registry: &Registry, name: &str) -> Option<u64> {
        registry.get(name).ok().map(|adapter| adapter.generation)
    }

    #[test]
    fn adapters_of_a_folder_are_found_and_read_once() {
        let shelf = Shelf::new();
        shelf.put("nola", "a");
        shelf.put("lora", "b");
        let registry = shelf.registry();
        assert_eq!(registry.scan().len(), 2);
        let before = ["a", "b"].map(|name| generation(&registry, name));
        assert!(before.iter().all(Option::is_some));
        assert_eq!(registry.scan(), []);
        assert_eq!(["a", "b"].map(|name| generation(&registry, name)), before);
    }

    #[test]
    fn an_adapter_that_came_since_is_found_by_its_name() {
        let shelf = Shelf::new();
        let registry = shelf.registry();
        registry.scan();
        shelf.put("nola", "new");
        assert!(registry.get("new").is_err());
        assert!(registry.find("new").is_ok());
        assert!(matches!(registry.find("other"), Err(Missing::Unknown)));
        assert_eq!(registry.scan(), []);
    }

    #[test]
    fn a_changed_adapter_is_a_new_generation_and_the_old_one_stays_whole() {
        let shelf = Shelf::new();
        shelf.put("nola", "a");
        let registry = shelf.registry();
        registry.scan();
        let old = registry.get("a").expect("it is served");
        fs::remove_dir_all(shelf.0.path().join("a")).expect("it was there");
        shelf.put("lora", "a");
        assert_eq!(registry.scan(), [Change::Served("a".to_owned(), old.generation + 1)]);
        assert_ne!(registry.get("a").expect("it is served").content.method(), old.content.method());
        fs::remove_dir_all(shelf.0.path().join("a")).expect("it was there");
        assert_eq!(registry.scan(), [Change::Gone("a".to_owned())]);
        assert!(matches!(registry.find("a"), Err(Missing::Unknown)));
    }

    #[test]
    fn a_damaged_adapter_is_listed_with_its_problem_and_not_served() {
        let shelf = Shelf::new();
        shelf.put("nola", "a");
        fs::write(shelf.0.path().join("a/adapter_model.safetensors"), "no tensors").expect("a file");
        let registry = shelf.registry();
        assert!(matches!(&registry.scan()[..], [Change::Damaged(name, _)] if name == "a"));
        assert!(matches!(registry.find("a"), Err(Missing::Damaged(_))));
        assert!(matches!(&registry.list()[..], [(name, entry)] if name == "a" && entry.adapter.is_err()));
        assert_eq!(registry.scan(), [], "its problem is reported once");
        shelf.put("nola", "a");
        assert!(matches!(registry.scan()[..], [Change::Served(..)]));
    }

    #[test]
    fn an_adapter_that_does_not_pass_the_check_is_not_served() {
        let shelf = Shelf::new();
        shelf.put("nola", "a");
        let check = |_: &ServedAdapter| Err(Error::NoPrompt);
        let folders = [shelf.0.path().to_owned()];
        let registry = Registry::open("base".to_owned(), &folders, None, Box::new(check)).expect("a folder");
        registry.scan();
        assert!(matches!(registry.get("a"), Err(Missing::Damaged(_))));
    }

    #[test]
    fn a_change_is_made_only_to_what_is_expected() {
        let shelf = Shelf::new();
        shelf.put("nola", "a");
        shelf.put("lora", "other/b");
        let registry = shelf.registry();
        registry.scan();
        let load = |name, path: &str, expected| {
            registry.load(name, Path::new(path), expected).map(|adapter| adapter.generation)
        };
        let first = generation(&registry, "a");
        assert_eq!(load("a", "a", Expected::Nothing), Err(ChangeError::Conflict { found: first }));
        assert_eq!(load("a", "a", Expected::Generation(99)), Err(ChangeError::Conflict { found: first }));
        assert_eq!(load("c", "a", Expected::Something), Err(ChangeError::Conflict { found: None }));
        let second = load("a", "other/b", Expected::Generation(first.expect("served"))).expect("as expected");
        assert_eq!(generation(&registry, "a"), Some(second));
        assert_eq!(registry.scan(), [], "what was loaded stays");
        assert_eq!(
            registry.unload("a", Expected::Generation(99)),
            Err(ChangeError::Conflict { found: Some(second) })
        );
        assert_eq!(registry.unload("a", Expected::Generation(second)), Ok(()));
        assert_eq!(registry.unload("a", Expected::Anything), Err(ChangeError::Unknown));
        assert_eq!(registry.scan(), [], "what was unloaded is not found again");
        assert!(registry.find("a").is_err());
        assert!(load("a", "a", Expected::Nothing).is_ok());
    }

    #[test]
    fn a_load_that_fails_changes_nothing() {
        let shelf = Shelf::new();
        shelf.put("nola", "a");
        shelf.put("nola", "deep/bad");
        fs::write(shelf.0.path().join("deep/bad/adapter_model.safetensors"), "no tensors").expect("a file");
        let registry = shelf.registry();
        registry.scan();
        let before = generation(&registry, "a");
        for (path, is_missing) in [("deep/bad", false), ("../a", false), ("/etc", true), ("nowhere", true)] {
            let refused = registry.load("a", Path::new(path), Expected::Anything);
            let as_expected = match refused {
                Err(ChangeError::NoFolder(_)) => is_missing,
                Err(ChangeError::Folder(_)) => !is_missing,
                _ => false,
            };
            assert!(as_expected, "{path}");
        }
        for name in ["base", "..", "a/b", ""] {
            let refused = registry.load(name, Path::new("a"), Expected::Anything);
            assert!(matches!(refused, Err(ChangeError::Name(_))), "{name}");
        }
        assert_eq!(generation(&registry, "a"), before);
    }
}
