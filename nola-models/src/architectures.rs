//! The language models there are, by the `model_type` of their `config.json`. Who differs from LLaMA by configuration alone is one
//! entry of this table.

use std::path::Path;

use serde_json::Value;

use crate::Error;
use crate::fields::Fields;
use crate::llama::family::{
    Absent, Biases, Caps, Family, Gain, Gate, Norms, Projections, RopeSettings, ScoreDivisor, Windows,
};

/// How the model of a `config.json` is built.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Architecture {
    /// As GPT-2.
    Gpt2,
    /// As LLaMA, with what is special about a family.
    Llama(&'static Family),
}

/// All of them, in the order in which errors list them.
const ALL: [Architecture; 10] = [
    Architecture::Llama(&GEMMA),
    Architecture::Llama(&GEMMA2),
    Architecture::Llama(&GEMMA3),
    Architecture::Gpt2,
    Architecture::Llama(&Family::LLAMA),
    Architecture::Llama(&MISTRAL),
    Architecture::Llama(&PHI3),
    Architecture::Llama(&QWEN2),
    Architecture::Llama(&QWEN3),
    Architecture::Llama(&SMOLLM3),
];

/// Gemma: norms that multiply by 1 more than their weight, scaled embeddings, a gate of GELU.
///
/// # Source
/// `GemmaConfig` of transformers.
const GEMMA: Family = Family {
    model_type: "gemma",
    class: "GemmaForCausalLM",
    biases: Biases::OfAttention,
    gain: Gain::OnePlusWeight,
    gate: Gate::GeluTanh,
    scales_embeddings: true,
    absent: Absent {
        vocab_size: 256_000,
        max_tokens: 8192,
        d_model: 3072,
        n_layers: 28,
        n_heads: 16,
        n_kv_heads: Some(16),
        d_head: Some(256),
        d_mlp: 24576,
        tied_head: true,
        eos: &[1],
        ..Family::LLAMA.absent
    },
    ..Family::LLAMA
};

/// Gemma 2: as Gemma, and norms behind attention and MLP, a sliding window in every second layer, caps.
///
/// # Source
/// `Gemma2Config` of transformers.
const GEMMA2: Family = Family {
    model_type: "gemma2",
    class: "Gemma2ForCausalLM",
    norms: Norms::BeforeAndBehind,
    caps: Caps::LogitsAndScores,
    score_divisor: ScoreDivisor::Field(256),
    windows: Windows::Pattern { absent: 2 },
    absent: Absent {
        d_model: 2304,
        n_layers: 26,
        n_heads: 8,
        n_kv_heads: Some(4),
        d_mlp: 9216,
        window: Some(4096),
        logit_cap: Some(30.0),
        score_cap: Some(50.0),
        ..GEMMA.absent
    },
    ..GEMMA
};

/// The text model of Gemma 3: as Gemma 2, and norms of queries and keys, a sliding window in most layers, whose waves have a base
/// of their own; without caps.
///
/// # Source
/// `Gemma3TextConfig` of transformers.
const GEMMA3: Family = Family {
    model_type: "gemma3_text",
    class: "Gemma3ForCausalLM",
    qk_norm: true,
    caps: Caps::Logits,
    windows: Windows::Pattern { absent: 6 },
    rope: RopeSettings::ByLayerType { sliding_theta: 10_000.0 },
    absent: Absent {
        vocab_size: 262_208,
        max_tokens: 131_072,
        theta: 1e6,
        logit_cap: None,
        score_cap: None,
        ..GEMMA2.absent
    },
    ..GEMMA2
};

/// Mistral: a sliding window in every layer of the first release.
///
/// # Source
/// `MistralConfig` of transformers.
const MISTRAL: Family = Family {
    model_type: "mistral",
    class: "MistralForCausalLM",
    biases: Biases::Never,
    windows: Windows::Everywhere,
    absent: Absent {
        max_tokens: 4096 * 32,
        d_mlp: 14336,
        n_kv_heads: Some(8),
        window: Some(4096),
        ..Family::LLAMA.absent
    },
    ..Family::LLAMA
};

