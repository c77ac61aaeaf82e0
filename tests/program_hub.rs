//! A model or a data set by its name, through the built program and a hub on this machine.

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

/// A hub with one repository.
pub struct Hub {
    pub endpoint: String,
    downloads: Arc<AtomicUsize>,
}

/// What a hub has, and under which address.
struct Repository {
    /// `models/ada/small`, as the interface of the hub has it.
    api: &'static str,
    /// `ada/small`, where its files are.
    page: &'static str,
    files: BTreeMap<&'static str, Vec<u8>>,
    spoilt: Spoilt,
}

/// What is wrong with the files that a hub sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoilt {
    Nothing,
    /// They begin with another byte.
    Content,
    /// Of each the first answer breaks off in the middle.
    Cut,
}

impl Hub {
    /// The model `ada/small`, whose files are those of `base`.
    pub fn of(workshop: &Workshop, spoilt: Spoilt) -> Self {
        let names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
        let files = names.map(|name| (name, bytes_of(&workshop.at("base").join(name))));
        Self::serving(Repository { api: "models/ada/small", page: "ada/small", files: files.into(), spoilt })
    }

    /// The data set `ada/rows`.
    fn of_rows(files: &[(&'static str, &str)]) -> Self {
        let files = files.iter().map(|(name, text)| (*name, text.as_bytes().to_vec())).collect();
        Self::serving(Repository {
            api: "datasets/ada/rows",
            page: "datasets/ada/rows",
            files,
            spoilt: Spoilt::Nothing,
        })
    }

    fn serving(repository: Repository) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
        let downloads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&downloads);
        std::thread::spawn(move || {
            listener.incoming().flatten().for_each(|stream| answer(stream, &repository, &counted));
        });
        Self { endpoint, downloads }
    }

    fn downloads(&self) -> usize {
        self.downloads.load(Ordering::Relaxed)
    }
}

/// Answers one request; a client that attached up misses nothing that a test looks at.
fn answer(mut stream: TcpStream, repository: &Repository, downloads: &AtomicUsize) {
    let Repository { api, page, files, spoilt } = repository;
    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    let is_rest =
        lines.take_while(|line| !line.is_empty()).any(|line| line.to_lowercase().starts_with("range:"));
    let (verb, path) = first.split_once(' ').unwrap_or_default();
    let path = path.split(' ').next().unwrap_or_default();
    let siblings: Vec<String> = files.keys().map(|name| format!("{{\"rfilename\": \"{name}\"}}")).collect();
    let listing = format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{}]}}", siblings.join(", "));
    let file = path.strip_prefix(&format!("/{page}/resolve/{COMMIT}/"));
    let (status, body) = match file.and_then(|name| files.get(name)) {
        Some(body) => ("200 OK", &body[..]),
        None if path == format!("/api/{api}/revision/main") => ("200 OK", listing.as_bytes()),
        None => ("404 Not Found", &b""[..]),
    };
    let (length, hash) = (body.len(), sha256_hex(body));
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\netag: \"{hash}\"\r\nconnection: close\r\n\r\n"
    );
    let _ = stream.write_all(head.as_bytes());
    if verb == "GET" {
        downloads.fetch_add(usize::from(file.is_some()), Ordering::Relaxed);
        let mut body = body.to_vec();
        match (file, spoilt) {
            (Some(_), Spoilt::Content) => body[0] ^= 1,
            // Who asks for the rest gets all of it: not every server knows ranges.
            (Some(_), Spoilt::Cut) if !is_rest => body.truncate(body.len() / 2),
            (Some(_), Spoilt::Cut | Spoilt::Nothing) | (None, _) => {}
        }
        let _ = stream.write_all(&body);
    }
}

