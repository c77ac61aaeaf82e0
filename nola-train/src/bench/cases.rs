//! What is measured: models of published sizes with random weights, methods, and batches.

use std::sync::LazyLock;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use clap::ValueEnum;
use clap::builder::PossibleValue;
use nola_core::AdapterConfig;
use nola_core::Packing;
use nola_core::adapter::{NolaConfig, Sharing};
use nola_core::basis::{Distribution, Generator, Stream};
use nola_models::{CausalLm, Gpt2, Gpt2Config, Llama, LlamaConfig, Precision, Vit, VitConfig};
use rayon::prelude::*;

use crate::memory::give_back_freed;
use crate::model_with_loss::{ImageBatch, TextBatch};
use crate::recipe::MethodRecipe;
use crate::sizes::Sizes;
use crate::text::{Sample, TokenBatch};

/// Seed of weights and batches.
const SEED: u64 = 0;
/// Standard deviation of random weights.
const DEVIATION: f64 = 0.02;
/// Numbers that one task draws.
const DRAWN_AT_ONCE: usize = 1 << 16;
/// Numerator of NOLA's factor.
const NOLA_ALPHA: f64 = 8.0;

/// Models that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// ViT-B/16 on 224 pixels: 86 M numbers, batch 8.
    VitB16,
    /// ViT-L/16 on 224 pixels: 303 M numbers, batch 8.
    VitL16,
    /// GPT-2 small: 124 M numbers, 4 x 256 tokens.
    Gpt2,
    /// GPT-2 medium: 355 M numbers, 2 x 512 tokens.
    Gpt2Medium,
    /// GPT-2 large: 774 M numbers, 2 x 512 tokens.
    Gpt2Large,
    /// A LLaMA of 134 M numbers, 2 x 256 tokens.
    #[value(name = "llama-160m")]
    Llama160m,
    /// A LLaMA of 1.1 G numbers with 4 heads of keys (TinyLlama), 4 x 512 tokens.
    #[value(name = "llama-1b")]
    Llama1b,
    /// LLaMA-2 7B, 4 x 512 tokens.
    #[value(name = "llama-7b")]
    Llama7b,
    /// A GPT-2 for trials, 2 x 16 tokens.
    TinyGpt2,
    /// A LLaMA for trials, 2 x 16 tokens.
    TinyLlama,
    /// A ViT for trials, batch 2.
    TinyVit,
}

/// What a preset measures where the command line does not output.
pub(crate) struct Defaults {
    /// Samples of a pass.
    pub batch: usize,
    /// Tokens of a sample; what the image gives, for a ViT.
    pub seq: usize,
    /// Rank of NOLA.
    pub rank: usize,
    /// Random matrices of NOLA, for each factor.
    pub k: usize,
}

impl Preset {
    /// Name on the command line and in results.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
    }

    pub(crate) fn sizes(self) -> Sizes {
        match self {
            Self::VitB16 => Sizes::Vit(with_classes(VitConfig::base16(), 10)),
            Self::VitL16 => Sizes::Vit(with_classes(VitConfig::large16(), 10)),
            Self::Gpt2 => Sizes::Gpt2(Gpt2Config::small()),
            Self::Gpt2Medium => Sizes::Gpt2(Gpt2Config::medium()),
            Self::Gpt2Large => Sizes::Gpt2(Gpt2Config::large()),
            Self::Llama160m => Sizes::Llama(llama_sizes(768, 12, [12, 12], 2048)),
            Self::Llama1b => Sizes::Llama(llama_sizes(2048, 22, [32, 4], 5632)),
            Self::Llama7b => Sizes::Llama(LlamaConfig::llama2_7b()),
            Self::TinyGpt2 => Sizes::Gpt2(Gpt2Config {
                vocab_size: 211,
                max_tokens: 64,
                d_model: 64,
                n_layers: 2,
                n_heads: 4,
                d_mlp: 256,
                eos: vec![0],
                ..Gpt2Config::small()
            }),
            Self::TinyLlama => {
                Sizes::Llama(LlamaConfig { vocab_size: 211, ..llama_sizes(64, 2, [4, 2], 128) })
            }
            Self::TinyVit => {
                let sizes =
                    VitConfig { d_model: 64, n_layers: 2, n_heads: 4, d_mlp: 128, ..VitConfig::base16() };
                Sizes::Vit(with_classes(VitConfig { image_size: 32, patch_size: 8, ..sizes }, 7))
            }
        }
    }

    /// Whether it reads images, whose size decides the number of tokens.
    pub(super) fn is_vit(self) -> bool {
        matches!(self.sizes(), Sizes::Vit(_))
    }

    /// Longest sample, in tokens.
    pub(super) fn max_tokens(self) -> usize {
        self.sizes().max_tokens()
    }

    pub(crate) fn defaults(self) -> Defaults {
        let of = |batch, seq, rank, k| Defaults { batch, seq, rank, k };
        match self {
            Self::VitB16 | Self::VitL16 => of(8, 197, 4, 1024),
            Self::Gpt2 => of(4, 256, 8, 1024),
            Self::Gpt2Medium | Self::Gpt2Large => of(2, 512, 8, 512),
            Self::Llama160m => of(2, 256, 16, 512),
            Self::Llama1b | Self::Llama7b => of(4, 512, 16, 512),
            Self::TinyGpt2 | Self::TinyLlama => of(2, 16, 4, 32),
            Self::TinyVit => of(2, 17, 4, 32),
        }
    }
}

