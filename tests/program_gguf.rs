//! A GGUF file as the model of every command.

use std::path::Path;

use serde_json::Value;

use crate::gguf_conversion::converted;
use crate::gguf_file::GgufFile;
use crate::program::Workshop;
use crate::text_workshop::{loss, sets, text_workshop, train};

/// The workshop with its models as files too.
fn workshop() -> Workshop {
    let workshop = text_workshop();
    for name in ["base", "llama"] {
        workshop.write(&format!("{name}.gguf"), converted(&workshop.at(name), 0).bytes());
    }
    workshop
}

fn json(workshop: &Workshop, arguments: &[&str]) -> Value {
    workshop.run(&[arguments, &["--json"]].concat()).json()
}

#[test]
fn every_command_takes_a_gguf_file_as_it_takes_the_folder() {
    let workshop = workshop();
    for name in ["base", "llama"] {
        let file = &format!("{name}.gguf");
        let texts = [name, file].map(|model| {
            let made =
                json(&workshop, &["generate", "--model", model, "--max-new-tokens", "12", "name : Zizzi"]);
            made["texts"][0]["text"].to_string()
        });
        assert_eq!(texts[0], texts[1], "{name}");
        assert!(texts[0].len() > 4, "{name}: {}", texts[0]);
        let losses = [name, file].map(|model| {
            loss(&json(&workshop, &["evaluate", "--model", model, "--format", "e2e", "--data", "val.txt"]))
        });
        assert_eq!(losses[0], losses[1], "{name}");
        let contents = json(&workshop, &["inspect", file]);
        assert_eq!(contents["kind"], "model");
        assert_eq!(contents["numbers"], json(&workshop, &["inspect", name])["numbers"]);
        let memory = ["inspect", file, "--batch", "1", "--tokens", "16"];
        assert_eq!(json(&workshop, &memory)["parameters"], contents["numbers"]);
    }
}

