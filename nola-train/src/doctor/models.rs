//! What models of published sizes need for training in memory, and whether they find it.

use nola_core::Targets;
use nola_core::adapter::NolaConfig;
use nola_core::weight::Quantization;
use nola_models::{LlamaConfig, Precision, WeightDtype};
use serde::Serialize;

use super::facts::Limits;
use crate::bench::cases::Preset;
use crate::needs::{Kept, Need, Trained, storage};
use crate::sizes::Sizes;

/// A model, and what it needs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Needed {
    pub(super) model: &'static str,
    pub(super) parameters: usize,
    /// Tokens of a pass.
    pub(super) tokens: usize,
    pub(super) ways: Vec<Way>,
}

/// One way of training it with NOLA.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Way {
    /// How the weights are stored: a dtype, or that of linear layers in few bits.
    pub(super) dtype: &'static str,
    pub(super) gradient_checkpointing: bool,
    pub(super) bytes: u64,
    /// Bytes of the largest weight, which must fit into one buffer.
    pub(super) largest_weight_bytes: u64,
    pub(super) fits: Fits,
}

/// Whether a model fits a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Fits {
    Yes,
    /// It needs more memory.
    No,
    /// One weight is larger than the largest buffer.
    NoBuffer,
    /// Nobody says how much memory there is.
    Unknown,
}

/// How weights are stored and whether blocks are recomputed, the most comfortable first.
const WAYS: [(Precision, bool); 5] = [
    (stored(WeightDtype::F32, None), false),
    (stored(WeightDtype::Bf16, None), false),
    (stored(WeightDtype::Bf16, None), true),
    (stored(WeightDtype::Bf16, Some(Quantization::Int8)), true),
    (stored(WeightDtype::Bf16, Some(Quantization::Nf4)), true),
];

const fn stored(dtype: WeightDtype, quantization: Option<Quantization>) -> Precision {
    Precision::of(dtype, quantization)
}

/// The models of the README's table.
fn models() -> [(&'static str, Sizes, [usize; 2]); 7] {
    let of = |name, preset: Preset| {
        let defaults = preset.defaults();
        (name, preset.sizes(), [defaults.batch, defaults.seq])
    };
    let seven = Preset::Llama7b.defaults();
    [
        of("ViT-B/16", Preset::VitB16),
        of("ViT-L/16", Preset::VitL16),
        of("GPT-2 small", Preset::Gpt2),
        of("GPT-2 medium", Preset::Gpt2Medium),
        of("GPT-2 large", Preset::Gpt2Large),
        of("LLaMA-2 7B", Preset::Llama7b),
        ("LLaMA-2 13B", Sizes::Llama(LlamaConfig::llama2_13b()), [seven.batch, seven.seq]),
    ]
}

/// What each model needs where there is so much memory.
pub(super) fn needed(memory_bytes: Option<u64>, limits: Option<&Limits>) -> Vec<Needed> {
    let largest_buffer = limits.map(|limits| limits.largest_buffer_bytes);
    let of = |(model, sizes, [batch, seq]): (&'static str, Sizes, [usize; 2])| {
        let (tokens, parameters) = (batch * seq, sizes.parameters());
        let weights = sizes.weights();
        let sites = sizes.sites(&Targets::default()).expect("every model has queries and values");
        let trained = Trained::Adapter { sites: &sites, rank: NolaConfig::default().rank };
        let way = |(precision, recomputes): (Precision, bool)| {
            let kept = if recomputes { Kept::Inputs } else { Kept::AllBlocks };
            let bytes = Need { sizes: &sizes, precision, trained, tokens, passes: 1, kept }.needed().bytes();
            let largest = weights.iter().map(|&weight| storage::bytes(precision, weight)).max();
            let of_largest = largest.unwrap_or_default() as u64;
            Way {
                dtype: precision.name(),
                gradient_checkpointing: recomputes,
                bytes,
                largest_weight_bytes: of_largest,
                fits: fits(bytes, of_largest, memory_bytes, largest_buffer),
            }
        };
        Needed { model, parameters, tokens, ways: WAYS.map(way).into() }
    };
    models().map(of).into()
}

fn fits(bytes: u64, largest_weight: u64, memory: Option<u64>, largest_buffer: Option<u64>) -> Fits {
    if largest_buffer.is_some_and(|buffer| largest_weight > buffer) {
        return Fits::NoBuffer;
    }
    match memory {
        None => Fits::Unknown,
        Some(memory) if bytes <= memory => Fits::Yes,
        Some(_) => Fits::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_that_no_buffer_takes_is_told_from_too_little_memory() {
        assert_eq!(fits(100, 50, Some(1000), Some(40)), Fits::NoBuffer);
        assert_eq!(fits(100, 50, Some(99), Some(50)), Fits::No);
        assert_eq!(fits(100, 50, Some(100), None), Fits::Yes);
        assert_eq!(fits(100, 50, None, None), Fits::Unknown);
    }

    #[test]
    fn every_model_has_its_published_size_and_needs_less_in_half_precision() {
        let all = needed(Some(16 << 30), None);
        let sizes: Vec<usize> = all.iter().map(|model| model.parameters).collect();
        assert_eq!(&sizes[2..], [124_439_808, 354_823_168, 774_030_080, 6_738_415_616, 13_015_864_320]);
        for model in all {
            let bytes: Vec<u64> = model.ways.iter().map(|way| way.bytes).collect();
            assert!(bytes.is_sorted_by(|one, other| one > other), "{}: {bytes:?}", model.model);
        }
    }
}