/// A ViT's sizes with a head of so many classes.
fn with_classes(sizes: VitConfig, n_classes: usize) -> VitConfig {
    let labels = (0..n_classes).map(|class| format!("LABEL_{class}")).collect();
    VitConfig { n_classes, labels, ..sizes }
}

fn llama_sizes(
    d_model: usize,
    n_layers: usize,
    [n_heads, n_kv_heads]: [usize; 2],
    d_mlp: usize,
) -> LlamaConfig {
    let d_head = d_model / n_heads;
    LlamaConfig { d_model, n_layers, n_heads, n_kv_heads, d_head, d_mlp, ..LlamaConfig::llama2_7b() }
}

/// Ways of training that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The forward pass and the loss alone, without a graph.
    Frozen,
    /// Every weight.
    Full,
    /// NOLA on query and value.
    Nola(Sharing, Distribution),
    /// Another adapter of the list on query and value, by its name.
    Adapter(&'static str),
}

/// NOLA with a uniform basis for every weight, and the other kinds of basis.
const NOLAS: [(&str, Method); 4] = [
    (NOLA, Method::Nola(Sharing::Separate, Distribution::Uniform)),
    ("nola-shared", Method::Nola(Sharing::Shared, Distribution::Uniform)),
    ("nola-sign", Method::Nola(Sharing::Separate, Distribution::Sign)),
    ("nola-shared-sign", Method::Nola(Sharing::Shared, Distribution::Sign)),
];
const NOLA: &str = "nola";

/// Every way of training.
static METHODS: LazyLock<Vec<Method>> = LazyLock::new(|| {
    let others = AdapterConfig::KINDS.iter().filter(|kind| **kind != NOLA).map(|kind| Method::Adapter(kind));
    [Method::Frozen, Method::Full].into_iter().chain(others).chain(NOLAS.map(|(_, nola)| nola)).collect()
});

/// What `--methods` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MethodChoice {
    /// Every way of training.
    All,
    /// One of them.
    One(Method),
}

impl MethodChoice {
    /// The methods that it stands for.
    pub(super) fn methods(&self) -> &[Method] {
        match self {
            Self::All => &METHODS,
            Self::One(method) => std::slice::from_ref(method),
        }
    }
}

/// Everything that `--methods` can name.
static CHOICES: LazyLock<Vec<MethodChoice>> = LazyLock::new(|| {
    let methods = METHODS.iter().copied().map(MethodChoice::One);
    std::iter::once(MethodChoice::All).chain(methods).collect()
});

impl ValueEnum for MethodChoice {
    fn value_variants<'a>() -> &'a [Self] {
        &CHOICES
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            Self::All => "all",
            Self::One(method) => method.static_name(),
        }))
    }
}

impl ValueEnum for Method {
    fn value_variants<'a>() -> &'a [Self] {
        &METHODS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.static_name()))
    }
}

