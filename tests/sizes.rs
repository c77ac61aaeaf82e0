//! Exact numbers of published models and adapters, and the bytes of adapter folders.

use std::path::Path;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::Device;
use nola_core::adapter::{LoraConfig, NolaConfig, Plan, VeraConfig};
use nola_core::folder::{self, BaseIdentity, CoefficientBits, Description};
use nola_core::targets::Pattern;
use nola_core::{Adapted, AdapterConfig, Site, Targets};
use nola_models::{CausalLm, Gpt2, Gpt2Config, Llama, LlamaConfig, Vit, VitConfig};
use serde_json::{Value, json};

// Models of full size, whose weights take no memory since nobody uses them.

fn vit(config: VitConfig, classes: usize) -> Vit {
    let labels: Vec<String> = (0..classes).map(|class| class.to_string()).collect();
    Vit::uninitialized(&config, &Device::flex()).with_head(&labels)
}

fn gpt2(config: Gpt2Config) -> CausalLm {
    CausalLm::Gpt2(Gpt2::uninitialized(&config, &Device::flex()))
}

fn llama(config: LlamaConfig) -> CausalLm {
    CausalLm::Llama(Llama::uninitialized(&config, &Device::flex()))
}

#[test]
fn vits_have_the_published_numbers_of_parameters() {
    let table = [
        ("ViT-B/16, 1000 classes", VitConfig::base16(), 1000, 86_567_656),
        ("ViT-B/16, no head", VitConfig::base16(), 0, 85_798_656),
        ("ViT-L/16, 1000 classes", VitConfig::large16(), 1000, 304_326_632),
        ("ViT-L/16, no head", VitConfig::large16(), 0, 303_301_632),
    ];
    for (name, config, classes, numbers) in table {
        assert_eq!(vit(config, classes).num_params(), numbers, "{name}");
    }
}

/// A vision transformer of the sizes in a published `config.json`: width, layers, heads, MLP, side of an image and of a patch.
fn published_vit(class: &str, model_type: &str, sizes: [usize; 6], more: Value) -> Vit {
    let [d_model, n_layers, n_heads, d_mlp, image_size, patch_size] = sizes;
    let mut json = json!({
        "architectures": [class], "model_type": model_type, "hidden_size": d_model, "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads, "intermediate_size": d_mlp, "image_size": image_size, "patch_size": patch_size,
        "num_labels": 1000,
    });
    for (field, value) in more.as_object().expect("an object") {
        json[field] = value.clone();
    }
    let config = VitConfig::from_json(&json, Path::new("config.json")).expect("a published model");
    Vit::uninitialized(&config, &Device::flex())
}

/// As transformers 5.24 counts them, without mask tokens and SigLIP's pooling head, which no classifier has.
#[test]
fn families_of_vit_have_the_published_numbers_of_parameters() {
    let none = || json!({});
    let dino = |size: [usize; 3]| [size[0], size[1], size[2], 0, 518, 14];
    let with_head = "Dinov2ForImageClassification";
    let [small, base, large, giant] = [[384, 12, 6], [768, 12, 12], [1024, 24, 16], [1536, 40, 24]].map(dino);
    let gated = || json!({"use_swiglu_ffn": true});
    let teacher = "DeiTForImageClassificationWithTeacher";
    let (clip, siglip) = ("clip_vision_model", "siglip_vision_model");
    let table = [
        ("DINOv2 S/14", "Dinov2Model", "dinov2", small, none(), 22_056_192),
        ("DINOv2 B/14", "Dinov2Model", "dinov2", base, none(), 86_579_712),
        ("DINOv2 B/14, 1000 classes", with_head, "dinov2", base, none(), 88_116_712),
        ("DINOv2 L/14", "Dinov2Model", "dinov2", large, none(), 304_367_616),
        ("DINOv2 g/14", "Dinov2Model", "dinov2", giant, gated(), 1_136_479_232),
        ("DINOv2 B/14, registers", "", "dinov2_with_registers", base, none(), 86_582_784),
        ("DINOv2 g/14, registers", "", "dinov2_with_registers", giant, gated(), 1_136_485_376),
        ("DeiT-Ti, distilled", teacher, "deit", [192, 12, 3, 768, 224, 16], none(), 5_910_800),
        ("DeiT-S, distilled", teacher, "deit", [384, 12, 6, 1536, 224, 16], none(), 22_436_432),
        ("DeiT-B, distilled", teacher, "deit", [768, 12, 12, 3072, 224, 16], none(), 87_338_192),
        ("CLIP B/32", "CLIPVisionModel", clip, [768, 12, 12, 3072, 224, 32], none(), 87_456_000),
        ("CLIP B/16", "CLIPVisionModel", clip, [768, 12, 12, 3072, 224, 16], none(), 85_799_424),
        ("CLIP L/14", "CLIPVisionModel", clip, [1024, 24, 16, 4096, 224, 14], none(), 303_179_776),
        ("SigLIP B/16", "SiglipVisionModel", siglip, [768, 12, 12, 3072, 224, 16], none(), 85_797_120),
        ("SigLIP L/16", "SiglipVisionModel", siglip, [1024, 24, 16, 4096, 256, 16], none(), 303_361_024),
        ("SigLIP So400m/14", "SiglipVisionModel", siglip, [1152, 27, 16, 4304, 384, 14], none(), 412_987_248),
    ];
    for (name, class, model_type, sizes, more, numbers) in table {
        assert_eq!(published_vit(class, model_type, sizes, more).num_params(), numbers, "{name}");
    }
}

