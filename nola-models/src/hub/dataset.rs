//! Data sets of the hub: which files a name stands for, brought into the cache that `datasets` shares.
//!
//! Files are chosen as the `datasets` library does it: what the card (`README.md`) says, else what the names of files and
//! folders say; see [`subsets`].

mod card;
mod choice;
mod name;
mod subsets;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub use name::DatasetName;

use super::cache::Cache;
use super::client::{Client, Listing};
use super::files::is_inside;
use super::name::is_commit;
use super::{DatasetError, HubConfig, HubError, Network, Note, Progress, download};
use choice::Choice;

/// The card of a data set, which may say what its configurations are.
const CARD: &str = "README.md";

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatasetSplit {
    /// What is learned from.
    Train,
    /// What scores are made with.
    Validation,
}

/// Which files the caller can read: a smaller number is read rather than a larger one, `None` not at all.
pub type Readable<'a> = &'a dyn Fn(&str) -> Option<u8>;

/// The files that a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetFiles {
    /// The name, with the commit in place of a branch: it means the same files for ever.
    pub name: DatasetName,
    /// The files, in the order in which they are read.
    pub files: Vec<DatasetFile>,
}

/// A file of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetFile {
    /// Its name in the repository.
    pub name: String,
    /// Where it lies on this machine.
    pub path: PathBuf,
}

impl DatasetFiles {
    /// The commit that the files are of.
    pub fn commit(&self) -> &str {
        self.name.revision()
    }
}

impl HubConfig {
    /// The files of a data set, fetched as far as the cache does not hold them.
    ///
    /// # Errors
    /// If the repository does not exist or may not be read, the name leaves open which files are meant or means none that can
    /// be read, or the network or the cache fails.
    pub fn dataset(
        &self,
        name: &DatasetName,
        split: DatasetSplit,
        readable: Readable,
        progress: &dyn Progress,
    ) -> Result<DatasetFiles, HubError> {
        let cache = Cache::new(&self.cache, &name.repository);
        let client = Client::new(self, &name.repository, progress);
        let (listing, source) = self.listed(name, &cache, &client)?;
        let bring = Bring { config: self, name, cache: &cache, listing: &listing, source };
        let card = match listing.files.contains(CARD) {
            true => card::read(name, &bring.file(CARD)?)?,
            false => Vec::new(),
        };
        let choice = Choice { name, files: &listing.files, card: &card, readable };
        let chosen = choice.files(split).map_err(Box::new)?;
        let paths = bring.all(&chosen)?;
        if let Source::Hub(_) = source {
            // Last, so that the reference never leads to a snapshot that was begun only.
            cache.remember(name.revision(), &listing.commit)?;
        }
        let files = chosen.into_iter().zip(paths).map(|(name, path)| DatasetFile { name, path });
        Ok(DatasetFiles { name: name.at(&listing.commit), files: files.collect() })
    }

    /// The files of the revision, and who has those that the cache lacks.
    fn listed<'a>(
        &self,
        name: &DatasetName,
        cache: &Cache,
        client: &'a Client<'a>,
    ) -> Result<(Listing, Source<'a>), HubError> {
        if self.network == Network::Forbidden {
            let lacks_all = || self.not_cached(name, vec!["everything".to_string()]);
            return Ok((known(name, cache)?.ok_or_else(lacks_all)?, Source::Cache));
        }
        if let Some(listing) = whole(name, cache)? {
            return Ok((listing, Source::Hub(client)));
        }
        match client.listing() {
            Ok(mut listing) => {
                listing.files.retain(|file| is_inside(file));
                cache.remember_listing(&listing.commit, &listing.files)?;
                Ok((listing, Source::Hub(client)))
            }
            Err(error) if error.is_silence() => {
                let Some(listing) = known(name, cache)? else { return Err(error) };
                let (name, commit) = (&name.repository.id, &listing.commit);
                client.progress.note(&Note::FromCache { name, commit, error: &error });
                Ok((listing, Source::Cache))
            }
            Err(error) => Err(error),
        }
    }

    fn not_cached(&self, name: &DatasetName, missing: Vec<String>) -> HubError {
        let (cache, revision) = (self.cache.clone(), name.revision().to_string());
        HubError::NotCached { name: name.repository.id.clone(), revision, cache, missing }
    }
}

