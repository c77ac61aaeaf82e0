//! Language models against values that PyTorch computed: every language model of `models/` in the fixtures.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use nola_core::packed_words;
use nola_models::generate::{Cached, Generated, GenerationConfig, Prompt, generate};
use nola_models::{AttentionMask, CausalLm, Checkpoint, KeyValueCache, WeightDtype};

use crate::devices::{device, precise, tolerance, values};
use crate::fixtures::{self, Tensors, assert_close};
use crate::test_model::{Kind, kind, rows_of};

/// Parts of the names of what bitsandbytes stores beside a quantised weight.
const BESIDE_PACKED: [&str; 6] =
    [".absmax", ".quant_map", ".nested_", ".quant_state.", ".SCB", ".weight_format"];

/// Token ids on `device`.
pub fn ids(rows: &[Vec<u32>], device: &Device) -> Tensor<2, Int> {
    let shape = [rows.len(), rows[0].len()];
    let values: Vec<i32> = rows.iter().flatten().map(|&id| id as i32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Logits of a pass without cache.
pub fn logits(model: &CausalLm, ids: Tensor<2, Int>) -> Tensor<3> {
    let mask = AttentionMask::causal(&ids);
    model.logits(model.hidden(ids, &mask))
}

/// The prompts with `new_tokens` most probable tokens after each; `device` is the model's.
pub fn greedy(model: &CausalLm, prompts: &[Vec<u32>], new_tokens: usize, device: &Device) -> Vec<Vec<u32>> {
    let config = GenerationConfig { max_new_tokens: new_tokens, ..GenerationConfig::default() };
    generated(model, prompts, &config, device).into_iter().map(|(row, _)| row).collect()
}

/// The first text of each prompt, prompt included, with its score.
fn generated(
    model: &CausalLm,
    prompts: &[Vec<u32>],
    config: &GenerationConfig,
    device: &Device,
) -> Vec<(Vec<u32>, Option<f64>)> {
    let numbered: Vec<Prompt> =
        (0..).zip(prompts).map(|(row, tokens)| Prompt { row, tokens: tokens.clone() }).collect();
    let texts = generate(&mut Cached::new(model, device), &numbered, config).expect("usable prompts");
    let whole = |(prompt, texts): (&Vec<u32>, Vec<Generated>)| {
        ([prompt.as_slice(), &texts[0].tokens].concat(), texts[0].score)
    };
    prompts.iter().zip(texts).map(whole).collect()
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
    fixtures::on_folders("models", |tally, _, name, folder| {
        let checkpoint = Checkpoint::open(folder).unwrap_or_else(|error| panic!("{name}: {error}"));
        let outcome = match kind(&checkpoint) {
            Kind::Language => {
                let case = Case::open(name.to_owned(), folder, &checkpoint);
                case.check_all(&checkpoint);
                case.check_published(folder);
                Ok(())
            }
            Kind::Vit => Err("tested by golden_models".to_owned()),
            Kind::Unsupported(reason) => Err(reason),
        };
        tally.note(name, outcome);
    });
}

/// A model of the fixtures with its inputs and golden values.
#[derive(Clone)]
struct Case {
    name: String,
    model: CausalLm,
    rows: Vec<Vec<u32>>,
    golden: Tensors,
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
        self.check_beam();
        self.check_saved(checkpoint);
    }

    fn check(&self, what: &str, found: &[f32]) {
        let golden = precise(&self.golden, what).unwrap_or_else(|| panic!("{}: no golden {what}", self.name));
        assert_close(&format!("{}: {what}", self.name), found, golden.f64(), tolerance());
    }

    fn check_stages(&self) {
        let ids = ids(&self.rows, &self.device);
        let hidden = self.model.hidden_states(ids.clone(), &AttentionMask::causal(&ids));
        self.check("embeddings", &values(hidden.embeddings));
        for (block, states) in hidden.blocks.into_iter().enumerate() {
            self.check(&format!("block.{block}"), &values(states));
        }
        assert!(!self.golden.contains_key(&format!("block.{}", self.model.info().n_layers)), "{}", self.name);
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
        let vocab_size = self.model.info().vocab_size;
        let kept = self.golden["attention_mask"].i64().iter().enumerate().filter(|&(_, &seen)| seen == 1);
        for (position, _) in kept {
            let range = position * vocab_size..(position + 1) * vocab_size;
            let what = format!("{}: padded.logits at {position}", self.name);
            assert_close(&what, &found[range.clone()], &golden[range], tolerance());
        }
        let labels = self.golden["labels_masked"].i64();
        self.check("padded.loss", &[loss(&found, labels, self.shape()) as f32]);
    }

    /// Tokens in unequal pieces through the cache give the logits of one pass; of a text that outgrows what its beginning was
    /// computed for, the last piece does.
    fn check_cached(&self) {
        let all = ids(&self.rows, &self.device);
        let [_, tokens] = self.shape();
        let mut cache = KeyValueCache::new();
        let mut pieces = Vec::new();
        for (from, to) in [(0, 4), (4, 5), (5, 6), (6, tokens)] {
            let piece = all.clone().narrow(1, from, to - from);
            let mask = AttentionMask::following(&piece, &cache);
            pieces.push(self.model.extend(piece, &mask, &mut cache));
        }
        assert_eq!(cache.tokens(), tokens, "{}", self.name);
        if self.model.json()["rope_parameters"]["rope_type"] != "longrope" {
            return self.check("logits", &values(self.model.logits(Tensor::cat(pieces, 1))));
        }
        let vocab_size = self.model.info().vocab_size;
        let golden = precise(&self.golden, "logits").expect("golden logits").f64();
        let of_row = |row: &[f64]| row[6 * vocab_size..].to_vec();
        let golden: Vec<f64> = golden.chunks(tokens * vocab_size).flat_map(of_row).collect();
        let found = values(self.model.logits(pieces.remove(3)));
        assert_close(&format!("{}: logits of the last piece", self.name), &found, &golden, tolerance());
    }

    fn check_greedy(&self) {
        let new_tokens = self.number("greedy", "new_tokens") as usize;
        let found = greedy(&self.model.valid(), &self.prompts(), new_tokens, &self.device.clone().inner());
        assert_eq!(found, rows_of(&self.golden["greedy.ids"]), "{}: greedy.ids", self.name);
    }

    fn check_beam(&self) {
        let golden = rows_of(&self.golden["beam.ids"]);
        let prompts = self.prompts();
        let config = GenerationConfig {
            num_beams: self.number("beam", "beams") as usize,
            length_penalty: self.number("beam", "length_penalty"),
            max_new_tokens: golden[0].len() - prompts[0].len(),
            ..GenerationConfig::default()
        };
        let texts = generated(&self.model.valid(), &prompts, &config, &self.device.clone().inner());
        let (found, scores): (Vec<Vec<u32>>, Vec<Option<f64>>) = texts.into_iter().unzip();
        assert_eq!(found, golden, "{}: beam.ids", self.name);
        let scores: Vec<f32> =
            scores.into_iter().map(|score| score.expect("a beam's score") as f32).collect();
        self.check("beam.scores", &scores);
    }

    /// What the texts of the fixtures begin with.
    fn prompts(&self) -> Vec<Vec<u32>> {
        let tokens = self.number("greedy", "prompt_len") as usize;
        self.rows.iter().map(|row| row[..tokens].to_vec()).collect()
    }

    fn number(&self, of: &str, key: &str) -> f64 {
        self.about[of][key].as_f64().unwrap_or_else(|| panic!("{}: no number {of}.{key}", self.name))
    }

    /// What is saved is what was read: the same tensors, and a folder that loads to the same logits.
    fn check_saved(&self, checkpoint: &Checkpoint) {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let folder = scratch.path().join("saved");
        self.model.save(&folder, WeightDtype::F32).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let saved = Checkpoint::open(&folder).expect("a whole folder");
        let bare = |name: &str| name.trim_start_matches("transformer.").to_owned();
        let is_beside =
            |name: &str| name.ends_with(".attn.bias") || BESIDE_PACKED.iter().any(|part| name.contains(part));
        let before: Vec<String> =
            checkpoint.tensor_names().filter(|name| !is_beside(name)).map(bare).collect();
        assert_eq!(saved.tensor_names().map(bare).collect::<Vec<_>>(), before, "{}: names", self.name);
        let is_packed = !packed_words(&self.model).is_empty();
        // Of a packed weight the shape is that of its codes.
        let is_same = |name: &&str| saved.shape(name).is_some() && !is_packed;
        for name in checkpoint.tensor_names().filter(is_same) {
            assert_eq!(saved.shape(name), checkpoint.shape(name), "{}: {name}", self.name);
        }
        let is_kept = |field: &str| {
            !field.starts_with("rope_") && !field.ends_with("dtype") && field != "quantization_config"
        };
        let fields = checkpoint.config().as_object().expect("an object");
        for (field, value) in fields.iter().filter(|(field, _)| is_kept(field)) {
            assert_eq!(&saved.config()[field], value, "{}: {field}", self.name);
        }
        let again = CausalLm::load(&saved, &self.device).expect("what was saved");
        let found = values(logits(&again, ids(&self.rows, &self.device)));
        let before = values(logits(&self.model, ids(&self.rows, &self.device)));
        if is_packed {
            // What is written is dense, and its products add up in another order.
            self.check("logits", &found);
            assert!(saved.config().get("quantization_config").is_none(), "{}: it is dense", self.name);
        } else {
            assert_eq!(found, before, "{}: logits", self.name);
        }
    }

    /// The same configuration as the family's published files write it gives the same model.
    fn check_published(&self, folder: &Path) {
        let config = folder.join("config_published_style.json");
        if !config.is_file() {
            return;
        }
        let scratch = tempfile::tempdir().expect("a temporary folder");
        for (from, to) in [(config, "config.json"), (folder.join("model.safetensors"), "model.safetensors")] {
            std::fs::copy(from, scratch.path().join(to)).expect("a free folder");
        }
        let checkpoint = Checkpoint::open(scratch.path()).expect("a whole folder");
        let model = CausalLm::load(&checkpoint, &self.device);
        let published =
            Self { model: model.unwrap_or_else(|error| panic!("{}: {error}", self.name)), ..self.clone() };
        assert_eq!(published.model.info(), self.model.info(), "{}", self.name);
        let found = values(logits(&published.model, ids(&self.rows, &self.device)));
        assert_eq!(found, values(logits(&self.model, ids(&self.rows, &self.device))), "{}", self.name);
        published.check_saved(&checkpoint);
    }

    fn shape(&self) -> [usize; 2] {
        [self.rows.len(), self.rows[0].len()]
    }
}
