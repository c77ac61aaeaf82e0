//! A hub for tests: a server on this machine that answers, redirects, refuses and breaks off like the real one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::{HubConfig, Network, Note, Patience, Progress, Token};

/// The commit of the only revision, `main`.
pub const COMMIT: &str = "aaaaaaaaaabbbbbbbbbbccccccccccdddddddddd";
/// Files at least this long are stored behind a redirect, in bytes.
const LARGE_BYTES: usize = 1000;

/// A hub with one repository, `ada/small`, and a second server that stores its large files.
pub struct FakeHub {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    faults: Vec<Fault>,
    seen: Vec<Seen>,
    store: String,
}

/// What goes wrong, as often as set.
pub struct Fault {
    pub request: &'static str,
    pub times: usize,
    pub kind: Kind,
}

#[derive(Clone)]
pub enum Kind {
    /// Answers with a status and one more header.
    Status(u16, &'static str),
    /// Leads from `ada/old` to `ada/small`.
    Moved,
    /// Answers well, with this text.
    Says(&'static str),
    /// Sends only so many bytes of the body, then hangs up.
    Cut(usize),
    /// Sends the body byte by byte, with so long a wait after each.
    Drip(Duration),
    /// Sends the head of the answer byte by byte, likewise.
    DripHead(Duration),
    /// Sends zeros instead of the content.
    Lie,
    /// Sends everything, whatever range was asked for.
    NoRange,
    /// Waits before it answers.
    Slow(Duration),
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub at_store: bool,
    pub method: String,
    pub path: String,
    pub token: Option<String>,
    pub range: Option<String>,
}

impl FakeHub {
    pub fn new(files: &[(&str, &[u8])]) -> Self {
        let [hub, store] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let endpoint = address(&hub);
        let files = files.iter().map(|(name, bytes)| (name.to_string(), bytes.to_vec())).collect();
        let state = State { files, faults: Vec::new(), seen: Vec::new(), store: address(&store) };
        let state = Arc::new(Mutex::new(state));
        for (listener, at_store) in [(hub, false), (store, true)] {
            let state = state.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = state.clone();
                    thread::spawn(move || serve(stream, at_store, &state));
                }
            });
        }
        Self { endpoint, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Lets requests that hold the text, as in `GET /store/`, fail so many times.
    pub fn fails(&self, request: &'static str, times: usize, kind: Kind) {
        self.state().faults.push(Fault { request, times, kind });
    }

    pub fn put(&self, file: &str, bytes: &[u8]) {
        self.state().files.insert(file.to_string(), bytes.to_vec());
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// How often contents were asked for.
    pub fn downloads(&self) -> usize {
        self.seen().iter().filter(|seen| seen.method == "GET" && !seen.path.starts_with("/api")).count()
    }

    /// Settings for this hub, with a token and short waits.
    pub fn config(&self, cache: &Path) -> HubConfig {
        HubConfig {
            cache: cache.to_path_buf(),
            endpoint: self.endpoint.clone(),
            token: Some(Token::new("hf_secret", "a test").unwrap()),
            network: Network::Allowed,
            patience: Patience {
                attempts: 3,
                first_wait: Duration::from_millis(1),
                longest_wait: Duration::from_secs(60),
                timeout: Duration::from_secs(5),
            },
        }
    }
}

fn serve(mut stream: TcpStream, at_store: bool, state: &Mutex<State>) {
    let Some(seen) = read_request(&stream, at_store) else { return };
    let (fault, files, store) = {
        let mut state = state.lock().unwrap();
        state.seen.push(seen.clone());
        let request = format!("{} {}", seen.method, seen.path);
        let fault = state.faults.iter_mut().find(|fault| fault.times > 0 && request.contains(fault.request));
        let fault = fault.map(|fault| {
            fault.times -= 1;
            fault.kind.clone()
        });
        (fault, state.files.clone(), state.store.clone())
    };
    if let Some(Kind::Slow(wait)) = fault {
        thread::sleep(wait);
    }
    let (head, body) = answer(&seen, fault.as_ref(), &files, &store);
    let length = if head.contains("content-length") { String::new() } else { length_line(body.len()) };
    let head = format!("HTTP/1.1 {head}{length}connection: close\r\n\r\n");
    let sent = match fault {
        Some(Kind::Cut(bytes)) => &body[..bytes.min(body.len())],
        _ => &body,
    };
    let sent = if seen.method == "GET" { sent } else { &[] };
    let _ = match fault {
        Some(Kind::DripHead(wait)) => drip(&mut stream, head.as_bytes(), wait),
        Some(Kind::Drip(wait)) => {
            stream.write_all(head.as_bytes()).and_then(|()| drip(&mut stream, sent, wait))
        }
        _ => stream.write_all(&[head.as_bytes(), sent].concat()),
    };
}

fn drip(stream: &mut TcpStream, bytes: &[u8], wait: Duration) -> std::io::Result<()> {
    bytes.iter().try_for_each(|byte| {
        thread::sleep(wait);
        stream.write_all(&[*byte])
    })
}

fn read_request(stream: &TcpStream, at_store: bool) -> Option<Seen> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ').map(str::to_string);
    let (method, path) = (words.next()?, words.next()?);
    let mut seen = Seen { at_store, method, path, token: None, range: None };
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => seen.token = Some(value.to_string()),
            "range" => seen.range = Some(value.to_string()),
            _ => {}
        }
    }
    Some(seen)
}