/// Sizes of the adapters that are measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct AdapterSizes {
    pub lora_rank: usize,
    pub rank: usize,
    pub k: usize,
    pub l: usize,
}

impl Method {
    /// Name on the command line and in results.
    pub(super) fn name(self) -> String {
        self.static_name().to_owned()
    }

    fn static_name(self) -> &'static str {
        match self {
            Self::Frozen => "frozen",
            Self::Full => "full",
            Self::Nola(..) => NOLAS.iter().find(|(_, nola)| *nola == self).map_or(NOLA, |(name, _)| name),
            Self::Adapter(kind) => kind,
        }
    }

    /// Whether it has a basis, and so `k` and `l`.
    pub(super) fn is_nola(self) -> bool {
        matches!(self, Self::Nola(..))
    }

    /// The method as a recipe has it; none if nothing is trained.
    pub(super) fn recipe(self, sizes: AdapterSizes) -> Option<MethodRecipe> {
        match self {
            Self::Frozen => None,
            Self::Full => Some(MethodRecipe::Full),
            Self::Nola(sharing, basis) => Some(nola(sharing, basis, sizes).into()),
            Self::Adapter(kind) => {
                let mut config = AdapterConfig::every().into_iter().find(|config| config.kind() == kind)?;
                config.method_mut().set_rank(sizes.lora_rank);
                Some(config.into())
            }
        }
    }
}

/// NOLA's settings in the measurements.
pub(super) fn nola(sharing: Sharing, basis: Distribution, sizes: AdapterSizes) -> NolaConfig {
    let AdapterSizes { rank, k, l, .. } = sizes;
    NolaConfig { rank, k, l: Some(l), alpha: Some(NOLA_ALPHA), sharing, basis, ..NolaConfig::default() }
}

/// A ViT with random weights.
pub(super) fn vit(config: &VitConfig, precision: Precision, device: &Device) -> Vit {
    with_random_weights(Vit::uninitialized(config, device), precision)
}

/// A GPT-2 with random weights.
pub(super) fn gpt2(config: &Gpt2Config, precision: Precision, device: &Device) -> CausalLm {
    CausalLm::Gpt2(with_random_weights(Gpt2::uninitialized(config, device), precision))
}

/// A LLaMA with random weights.
pub(super) fn llama(config: &LlamaConfig, precision: Precision, device: &Device) -> CausalLm {
    CausalLm::Llama(with_random_weights(Llama::uninitialized(config, device), precision))
}

/// The language model of a preset, with random weights.
///
/// # Panics
/// If it is a ViT.
pub(super) fn causal(preset: Preset, device: &Device) -> CausalLm {
    match preset.sizes() {
        Sizes::Gpt2(config) => gpt2(&config, Precision::default(), device),
        Sizes::Llama(config) => llama(&config, Precision::default(), device),
        Sizes::Vit(_) => panic!("{} is no language model", preset.name()),
    }
}

/// Images of noise.
pub(super) fn images(config: &VitConfig, batch: usize, device: &Device) -> ImageBatch {
    let side = config.image_size;
    let pixels = drawn(u32::MAX, batch * config.channels * side * side, 3_f64.sqrt());
    let labels: Vec<i64> = (0..batch).map(|sample| (sample * 7 % config.n_classes) as i64).collect();
    ImageBatch {
        pixels: Tensor::from_data(TensorData::new(pixels, [batch, config.channels, side, side]), device),
        labels: Tensor::from_data(TensorData::new(labels, [batch]), device),
    }
}

/// Random tokens, each of which is predicted from those before it.
pub(super) fn texts(vocab_size: usize, batch: usize, seq: usize, device: &Device) -> TextBatch {
    let numbers = drawn(u32::MAX, batch * seq, 0.5);
    let ids: Vec<u32> = numbers.iter().map(|number| ((number + 0.5) * vocab_size as f32) as u32).collect();
    // The last token of a sample is never fed to the model, so one more comes behind.
    let sample =
        |row: &[u32]| Sample { ids: [row, &[0]].concat(), trained: std::iter::once(1..seq).collect() };
    let samples: Vec<Sample> = ids.chunks(seq).map(sample).collect();
    let rows: Vec<Vec<&Sample>> = samples.iter().map(|sample| vec![sample]).collect();
    TextBatch::new(&TokenBatch::of(&rows), device)
}

