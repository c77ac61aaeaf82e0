//! Small models of each kind, with what is trained and a batch: the same numbers on every device.

use std::ops::Range;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use nola_models::{CausalLm, Precision, Vit, VitConfig};
use serde_json::{Value, json};

use crate::model_with_loss::{ImageBatch, TextBatch};
use crate::text::{Sample, TokenBatch};

/// Tokens that the language models know.
const VOCABULARY: u32 = 61;

/// A kind of model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Vit,
    Gpt2,
    Llama,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Vit, Self::Gpt2, Self::Llama];

    /// Its name, as a `config.json` has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Vit => "vit",
            Self::Gpt2 => "gpt2",
            Self::Llama => "llama",
        }
    }
}

/// A ViT with one block, its weights stored in `precision`.
pub(crate) fn vit(precision: impl Into<Precision>, device: &Device) -> Vit {
    let config = VitConfig {
        d_model: 24,
        n_layers: 1,
        n_heads: 3,
        d_mlp: 40,
        image_size: 8,
        patch_size: 4,
        layer_norm_eps: 1e-6,
        n_classes: 3,
        labels: ["one", "two", "three"].map(str::to_owned).to_vec(),
        ..VitConfig::base16()
    };
    Vit::init_as(&config, 0, precision, device)
}

/// Four images, each of another class than the next.
pub(crate) fn images(device: &Device) -> ImageBatch {
    let (samples, side) = (4, 8);
    let pixels: Vec<f32> = (0..samples * 3 * side * side).map(|n| (n as f32 * 0.37).sin()).collect();
    let labels: Vec<i64> = (0..samples as i64).map(|n| n % 3).collect();
    ImageBatch {
        pixels: Tensor::from_data(TensorData::new(pixels, [samples, 3, side, side]), device),
        labels: Tensor::from_data(TensorData::new(labels, [samples]), device),
    }
}

/// A GPT-2 with one block.
pub(crate) fn gpt2(precision: impl Into<Precision>, device: &Device) -> CausalLm {
    let config = json!({
        "model_type": "gpt2", "vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 32, "n_layer": 1, "n_head": 2,
        "initializer_range": 0.2,
    });
    causal(&config, precision, device)
}

/// A LLaMA with one block, and fewer keys than queries.
pub(crate) fn llama(precision: impl Into<Precision>, device: &Device) -> CausalLm {
    let config = json!({
        "model_type": "llama", "vocab_size": VOCABULARY, "max_position_embeddings": 32, "hidden_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 40,
        "initializer_range": 0.2,
    });
    causal(&config, precision, device)
}

fn causal(config: &Value, precision: impl Into<Precision>, device: &Device) -> CausalLm {
    let model = CausalLm::uninitialized(config, Path::new("small model"), device).expect("sizes that fit");
    model.with_fresh_weights(0, precision)
}

/// Two texts of different lengths, of which most tokens are learned.
pub(crate) fn texts(device: &Device) -> TextBatch {
    let sample = |tokens: Range<u32>| Sample {
        trained: std::iter::once(2..tokens.len()).collect(),
        ids: tokens.map(|token| token * 7 % VOCABULARY).collect(),
    };
    let samples = [sample(0..14), sample(20..30)];
    let rows: Vec<Vec<&Sample>> = samples.iter().map(|sample| vec![sample]).collect();
    TextBatch::new(&TokenBatch::of(&rows), device)
}
