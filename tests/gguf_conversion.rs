//! Model folders as GGUF files, as llama.cpp's `convert_hf_to_gguf.py` makes them; for tests of the way back.

use std::collections::BTreeMap;
use std::f64::consts::TAU;
use std::fs;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::gguf_file::{Entry, GgufFile, GgufTensor};

/// In a block of LLaMA and its like: the name of Hugging Face, and that in the file.
const IN_BLOCK: [(&str, &str); 13] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];
/// The same of GPT-2.
const IN_BLOCK_OF_GPT2: [(&str, &str); 6] = [
    ("ln_1", "attn_norm"),
    ("attn.c_attn", "attn_qkv"),
    ("attn.c_proj", "attn_output"),
    ("ln_2", "ffn_norm"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
];
/// Outside of blocks.
const OUTSIDE: [(&str, &str); 6] = [
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("wte", "token_embd"),
    ("wpe", "position_embd"),
    ("ln_f", "output_norm"),
];

/// Numbers of a block of Q4_0, Q4_1 and Q8_0.
const BLOCK: usize = 32;

/// The folder as a file: vectors in f32, matrices in the type of ggml's number `kind`, which is f32 (0), f16 (1), Q4_0 (2), Q4_1
/// (3) or Q8_0 (8).
///
/// A tokenizer comes along if it is byte-level; a folder without one gets none.
pub fn converted(folder: &Path, kind: u32) -> GgufFile {
    let read = |name: &str| fs::read(folder.join(name)).expect("a file of the model");
    let config: Value = serde_json::from_slice(&read("config.json")).expect("JSON");
    let weights = read("model.safetensors");
    let weights = SafeTensors::deserialize(&weights).expect("safetensors");
    let mut file = metadata(&config);
    for (name, view) in weights.iter() {
        let values = values(view.dtype(), view.data());
        file.tensors.extend(tensor(&config, name, view.shape(), values, kind));
    }
    file.tensors.extend(rope_factors(&config));
    add_rope_scaling(&mut file, &config);
    if folder.join("tokenizer.json").exists() {
        add_tokenizer(&mut file, &serde_json::from_slice(&read("tokenizer.json")).expect("JSON"));
        let settings: Value = serde_json::from_slice(&read("tokenizer_config.json")).expect("JSON");
        if let Some(template) = settings["chat_template"].as_str() {
            file.set("tokenizer.chat_template", template);
        }
    }
    file
}

fn metadata(config: &Value) -> GgufFile {
    let mut file = GgufFile::default();
    let model_type = config["model_type"].as_str().expect("a type");
    let arch = if model_type == "mistral" { "llama" } else { model_type };
    file.set("general.architecture", arch);
    let names = match arch {
        "gpt2" => [
            ("n_positions", "context_length"),
            ("n_embd", "embedding_length"),
            ("n_layer", "block_count"),
            ("n_head", "attention.head_count"),
            ("n_inner", "feed_forward_length"),
        ]
        .to_vec(),
        _ => [
            ("max_position_embeddings", "context_length"),
            ("hidden_size", "embedding_length"),
            ("num_hidden_layers", "block_count"),
            ("num_attention_heads", "attention.head_count"),
            ("num_key_value_heads", "attention.head_count_kv"),
            ("intermediate_size", "feed_forward_length"),
            ("head_dim", "attention.key_length"),
            ("sliding_window", "attention.sliding_window"),
        ]
        .to_vec(),
    };
    for (theirs, ours) in names {
        let inner = || 4 * config["n_embd"].as_u64().expect("a width");
        let number = config[theirs].as_u64().or_else(|| (theirs == "n_inner").then(inner));
        if let Some(number) = number {
            file.set(&format!("{arch}.{ours}"), number as u32);
        }
    }
    // The defaults of transformers.
    let (theirs, ours, absent) = match arch {
        "gpt2" => ("layer_norm_epsilon", "layer_norm_epsilon", 1e-5),
        _ => ("rms_norm_eps", "layer_norm_rms_epsilon", 1e-6),
    };
    file.set(&format!("{arch}.attention.{ours}"), config[theirs].as_f64().unwrap_or(absent) as f32);
    let theta = config["rope_parameters"]["rope_theta"].as_f64().or_else(|| config["rope_theta"].as_f64());
    if let Some(theta) = theta {
        file.set(&format!("{arch}.rope.freq_base"), theta as f32);
    }
    if let Some(end) = config["eos_token_id"].as_u64() {
        file.set("tokenizer.ggml.eos_token_id", end as u32);
    }
    file
}

fn values(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Dtype::BF16 => {
            bytes.as_chunks().0.iter().map(|bytes| half::bf16::from_le_bytes(*bytes).to_f32()).collect()
        }
        other => panic!("a model in {other}"),
    }
}

