//! Models small enough for every law, and adapters of every kind to attach to them.

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use nola_core::adapter::{
    CountPer, DoraConfig, FromWeightConfig, LoraConfig, LoraVariant, LoraXsConfig, NolaConfig, OloraConfig,
    PissaConfig, PrancConfig, PrancMode, Preset, Sharing,
};
use nola_core::basis::Distribution;
use nola_core::{Adapted, AdapterConfig, ByPattern, Targets};
use nola_models::{CausalLm, Vit, VitConfig};
use nola_train::model_with_loss::{ImageBatch, TextBatch};
use nola_train::text::Sample;
use serde_json::{Value, json};

use crate::test_model::{TestModel, text_batch};

/// A small model, with what a law has to know of it.
pub struct Tiny<M: TestModel> {
    /// Without adapters; the same weights every time.
    pub base: M,
    /// Modules that are trained beside the adapters.
    pub trained_beside: &'static [&'static str],
    /// Four samples.
    pub batch: M::Batch,
    /// Where it is.
    pub device: Device,
}

/// A ViT whose head is trained too.
pub fn tiny_vit(device: &Device) -> Tiny<Vit> {
    let (base, batch) = (vit(device), batch(4, 1, device));
    Tiny { base, trained_beside: &["head"], batch, device: device.clone() }
}

/// A GPT-2, whose head is its token embedding.
pub fn tiny_gpt2(device: &Device) -> Tiny<CausalLm> {
    let (base, batch) = (causal(&gpt2_json(), device), texts(4, 1, device));
    Tiny { base, trained_beside: &[], batch, device: device.clone() }
}

/// A LLaMA with fewer keys than queries and a head of its own, which must stay as it is.
pub fn tiny_llama(device: &Device) -> Tiny<CausalLm> {
    let base = causal(&with(llama_json(), "tie_word_embeddings", false), device);
    Tiny { base, trained_beside: &[], batch: texts(4, 1, device), device: device.clone() }
}

/// A Phi-3, whose files hold query, key and value as one matrix of unequal parts, with a sliding window.
pub fn tiny_phi3(device: &Device) -> Tiny<CausalLm> {
    let base = causal(&phi3_json(), device);
    Tiny { base, trained_beside: &[], batch: texts(4, 1, device), device: device.clone() }
}

/// A Qwen3, which normalises queries and keys, with a window in its last layer.
pub fn tiny_qwen3(device: &Device) -> Tiny<CausalLm> {
    let base = causal(&qwen3_json(), device);
    Tiny { base, trained_beside: &[], batch: texts(4, 1, device), device: device.clone() }
}

/// A Gemma 3, whose norms multiply by 1 more than their weight and stand behind both halves of a block too.
pub fn tiny_gemma3(device: &Device) -> Tiny<CausalLm> {
    let base = causal(&gemma3_json(), device);
    Tiny { base, trained_beside: &[], batch: texts(4, 1, device), device: device.clone() }
}

/// Every linear layer but the head.
const ALL_LINEAR: &str = "query|key|value|output|gate|up|down";

impl<M: TestModel> Tiny<M> {
    /// With an adapter on every linear layer but the head.
    pub fn adapted(&self, adapter: &AdapterConfig) -> Adapted<M> {
        self.adapted_on(ALL_LINEAR, adapter)
    }

    fn adapted_on(&self, pattern: &str, adapter: &AdapterConfig) -> Adapted<M> {
        let targets = Targets::matching(pattern);
        let attached =
            Adapted::attach(self.base.clone(), adapter, &targets, self.trained_beside, &self.device);
        attached.expect("it has such layers")
    }

    /// The same with other trained values, as if it had been trained.
    pub fn perturbed(&self, adapter: &AdapterConfig) -> Adapted<M> {
        self.perturbed_on(ALL_LINEAR, adapter)
    }