#[test]
fn language_models_have_the_published_numbers_of_parameters() {
    let table = [
        ("GPT-2 S", gpt2(Gpt2Config::small()), 124_439_808),
        ("GPT-2 M", gpt2(Gpt2Config::medium()), 354_823_168),
        ("GPT-2 L", gpt2(Gpt2Config::large()), 774_030_080),
        ("GPT-2 XL", gpt2(Gpt2Config::xl()), 1_557_611_200),
        ("LLaMA-2 7B", llama(LlamaConfig::llama2_7b()), 6_738_415_616),
        ("LLaMA-2 13B", llama(LlamaConfig::llama2_13b()), 13_015_864_320),
        ("LLaMA-2 70B", llama(LlamaConfig::llama2_70b()), 68_976_648_192),
    ];
    for (name, model, numbers) in table {
        assert_eq!(model.num_params(), numbers, "{name}");
    }
}

/// A model of the sizes in a published `config.json`: width, layers, heads of queries and of keys, MLP, vocabulary.
fn published(model_type: &str, sizes: [usize; 6], more: Value) -> CausalLm {
    let [d_model, n_layers, n_heads, n_kv_heads, d_mlp, vocab_size] = sizes;
    let mut json = json!({
        "model_type": model_type, "hidden_size": d_model, "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads, "num_key_value_heads": n_kv_heads, "intermediate_size": d_mlp,
        "vocab_size": vocab_size,
    });
    for (field, value) in more.as_object().expect("an object") {
        json[field] = value.clone();
    }
    CausalLm::uninitialized(&json, Path::new("config.json"), &Device::flex()).expect("a published model")
}

#[test]
fn families_of_llama_have_the_published_numbers_of_parameters() {
    let (tied, own) = (|| json!({"tie_word_embeddings": true}), || json!({"tie_word_embeddings": false}));
    let qwen3 = |tied: bool| json!({"tie_word_embeddings": tied, "head_dim": 128});
    let table = [
        ("TinyLlama 1.1B", "llama", [2048, 22, 32, 4, 5632, 32000], own(), 1_100_048_384),
        ("SmolLM2 135M", "llama", [576, 30, 9, 3, 1536, 49152], tied(), 134_515_008),
        ("SmolLM2 360M", "llama", [960, 32, 15, 5, 2560, 49152], tied(), 361_821_120),
        ("SmolLM2 1.7B", "llama", [2048, 24, 32, 32, 8192, 49152], tied(), 1_711_376_384),
        ("Llama 3 8B", "llama", [4096, 32, 32, 8, 14336, 128_256], own(), 8_030_261_248),
        ("Llama 3.2 1B", "llama", [2048, 16, 32, 8, 8192, 128_256], tied(), 1_235_814_400),
        ("Llama 3.2 3B", "llama", [3072, 28, 24, 8, 8192, 128_256], tied(), 3_212_749_824),
        ("SmolLM3 3B", "smollm3", [2048, 36, 16, 4, 11008, 128_256], json!({}), 3_075_098_624),
        ("Mistral 7B", "mistral", [4096, 32, 32, 8, 14336, 32000], own(), 7_241_732_096),
        ("Phi-3 mini", "phi3", [3072, 32, 32, 32, 8192, 32064], own(), 3_821_079_552),
        ("Phi-3 medium", "phi3", [5120, 40, 40, 10, 17920, 32064], own(), 13_960_238_080),
        ("Qwen2.5 0.5B", "qwen2", [896, 24, 14, 2, 4864, 151_936], tied(), 494_032_768),
        ("Qwen2.5 1.5B", "qwen2", [1536, 28, 12, 2, 8960, 151_936], tied(), 1_543_714_304),
        ("Qwen2.5 7B", "qwen2", [3584, 28, 28, 4, 18944, 152_064], own(), 7_615_616_512),
        ("Gemma 2B", "gemma", [2048, 18, 8, 1, 16384, 256_000], tied(), 2_506_172_416),
        ("Gemma 7B", "gemma", [3072, 28, 16, 16, 24576, 256_000], tied(), 8_537_680_896),
        ("Gemma 2 2B", "gemma2", [2304, 26, 8, 4, 9216, 256_000], tied(), 2_614_341_888),
        ("Gemma 3 270M", "gemma3_text", [640, 18, 4, 1, 2048, 262_144], tied(), 268_098_176),
        ("Gemma 3 1B", "gemma3_text", [1152, 26, 4, 1, 6912, 262_144], tied(), 999_885_952),
        ("Qwen3 0.6B", "qwen3", [1024, 28, 16, 8, 3072, 151_936], qwen3(true), 596_049_920),
        ("Qwen3 4B", "qwen3", [2560, 36, 32, 8, 9728, 151_936], qwen3(true), 4_022_468_096),
        ("Qwen3 8B", "qwen3", [4096, 36, 32, 8, 12288, 151_936], qwen3(false), 8_190_735_360),
    ];
    for (name, model_type, sizes, more, numbers) in table {
        assert_eq!(published(model_type, sizes, more).num_params(), numbers, "{name}");
    }
}