/// Status line and headers, and the body.
fn answer(
    seen: &Seen,
    fault: Option<&Kind>,
    files: &BTreeMap<String, Vec<u8>>,
    store: &str,
) -> (String, Vec<u8>) {
    if let Some(Kind::Status(status, header)) = fault {
        let header = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
        return (format!("{status} Fault\r\n{header}"), Vec::new());
    }
    if let Some(Kind::Moved) = fault {
        let location = seen.path.replace("ada/old", "ada/small");
        return (format!("307 Temporary Redirect\r\nlocation: {location}\r\n"), Vec::new());
    }
    if let Some(Kind::Says(text)) = fault {
        return ("200 OK\r\n".to_string(), text.as_bytes().to_vec());
    }
    // A model and a data set of one name have the same files here.
    let [models, datasets] = ["models", "datasets"].map(|kind| format!("/api/{kind}/ada/small/revision/"));
    let revision = seen.path.strip_prefix(&models).or_else(|| seen.path.strip_prefix(&datasets));
    if matches!(revision, Some("main" | COMMIT)) {
        let siblings: Vec<_> = files.keys().map(|file| format!(r#"{{"rfilename":"{file}"}}"#)).collect();
        let json = format!(r#"{{"sha":"{COMMIT}","siblings":[{}]}}"#, siblings.join(","));
        return ("200 OK\r\n".to_string(), json.into_bytes());
    }
    if revision.is_some() {
        return ("404 Not Found\r\nx-error-code: RevisionNotFound\r\n".to_string(), Vec::new());
    }
    let prefix = if seen.at_store { "/store/".to_string() } else { format!("/ada/small/resolve/{COMMIT}/") };
    let path = seen.path.strip_prefix("/datasets").unwrap_or(&seen.path);
    let Some((name, bytes)) = path.strip_prefix(&prefix).and_then(|file| files.get_key_value(file)) else {
        return ("404 Not Found\r\nx-error-code: EntryNotFound\r\n".to_string(), Vec::new());
    };
    if bytes.len() >= LARGE_BYTES && !seen.at_store {
        let etag = hex(&Sha256::digest(bytes));
        let size = bytes.len();
        let head = format!(
            "302 Found\r\nlocation: {store}/store/{name}\r\nx-linked-etag: \"{etag}\"\r\nx-linked-size: {size}\r\n"
        );
        return (head, Vec::new());
    }
    content(seen, fault, bytes)
}

fn content(seen: &Seen, fault: Option<&Kind>, bytes: &[u8]) -> (String, Vec<u8>) {
    let etag = hex(&Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize());
    let whole = match fault {
        Some(Kind::Lie) => vec![0; bytes.len()],
        _ => bytes.to_vec(),
    };
    let range = seen.range.as_deref().filter(|_| !matches!(fault, Some(Kind::NoRange)));
    let start = range.map(|range| range["bytes=".len()..].trim_end_matches('-').parse::<usize>().unwrap());
    match start {
        None => (format!("200 OK\r\netag: \"{etag}\"\r\n{}", length_line(whole.len())), whole),
        Some(start) => {
            let last = bytes.len() - 1;
            let head =
                format!("206 Partial Content\r\ncontent-range: bytes {start}-{last}/{}\r\n", bytes.len());
            (head, whole[start..].to_vec())
        }
    }
}

fn length_line(bytes: usize) -> String {
    format!("content-length: {bytes}\r\n")
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Records the events it gets.
#[derive(Default)]
pub struct RecordedProgress(Mutex<Vec<String>>);

impl RecordedProgress {
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn push(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }
}

impl Progress for RecordedProgress {
    fn started(&self, file: &str, total_bytes: u64) {
        self.push(format!("{file} of {total_bytes}"));
    }

    fn advanced(&self, bytes: u64) {
        self.push(format!("+{bytes}"));
    }

    fn finished(&self) {
        self.push("finished".to_string());
    }

    fn note(&self, note: &Note) {
        self.push(format!("note: {note}"));
    }
}
