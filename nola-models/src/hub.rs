//! Models by name: from a local folder, from the cache that `huggingface_hub` shares, or from a hub.
//!
//! [`resolve`] turns what a user typed into a folder; nothing else of this project knows of the network.

mod cache;
mod client;
mod config;
mod dataset;
mod dataset_error;
mod digest;
mod download;
mod error;
#[cfg(test)]
mod fake_hub;
mod files;
mod name;
mod pace;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use config::{HubConfig, Network, Patience, Token};
pub use dataset::{DatasetFile, DatasetFiles, DatasetName, DatasetSplit, Readable};
pub use dataset_error::DatasetError;
pub use digest::sha256_of;
pub use error::{Credentials, HubError};
pub use files::{TOKENIZER_FILES, Wanted};

use crate::gguf::{self, GgufError};
use cache::Cache;
use client::Client;
use name::RepositoryName;

/// Hears what happens while files are fetched.
pub trait Progress {
    /// A file begins, or begins again because what was kept of it cannot be continued.
    fn started(&self, file: &str, total_bytes: u64);

    /// More bytes of the current file are there; those kept from an earlier run are reported in one piece.
    fn advanced(&self, bytes: u64);

    /// The current file is whole and checked.
    fn finished(&self);

    /// Something the user should know, as it explains a wait or where the files came from.
    fn note(&self, note: &Note);
}

/// What the user should know while files are fetched.
#[derive(Debug)]
#[non_exhaustive]
pub enum Note<'a> {
    /// The hub asks to come back later.
    Busy {
        /// The address.
        url: &'a str,
        /// The HTTP status.
        status: u16,
        /// How long we wait before asking again.
        wait: Duration,
    },
    /// The connection broke.
    Broken {
        /// The file that was being fetched.
        file: &'a str,
        /// How long we wait before going on.
        wait: Duration,
    },
    /// Another program is fetching the same file.
    Waiting {
        /// The file.
        file: &'a str,
    },
    /// The hub gives no answer, but the cache holds what is wanted.
    FromCache {
        /// The repository.
        name: &'a str,
        /// The commit that is used, possibly not the newest.
        commit: &'a str,
        /// Why the hub was not asked.
        error: &'a HubError,
    },
}

impl fmt::Display for Note<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy { url, status, wait } => {
                write!(f, "{url}: answered {status}; asking again in {:.1} seconds", wait.as_secs_f32())
            }
            Self::Broken { file, wait } => {
                write!(f, "{file}: the connection broke; going on in {:.1} seconds", wait.as_secs_f32())
            }
            Self::Waiting { file } => write!(f, "{file}: another program is fetching it; waiting"),
            Self::FromCache { name, commit, error } => {
                write!(f, "`{name}`: commit {commit} is taken from the cache, which may be old ({error})")
            }
        }
    }
}

/// The folder of a model: `name_or_path` itself if it is a folder or a GGUF file, else the snapshot of that repository in the cache,
/// fetched as far as it is not there.
///
/// A name is `owner/name`, `owner/name@revision` (a branch, a tag or a full commit), or a single legacy name such as
/// `gpt2`. The environment says where the cache lies and which hub is asked, see [`HubConfig::from_env`].
///
/// # Errors
/// If the text is neither, if the environment is wrong, or as [`HubConfig::resolve`].
pub fn resolve(name_or_path: &str, wanted: Wanted, progress: &dyn Progress) -> Result<PathBuf, HubError> {
    match local(name_or_path)? {
        Some(folder) => Ok(folder),
        None => HubConfig::from_env()?.resolve(name_or_path, wanted, progress),
    }
}

impl HubConfig {
    /// As [`resolve`], with settings at hand.
    ///
    /// The hub is asked which commit the revision stands for; if it gives no answer but the cache is complete, the
    /// cache is used and `progress` is notified. A file that the cache holds is never fetched again.
    ///
    /// # Errors
    /// If the repository, the revision or a needed file does not exist or may not be read, if the network or the cache
    /// fails, or if what arrives is not what was promised.
    pub fn resolve(
        &self,
        name_or_path: &str,
        wanted: Wanted,
        progress: &dyn Progress,
    ) -> Result<PathBuf, HubError> {
        if let Some(folder) = local(name_or_path)? {
            return Ok(folder);
        }
        let name = RepositoryName::parse(name_or_path)?;
        let cache = Cache::new(&self.cache, &name);
        match self.network {
            Network::Allowed => self.fetch(&name, &cache, wanted, progress),
            Network::Forbidden => match self.cached(&name, &cache, wanted)? {
                Cached::Complete { commit } => Ok(cache.snapshot(&commit)),
                Cached::Lacks { missing } => {
                    let RepositoryName { id: name, revision, .. } = name;
                    Err(HubError::NotCached { name, revision, cache: self.cache.clone(), missing })
                }
            },
        }
    }