const ATTENTION: &str = "query|value";
const MLP: &str = "up|down";

/// What a pattern chooses, without the head.
fn targets(pattern: &str) -> Targets {
    Targets { exclude: Pattern::Names(vec!["head".to_owned()]), ..Targets::matching(pattern) }
}

fn sites<M: Module>(model: &M, pattern: &str) -> Vec<Site> {
    targets(pattern).choose(model).expect("it has such layers")
}

fn nola(k: usize) -> AdapterConfig {
    AdapterConfig::Nola(NolaConfig { k, ..NolaConfig::default() })
}

fn vera(rank: usize) -> AdapterConfig {
    AdapterConfig::Vera(VeraConfig { rank, ..VeraConfig::default() })
}

fn lora(rank: usize) -> AdapterConfig {
    AdapterConfig::Lora(LoraConfig { rank, ..LoraConfig::default() })
}

#[test]
fn adapters_have_the_published_numbers_of_trainable_parameters() {
    let [medium, large] = [Gpt2Config::medium(), Gpt2Config::large()].map(gpt2);
    let llamas = [LlamaConfig::llama2_7b(), LlamaConfig::llama2_13b(), LlamaConfig::llama2_70b()].map(llama);
    let [llama_7b, llama_13b, llama_70b] = llamas.map(|model| sites(&model, "all-linear"));
    let [vit_b, vit_l] = [VitConfig::base16(), VitConfig::large16()].map(|config| vit(config, 100));
    let dinov2 = published_vit("Dinov2Model", "dinov2", [768, 12, 12, 0, 518, 14], json!({}));
    let dinov2_b = sites(&dinov2, "all-linear");
    let table = [
        ("GPT-2 M, NOLA k 1000", sites(&medium, ATTENTION), nola(1000), 96_000),
        ("GPT-2 M, NOLA k 1000 on the MLP", sites(&medium, MLP), nola(1000), 96_000),
        ("GPT-2 M, NOLA k 500", sites(&medium, ATTENTION), nola(500), 48_000),
        ("GPT-2 M, VeRA r 256", sites(&medium, ATTENTION), vera(256), 61_440),
        ("GPT-2 M, VeRA r 1024", sites(&medium, ATTENTION), vera(1024), 98_304),
        ("GPT-2 L, VeRA r 1024", sites(&large, ATTENTION), vera(1024), 165_888),
        ("GPT-2 L, NOLA k 1000", sites(&large, ATTENTION), nola(1000), 144_000),
        ("GPT-2 L, NOLA k 500", sites(&large, ATTENTION), nola(500), 72_000),
        ("GPT-2 L, NOLA k 250", sites(&large, ATTENTION), nola(250), 36_000),
        ("LLaMA-2 7B, NOLA k 128", llama_7b.clone(), nola(128), 57_344),
        ("LLaMA-2 13B, NOLA k 256", llama_13b.clone(), nola(256), 143_360),
        ("LLaMA-2 70B, NOLA k 512", llama_70b.clone(), nola(512), 573_440),
        ("LLaMA-2 7B, LoRA r 1", llama_7b, lora(1), 2_498_560),
        ("LLaMA-2 13B, LoRA r 1", llama_13b, lora(1), 3_911_680),
        ("LLaMA-2 70B, LoRA r 1", llama_70b, lora(1), 12_943_360),
        ("ViT-B, NOLA k 1024", sites(&vit_b, MLP), nola(1024), 49_152),
        ("ViT-L, NOLA k 512", sites(&vit_l, MLP), nola(512), 49_152),
        ("ViT-L, NOLA k 1024", sites(&vit_l, MLP), nola(1024), 98_304),
        ("ViT-B, LoRA r 4", sites(&vit_b, ATTENTION), lora(4), 147_456),
        ("ViT-L, LoRA r 4", sites(&vit_l, ATTENTION), lora(4), 393_216),
        ("DINOv2 B, NOLA k 1024", dinov2_b.clone(), nola(1024), 147_456),
        ("DINOv2 B, LoRA r 32", dinov2_b, lora(32), 5_308_416),
    ];
    for (name, sites, adapter, numbers) in table {
        let plans = adapter.plan(&sites, &|site| vec![0.0; site.d_in * site.d_out]).expect("usable settings");
        assert_eq!(trainable_parameters(&plans, &sites), numbers, "{name}");
    }
}

