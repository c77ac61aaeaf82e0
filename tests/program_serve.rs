//! `nola-train serve`, as programs talk to it, on a tiny language model that reads bytes and an adapter of it.
#![cfg(unix)]

use std::fs;
use std::io::Read;

use serde_json::{Value, json};

use crate::program::Workshop;
use crate::program_generate::texts;
use crate::server::{Answer, Server, answer};
use crate::text_workshop::{CONTEXT, text_workshop, trained};

const PROMPT: &str = "name : Zizzi | food : Thai";

/// A workshop with a trained adapter in `adapters/food`.
fn with_adapter() -> Workshop {
    let workshop = text_workshop();
    trained(&workshop);
    copy(&workshop, "runs/food/adapter", "adapters/food");
    workshop
}

fn copy(workshop: &Workshop, from: &str, to: &str) {
    fs::create_dir_all(workshop.at(to)).expect("a folder");
    for file in fs::read_dir(workshop.at(from)).expect("a folder").flatten() {
        fs::copy(file.path(), workshop.at(to).join(file.file_name())).expect("a file");
    }
}

fn serving(workshop: &Workshop, more: &[&str]) -> Server {
    Server::start(workshop, &[&["--model", "base", "--adapters", "adapters"], more].concat())
}

/// A greedy request of twelve tokens, with more fields.
fn wanted(model: &str, prompt: Value, more: Value) -> Value {
    let mut request = json!({"model": model, "prompt": prompt, "max_tokens": 12, "temperature": 0});
    more.as_object().into_iter().flatten().for_each(|(key, value)| request[key.as_str()] = value.clone());
    request
}

fn text(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["choices"][0]["text"].as_str().expect("text").to_owned()
}

#[test]
fn a_completion_is_what_generate_writes() {
    let workshop = with_adapter();
    let server = serving(&workshop, &[]);
    let of =
        |model: &str, more: Value| text(&server.post("/v1/completions", &wanted(model, PROMPT.into(), more)));
    let generated = |arguments: &[&str]| texts(&workshop, arguments).remove(0);
    assert_eq!(of("food", json!({})), generated(&["--run", "runs/food", PROMPT]));
    assert_eq!(of("food", json!({"raw": true})), generated(&["--run", "runs/food", "--raw", PROMPT]));
    assert_eq!(of("base", json!({})), generated(&["--model", "base", PROMPT]));
    let drawn = generated(&["--model", "base", PROMPT, "--temperature", "1.5", "--seed", "3"]);
    assert_eq!(of("base", json!({"temperature": 1.5, "seed": 3})), drawn);
    let tokens: Vec<u8> = PROMPT.bytes().collect();
    let answered = server.post("/v1/completions", &wanted("base", json!(tokens), json!({})));
    // A byte of this tokenizer is a token, but not of the same number.
    assert_eq!(answered.status, 200, "{}", answered.body);
    assert_eq!(answered.json()["usage"]["prompt_tokens"], tokens.len());
}

#[test]
fn a_stream_is_the_same_text_in_parts() {
    let workshop = with_adapter();
    let server = serving(&workshop, &[]);
    let more = json!({"stream": true, "stream_options": {"include_usage": true}, "n": 2});
    let events = server.post("/v1/completions", &wanted("food", PROMPT.into(), more)).events();
    let whole = text(&server.post("/v1/completions", &wanted("food", PROMPT.into(), json!({}))));
    for index in 0..2 {
        let choices = events
            .iter()
            .filter_map(|event| event["choices"].get(0))
            .filter(|choice| choice["index"] == index);
        let parts: Vec<&str> = choices.clone().filter_map(|choice| choice["text"].as_str()).collect();
        assert_eq!(parts.concat(), whole);
        assert!(parts.len() > 2, "{parts:?}");
        let ends: Vec<&Value> =
            choices.map(|choice| &choice["finish_reason"]).filter(|end| !end.is_null()).collect();
        assert_eq!(ends.len(), 1);
    }
    let (last, others) = events.split_last().expect("events");
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &24.into()), "{last}");
    assert!(others.iter().all(|event| event["usage"].is_null() && event["object"] == "text_completion"));
}

