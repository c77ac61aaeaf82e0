//! A model by its name, through the built program and a hub on this machine.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nola_core::folder::sha256_hex;

use crate::program::{Outcome, Workshop, bytes_of, device};
use crate::text_workshop::text_workshop;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with one repository, `ada/small`, whose files are those of `base`.
struct Hub {
    endpoint: String,
    downloads: Arc<AtomicUsize>,
}

impl Hub {
    fn of(workshop: &Workshop) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
        let names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
        let files: BTreeMap<&str, Vec<u8>> =
            names.map(|name| (name, bytes_of(&workshop.at("base").join(name)))).into();
        let downloads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&downloads);
        std::thread::spawn(move || {
            listener.incoming().flatten().for_each(|stream| answer(stream, &files, &counted));
        });
        Self { endpoint, downloads }
    }

    fn downloads(&self) -> usize {
        self.downloads.load(Ordering::Relaxed)
    }
}

/// Answers one request; a client that attached up misses nothing that a test looks at.
fn answer(mut stream: TcpStream, files: &BTreeMap<&str, Vec<u8>>, downloads: &AtomicUsize) {
    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    let (verb, path) = first.split_once(' ').unwrap_or_default();
    let path = path.split(' ').next().unwrap_or_default();
    let siblings: Vec<String> = files.keys().map(|name| format!("{{\"rfilename\": \"{name}\"}}")).collect();
    let listing = format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{}]}}", siblings.join(", "));
    let file = path.strip_prefix(&format!("/ada/small/resolve/{COMMIT}/"));
    let (status, body) = match file.and_then(|name| files.get(name)) {
        Some(body) => ("200 OK", &body[..]),
        None if path == "/api/models/ada/small/revision/main" => ("200 OK", listing.as_bytes()),
        None => ("404 Not Found", &b""[..]),
    };
    let (length, hash) = (body.len(), sha256_hex(body));
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\netag: \"{hash}\"\r\nconnection: close\r\n\r\n"
    );
    let _ = stream.write_all(head.as_bytes());
    if verb == "GET" {
        downloads.fetch_add(usize::from(file.is_some()), Ordering::Relaxed);
        let _ = stream.write_all(body);
    }
}

/// What the program says in a world where only this hub and this cache exist.
fn with_hub(workshop: &Workshop, endpoint: &str, more: &[(&str, &str)], arguments: &[&str]) -> Outcome {
    let mut command: Command = workshop.command(&device());
    for variable in
        ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HTTP_PROXY", "http_proxy"]
    {
        command.env_remove(variable);
    }
    command.env("HF_ENDPOINT", endpoint).env("HF_HOME", workshop.at("hub-home")).env("NO_PROXY", "127.0.0.1");
    let output = command.envs(more.iter().copied()).args(arguments).output();
    Outcome::of(output.expect("the program starts"))
}

const GENERATE: [&str; 7] = ["generate", "--model", "ada/small", "Hi", "--max-new-tokens", "4", "--json"];

#[test]
fn a_model_is_fetched_by_its_name_once_and_then_used_without_a_network() {
    let workshop = text_workshop();
    let hub = Hub::of(&workshop);
    let fetched = with_hub(&workshop, &hub.endpoint, &[], &GENERATE);
    let local = ["generate", "--model", "base", "Hi", "--max-new-tokens", "4", "--json"];
    assert_eq!(fetched.json()["texts"], workshop.run(&local).json()["texts"]);
    assert!(fetched.stderr.contains("fetching model.safetensors ("), "{}", fetched.stderr);
    assert_eq!(hub.downloads(), 4);
    let offline = with_hub(&workshop, &hub.endpoint, &[("HF_HUB_OFFLINE", "1")], &GENERATE);
    assert_eq!(offline.json()["texts"], fetched.json()["texts"]);
    assert_eq!(hub.downloads(), 4, "a file that is there is not fetched again");
}

#[test]
fn a_recipe_may_name_a_model_of_the_hub() {
    let workshop = text_workshop();
    let hub = Hub::of(&workshop);
    let arguments =
        ["train", "food.toml", "--set", "model.path=ada/small", "--set", "train.steps=1", "--json"];
    with_hub(&workshop, &hub.endpoint, &[], &arguments).json();
    let again = with_hub(&workshop, &hub.endpoint, &[], &["evaluate", "--run", "runs/food"]);
    assert_eq!(again.code, 0, "{}", again.stderr);
}

#[test]
fn without_a_network_the_message_says_what_to_do() {
    let workshop = text_workshop();
    // Nobody listens on the port of a listener that is gone.
    let gone = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("it is bound");
    let run = with_hub(&workshop, &format!("http://{gone}"), &[], &GENERATE);
    run.assert_refused(5, &["`ada/small`: no folder of that name", "cannot be reached", "HF_HUB_OFFLINE"]);
    let run = with_hub(&workshop, &format!("http://{gone}"), &[("HF_HUB_OFFLINE", "1")], &GENERATE);
    run.assert_refused(5, &["`ada/small`", "lacks config.json, model.safetensors", "unset HF_HUB_OFFLINE"]);
}

#[test]
fn a_name_that_the_hub_does_not_know() {
    let workshop = text_workshop();
    let hub = Hub::of(&workshop);
    let arguments = ["generate", "--model", "ada/smal", "Hi"];
    let run = with_hub(&workshop, &hub.endpoint, &[], &arguments);
    run.assert_refused(5, &["`ada/smal`: no such folder and no such repository at", "check the spelling"]);
}