/// Phi-3 and what has its type: fused projections, a sliding window in some sizes.
///
/// # Source
/// `Phi3Config` of transformers.
const PHI3: Family = Family {
    model_type: "phi3",
    class: "Phi3ForCausalLM",
    biases: Biases::Never,
    windows: Windows::Everywhere,
    rope: RopeSettings::OfPhi3 { original_max_tokens: 4096 },
    projections: Projections::Fused,
    absent: Absent {
        vocab_size: 32064,
        max_tokens: 4096,
        d_model: 3072,
        d_mlp: 8192,
        rms_norm_eps: 1e-5,
        eos: &[32000],
        ..Family::LLAMA.absent
    },
    ..Family::LLAMA
};

/// Qwen 2 and 2.5: biases of query, key and value.
///
/// # Source
/// `Qwen2Config` of transformers.
const QWEN2: Family = Family {
    model_type: "qwen2",
    class: "Qwen2ForCausalLM",
    biases: Biases::QueryKeyValue,
    windows: Windows::LateLayers,
    absent: Absent {
        vocab_size: 151_936,
        max_tokens: 32768,
        n_kv_heads: Some(32),
        d_mlp: 22016,
        window: Some(4096),
        eos: &[],
        ..Family::LLAMA.absent
    },
    ..Family::LLAMA
};

/// Qwen 3: norms of queries and keys in place of the biases, and heads of a width of their own.
///
/// # Source
/// `Qwen3Config` of transformers.
const QWEN3: Family = Family {
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    biases: Biases::OfAttention,
    qk_norm: true,
    absent: Absent { d_head: Some(128), ..QWEN2.absent },
    ..QWEN2
};

/// SmolLM3: every fourth layer is not rotated. (SmolLM and SmolLM2 are LLaMAs.)
///
/// # Source
/// `SmolLM3Config` of transformers.
const SMOLLM3: Family = Family {
    model_type: "smollm3",
    class: "SmolLM3ForCausalLM",
    windows: Windows::UnrotatedLayers,
    rope_interval: Some(4),
    absent: Absent {
        vocab_size: 128_256,
        max_tokens: 32768,
        d_model: 2048,
        n_layers: 36,
        n_heads: 16,
        n_kv_heads: Some(4),
        theta: 2e6,
        tied_head: true,
        eos: &[128_001],
        ..Family::LLAMA.absent
    },
    ..Family::LLAMA
};

impl Architecture {
    /// That of a `config.json`; none if it names no language model there is.
    pub fn named_by(config: &Value) -> Option<Self> {
        let name = config["model_type"].as_str()?;
        ALL.into_iter().find(|architecture| architecture.model_type() == name)
    }

    /// The same; `file` names the configuration in errors.
    ///
    /// # Errors
    /// If it names no language model there is; the error lists what there is.
    pub fn of(config: &Value, file: &Path) -> Result<Self, Error> {
        let unknown = || {
            let expected = format!("{}: this program computes no other", model_types());
            Fields { json: config, file }.wrong("model_type", &expected)
        };
        Self::named_by(config).ok_or_else(unknown)
    }

    /// `model_type` in a `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Llama(family) => family.model_type,
        }
    }
}

/// Every `model_type` of a language model, for messages.
pub fn model_types() -> String {
    let names = ALL.map(|architecture| format!("`{}`", architecture.model_type()));
    let [first @ .., last] = &names;
    format!("{} or {last}", first.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_architecture_is_found_by_its_type() {
        for architecture in ALL {
            let config = json!({"model_type": architecture.model_type()});
            assert_eq!(Architecture::named_by(&config), Some(architecture));
        }
    }

    #[test]
    fn an_unknown_type_is_told_what_there_is() {
        for config in [json!({"model_type": "gpt_neo"}), json!({})] {
            let error = Architecture::of(&config, Path::new("config.json")).expect_err("there is none");
            let list = "`gemma`, `gemma2`, `gemma3_text`, `gpt2`, `llama`, `mistral`, `phi3`, `qwen2`, `qwen3` or `smollm3`";
            assert!(error.to_string().contains(list), "{error}");
        }
    }
}