#[test]
fn a_text_ends_before_a_stop_string() {
    let workshop = with_adapter();
    let server = serving(&workshop, &[]);
    let whole = text(&server.post("/v1/completions", &wanted("food", PROMPT.into(), json!({}))));
    let characters: Vec<char> = whole.chars().collect();
    let stop: String = characters[4..7].iter().collect();
    let expected = &whole[..whole.find(&stop).expect("it is in it")];
    for is_streamed in [false, true] {
        let request = wanted(
            "food",
            PROMPT.into(),
            json!({"stop": [stop, "never"], "stream": is_streamed, "logprobs": 1}),
        );
        let answered = server.post("/v1/completions", &request);
        let choices: Vec<Value> = match is_streamed {
            true => answered.events().into_iter().map(|event| event["choices"][0].clone()).collect(),
            false => vec![answered.json()["choices"][0].clone()],
        };
        let parts: Vec<&str> = choices.iter().filter_map(|choice| choice["text"].as_str()).collect();
        assert_eq!(parts.concat(), expected);
        assert_eq!(choices.last().expect("a part")["finish_reason"], "stop");
        let tokens = choices
            .iter()
            .flat_map(|choice| choice["logprobs"]["tokens"].as_array().cloned().unwrap_or_default());
        let tokens: Vec<String> = tokens.map(|token| token.as_str().expect("text").to_owned()).collect();
        assert_eq!(tokens.concat(), expected, "the tokens that are told are those of the text");
    }
}

#[test]
fn a_chat_goes_through_the_chat_template() {
    let workshop = with_adapter();
    let server = serving(&workshop, &[]);
    let messages = json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": "Hi"}]);
    let request = |more: Value| {
        let mut request = wanted("base", Value::Null, more);
        request["messages"] = messages.clone();
        request
    };
    let expected = texts(&workshop, &["--model", "base", "--chat", "--system", "be brief", "Hi"]).remove(0);
    let answered =
        server.post("/v1/chat/completions", &request(json!({"logprobs": true, "top_logprobs": 2}))).json();
    let choice = &answered["choices"][0];
    assert_eq!(
        (&choice["message"]["content"], &choice["message"]["role"]),
        (&expected.as_str().into(), &"assistant".into())
    );
    let scores = choice["logprobs"]["content"].as_array().expect("tokens");
    assert!(scores.iter().all(|score| score["logprob"].as_f64().expect("a number") <= 0.0));
    assert!(scores.iter().all(|score| score["top_logprobs"].as_array().map(Vec::len) == Some(2)));
    let events = server.post("/v1/chat/completions", &request(json!({"stream": true}))).events();
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let parts = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    assert_eq!(parts.collect::<String>(), expected);
}

#[test]
fn what_is_wrong_is_said_in_openais_shape() {
    let workshop = with_adapter();
    let server = serving(&workshop, &["--most-waiting", "4"]);
    let post = |path: &str, body: &Value| server.post(path, body).error();
    let expected = |status: u16, code: &str, param: &str| (status, code.to_owned(), param.to_owned());
    let complete = |more: Value| post("/v1/completions", &wanted("food", "a".into(), more));
    assert_eq!(complete(json!({"model": "nobody"})), expected(404, "model_not_found", "model"));
    assert_eq!(complete(json!({"model": null})), expected(400, "missing_required_parameter", "model"));
    assert_eq!(complete(json!({"prompt": null})), expected(400, "missing_required_parameter", "prompt"));
    assert_eq!(complete(json!({"temperature": 3})), expected(400, "invalid_value", "temperature"));
    assert_eq!(complete(json!({"tools": [{}]})), expected(400, "unsupported_parameter", "tools"));
    assert_eq!(complete(json!({"temprature": 1})), expected(400, "unknown_parameter", "temprature"));
    assert_eq!(complete(json!({"n": 5})), expected(400, "invalid_value", "n"));
    assert_eq!(
        complete(json!({"prompt": "a".repeat(CONTEXT)})),
        expected(400, "context_length_exceeded", "prompt")
    );
    assert_eq!(complete(json!({"prompt": [9999]})), expected(400, "invalid_prompt", "prompt"));
    assert_eq!(complete(json!({"model": "base", "prompt": ""})).1, "invalid_prompt");
    assert_eq!(
        post("/v1/chat/completions", &json!({"model": "food", "messages": []})),
        expected(400, "invalid_value", "messages")
    );
    assert_eq!(post("/v1/images/classify", &json!({})), expected(404, "wrong_modality", "model"));
    assert_eq!(post("/v1/nothing", &json!({})), expected(404, "not_found", ""));
    assert_eq!(post("/v1/load_lora_adapter", &json!({})), expected(403, "admin_disabled", ""));
    let wrong_method = server.get("/v1/completions");
    assert_eq!(wrong_method.error(), expected(405, "method_not_allowed", ""));
    assert_eq!(wrong_method.header("allow"), Some("POST"));
    let json_type = [("Content-Type", "application/json")];
    assert_eq!(
        server.ask("POST", "/v1/completions", &json_type, b"{").error(),
        expected(400, "invalid_json", "")
    );
    assert_eq!(
        server.ask("POST", "/v1/completions", &[], b"{}").error(),
        expected(415, "unsupported_media_type", "")
    );
    let large = vec![b' '; (4 << 20) + 1];
    assert_eq!(
        server.ask("POST", "/v1/completions", &json_type, &large).error(),
        expected(413, "request_too_large", "")
    );
    let elsewhere = server.ask("GET", "/v1/models", &[("Origin", "https://example.org")], b"");
    assert_eq!(elsewhere.error(), expected(403, "forbidden_origin", ""));
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let workshop = with_adapter();
    let server = serving(&workshop, &["--most-running", "1", "--most-waiting", "1"]);
    let request =
        wanted("food", "a".into(), json!({"max_tokens": CONTEXT - 20, "stop": "never to be written"}));
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let asked: Vec<_> =
            (0..12).map(|_| scope.spawn(|| server.post("/v1/completions", &request))).collect();
        asked.into_iter().map(|asked| asked.join().expect("an answer")).collect()
    });
    let (good, busy): (Vec<&Answer>, Vec<&Answer>) = answers.iter().partition(|answer| answer.status == 200);
    assert!(!good.is_empty() && !busy.is_empty(), "{}, {}", good.len(), busy.len());
    for answer in busy {
        assert_eq!(answer.error().1, "queue_full");
        assert!(answer.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().is_ok()));
    }
}

