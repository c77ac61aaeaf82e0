//! What a hub answers, and the cards of its data sets.

mod server;

use std::fs;
use std::path::Path;
use std::time::Duration;

use nola_models::hub::{DatasetName, DatasetSplit, HubConfig, Network, Note, Patience, Progress, Wanted};
use nola_train::text::FileKind;

use super::input::{BETWEEN, accepted, new_folder, parts};
use server::Server;

const COMMIT: &str = "aaaaaaaaaabbbbbbbbbbccccccccccdddddddddd";
/// Files of a repository where the input has no list.
const LISTED: &str =
    "README.md\ndata/train-00000-of-00001.parquet\ndata/test.csv\nen/train.jsonl\nen/dev.jsonl.gz\na.txt\n";
const TIMEOUT: Duration = Duration::from_secs(2);

/// Nobody is told.
struct Silent;

impl Progress for Silent {
    fn started(&self, _file: &str, _total_bytes: u64) {}

    fn advanced(&self, _bytes: u64) {}

    fn finished(&self) {}

    fn note(&self, note: &Note) {
        assert!(!note.to_string().is_empty());
    }
}

fn config(cache: &Path, endpoint: &str, network: Network) -> HubConfig {
    let patience =
        Patience { attempts: 1, first_wait: Duration::ZERO, longest_wait: Duration::ZERO, timeout: TIMEOUT };
    HubConfig { cache: cache.to_owned(), endpoint: endpoint.to_owned(), token: None, network, patience }
}

/// Answers, one after the other: a list of files, then those files; whole ones with their heads begin with `HTTP/`.
pub fn answers(bytes: &[u8]) {
    thread_local! {
        static SERVER: Server = Server::new();
    }
    let scratch = new_folder();
    let cache = scratch.path().join("deep/cache");
    fs::create_dir_all(&cache).expect("a folder in memory");
    SERVER.with(|server| {
        server.answer_with(split(bytes));
        let config = config(&cache, &server.endpoint, Network::Allowed);
        if let Some(folder) = accepted(config.resolve("ada/small", Wanted::ModelAndTokenizer, &Silent), bytes)
        {
            assert!(folder.starts_with(&cache) && folder.is_dir());
        }
    });
    for (folder, only) in [(scratch.path(), "deep"), (&scratch.path().join("deep"), "cache")] {
        let names = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        assert!(names.into_iter().all(|name| name == only), "a file outside of the cache");
    }
}

/// All parts of an input.
fn split(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut found, mut rest) = (Vec::new(), bytes);
    while let Some(end) = rest.windows(BETWEEN.len()).position(|window| window == BETWEEN) {
        found.push(rest[..end].to_vec());
        rest = &rest[end + BETWEEN.len()..];
    }
    found.push(rest.to_vec());
    found
}

/// The card of a data set, then what of it is meant, then its files, a line each.
pub fn card(bytes: &[u8]) {
    let [card, inside, listed] = parts(bytes);
    let text = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
    let name = format!("hf://datasets/ada/rows/{}", inside.map(text).unwrap_or_default());
    let Some(name) = accepted(DatasetName::parse(&name), bytes) else { return };
    assert_eq!(DatasetName::parse(&name.to_string()).expect("it was written just now"), name);
    let scratch = new_folder();
    let folder = scratch.path().join("datasets--ada--rows");
    let write = |file: &Path, bytes: &[u8]| {
        let file = folder.join(file);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder in memory");
        fs::write(file, bytes).expect("a file in memory");
    };
    write(&Path::new("refs").join(name.revision()), COMMIT.as_bytes());
    write(&Path::new("listings").join(COMMIT), listed.unwrap_or(LISTED.as_bytes()));
    for file in LISTED.lines() {
        let content = if file == "README.md" { card.unwrap_or_default() } else { b"x" };
        write(&Path::new("snapshots").join(COMMIT).join(file), content);
    }
    let config = config(scratch.path(), "http://127.0.0.1:9", Network::Forbidden);
    let readable = |file: &str| FileKind::of(Path::new(file)).map(|_| 0);
    for split in [DatasetSplit::Train, DatasetSplit::Validation] {
        let Some(found) = accepted(config.dataset(&name, split, &readable, &Silent), bytes) else { continue };
        assert!(!found.files.is_empty());
        assert!(found.files.iter().all(|file| file.path.starts_with(&folder)), "a file of another folder");
    }
}
