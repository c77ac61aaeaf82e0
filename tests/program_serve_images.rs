//! `nola-train serve` with a tiny vision transformer and an adapter of it.
#![cfg(unix)]

use serde_json::{Value, json};

use crate::program::{Workshop, bytes_of};
use crate::server::Server;

/// Bytes in base64.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let bits = (0..3)
            .fold(0_usize, |bits, index| bits << 8 | usize::from(part.get(index).copied().unwrap_or(0)));
        for index in 0..4 {
            let letter = char::from(LETTERS[bits >> (18 - 6 * index) & 63]);
            text.push(if index <= part.len() { letter } else { '=' });
        }
    }
    text
}

/// A form with a file and a text field each.
fn form(fields: &[(&str, &str)], image: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in fields {
        body.extend(
            format!("--border\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").bytes(),
        );
    }
    let head = "--border\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.png\"\r\nContent-Type: image/png\r\n\r\n";
    body.extend(head.bytes());
    body.extend(image);
    body.extend(b"\r\n--border--\r\n");
    body
}

#[test]
fn an_image_has_the_classes_that_predict_names() {
    let workshop = Workshop::new();
    workshop.trained();
    let server = Server::start(&workshop, &["--run", "runs/colours"]);
    let file = "val/green/0.png";
    let predicted = workshop.run(&["predict", "--run", "runs/colours", file, "--json"]).json();
    let classes = predicted["predictions"][0]["classes"].as_array().expect("classes").clone();
    let expected: Vec<Value> =
        classes.iter().map(|class| json!({"label": class["name"], "score": class["probability"]})).collect();
    let image = bytes_of(&workshop.at(file));
    let answered = server.post("/v1/images/classify", &json!({"model": "colours", "image": base64(&image)}));
    assert_eq!(answered.json(), json!(expected), "{}", answered.body);
    let url = format!("data:image/png;base64,{}", base64(&image));
    let answered = server.post("/v1/images/classify", &json!({"model": "colours", "image": url, "top_k": 1}));
    assert_eq!(answered.json(), json!(expected[..1]));
    let border = [("Content-Type", "multipart/form-data; boundary=border")];
    let body = form(&[("model", "colours"), ("top_k", "2")], &image);
    assert_eq!(server.ask("POST", "/v1/images/classify", &border, &body).json(), json!(expected[..2]));
}

#[test]
fn a_member_of_a_bundle_says_what_predict_does_with_it() {
    let workshop = Workshop::new();
    workshop.trained();
    let compressed =
        workshop.run(&["compress", "runs", "--model", "base", "--out", "bundles/all", "--rank", "8"]);
    assert_eq!(compressed.code, 0, "{}", compressed.stderr);
    let server = Server::start(&workshop, &["--model", "base", "--adapters", "bundles/all"]);
    let file = "val/red/1.png";
    let arguments =
        ["predict", "--model", "base", "--adapter", "bundles/all/colours", file, "--top", "1", "--json"];
    let expected = workshop.run(&arguments).json()["predictions"][0]["classes"][0].clone();
    let image = base64(&bytes_of(&workshop.at(file)));
    let answered =
        server.post("/v1/images/classify", &json!({"model": "all/colours", "image": image, "top_k": 1}));
    assert_eq!(answered.json(), json!([{"label": expected["name"], "score": expected["probability"]}]));
}

#[test]
fn images_that_wait_together_are_each_answered() {
    let workshop = Workshop::new();
    workshop.trained();
    let server = Server::start(&workshop, &["--run", "runs/colours"]);
    std::thread::scope(|scope| {
        for index in 0..18 {
            let (server, workshop) = (&server, &workshop);
            scope.spawn(move || {
                let colour = ["red", "green", "blue"][index % 3];
                let image = base64(&bytes_of(&workshop.at(&format!("val/{colour}/{}.png", index / 3))));
                let answered =
                    server.post("/v1/images/classify", &json!({"model": "colours", "image": image}));
                assert_eq!(answered.json()[0]["label"], colour, "{}", answered.body);
            });
        }
    });
}

#[test]
fn what_is_no_image_is_refused_by_its_field() {
    let workshop = Workshop::new();
    workshop.trained();
    let server = Server::start(&workshop, &["--run", "runs/colours"]);
    let refused = |body: Value| server.post("/v1/images/classify", &body).error();
    let expected = |status: u16, code: &str, param: &str| (status, code.to_owned(), param.to_owned());
    assert_eq!(
        refused(json!({"model": "colours", "image": base64(b"no image")})),
        expected(400, "invalid_image", "image")
    );
    assert_eq!(refused(json!({"model": "colours", "image": "?"})), expected(400, "invalid_image", "image"));
    assert_eq!(refused(json!({"model": "colours"})), expected(400, "missing_required_parameter", "image"));
    assert_eq!(refused(json!({"model": "nobody", "image": ""})), expected(404, "model_not_found", "model"));
    let image = base64(&bytes_of(&workshop.at("val/red/0.png")));
    assert_eq!(
        refused(json!({"model": "colours", "image": image, "top_k": 0})),
        expected(400, "invalid_value", "top_k")
    );
    assert_eq!(
        server.post("/v1/completions", &json!({"model": "colours", "prompt": "a"})).error(),
        expected(404, "wrong_modality", "model")
    );
}