/// Many long texts, of which nobody is to wait for the last.
fn long(is_streamed: bool) -> Value {
    wanted(
        "base",
        "a".into(),
        json!({"n": 100, "temperature": 1, "max_tokens": CONTEXT - 20, "stream": is_streamed}),
    )
}

#[test]
fn texts_end_when_whoever_asked_goes_away() {
    let workshop = with_adapter();
    let server = serving(&workshop, &[]);
    for is_streamed in [true, false] {
        let before = server.metric("nola_texts_cancelled_total");
        let json_type = [("Content-Type", "application/json")];
        let mut stream =
            server.sent("POST", "/v1/completions", &json_type, long(is_streamed).to_string().as_bytes());
        match is_streamed {
            true => stream.read_exact(&mut [0; 200]).expect("the beginning of an answer"),
            false => server.until("texts run", |server| server.metric("nola_texts_running") > 0),
        }
        drop(stream);
        server.until("no text runs", |server| {
            server.metric("nola_texts_running") + server.metric("nola_texts_waiting") == 0
        });
        assert!(server.metric("nola_texts_cancelled_total") > before + 50);
    }
}

#[test]
fn an_interrupt_lets_texts_end_and_takes_no_others() {
    let workshop = with_adapter();
    let server = serving(&workshop, &[]);
    let json_type = [("Content-Type", "application/json")];
    let request = wanted(
        "base",
        "a".into(),
        json!({"n": 20, "temperature": 1, "max_tokens": CONTEXT - 20, "stream": true}),
    );
    let mut stream = server.sent("POST", "/v1/completions", &json_type, request.to_string().as_bytes());
    let mut beginning = [0; 1];
    stream.read_exact(&mut beginning).expect("the beginning of an answer");
    server.running.signal("-TERM");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("text");
    assert!(rest.contains("data: [DONE]"), "the texts were cut");
    let (code, stderr) = server.running.ended();
    assert_eq!(code, Some(143), "{stderr}");
    assert!(stderr.contains("interrupted by SIGTERM: texts that were begun are completed"), "{stderr}");
}

#[test]
fn texts_that_do_not_end_in_time_are_cut() {
    let workshop = with_adapter();
    let server = serving(&workshop, &["--drain-seconds", "1", "--most-running", "1"]);
    let json_type = [("Content-Type", "application/json")];
    let stream = server.sent("POST", "/v1/completions", &json_type, long(true).to_string().as_bytes());
    server.until("texts run", |server| server.metric("nola_texts_running") > 0);
    server.running.signal("-INT");
    let events = answer(stream).events();
    let (last, others) = events.split_last().expect("events");
    assert_eq!(last["error"]["code"], "shutting_down", "{last}");
    assert!(!others.is_empty() && others.iter().all(|event| event["choices"].is_array()), "it is said once");
    let (code, stderr) = server.running.ended();
    assert_eq!(code, Some(130), "{stderr}");
    assert!(stderr.contains("after 1 s, connections were cut: 1"), "{stderr}");
}