#[test]
fn attached_to_a_model_of_full_size_an_adapter_trains_no_other_numbers() {
    let table = [
        ("LLaMA-2 7B, LoRA r 1", LlamaConfig::llama2_7b(), lora(1), 2_498_560),
        ("LLaMA-2 13B, LoRA r 1", LlamaConfig::llama2_13b(), lora(1), 3_911_680),
        ("LLaMA-2 70B, LoRA r 1", LlamaConfig::llama2_70b(), lora(1), 12_943_360),
        ("LLaMA-2 7B, NOLA k 128", LlamaConfig::llama2_7b(), nola_of_rank_1(128), 57_344),
    ];
    for (name, config, adapter, numbers) in table {
        let adapted = Adapted::attach(llama(config), &adapter, &targets("all-linear"), &[], &Device::flex());
        let trained = adapted.expect("linear layers").trainable_parameters();
        assert_eq!((trained.adapter, trained.other), (numbers, 0), "{name}");
    }
}

/// Rank 1 keeps tests short; neither numbers nor bytes depend on it.
fn nola_of_rank_1(k: usize) -> AdapterConfig {
    AdapterConfig::Nola(NolaConfig { rank: 1, k, ..NolaConfig::default() })
}

#[test]
fn an_adapter_folder_is_at_most_4_kib_larger_than_its_coefficients() {
    check_folder("GPT-2 M", gpt2(Gpt2Config::medium()), ATTENTION, 1000);
    check_folder("ViT-B", vit(VitConfig::base16(), 0), MLP, 1024);
    check_folder("LLaMA-2 7B", llama(LlamaConfig::llama2_7b()), "all-linear", 128);
}

fn check_folder<M: Module + ModuleDisplay>(name: &str, model: M, pattern: &str, k: usize) {
    let description = Description {
        base: BaseIdentity {
            name: "meta-llama/Llama-2-7b-hf".to_owned(),
            config_sha256: "0".repeat(64),
            weights_sha256: "0".repeat(64),
            tensors_sha256: Some("0".repeat(64)),
            quantization: None,
        },
        labels: Vec::new(),
        summary: "Validation loss 1.2345 nats per token.".to_owned(),
        data: serde_json::json!({
            "format": "prompt-completion", "max_tokens": 512, "loss": "completion",
            "columns": {"prompt": "question", "completion": "answer", "text": "text"}, "system": "",
            "chat_template_sha256": "0".repeat(64),
        }),
    };
    let model = Adapted::attach(model, &nola_of_rank_1(k), &targets(pattern), &[], &Device::flex());
    let model = model.expect("linear layers");
    let coefficients = 2 * k * model.sites().len();
    for (bits, of_coefficients) in [
        (CoefficientBits::B32, 4 * coefficients),
        (CoefficientBits::B16, 2 * coefficients),
        (CoefficientBits::B8, coefficients),
        (CoefficientBits::B4, coefficients / 2),
        (CoefficientBits::B3, coefficients * 3 / 8),
        (CoefficientBits::B2, coefficients / 4),
    ] {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let bytes = folder::write(scratch.path(), &model, &description, bits).expect("a free folder");
        let on_disk: u64 = (std::fs::read_dir(scratch.path()).expect("the folder"))
            .map(|entry| entry.expect("a file").metadata().expect("its size").len())
            .sum();
        assert_eq!(bytes, on_disk, "{name}");
        let extra = bytes as i64 - of_coefficients as i64;
        assert!(extra <= 4096, "{name}, {bits:?}: {extra} bytes beside the coefficients");
    }
}

fn trainable_parameters(plans: &[Plan], sites: &[Site]) -> usize {
    plans.iter().zip(sites).map(|(plan, site)| plan.trainable_parameters(site.d_out)).sum()
}
