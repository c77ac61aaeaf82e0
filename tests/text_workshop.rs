//! A folder with tiny language models, a tokenizer of bytes, rows of text in every format, and a recipe.

use std::process::Stdio;

use burn::tensor::Device;
use nola_models::{CausalLm, WeightDtype};
use serde_json::{Map, Value, json};

use crate::program::{Outcome, Workshop, device};

/// The token that ends a text; below it are the 256 bytes.
pub const END: u32 = 256;
/// Longest sequence of the models, in tokens.
pub const CONTEXT: usize = 256;

/// How to train and score `rows/FORMAT.*`, for every format of text that has rows here.
pub const FORMATS: [(&str, &str); 5] = [
    ("e2e", "rows/e2e.txt"),
    ("alpaca", "rows/alpaca.jsonl"),
    ("chat", "rows/chat.jsonl"),
    ("prompt-completion", "rows/pairs.csv"),
    ("text", "rows/story.txt"),
];

const RECIPE: &str = r#"
[model]
path = "base"

[data]
format = "e2e"
train = "rows/e2e.txt"
validation = "val.txt"

[data.text]
max_tokens = 256

[method]
kind = "nola"
rank = 2
k = 32
targets = "all-linear"

[train]
steps = 16
batch = 12
learning_rate = 3e-2
evaluate_every = 8
"#;

const NAMES: [&str; 4] = ["Aromi", "Blue Spice", "The Mill", "Zizzi"];
const FOODS: [&str; 3] = ["French", "Indian", "Thai"];

/// `base` is a GPT-2, `llama` a LLaMA with the same tokenizer; the recipe is `food.toml`.
pub fn text_workshop() -> Workshop {
    let workshop = Workshop::empty();
    model(&workshop, "base", &gpt2_json());
    model(&workshop, "llama", &llama_json());
    rows(&workshop);
    workshop.write("food.toml", RECIPE);
    workshop
}

/// What `train food.toml` with more arguments says.
pub fn train(workshop: &Workshop, more: &[&str]) -> Outcome {
    workshop.run(&[&["train", "food.toml", "--json"], more].concat())
}

/// The result of a run with the recipe, in `runs/food`.
pub fn trained(workshop: &Workshop) -> Value {
    train(workshop, &[]).json()
}

/// The program with `input` on its standard input.
pub fn run_with_input(workshop: &Workshop, input: &str, arguments: &[&str]) -> Outcome {
    workshop.write("input", input);
    let file = std::fs::File::open(workshop.at("input")).expect("it was just written");
    let output = workshop.command(&device()).args(arguments).stdin(Stdio::from(file)).output();
    Outcome::of(output.expect("the program starts"))
}

/// A model folder with random weights, the same ones every time.
pub fn model(workshop: &Workshop, name: &str, config: &Value) {
    workshop.write(&format!("{name}-sizes/config.json"), config.to_string());
    let random = CausalLm::init(&workshop.at(&format!("{name}-sizes")), 5, &Device::flex());
    random.expect("a model").save(&workshop.at(name), WeightDtype::F32).expect("a free folder");
    std::fs::remove_dir_all(workshop.at(&format!("{name}-sizes"))).expect("the folder just made");
    workshop.write(&format!("{name}/tokenizer.json"), tokenizer_json(&[]).to_string());
    workshop.write(&format!("{name}/tokenizer_config.json"), tokenizer_config_json().to_string());
}

pub fn gpt2_json() -> Value {
    json!({
        "model_type": "gpt2", "vocab_size": 257, "n_positions": CONTEXT, "n_embd": 24, "n_layer": 2, "n_head": 2,
        "initializer_range": 0.2, "eos_token_id": END,
    })
}

pub fn llama_json() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 257, "max_position_embeddings": CONTEXT, "hidden_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 32,
        "initializer_range": 0.2, "eos_token_id": END, "bos_token_id": END,
    })
}

/// One token a byte, the end token, and `more` tokens with their ids.
pub fn tokenizer_json(more: &[(&str, u32)]) -> Value {
    let bytes: Map<String, Value> =
        (0..=u8::MAX).map(|byte| (letter_of(byte).to_string(), byte.into())).collect();
    let special = |(content, id): &(&str, u32)| {
        json!({
            "id": id, "content": content, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    let specials: Vec<Value> = [("<|endoftext|>", END)].iter().chain(more).map(special).collect();
    let level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": specials, "normalizer": null,
        "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": bytes, "merges": [],
        },
    })
}

/// Names the end token and how conversations are written.
pub fn tokenizer_config_json() -> Value {
    let template = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}{{ eos_token }}\n\
                    {% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    json!({"eos_token": "<|endoftext|>", "chat_template": template})
}

/// The letter that stands for a byte in the vocabulary of a byte-level tokenizer: itself, if it can be seen.
fn letter_of(byte: u8) -> char {
    let is_seen = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if is_seen(byte) {
        return byte.into();
    }
    let number = (0..byte).filter(|&other| !is_seen(other)).count();
    char::from_u32(256 + number as u32).expect("68 letters from 256 on")
}

/// The same twelve facts in every format; `val.txt` says four of them in two ways each.
fn rows(workshop: &Workshop) {
    let facts: Vec<(&str, &str)> =
        NAMES.iter().flat_map(|name| FOODS.map(move |food| (*name, food))).collect();
    let all = |row: &dyn Fn(&str, &str) -> String| -> String {
        facts.iter().map(|(name, food)| row(name, food) + "\n").collect()
    };
    workshop.write("rows/e2e.txt", all(&|name, food| e2e_row(name, food)));
    workshop.write(
        "rows/alpaca.jsonl",
        all(&|name, food| json!({"instruction": format!("Food of {name}?"), "output": food}).to_string()),
    );
    workshop.write("rows/chat.jsonl", all(&|name, food| chat_row(name, food).to_string()));
    workshop.write(
        "rows/pairs.csv",
        format!("prompt,completion\n{}", all(&|name, food| format!("Food of {name}?, {food}"))),
    );
    workshop.write("rows/story.txt", all(&|name, food| format!("At {name} they cook {food} food.")));
    let two_ways = |(name, food): &(&str, &str)| {
        format!("{}\n{}||There is {food} food at {name} .\n", e2e_row(name, food), e2e_context(name, food))
    };
    workshop.write("val.txt", facts.iter().step_by(3).map(two_ways).collect::<String>());
}

/// A line of the E2E data.
pub fn e2e_row(name: &str, food: &str) -> String {
    format!("{}||{name} serves {food} food .", e2e_context(name, food))
}

pub fn e2e_context(name: &str, food: &str) -> String {
    format!("name : {name} | food : {food}")
}

fn chat_row(name: &str, food: &str) -> Value {
    json!({"messages": [
        {"role": "user", "content": format!("What is cooked at {name}?")},
        {"role": "assistant", "content": food},
    ]})
}

/// `--set` for each of `changes`.
pub fn sets<'a>(changes: &[&'a str]) -> Vec<&'a str> {
    changes.iter().flat_map(|change| ["--set", change]).collect()
}

/// The `loss` in a JSON result.
pub fn loss(result: &Value) -> f64 {
    result["loss"].as_f64().unwrap_or_else(|| panic!("no loss in {result}"))
}