#[test]
fn adapters_come_change_and_go_while_the_server_runs() {
    let workshop = with_adapter();
    let server = serving(&workshop, &["--admin-key", "the-admin-key"]);
    let ask = |model: &str| server.post("/v1/completions", &wanted(model, PROMPT.into(), json!({})));
    assert_eq!(ask("late").status, 404);
    copy(&workshop, "adapters/food", "adapters/late");
    assert_eq!(text(&ask("late")), text(&ask("food")), "it is found when it is asked for");
    copy(&workshop, "adapters/food", "adapters/bad");
    workshop.write("adapters/bad/adapter_model.safetensors", "no tensors");
    assert_eq!(ask("bad").error().1, "model_damaged");
    let models = server.get("/v1/models").json()["data"].clone();
    let of =
        |name: &str| models.as_array().expect("a list").iter().find(|model| model["id"] == name).cloned();
    assert_eq!(of("base").expect("the base")["parent"], Value::Null);
    assert_eq!(of("food").expect("an adapter")["parent"], "base");
    assert!(of("bad").expect("a damaged one")["problem"].is_string());
    let with_key = |method: &str, path: &str, more: &[(&str, &str)], body: &str| {
        let headers = [&[("Authorization", "Bearer the-admin-key")], more].concat();
        server.ask(method, path, &headers, body.as_bytes())
    };
    let json_type = ("Content-Type", "application/json");
    let path = "/v1/adapters/food";
    assert_eq!(server.ask("PUT", path, &[], b"").status, 401);
    let first = server.get(path).header("etag").expect("a generation").to_owned();
    let put = with_key("PUT", path, &[("If-Match", &first)], "");
    let second = put.header("etag").expect("a generation").to_owned();
    assert!(put.status == 200 && second != first, "{put:?}");
    assert_eq!(with_key("PUT", path, &[("If-Match", &first)], "").error().1, "generation_conflict");
    assert_eq!(with_key("DELETE", path, &[("If-Match", &first)], "").status, 409);
    assert_eq!(with_key("DELETE", path, &[("If-Match", &second)], "").status, 204);
    assert_eq!(ask("food").status, 404);
    let load = |name: &str, folder: &str| {
        let body = json!({"lora_name": name, "lora_path": folder}).to_string();
        with_key("POST", "/v1/load_lora_adapter", &[json_type], &body)
    };
    assert_eq!(load("again", "food").status, 200);
    assert_eq!(
        load("again", "food").error(),
        (400, "adapter_already_loaded".to_owned(), "lora_name".to_owned())
    );
    let body = json!({"lora_name": "again", "lora_path": "food", "load_inplace": true}).to_string();
    assert_eq!(with_key("POST", "/v1/load_lora_adapter", &[json_type], &body).status, 200);
    assert_eq!(text(&ask("again")), text(&ask("late")));
    assert_eq!(load("outside", "../runs/food/adapter").error().1, "invalid_adapter");
    for outside in ["/etc", "runs"] {
        assert_eq!(load("outside", outside).error().1, "adapter_not_found", "{outside}");
    }
    let body = json!({"lora_name": "again"}).to_string();
    assert_eq!(with_key("POST", "/v1/unload_lora_adapter", &[json_type], &body).status, 200);
    assert_eq!(ask("again").status, 404);
    server.running.signal("-TERM");
    let (_, stderr) = server.running.ended();
    for expected in
        ["adapter late: served", "adapter again: served", "adapter again: gone", "adapter food: gone"]
    {
        assert!(stderr.contains(expected), "no `{expected}` in {stderr}");
    }
}