/// A tensor under its name in the file, turned as there; none for one that is left out.
fn tensor(config: &Value, name: &str, shape: &[usize], values: Vec<f32>, kind: u32) -> Option<GgufTensor> {
    let (module, leaf) = name.rsplit_once('.').expect("a parameter of a module");
    let module = module.strip_prefix("transformer.").unwrap_or(module);
    let (mut shape, mut values) = (shape.to_vec(), values);
    let is_gpt2 = config["model_type"] == "gpt2";
    let outside = OUTSIDE.iter().find(|(theirs, _)| *theirs == module).map(|(_, ours)| (*ours).to_owned());
    let in_block = || {
        let rest = ["model.layers.", "h."].iter().find_map(|start| module.strip_prefix(start))?;
        let (number, inside) = rest.split_once('.')?;
        let table = if is_gpt2 { &IN_BLOCK_OF_GPT2[..] } else { &IN_BLOCK[..] };
        let (_, ours) = table.iter().find(|(theirs, _)| *theirs == inside)?;
        Some(format!("blk.{number}.{ours}"))
    };
    let ours = outside.or_else(in_block)?;
    let queries = &config["num_attention_heads"];
    let heads = |number: &Value| number.as_u64().or(queries.as_u64()).expect("heads") as usize;
    let is_permuted = ["llama", "mistral", "smollm3"].iter().any(|known| config["model_type"] == *known);
    if is_permuted && ours.ends_with("attn_q") {
        values = permuted(&values, shape[0], heads(queries));
    }
    if is_permuted && ours.ends_with("attn_k") {
        values = permuted(&values, shape[0], heads(&config["num_key_value_heads"]));
    }
    if is_gpt2 && shape.len() == 2 && ours.starts_with("blk.") {
        values =
            (0..shape[1]).flat_map(|column| values.iter().skip(column).step_by(shape[1])).copied().collect();
        shape.reverse();
    }
    let name = format!("{ours}.{leaf}");
    Some(match (kind, shape.len()) {
        (1, 2) => {
            let bytes = values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect();
            GgufTensor { name, shape, kind, bytes }
        }
        (2 | 3 | 8, 2) => {
            let bytes = values.chunks_exact(BLOCK).flat_map(|block| quantised(block, kind)).collect();
            GgufTensor { name, shape, kind, bytes }
        }
        _ => GgufTensor::of_f32(&name, &shape, &values),
    })
}

/// A block of numbers in the type of ggml's number `kind`.
fn quantised(block: &[f32], kind: u32) -> Vec<u8> {
    let half = |number: f32| half::f16::from_f32(number);
    let (least, most) = block.iter().fold((f32::MAX, f32::MIN), |(l, m), &n| (l.min(n), m.max(n)));
    let largest = if -least > most { least } else { most };
    let scale = match kind {
        2 => half(largest / -8.0),
        3 => half((most - least) / 15.0),
        _ => half(largest.abs() / 127.0),
    };
    let step = if scale.to_f32() == 0.0 { 1.0 } else { scale.to_f32() };
    let mut bytes = scale.to_le_bytes().to_vec();
    let code = |number: f32| match kind {
        2 => (number / step + 8.0).round().clamp(0.0, 15.0) as u8,
        3 => ((number - half(least).to_f32()) / step).round().clamp(0.0, 15.0) as u8,
        _ => ((number / step).round().clamp(-127.0, 127.0) as i8).cast_unsigned(),
    };
    if kind == 3 {
        bytes.extend(half(least).to_le_bytes());
    }
    let codes: Vec<u8> = block.iter().map(|&number| code(number)).collect();
    let (first, second) = codes.split_at(BLOCK / 2);
    match kind {
        8 => bytes.extend(codes),
        _ => bytes.extend(first.iter().zip(second).map(|(low, high)| low | high << 4)),
    }
    bytes
}

