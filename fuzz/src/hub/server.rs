//! A server that answers what it is told, one request a connection.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use nola_core::folder::sha256_hex;

/// Bytes of a request at most.
const LONGEST_REQUEST: usize = 1 << 14;

/// A server of this process.
pub struct Server {
    /// Its address.
    pub endpoint: String,
    answers: Arc<Mutex<VecDeque<Vec<u8>>>>,
}

impl Server {
    /// Serves until the process ends.
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let answers = Arc::new(Mutex::new(VecDeque::new()));
        let shared = Arc::clone(&answers);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Who hangs up before the end has read enough.
                let _ = serve(stream, &shared);
            }
        });
        Self { endpoint, answers }
    }

    /// What comes next; whatever was left is forgotten.
    pub fn answer_with(&self, answers: Vec<Vec<u8>>) {
        *self.answers.lock().expect("no thread panicked") = answers.into();
    }
}

fn serve(mut stream: TcpStream, answers: &Mutex<VecDeque<Vec<u8>>>) -> io::Result<()> {
    let request = request(&mut stream)?;
    let mut answers = answers.lock().expect("no thread panicked");
    let is_whole = answers.front().is_some_and(|answer| answer.starts_with(b"HTTP/"));
    let answer = match (request.starts_with(b"HEAD"), is_whole) {
        (true, false) => answers.front().map(|body| head_of(body)),
        (false, false) => answers.pop_front().map(|body| [head_of(&body), body].concat()),
        (_, true) => answers.pop_front().map(|answer| here(&answer)),
    };
    drop(answers);
    stream.write_all(&answer.unwrap_or_default())
}

/// The bytes of a request, which has no body.
fn request(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let (mut request, mut piece) = (Vec::new(), [0; 2048]);
    while !request.ends_with(b"\r\n\r\n") && request.len() < LONGEST_REQUEST {
        match stream.read(&mut piece)? {
            0 => break,
            read => request.extend_from_slice(&piece[..read]),
        }
    }
    Ok(request)
}

/// What a hub promises of a file.
fn head_of(body: &[u8]) -> Vec<u8> {
    let (etag, bytes) = (sha256_hex(body), body.len());
    let head = format!(
        "HTTP/1.1 200 OK\r\nETag: \"{etag}\"\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n"
    );
    head.into_bytes()
}

/// The answer without addresses: nothing outside of this machine is to be asked.
fn here(answer: &[u8]) -> Vec<u8> {
    let mut answer = answer.to_vec();
    for place in 1..answer.len() {
        if answer[place - 1] == b'/' && answer[place] == b'/' {
            answer[place] = b'_';
        }
    }
    answer
}