#[test]
fn a_bundle_is_served_by_the_names_of_its_members() {
    let workshop = with_adapter();
    copy(&workshop, "adapters/food", "adapters/drink");
    let compress = |more: &[&str]| {
        let arguments = [&["compress", "--model", "base", "--json"], more].concat();
        workshop.run(&arguments).json()
    };
    compress(&["adapters/food", "--out", "many/all", "--rank", "4"]);
    let server =
        Server::start(&workshop, &["--model", "base", "--adapters", "many", "--admin-key", "the-admin-key"]);
    let ask = |model: &str| server.post("/v1/completions", &wanted(model, PROMPT.into(), json!({})));
    let expected = texts(&workshop, &["--model", "base", "--adapter", "many/all/food", PROMPT]).remove(0);
    assert_eq!(text(&ask("all/food")), expected);
    let unknown = ask("all/drink");
    assert_eq!(unknown.error(), (404, "model_not_found".to_owned(), "model".to_owned()));
    assert!(ask("all").body.contains("ask for one of them, such as `all/food`"));
    compress(&["adapters/drink", "--add-to", "many/all"]);
    assert_eq!(text(&ask("all/drink")), expected, "it is found when it is asked for");
    let models = server.get("/v1/models").json()["data"].clone();
    let names: Vec<&str> =
        models.as_array().expect("a list").iter().filter_map(|model| model["id"].as_str()).collect();
    assert_eq!(names, ["base", "all/drink", "all/food"]);
    let member = server.get("/v1/models/all/food").json();
    assert_eq!(
        (&member["bundle"], &member["method"], &member["parent"]),
        (&"all".into(), &"jd-full".into(), &"base".into())
    );
    assert_eq!(server.get("/v1/models/all").status, 404);
    let bundle = server.get("/v1/adapters/all");
    assert_eq!(bundle.json()["members"], json!(["all/drink", "all/food"]));
    assert_eq!(server.get("/v1/adapters/all%2Ffood").json()["id"], "all/food");
    assert!(server.metric("nola_bundle_bases_bytes") > 0 && server.metric("nola_adapters") == 2);
    let key = [("Authorization", "Bearer the-admin-key")];
    assert_eq!(server.ask("DELETE", "/v1/adapters/all%2Ffood", &key, b"").error().1, "invalid_value");
    let tag = [key[0], ("If-Match", bundle.header("etag").expect("a generation"))];
    assert_eq!(server.ask("DELETE", "/v1/adapters/all", &tag, b"").status, 204);
    assert_eq!(ask("all/food").status, 404);
}

#[test]
fn a_key_is_asked_for_where_one_is_set() {
    let workshop = with_adapter();
    let server = serving(&workshop, &["--api-key", "0123456789"]);
    assert_eq!(server.get("/v1/models").error().1, "invalid_api_key");
    assert_eq!(server.get("/health").status, 200);
    let asked = |key: &str| {
        server.ask("GET", "/v1/models", &[("Authorization", &format!("Bearer {key}"))], b"").status
    };
    assert_eq!((asked("0123456789"), asked("0123456780"), asked("")), (200, 401, 401));
}

#[test]
fn an_address_that_others_can_reach_needs_a_key() {
    let workshop = text_workshop();
    let serve = |more: &[&str]| workshop.run(&[&["serve", "--model", "base"], more].concat());
    serve(&["--host", "0.0.0.0"]).assert_refused(2, &["--host 0.0.0.0", "--api-key", "--no-api-key"]);
    serve(&["--api-key", "short"]).assert_refused(2, &["--api-key", "8 characters"]);
    serve(&["--adapters", "nowhere"]).assert_refused(6, &["nowhere", "--adapters"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    serve(&["--port", &port]).assert_refused(1, &[&format!("--port {port}"), "choose another"]);
}

#[test]
fn a_run_is_served_under_its_name() {
    let workshop = with_adapter();
    let server = Server::start(&workshop, &["--run", "runs/food"]);
    let answered = server.post("/v1/completions", &wanted("food", PROMPT.into(), json!({})));
    assert_eq!(text(&answered), texts(&workshop, &["--run", "runs/food", PROMPT]).remove(0));
}

#[test]
fn the_page_and_the_description_are_there() {
    let workshop = text_workshop();
    let server = Server::start(&workshop, &["--model", "base"]);
    let page = server.get("/");
    assert!(page.body.contains("<title>nola-train serve</title>"));
    assert!(
        page.header("content-security-policy").is_some_and(|policy| policy.starts_with("default-src 'none'"))
    );
    let description = server.get("/openapi.json").json();
    for (path, methods) in description["paths"].as_object().expect("paths") {
        for (method, _) in methods.as_object().expect("methods") {
            let path = path.replace("{model}", "base").replace("{name}", "base");
            let asked = server.ask(&method.to_uppercase(), &path, &[], b"");
            assert!(
                asked.status != 405 && !asked.body.contains("\"not_found\""),
                "{method} {path}: {asked:?}"
            );
        }
    }
}
