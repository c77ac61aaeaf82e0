//! `bench start`: from the start of the process to the end of the first optimizer step.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::Args;
use comfy_table::Table;
use nola_models::WeightDtype;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::cases::{self, Preset};
use super::statistics::{median, percentile, rounded};
use super::{BenchError, Output};
use crate::option_values::positive;
use crate::{Error, device};

/// Text that is learned from; shorter than any model's context.
const TEXT: &str = "The harbour master writes down every boat that comes in before noon.\n";
const FIRST_STEP: &str = ": step 1/1 ";

/// Options of `bench start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// The language model to start with.
    #[arg(long, default_value = "gpt2", value_name = "MODEL", value_parser = language_model)]
    model: Preset,
    /// Runs that are counted, after one that is not.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = positive())]
    runs: usize,
}

/// Reads a preset of a language model.
pub(super) fn language_model(text: &str) -> Result<Preset, String> {
    use clap::ValueEnum;
    let preset = Preset::from_str(text, false)?;
    if preset.is_vit() {
        return Err("a language model is needed, such as gpt2 or llama-160m".to_owned());
    }
    Ok(preset)
}

/// What `bench start` found.
#[derive(Debug, Serialize)]
pub struct StartLine {
    what: &'static str,
    model: String,
    device: String,
    /// Bytes of the model folder.
    model_bytes: u64,
    n: usize,
    /// Seconds until the first optimizer step is over, median and percentiles.
    first_step_s: Option<f64>,
    p10: Option<f64>,
    p90: Option<f64>,
    /// Seconds until the run folder is written and the process has ended.
    total_s: Option<f64>,
}

/// Seconds since the process was started.
struct Times {
    first_step: f64,
    total: f64,
}

/// Writes a model folder and a text, and starts training on them again and again.
///
/// # Errors
/// If the folder cannot be written, or training fails.
pub fn run(args: &StartArgs, output: &mut Output<StartLine>) -> Result<(), Error> {
    let scratch =
        tempfile::tempdir().map_err(|source| Error::Output { path: std::env::temp_dir(), source })?;
    output.note(&format!("writing {} with random weights", args.model.name()));
    write_files(args.model, scratch.path())?;
    let mut all = Vec::new();
    for number in 0..=args.runs {
        let times = once(scratch.path(), number, output)?;
        output.note(&format!("run {number} of {}: first step after {:.2} s", args.runs, times.first_step));
        // The first one warms the disk.
        if number > 0 {
            all.push(times);
        }
    }
    let of = |value: fn(&Times) -> f64| -> Vec<f64> { all.iter().map(value).collect() };
    let seconds = |value: Option<f64>| value.map(|seconds| rounded(seconds, 3));
    let first_steps = of(|times| times.first_step);
    output.line(StartLine {
        what: "start",
        model: args.model.name(),
        device: output.device.to_string(),
        model_bytes: bytes_of(&scratch.path().join("base/model.safetensors"))?,
        n: all.len(),
        first_step_s: seconds(median(&first_steps)),
        p10: seconds(percentile(&first_steps, 0.1)),
        p90: seconds(percentile(&first_steps, 0.9)),
        total_s: seconds(median(&of(|times| times.total))),
    })?;
    Ok(())
}

fn bytes_of(file: &Path) -> Result<u64, Error> {
    let metadata = std::fs::metadata(file);
    Ok(metadata.map_err(|source| Error::Output { path: file.to_owned(), source })?.len())
}

/// One run of `train`, watched through what it says.
fn once(folder: &Path, number: usize, output: &Output<StartLine>) -> Result<Times, BenchError> {
    let start = |source| BenchError::Start { source };
    let started = Instant::now();
    let mut child = Command::new(std::env::current_exe().map_err(start)?)
        .current_dir(folder)
        .args(["--device", &output.device.to_string(), "train", "recipe.toml"])
        .args(["--set", &format!("output.dir=run-{number}")])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let (mut first_step, mut last) = (None, String::new());
    for line in BufReader::new(child.stderr.take().expect("it is piped")).lines() {
        last = line.map_err(start)?;
        let now = started.elapsed().as_secs_f64();
        if last.contains(FIRST_STEP) {
            first_step.get_or_insert(now);
        }
    }
    let status = child.wait().map_err(start)?;
    match first_step.filter(|_| status.success()) {
        Some(first_step) => Ok(Times { first_step, total: started.elapsed().as_secs_f64() }),
        None => Err(BenchError::Training { status, last_line: last }),
    }
}