/// What the cache knows of a commit that is named, which never changes: the hub need not be asked.
fn whole(name: &DatasetName, cache: &Cache) -> Result<Option<Listing>, HubError> {
    match is_commit(name.revision()) {
        true => {
            let commit = name.revision().to_string();
            Ok(cache.listing(&commit)?.map(|files| Listing { commit, files }))
        }
        false => Ok(None),
    }
}

/// What the cache knows of a revision: its files as they were listed, else those that another program fetched.
fn known(name: &DatasetName, cache: &Cache) -> Result<Option<Listing>, HubError> {
    let Some(commit) = cache.commit(name.revision())? else { return Ok(None) };
    if let Some(files) = cache.listing(&commit)? {
        return Ok(Some(Listing { commit, files }));
    }
    let snapshot = cache.snapshot(&commit);
    let mut files = BTreeSet::new();
    collect(&snapshot, "", &mut files);
    Ok((!files.is_empty()).then_some(Listing { commit, files }))
}

/// The names of all files in a folder of a snapshot.
fn collect(folder: &Path, inside: &str, files: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = format!("{inside}{}", entry.file_name().to_string_lossy());
        match entry.path().is_dir() {
            true => collect(&entry.path(), &format!("{name}/"), files),
            false => drop(files.insert(name)),
        }
    }
}

/// Who has the files that the cache lacks.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// The hub.
    Hub(&'a Client<'a>),
    /// Nobody.
    Cache,
}

/// Brings files of one commit.
struct Bring<'a> {
    config: &'a HubConfig,
    name: &'a DatasetName,
    cache: &'a Cache,
    listing: &'a Listing,
    source: Source<'a>,
}