/// `weights.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2)`.
fn permuted(values: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let (columns, half) = (values.len() / rows, rows / heads / 2);
    let source = |row: usize| {
        let (head, inside) = (row / (2 * half), row % (2 * half));
        head * 2 * half + inside % 2 * half + inside / 2
    };
    (0..rows).flat_map(|row| &values[source(row) * columns..][..columns]).copied().collect()
}

/// What LLaMA 3 divides frequencies by, as a tensor.
fn rope_factors(config: &Value) -> Option<GgufTensor> {
    let rope = &config["rope_parameters"];
    let number = |field: &str| rope[field].as_f64().expect("a number");
    if rope["rope_type"] != "llama3" {
        return None;
    }
    let (factor, low, high) = (number("factor"), number("low_freq_factor"), number("high_freq_factor"));
    let (original, d_head) =
        (number("original_max_position_embeddings"), config["head_dim"].as_u64()? as usize);
    let of = |n: usize| {
        let wave = TAU * number("rope_theta").powf(2.0 * n as f64 / d_head as f64);
        let smooth = (original / wave - low) / (high - low);
        match wave {
            wave if wave < original / high => 1.0,
            wave if wave > original / low => factor as f32,
            _ => (1.0 / ((1.0 - smooth) / factor + smooth)) as f32,
        }
    };
    let factors: Vec<f32> = (0..d_head / 2).map(of).collect();
    Some(GgufTensor::of_f32("rope_freqs.weight", &[factors.len()], &factors))
}

/// What YaRN and LongRoPE have in a file.
fn add_rope_scaling(file: &mut GgufFile, config: &Value) {
    let (arch, rope) = (config["model_type"].as_str().expect("a type"), &config["rope_parameters"]);
    let key = |name: &str| format!("{arch}.rope.scaling.{name}");
    let number = |field: &str| rope[field].as_f64().expect("a number");
    let original = || number("original_max_position_embeddings");
    match rope["rope_type"].as_str() {
        Some("yarn") => {
            file.set(&key("type"), "yarn");
            file.set(&key("factor"), number("factor") as f32);
            file.set(&key("original_context_length"), original() as u32);
            file.set(&key("yarn_beta_fast"), number("beta_fast") as f32);
            file.set(&key("yarn_beta_slow"), number("beta_slow") as f32);
        }
        Some("longrope") => {
            let context = config["max_position_embeddings"].as_f64().expect("a number");
            let attention = (1.0 + (context / original()).ln() / original().ln()).sqrt();
            file.set(&key("original_context_length"), original() as u32);
            file.set(&key("attn_factor"), attention as f32);
            for (field, name) in [("long_factor", "long"), ("short_factor", "short")] {
                let factors = rope[field].as_array().expect("a list").iter();
                let factors: Vec<f32> = factors.map(|by| by.as_f64().expect("a number") as f32).collect();
                let name = format!("rope_factors_{name}.weight");
                file.tensors.push(GgufTensor::of_f32(&name, &[factors.len()], &factors));
            }
        }
        _ => {}
    }
}

fn add_tokenizer(file: &mut GgufFile, tokenizer: &Value) {
    let vocab = tokenizer["model"]["vocab"].as_object().expect("a vocabulary");
    let added = tokenizer["added_tokens"].as_array().expect("a list");
    let later = added.iter().map(|added| (added["content"].as_str().expect("a token"), &added["id"]));
    let all = vocab.iter().map(|(token, id)| (token.as_str(), id)).chain(later);
    let tokens: BTreeMap<u64, &str> = all.map(|(token, id)| (id.as_u64().expect("an id"), token)).collect();
    let texts: Vec<&str> = tokens.values().copied().collect();
    let is_added = |token: &&str| added.iter().any(|added| added["content"] == **token);
    let merge = |merge: &Value| match merge {
        Value::Array(pair) => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        text => text.as_str().expect("a merge").to_owned(),
    };
    let merges = tokenizer["model"]["merges"].as_array().expect("a list");
    file.set("tokenizer.ggml.model", "gpt2");
    file.set("tokenizer.ggml.pre", "gpt-2");
    file.set("tokenizer.ggml.tokens", &texts[..]);
    let types = texts.iter().map(|token| if is_added(token) { 3 } else { 1 }).collect();
    file.set("tokenizer.ggml.token_type", Entry::I32s(types));
    file.set("tokenizer.ggml.merges", Entry::Texts(merges.iter().map(merge).collect()));
}