    /// The same on the layers that `pattern` names.
    pub fn perturbed_on(&self, pattern: &str, adapter: &AdapterConfig) -> Adapted<M> {
        let fresh = self.adapted_on(pattern, adapter);
        let mut state = fresh.state();
        for (number, (name, data)) in state.iter_mut().enumerate() {
            if name == "base_gain" {
                *data = TensorData::new(vec![0.7_f32, 0.6], [2]);
                continue;
            }
            let values: Vec<f32> = data.clone().try_into_vec().expect("trained values are f32");
            let moved = |(n, value): (usize, &f32)| value + 0.2 * ((n + 3 * number) as f32 * 1.3).sin();
            let values: Vec<f32> = values.iter().enumerate().map(moved).collect();
            *data = TensorData::new(values, data.shape());
        }
        fresh.with_state(state).expect("names and shapes are its own")
    }

    /// The logits of the four samples, without a graph.
    pub fn logits(&self, model: &M) -> Vec<f32> {
        model.valid().logits_of(&self.batch)
    }
}

/// Two blocks, four patches, three classes.
pub fn config() -> VitConfig {
    VitConfig {
        d_model: 24,
        n_layers: 2,
        n_heads: 3,
        d_mlp: 40,
        image_size: 8,
        patch_size: 4,
        layer_norm_eps: 1e-6,
        n_classes: 3,
        labels: ["one", "two", "three"].map(str::to_owned).to_vec(),
        ..VitConfig::base16()
    }
}

/// The same weights every time.
pub fn vit(device: &Device) -> Vit {
    Vit::init(&config(), 7, device)
}

/// A DINOv2 with register tokens and a gate in its MLP.
pub fn tiny_dinov2(device: &Device) -> Tiny<Vit> {
    tiny_of(&dinov2_json(), device)
}

/// The vision tower of CLIP with a head, which the last norm has no part in.
pub fn tiny_clip(device: &Device) -> Tiny<Vit> {
    tiny_of(&clip_json(), device)
}

fn tiny_of(json: &Value, device: &Device) -> Tiny<Vit> {
    let config = VitConfig::from_json(json, Path::new("config.json")).expect("a small model");
    let (base, batch) = (Vit::init(&config, 7, device), batch(4, 1, device));
    Tiny { base, trained_beside: &["head"], batch, device: device.clone() }
}

/// A configuration of every family that differs from ViT by it, with a head.
pub fn vision_jsons() -> [Value; 6] {
    let plain = with(with(dinov2_json(), "use_swiglu_ffn", false), "model_type", "dinov2");
    let plain = with(plain, "architectures", vec!["Dinov2ForImageClassification"]);
    let with_teacher = with(deit_json(), "architectures", vec!["DeiTForImageClassificationWithTeacher"]);
    [deit_json(), with_teacher, plain, dinov2_json(), clip_json(), siglip_json()]
}

/// Fields that every family has.
fn vision_json(class: &str, model_type: &str) -> Value {
    json!({
        "architectures": [class], "model_type": model_type, "hidden_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 3, "intermediate_size": 40, "image_size": 8, "patch_size": 4,
        "id2label": {"0": "one", "1": "two", "2": "three"},
    })
}

fn deit_json() -> Value {
    vision_json("DeiTForImageClassification", "deit")
}

/// The configuration of a DINOv2 whose MLP is 32 wide inside, or 48 without a gate.
pub fn dinov2_json() -> Value {
    let json = vision_json("Dinov2WithRegistersForImageClassification", "dinov2_with_registers");
    let json = with(with(json, "mlp_ratio", 2), "use_swiglu_ffn", true);
    with(with(json, "num_register_tokens", 2), "layerscale_value", 0.7)
}

fn clip_json() -> Value {
    nested(vision_json("CLIPForImageClassification", "clip_vision_model"), "clip")
}

fn siglip_json() -> Value {
    nested(vision_json("SiglipForImageClassification", "siglip_vision_model"), "siglip")
}

/// `tower` inside the configuration of the whole model.
fn nested(tower: Value, model_type: &str) -> Value {
    json!({
        "architectures": tower["architectures"], "model_type": model_type, "id2label": tower["id2label"],
        "vision_config": tower,
    })
}