/// `count` numbers, uniform between `-bound` and `bound`.
pub(super) fn drawn(stream: u32, count: usize, bound: f64) -> Vec<f32> {
    let generator =
        Generator { distribution: Distribution::Uniform, seed: SEED, site: stream, stream: Stream::OffsetB };
    let mut values = vec![0.0; count];
    values.par_chunks_mut(DRAWN_AT_ONCE).enumerate().for_each(|(chunk, values)| {
        generator.fill(0, chunk * DRAWN_AT_ONCE, values);
        values.iter_mut().for_each(|value| *value *= bound as f32);
    });
    values
}

/// Random weights of a realistic size, stored in `precision`; norms and biases are what burn makes them.
fn with_random_weights<M: Module>(model: M, precision: Precision) -> M {
    let packing = Packing::of(&model);
    let model = model.map(&mut Draw { precision, packing, parameters: 0, path: Vec::new() });
    give_back_freed();
    model
}

struct Draw {
    precision: Precision,
    packing: Packing,
    parameters: u32,
    path: Vec<String>,
}

impl ModuleMapper for Draw {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.parameters += 1;
        let dtype = self.precision.dtype.dtype();
        if matches!(self.path.last().map(String::as_str), Some("gamma" | "beta" | "bias")) {
            return param.map(|tensor| tensor.cast(dtype));
        }
        let shape = param.lazy_shape();
        let values = drawn(self.parameters, shape.num_elements(), DEVIATION * 3_f64.sqrt());
        let path = self.path.join(".");
        if let Some(quantization) = self.precision.quantization_at(&path) {
            let packed = self.packing.quantized(&path, &param, quantization, &values, dtype);
            if let Some(packed) = packed {
                return packed;
            }
        }
        let tensor = Tensor::from_data(TensorData::new(values, shape), (&param.lazy_device(), dtype));
        Param::initialized(param.id, tensor).set_require_grad(true)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        self.packing.words(param)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_have_the_published_sizes() {
        // num_params of the same configurations in transformers.
        let expected = [
            (Preset::VitB16, 85_806_346),
            (Preset::VitL16, 303_311_882),
            (Preset::Gpt2, 124_439_808),
            (Preset::Gpt2Medium, 354_823_168),
            (Preset::Gpt2Large, 774_030_080),
            (Preset::Llama160m, 134_105_856),
            (Preset::Llama1b, 1_100_048_384),
            (Preset::Llama7b, 6_738_415_616),
            (Preset::TinyGpt2, 117_696),
            (Preset::TinyLlama, 101_056),
            (Preset::TinyVit, 81_031),
        ];
        for (preset, count) in expected {
            assert_eq!(preset.sizes().parameters(), count, "{}", preset.name());
        }
    }

    #[test]
    fn names_are_those_of_the_pytorch_script() {
        let names = Preset::value_variants().iter().map(|preset| preset.name()).collect::<Vec<_>>().join(" ");
        assert_eq!(
            names,
            "vit-b16 vit-l16 gpt2 gpt2-medium gpt2-large llama-160m llama-1b llama-7b tiny-gpt2 tiny-llama tiny-vit"
        );
    }

    #[test]
    fn all_tokens_but_the_last_have_a_target() {
        let batch = texts(211, 3, 16, &Device::flex());
        assert_eq!(batch.ids.dims(), [3, 16]);
        assert_eq!(batch.next.dims(), [3 * 15]);
        let next: Vec<i64> = batch.next.into_data().convert::<i64>().try_into_vec().expect("numbers");
        assert!(next.iter().all(|&id| (0..211).contains(&id)), "{next:?}");
    }

    #[test]
    fn random_weights_have_the_deviation_of_released_ones() {
        let values = drawn(1, 4096, DEVIATION * 3_f64.sqrt());
        let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / 4096.0;
        assert!((variance.sqrt() / DEVIATION - 1.0).abs() < 0.05, "{}", variance.sqrt());
    }
}