    /// Brings the snapshot up to what the hub has.
    fn fetch(
        &self,
        name: &RepositoryName,
        cache: &Cache,
        wanted: Wanted,
        progress: &dyn Progress,
    ) -> Result<PathBuf, HubError> {
        let client = Client::new(self, name, progress);
        let listing = match client.listing() {
            Ok(listing) => listing,
            Err(error) if error.is_silence() => match self.cached(name, cache, wanted)? {
                Cached::Complete { commit } => {
                    progress.note(&Note::FromCache { name: &name.id, commit: &commit, error: &error });
                    return Ok(cache.snapshot(&commit));
                }
                Cached::Lacks { .. } => return Err(error),
            },
            Err(error) => return Err(error),
        };
        let snapshot = cache.snapshot(&listing.commit);
        for file in wanted.choose(name, &listing.files)? {
            download::fetch(&client, cache, &listing.commit, &file)?;
            if file == files::INDEX {
                fetch_shards(&client, cache, &listing, &snapshot.join(file))?;
            }
        }
        // Last, so that the reference never leads to a snapshot that was begun only.
        cache.remember(&name.revision, &listing.commit)?;
        Ok(snapshot)
    }

    fn cached(&self, name: &RepositoryName, cache: &Cache, wanted: Wanted) -> Result<Cached, HubError> {
        let Some(commit) = cache.commit(&name.revision)? else {
            // Nothing lies directly in the folder of the snapshots, so everything is missed.
            return Ok(Cached::Lacks { missing: wanted.missing(&cache.snapshot(""))? });
        };
        let missing = wanted.missing(&cache.snapshot(&commit))?;
        match missing.is_empty() {
            true => Ok(Cached::Complete { commit }),
            false => Ok(Cached::Lacks { missing }),
        }
    }
}

/// What the cache has of a revision.
enum Cached {
    Complete { commit: String },
    Lacks { missing: Vec<String> },
}

fn fetch_shards(
    client: &Client,
    cache: &Cache,
    listing: &client::Listing,
    index: &Path,
) -> Result<(), HubError> {
    let shards = files::shards(index)?;
    if let Some(absent) = shards.iter().find(|shard| !listing.files.contains(*shard)) {
        let RepositoryName { id: name, revision, .. } = client.name.clone();
        return Err(HubError::NoFile { name, revision, file: absent.clone() });
    }
    shards.iter().try_for_each(|shard| download::fetch(client, cache, &listing.commit, shard))
}