/// Different images for every `seed`.
pub fn batch(samples: usize, seed: u32, device: &Device) -> ImageBatch {
    let count = samples * 3 * 8 * 8;
    let pixels: Vec<f32> = (0..count).map(|n| (n as f32 * 0.37 + seed as f32).sin()).collect();
    let labels: Vec<i64> = (0..samples).map(|n| (n + seed as usize) as i64 % 3).collect();
    ImageBatch {
        pixels: Tensor::from_data(TensorData::new(pixels, [samples, 3, 8, 8]), device),
        labels: Tensor::<1, Int>::from_data(TensorData::new(labels, [samples]), device),
    }
}

/// The configuration of a GPT-2 with two blocks, as a `config.json` has it.
pub fn gpt2_json() -> Value {
    json!({
        "model_type": "gpt2", "vocab_size": 29, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2,
    })
}

/// The configuration of a LLaMA with two blocks.
pub fn llama_json() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 29, "max_position_embeddings": 24, "hidden_size": 16,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24,
        "tie_word_embeddings": true,
    })
}

/// The configuration of a Mistral with two blocks and a window of three tokens.
pub fn mistral_json() -> Value {
    with(with(llama_json(), "model_type", "mistral"), "sliding_window", 3)
}

/// The configuration of a Phi-3 with two blocks and a window of three tokens.
pub fn phi3_json() -> Value {
    let json = with(with(llama_json(), "model_type", "phi3"), "sliding_window", 3);
    with(json, "tie_word_embeddings", false)
}

/// The configuration of a Qwen3 with two blocks, heads of a width of their own and a window in the second block.
pub fn qwen3_json() -> Value {
    let json = with(with(with_late_window("qwen3"), "head_dim", 6), "attention_bias", true);
    with(json, "tie_word_embeddings", false)
}

fn with_late_window(model_type: &str) -> Value {
    let json = with(with(llama_json(), "model_type", model_type), "use_sliding_window", true);
    with(with(json, "sliding_window", 3), "max_window_layers", 1)
}

/// The configuration of a Phi-3 whose frequencies are others in texts of more than four tokens.
fn long_rope_json() -> Value {
    let scaling = json!({"type": "su", "short_factor": [1.0, 1.5], "long_factor": [2.0, 8.0]});
    with(with(phi3_json(), "rope_scaling", scaling), "original_max_position_embeddings", 4)
}

/// The configuration of a Gemma 3 with two blocks, of which the first has a window of three tokens.
pub fn gemma3_json() -> Value {
    let json = with(with(llama_json(), "model_type", "gemma3_text"), "sliding_window", 3);
    with(with(with(json, "sliding_window_pattern", 2), "head_dim", 6), "query_pre_attn_scalar", 5)
}

/// A configuration of every family that differs from LLaMA by it.
pub fn family_jsons() -> [Value; 9] {
    let smollm3 = with(with(llama_json(), "model_type", "smollm3"), "no_rope_layers", vec![0, 1]);
    let gemma = with(with(llama_json(), "model_type", "gemma"), "head_dim", 6);
    let [mistral, phi3, long_rope] = [mistral_json(), phi3_json(), long_rope_json()];
    let gemma2 = with(
        with(with(gemma3_json(), "model_type", "gemma2"), "attn_logit_softcapping", 1.0),
        "final_logit_softcapping",
        2.0,
    );
    [mistral, phi3, long_rope, with_late_window("qwen2"), qwen3_json(), smollm3, gemma, gemma2, gemma3_json()]
}

/// `json` with one more field.
pub fn with(mut json: Value, field: &str, value: impl Into<Value>) -> Value {
    json[field] = value.into();
    json
}

/// A language model with weights large enough to tell tokens apart; the same every time.
pub fn causal(json: &Value, device: &Device) -> CausalLm {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let json = with(json.clone(), "initializer_range", 0.4);
    std::fs::write(scratch.path().join("config.json"), json.to_string()).expect("a free folder");
    CausalLm::init(scratch.path(), 3, device).expect("a small model")
}

/// A text of the tiny vocabulary.
pub fn row(from: u32, tokens: u32) -> Vec<u32> {
    (0..tokens).map(|n| (from + 7 * n) % 29).collect()
}

/// A text for every number in `samples`: the higher, the longer, and the more of its tokens are learned.
pub fn numbered_texts(samples: &[usize], seed: u32, device: &Device) -> TextBatch {
    let sample = |&number: &usize| {
        let ids = row(seed + 5 * number as u32, 8 + number as u32);
        Sample { trained: std::iter::once(6 - number.min(5)..ids.len()).collect(), ids }
    };
    text_batch(&samples.iter().map(sample).collect::<Vec<_>>(), device)
}