#[test]
fn a_file_in_few_bits_is_trained_over_scored_merged_and_trained_in_full() {
    let workshop = text_workshop();
    let micro = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/llama-micro");
    for (name, kind) in [("Q8_0", 8), ("Q4_1", 3)] {
        let file = &format!("{name}.gguf");
        workshop.write(file, converted(&micro, kind).bytes());
        let contents = json(&workshop, &["inspect", file]);
        let of_type = |of: &str| contents["numbers_by_dtype"][of].as_u64().expect("a number");
        assert_eq!(of_type(name) + of_type("F32"), contents["numbers"].as_u64().expect("a number"));
        let [model, out] = [format!("model.path={file}"), format!("output.dir=runs/{name}")];
        let (run, out_dir) = (format!("runs/{name}"), &format!("merged-{name}"));
        let result = train(&workshop, &sets(&[&model, &out])).json();
        let of_run = json(&workshop, &["evaluate", "--run", &run]);
        assert!((loss(&of_run) - loss(&result)).abs() < 1e-5, "{of_run} and {result}");
        json(&workshop, &["merge", "--run", &run, "--out", out_dir]);
        json(&workshop, &["export", "--run", &run, "--out", &format!("lora-{name}")]);
        let data = ["--format", "e2e", "--data", "val.txt"];
        let of_merged = json(&workshop, &[&["evaluate", "--model", out_dir], &data[..]].concat());
        assert!((loss(&of_merged) - loss(&result)).abs() < 1e-4, "{of_merged} and {result}");
        let [kept, dense] = ["none", "dense"].map(|quantize| {
            let storage = ["evaluate", "--model", file, "--quantize", quantize];
            loss(&json(&workshop, &[&storage[..], &data[..]].concat()))
        });
        assert!((kept - dense).abs() < 1e-5, "{kept} and {dense}");
    }
    let full = "[model]\npath = \"Q8_0.gguf\"\n[data]\nformat = \"e2e\"\ntrain = \"rows/e2e.txt\"\nvalidation = \"val.txt\"\n[data.text]\nmax_tokens = 128\n\
                [method]\nkind = \"full\"\n[train]\nsteps = 1\nbatch = 2\nlearning_rate = 1e-4\n";
    workshop.write("full.toml", full);
    let outcome = workshop.run(&["train", "full.toml"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
}

#[test]
fn runs_over_a_gguf_file_are_compared() {
    let short = sets(&["model.path=llama.gguf", "train.steps=2", "train.evaluate_every=2"]);
    let outcome =
        workshop().run(&[&["compare", "food.toml", "--seeds", "2", "--out", "both"], &short[..]].concat());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
}

#[test]
fn a_run_over_a_gguf_file_is_trained_scored_merged_and_exported() {
    let workshop = workshop();
    let result = train(&workshop, &sets(&["model.path=llama.gguf"])).json();
    let of_folder = train(&workshop, &sets(&["model.path=llama", "output.dir=runs/folder"])).json();
    assert_eq!(loss(&result), loss(&of_folder));
    let of_run = json(&workshop, &["evaluate", "--run", "runs/food"]);
    assert!((loss(&of_run) - loss(&result)).abs() < 1e-5, "{of_run} and {result}");
    json(&workshop, &["merge", "--run", "runs/food", "--out", "merged"]);
    json(&workshop, &["export", "--run", "runs/food", "--out", "lora"]);
    std::fs::remove_file(workshop.at("llama.gguf")).expect("a file");
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        assert!(workshop.at("merged").join(file).is_file(), "{file}");
    }
    let of_merged =
        json(&workshop, &["evaluate", "--model", "merged", "--format", "e2e", "--data", "val.txt"]);
    assert!((loss(&of_merged) - loss(&result)).abs() < 1e-4, "{of_merged} and {result}");
    let chat = ["train", "food.toml", "--set", "model.path=merged", "--set", "output.dir=runs/chat"];
    let rows = sets(&[
        "data.format=chat",
        "data.train=rows/chat.jsonl",
        "data.validation=rows/chat.jsonl",
        "train.steps=1",
    ]);
    json(&workshop, &[&chat[..], &rows].concat());
}

#[test]
fn an_adapter_knows_the_gguf_file_that_it_was_trained_on() {
    let workshop = workshop();
    train(&workshop, &sets(&["model.path=llama.gguf", "train.steps=1"])).json();
    let adapter = "runs/food/adapter";
    json(
        &workshop,
        &["generate", "--model", "llama.gguf", "--adapter", adapter, "--max-new-tokens", "2", "a"],
    );
    let mut other = converted(&workshop.at("llama"), 0);
    other.tensor("blk.1.ffn_down.weight").bytes[9] ^= 1;
    workshop.write("other.gguf", other.bytes());
    let outcome = workshop.run(&["generate", "--model", "other.gguf", "--adapter", adapter, "a"]);
    outcome.assert_refused(6, &["the hash of the weights"]);
}

#[test]
fn a_gguf_file_is_quantised_while_it_is_loaded() {
    let workshop = workshop();
    for quantization in ["int8", "nf4"] {
        let losses = ["llama", "llama.gguf"].map(|model| {
            let data = ["--format", "e2e", "--data", "val.txt", "--quantize", quantization];
            loss(&json(&workshop, &[&["evaluate", "--model", model], &data[..]].concat()))
        });
        assert_eq!(losses[0], losses[1], "{quantization}");
    }
}

#[test]
fn a_folder_with_one_gguf_file_is_that_file() {
    let workshop = workshop();
    let bytes = std::fs::read(workshop.at("llama.gguf")).expect("a file");
    workshop.write("one/model.gguf", &bytes);
    let arguments = |model| ["evaluate", "--model", model, "--format", "e2e", "--data", "val.txt"];
    assert_eq!(loss(&json(&workshop, &arguments("one"))), loss(&json(&workshop, &arguments("llama"))));
    assert_eq!(json(&workshop, &["inspect", "one"])["kind"], "model");
    workshop.write("one/model.Q4_0.gguf", &bytes);
    for arguments in [&arguments("one")[..], &["inspect", "one"]] {
        let outcome = workshop.run(arguments);
        outcome.assert_refused(5, &["several GGUF files", "model.Q4_0.gguf, model.gguf"]);
    }
}

#[test]
fn a_file_that_is_no_gguf_file_or_a_damaged_one_is_refused_by_name() {
    let workshop = workshop();
    let good = std::fs::read(workshop.at("llama.gguf")).expect("a file");
    let refused = |name: &str, content: &[u8], parts: &[&str]| {
        workshop.write(name, content);
        workshop.run(&["generate", "--model", name, "a"]).assert_refused(5, parts);
    };
    refused("notes.txt", b"hello", &["notes.txt: is a file, and no GGUF file"]);
    refused("empty.gguf", b"", &["empty.gguf", "begins with \"\""]);
    refused("short.gguf", &good[..good.len() / 2], &["short.gguf", "cut short or damaged"]);
    let changed = |change: &dyn Fn(&mut GgufFile)| {
        let mut file = converted(&workshop.at("llama"), 0);
        change(&mut file);
        file.bytes()
    };
    let bytes = changed(&|file| file.set("general.architecture", "gemma3"));
    refused("gemma.gguf", &bytes, &["`general.architecture` is \"gemma3\"", "`llama`, `phi3`, `qwen2`"]);
    let bytes = changed(&|file| file.set("tokenizer.ggml.pre", "falcon"));
    refused("falcon.gguf", &bytes, &["`tokenizer.ggml.pre` is \"falcon\"", "`llama-bpe`"]);
}
