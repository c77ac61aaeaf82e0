//! Faults of the hub: refusals, and contents that are not what was promised.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use crate::program_hub::{GENERATE, Hub, Spoilt, with_hub};
use crate::text_workshop::text_workshop;

/// The address of a hub that answers everything with one status.
fn answering(status: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let head = format!(
                "HTTP/1.1 {status}\r\nretry-after: 0\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            let _ = stream.write_all(head.as_bytes());
        }
    });
    endpoint
}

#[test]
fn fault_30_every_refusal_of_the_hub_is_told_with_its_cure() {
    let cases: [(&str, &[&str]); 5] = [
        ("401 Unauthorized", &["`ada/small`", "(401)", "set HF_TOKEN"]),
        ("403 Forbidden", &["`ada/small`", "(403)", "set HF_TOKEN"]),
        ("404 Not Found", &["`ada/small`", "no such repository", "check the spelling"]),
        ("429 Too Many Requests", &["too many requests (429)", "set HF_TOKEN for a higher limit"]),
        ("500 Internal Server Error", &["answered 500", "try again later"]),
    ];
    for (status, parts) in cases {
        let workshop = text_workshop();
        with_hub(&workshop, &answering(status), &[], &GENERATE).assert_refused(5, parts);
    }
}

#[test]
fn fault_30_a_file_that_is_not_the_one_that_was_promised_is_never_used() {
    let workshop = text_workshop();
    let hub = Hub::of(&workshop, Spoilt::Content);
    let run = with_hub(&workshop, &hub.endpoint, &[], &GENERATE);
    run.assert_refused(5, &["`ada/small`: arrived with hash", "it was removed, so fetch it again"]);
    let offline = with_hub(&workshop, &hub.endpoint, &[("HF_HUB_OFFLINE", "1")], &GENERATE);
    offline.assert_refused(5, &["`ada/small`", "lacks ", "unset HF_HUB_OFFLINE"]);
}

#[test]
fn fault_30_a_download_that_breaks_off_is_gone_on_with() {
    let workshop = text_workshop();
    let hub = Hub::of(&workshop, Spoilt::Cut);
    let fetched = with_hub(&workshop, &hub.endpoint, &[], &GENERATE);
    let local = ["generate", "--model", "base", "Hi", "--max-new-tokens", "4", "--json"];
    assert_eq!(fetched.json()["texts"], workshop.run(&local).json()["texts"]);
}