/// What the program says in a world where only this hub and this cache exist.
pub fn with_hub(workshop: &Workshop, endpoint: &str, more: &[(&str, &str)], arguments: &[&str]) -> Outcome {
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

pub const GENERATE: [&str; 7] = ["generate", "--model", "ada/small", "Hi", "--max-new-tokens", "4", "--json"];

#[test]
fn fault_30_a_model_is_fetched_once_and_then_used_without_a_network() {
    let workshop = text_workshop();
    let hub = Hub::of(&workshop, Spoilt::Nothing);
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
    let hub = Hub::of(&workshop, Spoilt::Nothing);
    let arguments =
        ["train", "food.toml", "--set", "model.path=ada/small", "--set", "train.steps=1", "--json"];
    with_hub(&workshop, &hub.endpoint, &[], &arguments).json();
    let again = with_hub(&workshop, &hub.endpoint, &[], &["evaluate", "--run", "runs/food"]);
    assert_eq!(again.code, 0, "{}", again.stderr);
}

#[test]
fn weights_are_not_fetched_before_the_data_was_checked() {
    let workshop = text_workshop();
    let hub = Hub::of(&workshop, Spoilt::Nothing);
    workshop.write("val.txt", "");
    let train = ["train", "food.toml", "--set", "model.path=ada/small"];
    let outcome = with_hub(&workshop, &hub.endpoint, &[], &train);
    outcome.assert_refused(4, &["val.txt"]);
    assert_eq!(hub.downloads(), 3, "configuration and tokenizer: {}", outcome.stderr);
}

#[test]
fn fault_30_without_a_network_the_message_says_what_to_do() {
    let workshop = text_workshop();
    // Nobody listens on the port of a listener that is gone.
    let gone = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("it is bound");
    let run = with_hub(&workshop, &format!("http://{gone}"), &[], &GENERATE);
    run.assert_refused(
        5,
        &["`ada/small`: no file or folder of that name", "cannot be reached", "HF_HUB_OFFLINE"],
    );
    let run = with_hub(&workshop, &format!("http://{gone}"), &[("HF_HUB_OFFLINE", "1")], &GENERATE);
    run.assert_refused(5, &["`ada/small`", "lacks config.json, model.safetensors", "unset HF_HUB_OFFLINE"]);
}

#[test]
fn fault_30_a_name_that_the_hub_does_not_know_is_refused() {
    let workshop = text_workshop();
    let hub = Hub::of(&workshop, Spoilt::Nothing);
    let arguments = ["generate", "--model", "ada/smal", "Hi"];
    let run = with_hub(&workshop, &hub.endpoint, &[], &arguments);
    run.assert_refused(
        5,
        &["`ada/smal`: no such file or folder, and no such repository at", "check the spelling"],
    );
}

const CARD: &str = "---\nconfigs:\n- config_name: food\n  data_files:\n  - split: train\n    path: food/train-*\n  - split: \
                    test\n    path: food/test.jsonl\n- config_name: drink\n  data_files: drink.jsonl\n---\n# Rows\n";
const TRAIN: &str = "{\"q\":\"Food of Zizzi?\",\"n\":1,\"a\":\"Thai\"}\n";
const DRINK: &str = "{\"q\":\"Drink of Aromi?\",\"n\":3,\"a\":\"Tea\"}\n";
const MORE: &str = "{\"q\":\"Food of Aromi?\",\"n\":2,\"a\":\"French\"}\n";

fn rows() -> Hub {
    Hub::of_rows(&[
        ("README.md", CARD),
        ("drink.jsonl", DRINK),
        ("food/test.jsonl", TRAIN),
        ("food/train-00000-of-00002.jsonl", TRAIN),
        ("food/train-00001-of-00002.jsonl", MORE),
    ])
}

/// How a run learns from the data set `ada/rows`.
fn of_rows<'a>(train: &'a str, validation: &'a str) -> Vec<&'a str> {
    let recipe = ["train", "food.toml", "--json", "--set=data.format=template", "--set=train.steps=2"];
    let template = ["--set=data.text.template=Question {n}: {q}\nAnswer:", "--set=data.text.completion= {a}"];
    let data = ["--set", train, "--set", validation];
    [&recipe[..], &template, &data].concat()
}

#[test]
fn a_data_set_of_the_hub_is_trained_on_and_its_run_can_be_repeated() {
    let workshop = text_workshop();
    let hub = rows();
    let arguments = of_rows("data.train=ada/rows/food", "data.validation=ada/rows/food/test");
    let run = with_hub(&workshop, &hub.endpoint, &[], &arguments);
    let data = run.json()["data_from_hub"].clone();
    assert_eq!(data[0]["commit"], COMMIT);
    assert_eq!(data[0]["name"], format!("hf://datasets/ada/rows@{COMMIT}/food"));
    let files: Vec<&str> = data[0]["files"]
        .as_array()
        .expect("files")
        .iter()
        .map(|file| file["name"].as_str().expect("a name"))
        .collect();
    assert_eq!(files, ["food/train-00000-of-00002.jsonl", "food/train-00001-of-00002.jsonl"]);
    assert_eq!(data[0]["files"][1]["sha256"], sha256_hex(MORE.as_bytes()));
    assert!(run.stderr.contains("training: 2 "), "{}", run.stderr);
    let fetched = hub.downloads();
    let again = ["train", "runs/food/recipe.toml", "--set", "output.dir=runs/again", "--json"];
    let again = with_hub(&workshop, &hub.endpoint, &[("HF_HUB_OFFLINE", "1")], &again).json();
    assert_eq!((&again["data_from_hub"], &again["loss"]), (&data, &run.json()["loss"]));
    let scored = ["evaluate", "--run", "runs/food", "--data", "hf://datasets/ada/rows/drink.jsonl", "--json"];
    with_hub(&workshop, &hub.endpoint, &[], &scored).json();
    assert_eq!(hub.downloads(), fetched + 1);
}

#[test]
fn a_configuration_or_a_split_that_is_not_named_lists_those_there_are() {
    let workshop = text_workshop();
    let hub = rows();
    let refused = |train: &str, parts: &[&str]| {
        let arguments = of_rows(train, "data.validation=ada/rows/food/test");
        with_hub(&workshop, &hub.endpoint, &[], &arguments).assert_refused(4, parts);
    };
    refused("data.train=ada/rows", &["several configurations: food, drink", "`hf://datasets/ada/rows/food`"]);
    refused("data.train=ada/rows/fod", &["no configuration, split, folder or file `fod`", "food, drink"]);
    let arguments = of_rows("data.train=ada/rows/food", "data.validation=ada/rows/food");
    let run = with_hub(&workshop, &hub.endpoint, &[], &arguments);
    run.assert_refused(4, &["has no validation split; it has train, test", "/food/test"]);
    workshop.write(
        "images.toml",
        "[model]\npath = \"base\"\n[data]\ntrain = \"hf://datasets/ada/rows\"\nvalidation = \"val\"\n",
    );
    let images = ["train", "images.toml"];
    with_hub(&workshop, &hub.endpoint, &[], &images).assert_refused(4, &["not from the hub", "hf download"]);
}

#[test]
fn a_missing_file_of_rows_is_not_looked_for_on_the_hub() {
    let workshop = text_workshop();
    let hub = rows();
    let arguments = of_rows("data.train=data/train.jsonl", "data.validation=ada/rows/food/test");
    with_hub(&workshop, &hub.endpoint, &[], &arguments).assert_refused(4, &["data/train.jsonl: "]);
}
