//! GGUF files against the folders that they were converted from.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use nola_core::packed_words;
use nola_core::weight::Quantization;
use nola_models::chat::{ChatTemplate, Conversation, Message, Prompt};
use nola_models::tokenizer::{DecodeSpecials, Specials, Tokenizer};
use nola_models::{CausalLm, Checkpoint, Error, FewBits, Precision, WeightDtype};
use serde_json::{Value, json};

use crate::devices::values;
use crate::fixtures;
use crate::gguf_conversion::converted;
use crate::gguf_file::{GgufFile, GgufTensor};
use crate::golden_causal::{greedy, ids, logits};
use crate::shared::shared;

/// Models that are not converted here: in few bits, in shards, or of a kind that is not read.
const LEFT_OUT: [&str; 3] = ["llama_bnb", "llama_gqa", "gemma"];

/// A folder with the file.
fn folder_of(file: &GgufFile) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("model.gguf"), file.bytes()).expect("a file");
    folder
}

fn opened(file: &GgufFile) -> Result<(Checkpoint, CausalLm), Error> {
    let folder = folder_of(file);
    let checkpoint = Checkpoint::open(&folder.path().join("model.gguf"))?;
    let model = CausalLm::load(&checkpoint, &Device::flex())?;
    Ok((checkpoint, model))
}

fn logits_of(model: &CausalLm) -> Vec<f32> {
    let vocabulary = model.info().vocab_size.min(80) as u32;
    let row = |step: u32| (0..9).map(|n| n * step % vocabulary).collect();
    let rows = [row(7), row(5)];
    values(logits(model, ids(&rows, &Device::flex())))
}

/// The folder's model with a configuration that a GGUF file can say.
fn expressible(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a temporary folder");
    let text = fs::read(folder.join("config.json")).expect("a configuration");
    let mut config: Value = serde_json::from_slice(&text).expect("JSON");
    if config["model_type"] == "smollm3" {
        // llama.cpp leaves every fourth layer unrotated, whatever the configuration says.
        config["no_rope_layers"] = json!([1, 1, 1, 0]);
    }
    fs::write(copy.path().join("config.json"), config.to_string()).expect("a file");
    fs::copy(folder.join("model.safetensors"), copy.path().join("model.safetensors")).expect("a file");
    copy
}

/// Every language model of the fixtures that can be converted, with its name.
fn each_model(mut check: impl FnMut(&str, &Path)) {
    fixtures::on_folders("models", |tally, _, name, folder| {
        let config = fs::read(folder.join("config.json")).expect("a configuration");
        let config: Value = serde_json::from_slice(&config).expect("JSON");
        let is_left_out = LEFT_OUT.iter().any(|known| name.starts_with(known));
        let outcome = match CausalLm::is_named_by(&config) && !is_left_out {
            true => {
                check(name, expressible(folder).path());
                Ok(())
            }
            false => Err("no GGUF file is made of it".to_owned()),
        };
        tally.note(name, outcome);
    });
}