/// The text as a folder or GGUF file of this machine, if it is one.
fn local(text: &str) -> Result<Option<PathBuf>, HubError> {
    let path = PathBuf::from(text);
    match (path.is_dir(), path.exists()) {
        (true, _) => Ok(Some(gguf::in_folder(&path)?)),
        (false, true) if gguf::is_gguf(&path) => Ok(Some(path)),
        (false, true) => Err(HubError::NotAFolder { path }),
        // No repository of models is named so.
        (false, false) if gguf::is_named(&path) => Err(GgufError::Absent { file: path }.into()),
        (false, false) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::fake_hub::{COMMIT, FakeHub, Kind, RecordedProgress};
    use super::*;

    const NAME: &str = "ada/small";
    const WEIGHTS: &[u8] = &[7; 300_000];
    const INDEX: &[u8] = br#"{"weight_map": {"x": "model-00001-of-00002.safetensors", "y": "model-00002-of-00002.safetensors"}}"#;

    /// A hub, an empty cache, and settings for both.
    struct Scene {
        hub: FakeHub,
        config: HubConfig,
        progress: RecordedProgress,
        cache: tempfile::TempDir,
    }

    impl Scene {
        fn new() -> Self {
            Self::with(&[
                ("README.md", b"# Small"),
                ("config.json", b"{}"),
                ("model.safetensors", WEIGHTS),
                ("pytorch_model.bin", b"pickle"),
                ("tokenizer.json", b"{\"model\": 1}"),
            ])
        }

        fn with(files: &[(&str, &[u8])]) -> Self {
            let (hub, cache) = (FakeHub::new(files), tempfile::tempdir().unwrap());
            let config = hub.config(cache.path());
            Self { hub, config, progress: RecordedProgress::default(), cache }
        }

        fn resolve(&self, name: &str, wanted: Wanted) -> Result<PathBuf, HubError> {
            self.config.resolve(name, wanted, &self.progress)
        }

        fn model(&self) -> Result<PathBuf, HubError> {
            self.resolve(NAME, Wanted::Model)
        }

        fn refused(&self) -> String {
            self.model().unwrap_err().to_string()
        }

        fn repository(&self) -> PathBuf {
            self.cache.path().join("models--ada--small")
        }

        fn blobs(&self) -> usize {
            fs::read_dir(self.repository().join("blobs")).unwrap().count()
        }

        fn notes(&self) -> Vec<String> {
            self.progress.lines().into_iter().filter(|line| line.starts_with("note")).collect()
        }
    }

    #[track_caller]
    fn assert_says(message: &str, parts: &[&str]) {
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    }

    #[track_caller]
    fn assert_whole(folder: &Path) {
        assert!(fs::read(folder.join("model.safetensors")).unwrap() == WEIGHTS);
    }

    #[test]
    fn a_local_folder_is_taken_as_it_is() {
        let scene = Scene::new();
        let folder = scene.cache.path().to_str().unwrap();
        assert_eq!(scene.resolve(folder, Wanted::Model).unwrap(), scene.cache.path());
        assert!(scene.hub.seen().is_empty());
    }

    #[test]
    fn a_file_in_place_of_a_folder_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error =
            resolve(file.path().to_str().unwrap(), Wanted::Model, &RecordedProgress::default()).unwrap_err();
        assert_says(&error.to_string(), &["is a file"]);
    }

    #[test]
    fn a_model_is_laid_out_as_huggingface_hub_does_it() {
        let scene = Scene::new();
        let folder = scene.model().unwrap();
        assert_eq!(folder, scene.repository().join("snapshots").join(COMMIT));
        assert_eq!(fs::read_to_string(scene.repository().join("refs/main")).unwrap(), COMMIT);
        assert!(scene.repository().join("blobs/9e26dfeeb6e641a33dae4961196235bdb965b21b").is_file());
        assert_whole(&folder);
    }

    #[test]
    fn only_what_is_wanted_is_fetched() {
        let scene = Scene::new();
        let files = |folder: &Path| {
            let names =
                fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
            names.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        let folder = scene.resolve(NAME, Wanted::Tokenizer).unwrap();
        assert_eq!(files(&folder), ["config.json", "tokenizer.json"]);
        let folder = scene.resolve(NAME, Wanted::AllButWeights).unwrap();
        assert_eq!(files(&folder), ["config.json", "tokenizer.json"]);
        let folder = scene.resolve(NAME, Wanted::ModelAndTokenizer).unwrap();
        assert_eq!(files(&folder), ["config.json", "model.safetensors", "tokenizer.json"]);
    }

    #[test]
    fn weights_that_are_not_there_are_missed_before_they_are_to_be_fetched() {
        let scene = Scene::with(&[("config.json", b"{}"), ("tokenizer.json", b"{}")]);
        let error = scene.resolve(NAME, Wanted::AllButWeights).unwrap_err();
        assert_says(&error.to_string(), &["model.safetensors"]);
    }

    #[test]
    fn a_second_call_asks_for_no_content() {
        let scene = Scene::new();
        scene.model().unwrap();
        let before = scene.hub.downloads();
        scene.model().unwrap();
        assert_eq!(scene.hub.downloads(), before);
        assert_eq!(scene.hub.seen().last().unwrap().path, "/api/models/ada/small/revision/main");
    }

    #[test]
    fn the_token_goes_to_the_hub_and_to_nobody_else() {
        let scene = Scene::new();
        scene.model().unwrap();
        let seen = scene.hub.seen();
        assert!(seen.iter().any(|seen| seen.at_store));
        for seen in seen {
            let expected = (!seen.at_store).then(|| "Bearer hf_secret".to_string());
            assert_eq!(seen.token, expected, "{} {}", seen.method, seen.path);
        }
    }

    #[test]
    fn a_renamed_repository_is_followed_with_the_token() {
        let scene = Scene::new();
        scene.hub.fails("ada/old/", 100, Kind::Moved);
        assert_whole(&scene.resolve("ada/old", Wanted::Model).unwrap());
        assert!(scene.cache.path().join("models--ada--old/refs/main").is_file());
        assert!(scene.hub.seen().iter().all(|seen| seen.at_store || seen.token.is_some()));
    }

    #[test]
    fn progress_is_told_in_bytes() {
        let scene = Scene::with(&[("config.json", b"{}"), ("model.safetensors", b"small")]);
        scene.model().unwrap();
        let config = ["config.json of 2", "+0", "+2", "finished"];
        let weights = ["model.safetensors of 5", "+0", "+5", "finished"];
        assert_eq!(scene.progress.lines(), [config, weights].concat());
    }

    #[test]
    fn a_cut_download_goes_on_where_it_broke_off() {
        let scene = Scene::new();
        scene.hub.fails("GET /store/", 1, Kind::Cut(100_000));
        assert_whole(&scene.model().unwrap());
        let asked = scene.hub.seen().into_iter().filter(|seen| seen.at_store).map(|seen| seen.range);
        assert_eq!(asked.collect::<Vec<_>>(), [None, Some("bytes=100000-".to_string())]);
        assert_says(&scene.notes().concat(), &["model.safetensors: the connection broke"]);
    }

    #[test]
    fn a_download_that_was_given_up_goes_on_in_the_next_run() {
        let scene = Scene::new();
        scene.hub.fails("GET /store/", 1, Kind::Cut(100_000));
        scene.hub.fails("GET /store/", 2, Kind::Cut(0));
        assert_says(&scene.refused(), &["model.safetensors", "100000 of 300000 bytes are kept"]);
        assert_whole(&scene.model().unwrap());
        assert_eq!(scene.hub.seen().last().unwrap().range.as_deref(), Some("bytes=100000-"));
        assert_says(&scene.progress.lines().join(" "), &["model.safetensors of 300000 +100000 +"]);
    }

    #[test]
    fn a_hub_that_drips_is_given_up() {
        let a_moment = Duration::from_millis(20);
        for (request, kind, says) in [
            ("GET /store/", Kind::Drip(a_moment), &["model.safetensors", "bytes a second"][..]),
            ("GET /store/", Kind::DripHead(a_moment), &["cannot be reached"]),
            ("GET /store/", Kind::Slow(Duration::from_secs(60)), &["cannot be reached"]),
            ("GET /store/", Kind::Cut(1), &["model.safetensors", "the connection broke 3 times"]),
            ("HEAD /ada/", Kind::DripHead(a_moment), &["cannot be reached"]),
            ("GET /api/", Kind::Drip(a_moment), &["cannot be reached"]),
            ("GET /api/", Kind::Slow(Duration::from_secs(60)), &["cannot be reached"]),
        ] {
            let mut scene = Scene::new();
            scene.config.patience.timeout = Duration::from_millis(150);
            scene.hub.fails(request, usize::MAX, kind);
            assert_says(&scene.refused(), says);
        }
    }

    #[test]
    fn what_dripped_is_kept_for_the_next_run() {
        let mut scene = Scene::new();
        scene.config.patience.timeout = Duration::from_millis(100);
        scene.hub.fails("GET /store/", 1, Kind::Drip(Duration::from_millis(20)));
        assert_says(&scene.refused(), &["of 300000 bytes are kept"]);
        scene.config.patience.timeout = Duration::from_secs(5);
        assert_whole(&scene.model().unwrap());
        assert_ne!(scene.hub.seen().last().unwrap().range, None);
    }

    #[test]
    fn a_server_without_ranges_is_asked_for_the_whole() {
        let scene = Scene::new();
        scene.hub.fails("GET /store/", 1, Kind::Cut(100_000));
        scene.hub.fails("GET /store/", 1, Kind::NoRange);
        assert_whole(&scene.model().unwrap());
        let starts =
            scene.progress.lines().iter().filter(|line| *line == "model.safetensors of 300000").count();
        assert_eq!(starts, 2);
    }

    #[test]
    fn a_refused_range_starts_over() {
        let scene = Scene::new();
        scene.hub.fails("GET /store/", 1, Kind::Cut(100_000));
        scene.hub.fails("GET /store/", 1, Kind::Status(416, ""));
        assert_whole(&scene.model().unwrap());
    }

    #[test]
    fn wrong_bytes_are_removed_and_fetched_again_by_the_next_run() {
        for file in ["config.json", "model.safetensors"] {
            let scene = Scene::new();
            scene.hub.fails(if file == "config.json" { "GET /ada/" } else { "GET /store/" }, 1, Kind::Lie);
            let before = scene.refused();
            assert_says(&before, &[file, "ada/small", "with hash", "removed"]);
            assert_eq!(scene.blobs(), if file == "config.json" { 0 } else { 1 });
            assert_whole(&scene.model().unwrap());
        }
    }

    #[test]
    fn a_gated_repository_says_how_to_get_in() {
        let scene = Scene::new();
        scene.hub.fails("HEAD /ada/", 1, Kind::Status(403, "x-error-code: GatedRepo"));
        let page = format!("accept its licence at {}/ada/small", scene.hub.endpoint);
        assert_says(
            &scene.refused(),
            &["`ada/small` is gated", &page, "HF_TOKEN", "was sent and did not suffice"],
        );
    }

    #[test]
    fn an_unknown_or_private_repository_says_both() {
        let mut scene = Scene::new();
        scene.config.token = None;
        scene.hub.fails("GET /api", 1, Kind::Status(401, "x-error-code: RepoNotFound"));
        assert_says(
            &scene.refused(),
            &["no file or folder of that name", "no such repository, or it is private", "no token was"],
        );
        assert_eq!(scene.hub.seen().len(), 1);
    }

    #[test]
    fn what_does_not_exist_is_named() {
        let scene = Scene::new();
        let of = |name: &str| scene.resolve(name, Wanted::Model).unwrap_err().to_string();
        assert_says(&of("ada/large"), &["`ada/large`", "no such file or folder, and no such repository"]);
        assert_says(&of("ada/small@v2"), &["`ada/small` has no revision `v2`"]);
        scene.hub.fails("HEAD /ada/", 1, Kind::Status(404, "x-error-code: EntryNotFound"));
        assert_says(&of(NAME), &["`ada/small@main` has no config.json"]);
    }

    #[test]
    fn a_busy_hub_is_asked_again_when_it_says() {
        let scene = Scene::new();
        scene.hub.fails("GET /api", 1, Kind::Status(429, "retry-after: 0"));
        scene.hub.fails("GET /store", 2, Kind::Status(503, ""));
        assert_whole(&scene.model().unwrap());
        assert_says(&scene.notes().concat(), &["answered 429; asking again in 0.0 seconds", "answered 503"]);
    }

    #[test]
    fn a_hub_that_stays_busy_is_given_up() {
        let scene = Scene::new();
        scene.hub.fails("GET /api", 3, Kind::Status(429, "retry-after: 0"));
        assert_says(&scene.refused(), &["too many requests (429) after 3 attempts"]);
        assert_eq!(scene.hub.seen().len(), 3);
    }

    #[test]
    fn a_wait_of_an_hour_is_not_waited_for() {
        let scene = Scene::new();
        scene.hub.fails("GET /api", 1, Kind::Status(429, "retry-after: 3600"));
        assert_says(&scene.refused(), &["after 1 attempts; try again in 3600 seconds"]);
    }

    #[test]
    fn a_broken_hub_leaves_the_cache_to_use() {
        let scene = Scene::new();
        scene.hub.fails("GET /api", 3, Kind::Status(502, ""));
        assert_says(&scene.refused(), &["answered 502 after 3 attempts"]);
        let folder = scene.model().unwrap();
        scene.hub.fails("GET /api", 3, Kind::Status(502, ""));
        assert_eq!(scene.model().unwrap(), folder);
        assert_says(scene.notes().last().unwrap(), &["`ada/small`", COMMIT, "from the cache"]);
    }

    #[test]
    fn offline_asks_nobody() {
        let mut scene = Scene::new();
        let folder = scene.model().unwrap();
        let before = scene.hub.seen().len();
        scene.config.network = Network::Forbidden;
        assert_eq!(scene.model().unwrap(), folder);
        assert_eq!(scene.resolve(&format!("{NAME}@{COMMIT}"), Wanted::Model).unwrap(), folder);
        assert_eq!(scene.hub.seen().len(), before);
    }

    #[test]
    fn offline_names_what_the_cache_lacks() {
        let mut scene = Scene::new();
        scene.config.network = Network::Forbidden;
        assert_says(
            &scene.refused(),
            &["lacks config.json, model.safetensors of revision `main`", "HF_HUB_OFFLINE"],
        );
        scene.config.network = Network::Allowed;
        scene.model().unwrap();
        scene.config.network = Network::Forbidden;
        let error = scene.resolve(NAME, Wanted::ModelAndTokenizer).unwrap_err();
        assert_says(&error.to_string(), &["lacks tokenizer.json of revision"]);
    }

    #[test]
    fn without_a_network_the_cures_are_named_and_a_full_cache_is_used() {
        let mut scene = Scene::new();
        let endpoint = std::mem::replace(&mut scene.config.endpoint, "http://127.0.0.1:1".to_string());
        assert_says(
            &scene.refused(),
            &["`ada/small`", "http://127.0.0.1:1 cannot be reached", "local folder", "HF_HUB_OFFLINE=1"],
        );
        scene.config.endpoint = endpoint;
        let folder = scene.model().unwrap();
        scene.config.endpoint = "http://127.0.0.1:1".to_string();
        assert_eq!(scene.model().unwrap(), folder);
        assert_says(&scene.notes().concat(), &["from the cache"]);
    }

    #[test]
    fn a_hub_that_says_nothing_is_not_waited_for() {
        let mut scene = Scene::new();
        scene.config.patience.timeout = Duration::from_millis(50);
        scene.hub.fails("GET /api", 1, Kind::Slow(Duration::from_secs(2)));
        assert_says(&scene.refused(), &["cannot be reached"]);
    }

    #[test]
    fn two_programs_fetch_a_file_once() {
        let scene = Scene::new();
        scene.hub.fails("GET /store/", 1, Kind::Slow(Duration::from_millis(200)));
        std::thread::scope(|scope| {
            let run = || {
                assert_whole(
                    &scene.config.resolve(NAME, Wanted::Model, &RecordedProgress::default()).unwrap(),
                )
            };
            let threads = [scope.spawn(run), scope.spawn(run)];
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        let stored = scene.hub.seen().iter().filter(|seen| seen.at_store).count();
        assert_eq!((stored, scene.blobs()), (1, 2));
    }

    #[test]
    fn every_shard_of_an_index_is_fetched() {
        let mut files: Vec<(&str, &[u8])> =
            vec![("config.json", b"{}"), ("model.safetensors.index.json", INDEX)];
        files.extend([
            ("model-00001-of-00002.safetensors", &WEIGHTS[..2000]),
            ("model-00002-of-00002.safetensors", b"b"),
        ]);
        let scene = Scene::with(&files);
        let folder = scene.model().unwrap();
        for (file, content) in files {
            assert!(fs::read(folder.join(file)).unwrap() == content, "{file}");
        }
    }

    #[test]
    fn a_shard_that_is_not_in_the_repository_is_named() {
        let scene = Scene::with(&[("config.json", b"{}"), ("model.safetensors.index.json", INDEX)]);
        assert_says(&scene.refused(), &["`ada/small@main` has no model-00001-of-00002.safetensors"]);
        assert!(!scene.repository().join("refs").exists());
    }

    #[test]
    fn an_answer_that_is_none_of_a_hub_is_refused() {
        for (text, part) in [
            ("<html>log in</html>", "the answer is not that of a hub"),
            (r#"{"sha": "../../../home", "siblings": []}"#, "`../../../home` for the commit"),
        ] {
            let scene = Scene::new();
            scene.hub.fails("GET /api", 1, Kind::Says(text));
            assert_says(&scene.refused(), &[part, "HF_ENDPOINT"]);
        }
    }

    #[test]
    fn a_file_without_a_hash_is_not_fetched() {
        let scene = Scene::new();
        scene.hub.fails("HEAD /ada/", 1, Kind::Status(200, "etag: \"../../evil\""));
        assert_says(&scene.refused(), &["`\"../../evil\"` for the hash of the file"]);
    }

    #[test]
    fn a_redirect_in_a_circle_is_left() {
        let scene = Scene::new();
        scene.hub.fails("GET /", 100, Kind::Status(302, "location: /again"));
        assert_says(&scene.refused(), &["redirects to", "/again"]);
        assert_eq!(scene.hub.seen().len(), 11);
    }

    #[test]
    fn a_new_commit_fetches_only_what_changed() {
        let scene = Scene::new();
        scene.model().unwrap();
        fs::rename(
            scene.repository().join("snapshots").join(COMMIT),
            scene.repository().join("snapshots").join("0".repeat(40)),
        )
        .unwrap();
        scene.hub.put("config.json", b"{\"new\": 1}");
        let before = scene.hub.downloads();
        assert_whole(&scene.model().unwrap());
        assert_eq!(scene.hub.downloads(), before + 1);
    }
}