/// Different texts for every `seed`.
fn texts(samples: usize, seed: u32, device: &Device) -> TextBatch {
    numbered_texts(&(0..samples).collect::<Vec<_>>(), seed, device)
}

/// A small NOLA of the default preset.
pub fn small_nola() -> NolaConfig {
    NolaConfig { rank: 2, k: 5, l: Some(3), ..NolaConfig::default() }
}

/// Every adapter there is, small, and every preset and variant, each with a name.
pub fn every_adapter() -> Vec<(String, AdapterConfig)> {
    let mut all: Vec<(String, AdapterConfig)> = Vec::new();
    for mut config in AdapterConfig::every() {
        config.method_mut().set_rank(2);
        config.method_mut().set_seed(5);
        all.push((config.kind().to_owned(), config));
    }
    for preset in [Preset::Default, Preset::Paper2023, Preset::Code2024, Preset::Vit2024] {
        all.push((format!("nola {preset:?}"), NolaConfig { preset, ..small_nola() }.into()));
    }
    // The kernels' own laws combine them with everything else.
    for (basis, sharing) in [
        (Distribution::Sign, Sharing::Separate),
        (Distribution::Uniform, Sharing::Shared),
        (Distribution::Sign, Sharing::Shared),
    ] {
        all.push((
            format!("nola {basis:?} {sharing:?}"),
            NolaConfig { basis, sharing, ..small_nola() }.into(),
        ));
    }
    // A rank above both widths, and a single matrix to combine.
    all.push(("nola of rank 50".to_owned(), NolaConfig { rank: 50, ..small_nola() }.into()));
    all.push(("nola of k = 1".to_owned(), NolaConfig { k: 1, l: None, ..small_nola() }.into()));
    let of_nola = [
        ("nola with lengths", NolaConfig { use_dora: true, ..small_nola() }),
        ("nola by width", NolaConfig { k_per: CountPer::Width, ..small_nola() }),
        ("nola in 4 bits", NolaConfig { train_bits: 4, ..small_nola() }),
    ];
    all.extend(of_nola.map(|(name, nola)| (name.to_owned(), nola.into())));
    let replaced = PrancConfig { k: 9, mode: PrancMode::Replace, ..PrancConfig::default() };
    all.push(("pranc in place of the base".to_owned(), replaced.into()));
    let rslora = LoraConfig {
        rank: 2,
        alpha: Some(3.0),
        variant: LoraVariant::RsLora,
        seed: 5,
        ..LoraConfig::default()
    };
    all.push(("rslora".to_owned(), rslora.into()));
    let by_pattern = LoraConfig {
        rank: 2,
        rank_pattern: ByPattern::from_iter([("value".to_owned(), 3), (r"blocks\.0\..*query".to_owned(), 1)]),
        alpha_pattern: ByPattern::from_iter([("query".to_owned(), 5.0)]),
        ..LoraConfig::default()
    };
    all.push(("lora of several ranks".to_owned(), by_pattern.into()));
    all.extend(with_dropout());
    // Factors of an update that the decompositions have to know.
    let from_weight = FromWeightConfig { rank: 3, alpha: Some(5.0), variant: LoraVariant::RsLora };
    all.push(("rs-olora".to_owned(), OloraConfig(from_weight.clone()).into()));
    all.push(("rs-pissa".to_owned(), PissaConfig(from_weight).into()));
    let lora_xs = LoraXsConfig { rank: 3, alpha: Some(5.0), ..LoraXsConfig::default() };
    all.push(("lora-xs of alpha 5".to_owned(), lora_xs.into()));
    all
}

/// Adapters that drop inputs in training.
pub fn with_dropout() -> [(String, AdapterConfig); 2] {
    let lora = LoraConfig { rank: 2, dropout: 0.3, ..LoraConfig::default() };
    let dora = DoraConfig(lora.clone());
    [("lora with dropout".to_owned(), lora.into()), ("dora with dropout".to_owned(), dora.into())]
}
