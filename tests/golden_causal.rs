//! Language models against values that PyTorch computed: every GPT-2 and LLaMA of `models/` in the fixtures.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use nola_models::{CausalLm, Checkpoint, KeyValueCache, Sight, StoredDtype};

use crate::devices::{device, precise, tolerance, values};
use crate::fixtures::{self, Golden, Tally, assert_close};

/// Token ids on `device`.
pub fn ids(rows: &[Vec<u32>], device: &Device) -> Tensor<2, Int> {
    let shape = [rows.len(), rows[0].len()];
    let values: Vec<i32> = rows.iter().flatten().map(|&id| id as i32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Logits of a pass without cache.
pub fn logits(model: &CausalLm, ids: Tensor<2, Int>) -> Tensor<3> {
    let sight = Sight::causal(&ids);
    model.logits(model.hidden(ids, &sight))
}

/// The prompts with `new_tokens` most probable tokens after each, one pass a token.
pub fn greedy(model: &CausalLm, prompts: &[Vec<u32>], new_tokens: usize, device: &Device) -> Vec<Vec<u32>> {
    let mut rows = prompts.to_vec();
    let mut cache = KeyValueCache::new();
    let mut next = ids(prompts, device);
    for _ in 0..new_tokens {
        let sight = Sight::following(&next, &cache);
        let hidden = model.extend(next, &sight, &mut cache);
        let [_, tokens, _] = hidden.dims();
        let best = model.logits(hidden.narrow(1, tokens - 1, 1)).argmax(2);
        let best: Vec<u32> = best.into_data_as::<u32>().try_into_vec().expect("the type was asked for");
        rows.iter_mut().zip(&best).for_each(|(row, &id)| row.push(id));
        next = ids(&best.iter().map(|&id| vec![id]).collect::<Vec<_>>(), device);
    }
    rows
}

/// Mean cross-entropy of every position against the next label, in nats; labels below 0 do not count.
pub fn loss(logits: &[f32], labels: &[i64], [rows, tokens]: [usize; 2]) -> f64 {
    let vocab_size = logits.len() / (rows * tokens);
    let mut losses = Vec::new();
    for (position, logits) in logits.chunks(vocab_size).enumerate() {
        let is_last = position % tokens == tokens - 1;
        if is_last || labels[position + 1] < 0 {
            continue;
        }
        let largest = logits.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
        losses.push(sum.ln() - f64::from(logits[labels[position + 1] as usize] - largest));
    }
    losses.iter().sum::<f64>() / losses.len() as f64
}

#[test]
fn golden_language_models_give_the_values_of_the_reference() {
    let Some(root) = fixtures::root() else {
        println!("skipped: no ../shared/fixtures and no assets/golden");
        return;
    };
    let mut tally = Tally::default();
    for folder in &fixtures::cases(&root, "models") {
        let name = folder.file_name().expect("a folder has a name").to_string_lossy().into_owned();
        let checkpoint = Checkpoint::open(folder).unwrap_or_else(|error| panic!("{name}: {error}"));
        let outcome = match checkpoint.config()["model_type"].as_str() {
            Some("gpt2" | "llama") => {
                Case::open(name.clone(), folder, &checkpoint).check_all(&checkpoint);
                Ok(())
            }
            other => Err(format!("`{}` is no language model", other.unwrap_or("no model_type"))),
        };
        tally.note(&name, outcome);
    }
    tally.finish("models");
}

/// A model of the fixtures with its inputs and golden values.
struct Case {
    name: String,
    model: CausalLm,
    rows: Vec<Vec<u32>>,
    golden: BTreeMap<String, Golden>,
    about: serde_json::Value,
    device: Device,
}

impl Case {
    fn open(name: String, folder: &Path, checkpoint: &Checkpoint) -> Self {
        let device = device();
        let model = CausalLm::load(checkpoint, &device).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (golden, _) = fixtures::tensors(&folder.join("expected.safetensors"));
        let rows = rows_of(&golden["input_ids"]);
        let about = fixtures::json(&folder.join("expected.json"));
        Self { name, model, rows, golden, about, device }
    }

    fn check_all(&self, checkpoint: &Checkpoint) {
        self.check_stages();
        self.check_padded();
        self.check_cached();
        self.check_greedy();
        self.check_saved(checkpoint);
    }

    fn check(&self, what: &str, found: &[f32]) {
        let golden = precise(&self.golden, what).unwrap_or_else(|| panic!("{}: no golden {what}", self.name));
        assert_close(&format!("{}: {what}", self.name), found, golden.f64(), tolerance());
    }

    fn check_stages(&self) {
        let ids = ids(&self.rows, &self.device);
        let hidden = self.model.hidden_states(ids.clone(), &Sight::causal(&ids));
        self.check("embeddings", &values(hidden.embeddings));
        for (block, states) in hidden.blocks.into_iter().enumerate() {
            self.check(&format!("block.{block}"), &values(states));
        }
        assert!(
            !self.golden.contains_key(&format!("block.{}", self.model.facts().n_layers)),
            "{}",
            self.name
        );
        self.check("final_norm", &values(hidden.final_norm));
        let found = values(logits(&self.model, ids));
        self.check("logits", &found);
        let labels: Vec<i64> = self.rows.iter().flatten().map(|&id| id.into()).collect();
        self.check("loss", &[loss(&found, &labels, self.shape()) as f32]);
    }

    /// Padding on the right means nothing to the tokens before it.
    fn check_padded(&self) {
        let found = values(logits(&self.model, ids(&self.rows, &self.device)));
        let golden = precise(&self.golden, "padded.logits").expect("golden padded logits").f64();
        let vocab_size = self.model.facts().vocab_size;
        let kept = self.golden["attention_mask"].i64().iter().enumerate().filter(|&(_, &seen)| seen == 1);
        for (position, _) in kept {
            let range = position * vocab_size..(position + 1) * vocab_size;
            let what = format!("{}: padded.logits at {position}", self.name);
            assert_close(&what, &found[range.clone()], &golden[range], tolerance());
        }
        let labels = self.golden["labels_masked"].i64();
        self.check("padded.loss", &[loss(&found, labels, self.shape()) as f32]);
    }

    /// Tokens in unequal pieces through the cache give the logits of one pass.
    fn check_cached(&self) {
        let all = ids(&self.rows, &self.device);
        let [_, tokens] = self.shape();
        let mut cache = KeyValueCache::new();
        let mut pieces = Vec::new();
        for (from, to) in [(0, 4), (4, 5), (5, 6), (6, tokens)] {
            let piece = all.clone().narrow(1, from, to - from);
            let sight = Sight::following(&piece, &cache);
            pieces.push(self.model.extend(piece, &sight, &mut cache));
        }
        assert_eq!(cache.tokens(), tokens, "{}", self.name);
        self.check("logits", &values(self.model.logits(Tensor::cat(pieces, 1))));
    }

    fn check_greedy(&self) {
        let number = |key: &str| self.about["greedy"][key].as_u64().expect("a number") as usize;
        let prompts: Vec<Vec<u32>> =
            self.rows.iter().map(|row| row[..number("prompt_len")].to_vec()).collect();
        let found = greedy(&self.model.valid(), &prompts, number("new_tokens"), &Device::flex());
        assert_eq!(found, rows_of(&self.golden["greedy.ids"]), "{}: greedy.ids", self.name);
    }

    /// What is saved is what was read: the same tensors, and a folder that loads to the same logits.
    fn check_saved(&self, checkpoint: &Checkpoint) {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let folder = scratch.path().join("saved");
        self.model.save(&folder, StoredDtype::F32).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let saved = Checkpoint::open(&folder).expect("a whole folder");
        let bare = |name: &str| name.trim_start_matches("transformer.").to_owned();
        let is_buffer = |name: &str| name.ends_with(".attn.bias");
        let before: Vec<String> =
            checkpoint.tensor_names().filter(|name| !is_buffer(name)).map(bare).collect();
        assert_eq!(saved.tensor_names().map(bare).collect::<Vec<_>>(), before, "{}: names", self.name);
        let again = CausalLm::load(&saved, &self.device).expect("what was saved");
        let found = values(logits(&again, ids(&self.rows, &self.device)));
        assert_eq!(
            found,
            values(logits(&self.model, ids(&self.rows, &self.device))),
            "{}: logits",
            self.name
        );
    }

    fn shape(&self) -> [usize; 2] {
        [self.rows.len(), self.rows[0].len()]
    }
}

fn rows_of(golden: &Golden) -> Vec<Vec<u32>> {
    let ids: Vec<u32> = golden.i64().iter().map(|&id| id as u32).collect();
    ids.chunks(golden.shape[1]).map(<[u32]>::to_vec).collect()
}