/// A model folder as transformers writes it, a text and a recipe of one step.
pub(super) fn write_files(preset: Preset, folder: &Path) -> Result<(), Error> {
    let model = cases::causal(preset, &device::cpu().device);
    let base = folder.join("base");
    model.save(&base, WeightDtype::F32)?;
    let tokenizer = tokenizer_json(model.info().vocab_size).to_string();
    let defaults = preset.defaults();
    let recipe = format!(
        "[model]\npath = \"base\"\n\
         [data]\nformat = \"text\"\ntrain = \"text.txt\"\nvalidation = \"text.txt\"\n\
         [data.text]\nmax_tokens = 64\n\
         [method]\nkind = \"nola\"\nrank = {}\nk = {}\n\
         [train]\nsteps = 1\nbatch = 1\n",
        defaults.rank, defaults.k
    );
    let files = [
        ("base/tokenizer.json", tokenizer.as_str()),
        ("base/tokenizer_config.json", "{\"eos_token\": \"<|endoftext|>\"}"),
        ("text.txt", TEXT),
        ("recipe.toml", &recipe),
    ];
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|source| Error::Output { path, source })?;
    }
    Ok(())
}

/// A byte-level tokenizer of as many tokens as the model has, so that reading it takes as long as reading a real one.
fn tokenizer_json(vocab_size: usize) -> Value {
    let end = vocab_size - 1;
    let letters: Vec<char> = letters().take(end).collect();
    let pairs = letters.iter().flat_map(|a| letters.iter().map(move |b| (a.to_string(), b.to_string())));
    let merges: Vec<(String, String)> = pairs.take(end - letters.len()).collect();
    let tokens = letters.iter().map(char::to_string).chain(merges.iter().map(|(a, b)| format!("{a}{b}")));
    let vocabulary: Map<String, Value> =
        tokens.zip(0..).map(|(token, id): (String, u32)| (token, id.into())).collect();
    let level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [{
            "id": vocabulary.len(), "content": "<|endoftext|>", "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        }],
        "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges,
        },
    })
}

/// What stands for the 256 bytes in a byte-level vocabulary: first those that can be seen, then letters for the others.
fn letters() -> impl Iterator<Item = char> {
    let is_seen = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let seen = (0..=u8::MAX).filter(is_seen).map(char::from);
    let unseen = (0..=u8::MAX).filter(move |byte| !is_seen(byte)).count() as u32;
    // The space is one of the others, and every text has it.
    let space = 32;
    let others = std::iter::once(space).chain((0..unseen).filter(move |&place| place != space));
    let others = others.map(|place| char::from_u32(256 + place).expect("68 letters from 256 on"));
    let first = others.clone().take(1);
    first.chain(seen).chain(others.skip(1))
}

/// The lines for people.
pub fn table(lines: &[StartLine], table: &mut Table) {
    table.set_header(["model", "device", "first step after s (p10-p90)", "ended after s", "runs"]);
    let number = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.3}"));
    for line in lines {
        table.add_row([
            line.model.clone(),
            line.device.clone(),
            format!("{} ({}-{})", number(line.first_step_s), number(line.p10), number(line.p90)),
            number(line.total_s),
            line.n.to_string(),
        ]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tokenizer_has_as_many_tokens_as_the_model() {
        let tokenizer = tokenizer_json(50257);
        let of_model = &tokenizer["model"];
        assert_eq!(of_model["vocab"].as_object().expect("a vocabulary").len(), 50256);
        assert_eq!(of_model["merges"].as_array().expect("merges").len(), 50_000);
        assert_eq!(tokenizer["added_tokens"][0]["id"], 50256);
    }

    #[test]
    fn every_byte_has_a_letter_of_its_own() {
        let letters: std::collections::BTreeSet<char> = letters().collect();
        assert_eq!(letters.len(), 256);
        assert!(letters.contains(&'Ġ') && letters.contains(&'Ċ'), "space and line end");
    }

    #[test]
    fn images_are_no_language() {
        assert!(language_model("vit-b16").is_err_and(|error| error.contains("such as gpt2")));
    }
}
