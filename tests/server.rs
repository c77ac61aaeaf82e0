//! The program while it serves, and plain HTTP to talk to it.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::{Workshop, device};
use crate::running::Running;

/// A server on a port of its own.
pub struct Server {
    pub running: Running,
    pub address: SocketAddr,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let headers = self.head.lines().filter_map(|line| line.split_once(':'));
        headers.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// The code and the field of an error in OpenAI's shape.
    pub fn error(&self) -> (u16, String, String) {
        let error = &self.json()["error"];
        assert!(error["message"].is_string() && error["type"].is_string(), "{}", self.body);
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        (self.status, text("code"), text("param"))
    }

    /// The objects of a stream, which must end as it has to.
    pub fn events(&self) -> Vec<Value> {
        let events: Vec<&str> = self.body.split("\n\n").filter(|event| !event.is_empty()).collect();
        let (last, events) = events.split_last().expect("an event");
        assert_eq!(*last, "data: [DONE]");
        let data = |event: &&str| event.strip_prefix("data: ").expect("data").to_owned();
        events.iter().map(|event| serde_json::from_str(&data(event)).expect("JSON")).collect()
    }
}

impl Server {
    pub fn start(workshop: &Workshop, arguments: &[&str]) -> Self {
        let mut command = workshop.command(&device());
        command.args(["serve", "--port", "0"]).args(arguments);
        let mut running = Running::of(&mut command);
        let line = running.line_with("serving ");
        let address = line.rsplit_once("http://").expect("an address").1.trim();
        let address = address.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
        Self { running, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time limit");
        stream
    }

    /// Sends a request, and leaves the answer on the way.
    pub fn sent(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> TcpStream {
        let mut stream = self.connect();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        stream.write_all(head.as_bytes()).expect("the server reads");
        // A server that does not want the whole body may close its end.
        let _ = stream.write_all(body);
        stream
    }

    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        answer(self.sent(method, path, headers, body))
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
    }

    /// The value of a number of `/metrics`.
    pub fn metric(&self, name: &str) -> u64 {
        let page = self.get("/metrics").body;
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().expect("a number")
    }

    /// Waits until `holds`, up to half a minute.
    pub fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < Duration::from_secs(30), "it never came to this: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What comes on a stream until its end.
pub fn answer(stream: TcpStream) -> Answer {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head).expect("a head in time") > 2 {}
    let status =
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{head:?}"));
    let mut bytes = Vec::new();
    // Behind a refused body the connection may end hard.
    let _ = reader.read_to_end(&mut bytes);
    let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    let bytes = if is_chunked { whole(&bytes) } else { bytes };
    Answer { status, head, body: String::from_utf8(bytes).expect("text") }
}

/// A body without the marks of its chunks.
fn whole(mut chunked: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let end = chunked.windows(2).position(|pair| pair == b"\r\n").expect("a size");
        let size =
            std::str::from_utf8(&chunked[..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.expect("a size");
        if size == 0 {
            return bytes;
        }
        bytes.extend_from_slice(&chunked[end + 2..end + 2 + size]);
        chunked = &chunked[end + 2 + size + 2..];
    }
}