impl Bring<'_> {
    /// Where a file lies; it is fetched if it is not there.
    fn file(&self, file: &str) -> Result<PathBuf, HubError> {
        Ok(self.all(&[file.to_string()])?.remove(0))
    }

    fn all(&self, files: &[String]) -> Result<Vec<PathBuf>, HubError> {
        let Listing { commit, .. } = self.listing;
        let snapshot = self.cache.snapshot(commit);
        let paths: Vec<PathBuf> = files.iter().map(|file| snapshot.join(file)).collect();
        match self.source {
            Source::Hub(client) => {
                files.iter().try_for_each(|file| download::fetch(client, self.cache, commit, file))?
            }
            Source::Cache => {
                let missing = files.iter().zip(&paths).filter(|(_, path)| !path.exists());
                let missing: Vec<String> = missing.map(|(file, _)| file.clone()).collect();
                if !missing.is_empty() {
                    return Err(self.config.not_cached(self.name, missing));
                }
            }
        }
        Ok(paths)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake_hub::{COMMIT, FakeHub, Kind, RecordedProgress};
    use super::*;

    const FILES: [(&str, &[u8]); 5] = [
        ("README.md", b"# Rows"),
        ("data/test-00000-of-00001.jsonl", b"{}"),
        ("data/train-00000-of-00002.jsonl", b"{\"n\":1}"),
        ("data/train-00001-of-00002.jsonl", &[7; 5000]),
        ("small.py", b"print()"),
    ];

    struct Scene {
        hub: FakeHub,
        config: HubConfig,
        progress: RecordedProgress,
        cache: tempfile::TempDir,
    }

    impl Scene {
        fn new(files: &[(&str, &[u8])]) -> Self {
            let (hub, cache) = (FakeHub::new(files), tempfile::tempdir().unwrap());
            let config = hub.config(cache.path());
            Self { hub, config, progress: RecordedProgress::default(), cache }
        }

        fn fetch(&self, name: &str, split: DatasetSplit) -> Result<DatasetFiles, HubError> {
            let readable = |file: &str| file.ends_with(".jsonl").then_some(0);
            self.config.dataset(&DatasetName::parse(name).unwrap(), split, &readable, &self.progress)
        }

        fn train(&self, name: &str) -> Result<DatasetFiles, HubError> {
            self.fetch(name, DatasetSplit::Train)
        }
    }

    fn names(found: &DatasetFiles) -> Vec<&str> {
        found.files.iter().map(|file| file.name.as_str()).collect()
    }

    #[test]
    fn the_shards_of_a_split_are_fetched_to_where_the_datasets_library_has_them() {
        let scene = Scene::new(&FILES);
        let found = scene.train("ada/small").unwrap();
        assert_eq!(names(&found), ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl"]);
        let snapshot = scene.cache.path().join("datasets--ada--small/snapshots").join(COMMIT);
        assert_eq!(found.files[1].path, snapshot.join("data/train-00001-of-00002.jsonl"));
        assert_eq!(std::fs::read(&found.files[1].path).unwrap(), [7; 5000]);
        assert!(!snapshot.join("data/test-00000-of-00001.jsonl").exists(), "it was not asked for");
        assert_eq!(found.name.to_string(), format!("hf://datasets/ada/small@{COMMIT}"));
    }

    #[test]
    fn a_name_with_its_commit_asks_the_hub_for_nothing_twice() {
        let scene = Scene::new(&FILES);
        let first = scene.train("ada/small").unwrap();
        let requests = scene.hub.seen().len();
        assert_eq!(scene.train(&first.name.to_string()).unwrap(), first);
        assert_eq!(scene.hub.seen().len(), requests);
    }

    #[test]
    fn without_a_network_a_part_of_a_split_is_not_taken_for_all_of_it() {
        let mut scene = Scene::new(&FILES);
        scene.train("ada/small/data/train-00000-of-00002.jsonl").unwrap();
        scene.config.network = Network::Forbidden;
        let message = scene.train("ada/small").unwrap_err().to_string();
        assert!(message.contains("lacks data/train-00001-of-00002.jsonl of revision `main`"), "{message}");
        assert_eq!(scene.train("ada/small/data/train-00000-of-00002.jsonl").unwrap().files.len(), 1);
        let message = scene.train("ada/small@v2").unwrap_err().to_string();
        assert!(message.contains("lacks everything of revision `v2`"), "{message}");
    }

    #[test]
    fn a_hub_that_is_silent_is_stood_in_for_by_the_cache() {
        let scene = Scene::new(&FILES);
        let first = scene.train("ada/small").unwrap();
        scene.hub.fails("GET /api", 100, Kind::Status(503, ""));
        assert_eq!(scene.train("ada/small").unwrap(), first);
        assert!(scene.progress.lines().concat().contains("is taken from the cache"));
    }

    #[test]
    fn the_card_is_read_where_there_is_one() {
        let card =
            b"---\nconfigs:\n- config_name: odd\n  data_files:\n  - split: train\n    path: b.jsonl\n---\n";
        let scene = Scene::new(&[("README.md", card), ("a.jsonl", b"{}"), ("b.jsonl", b"{}")]);
        assert_eq!(names(&scene.train("ada/small").unwrap()), ["b.jsonl"]);
        let message = scene.fetch("ada/small", DatasetSplit::Validation).unwrap_err().to_string();
        assert!(message.contains("no validation split; it has train"), "{message}");
    }

    #[test]
    fn a_data_set_that_the_hub_does_not_know_names_its_page() {
        let scene = Scene::new(&FILES);
        let message = scene.train("ada/large").unwrap_err().to_string();
        let page = format!("no such repository at {}/datasets/ada/large", scene.hub.endpoint);
        assert!(message.contains(&page), "{message}");
    }
}