#[test]
fn a_gguf_file_computes_what_its_folder_does_bit_for_bit() {
    each_model(|name, folder| {
        let of_folder = CausalLm::load(&Checkpoint::open(folder).expect("a folder"), &Device::flex());
        let (_, of_file) = opened(&converted(folder, 0)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(logits_of(&of_file), logits_of(&of_folder.expect("a model")), "{name}");
    });
}

#[test]
fn what_is_written_of_a_gguf_file_is_the_folder_again() {
    each_model(|name, folder| {
        let (_, model) = opened(&converted(folder, 0)).expect("a model");
        let out = tempfile::tempdir().expect("a temporary folder");
        let out = out.path().join("written");
        model.save(&out, WeightDtype::F32).expect("a free folder");
        let [written, first] =
            [&out, &folder.to_owned()].map(|folder| Checkpoint::open(folder).expect("a folder"));
        for tensor in first.tensor_names().filter(|name| written.shape(name).is_some()) {
            assert_eq!(written.shape(tensor), first.shape(tensor), "{name}: {tensor}");
        }
        assert_eq!(written.tensor_names().count(), model.to_tensors().len(), "{name}");
        let again = CausalLm::load(&written, &Device::flex()).expect("a model");
        assert_eq!(logits_of(&again), logits_of(&model), "{name}");
    });
}

/// The shipped LLaMA.
fn micro(kind: u32) -> GgufFile {
    converted(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/llama-micro"), kind)
}

#[test]
fn half_precision_is_what_the_file_holds() {
    // bf16 numbers of this size are f16 numbers too, up to the smallest ones.
    let (_, wide) = opened(&micro(0)).expect("a model");
    let (_, narrow) = opened(&micro(1)).expect("a model");
    let differences = logits_of(&wide).into_iter().zip(logits_of(&narrow)).map(|(a, b)| (a - b).abs());
    assert!(differences.fold(0.0, f32::max) < 1e-3);
}

#[test]
fn weights_that_a_kernel_reads_stay_in_few_bits_and_compute_what_dense_ones_do() {
    for kind in [2, 3, 8] {
        let folder = folder_of(&micro(kind));
        let checkpoint = Checkpoint::open(&folder.path().join("model.gguf")).expect("a file");
        let load = |precision| CausalLm::load_as(&checkpoint, precision, &Device::flex()).expect("a model");
        let kept = load(Precision::default());
        let dense = load(Precision { few_bits: FewBits::Dense, ..Precision::default() });
        // Four blocks with seven matrices; embedding and norms are no linear layers.
        assert_eq!([packed_words(&kept).len(), packed_words(&dense).len()], [28, 0]);
        assert_eq!(kept.to_tensors(), dense.to_tensors(), "type {kind}: the same numbers");
        let largest = |numbers: &[f32]| numbers.iter().fold(0.0_f32, |most, number| most.max(number.abs()));
        let [kept, dense] = [kept, dense].map(|model| logits_of(&model));
        let differences: Vec<f32> = kept.iter().zip(&dense).map(|(one, other)| one - other).collect();
        assert!(largest(&differences) < 1e-5 * largest(&dense), "type {kind}: {}", largest(&differences));
        let anew = load(Precision::of(WeightDtype::F32, Some(Quantization::Nf4)));
        assert_eq!(packed_words(&anew).len(), 28, "type {kind}: quantised anew");
    }
}

#[test]
fn every_byte_of_the_weights_and_every_setting_decides_the_identity() {
    let identity = |file: &GgufFile| opened(file).expect("a model").0.identity().clone();
    let before = identity(&micro(0));
    let mut other = micro(0);
    other.tensor("blk.3.attn_q.weight").bytes[5] ^= 1;
    let after = identity(&other);
    assert_ne!(before.tensors_sha256, after.tensors_sha256);
    assert_eq!(before.config_sha256, after.config_sha256);
    let mut other = micro(0);
    other.set("llama.rope.freq_base", 20_000.0);
    assert_ne!(before.config_sha256, identity(&other).config_sha256);
    let mut other = micro(0);
    other.set("tokenizer.chat_template", "{{ messages }}");
    assert_eq!(before, identity(&other), "no part of the model");
    let with_factors = |factor: f32| {
        let mut other = micro(0);
        other.tensors.push(GgufTensor::of_f32("rope_freqs.weight", &[12], &[factor; 12]));
        Checkpoint::open(&folder_of(&other).path().join("model.gguf"))
            .map(|checkpoint| checkpoint.identity().clone())
    };
    assert_ne!(with_factors(1.0).expect("no scaling"), before);
}

/// The message about a changed file.
fn refusal(change: impl FnOnce(&mut GgufFile)) -> String {
    let mut file = micro(0);
    change(&mut file);
    opened(&file).expect_err("it is wrong").to_string()
}

#[test]
fn tensors_that_do_not_fit_the_metadata_are_named() {
    let message = refusal(|file| file.set("llama.feed_forward_length", 192));
    assert!(message.contains("mlp.up_proj.weight is [256, 96], expected [192, 96]"), "{message}");
    let message = refusal(|file| file.tensors.retain(|tensor| tensor.name != "blk.2.attn_v.weight"));
    assert!(message.contains("missing: model.layers.2.self_attn.v_proj.weight"), "{message}");
    let message =
        refusal(|file| file.tensors.push(GgufTensor::of_f32("blk.0.ffn_gate_inp.weight", &[1], &[1.0])));
    assert!(message.contains("not used by this model: blk.0.ffn_gate_inp.weight"), "{message}");
    let message = refusal(|file| file.set("llama.attention.head_count", 64));
    assert!(message.contains("`llama.attention.head_count` is 64"), "{message}");
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let message = refusal(|file| {
        file.tensor("blk.1.attn_k.weight").bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes())
    });
    assert!(message.contains("1 values of `model.layers.1.self_attn.k_proj.weight`"), "{message}");
}

#[test]
fn golden_a_file_in_four_bits_answers_as_its_converted_folder() {
    let model = "assets/models/smollm2-135m-instruct";
    let Some(file) = shared(&format!("{model}/SmolLM2-135M-Instruct.Q4_1.gguf")) else { return };
    let Some(expected) = shared(&format!("{model}/expected.json")) else { return };
    let checkpoint = Checkpoint::open(&file).expect("a GGUF file");
    let model = CausalLm::load(&checkpoint, &Device::flex()).expect("a LLaMA");
    let tokenizer = Tokenizer::open(&file).expect("a tokenizer");
    let chat = ChatTemplate::of_folder(&file, &tokenizer).expect("a template").expect("a chat model");
    let token_ids = |json: &Value| -> Vec<u32> {
        json.as_array().expect("a list").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
    };
    for case in fixtures::json(&expected)["chat_greedy"].as_array().expect("a list") {
        let question = Message::new("user", case["user"].as_str().expect("a text"));
        let text = chat.render(&Conversation::new(vec![question]), Prompt::Generation).expect("a text");
        let prompt = tokenizer.encode(&text, Specials::None).expect("a text it can encode");
        assert_eq!(prompt, token_ids(&case["prompt_ids"]), "{}", case["user"]);
        let answer = token_ids(&case["gguf_f32_new_ids"]);
        let found = greedy(&model, std::slice::from_ref(&prompt), answer.len(), &Device::flex()).remove(0);
        assert_eq!(found[prompt.len()..], answer, "{}", case["user"]);
        let text = tokenizer.decode(&answer, DecodeSpecials::Skip).expect("tokens of its own");
        assert_eq!(text, case["text"].as_str().expect("a text"));
    }
}
