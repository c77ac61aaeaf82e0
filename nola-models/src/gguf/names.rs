//! The architectures of GGUF files that are read: what Hugging Face calls their tensors, and how llama.cpp turned them.

use super::GgufError;
use super::header::Header;

/// A model as `general.architecture` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ModelKind {
    Gpt2,
    Llama,
    Phi3,
    Qwen2,
    Qwen3,
    SmolLm3,
}

/// All of them, in the order in which errors list them.
const ALL: [ModelKind; 6] = [
    ModelKind::Gpt2,
    ModelKind::Llama,
    ModelKind::Phi3,
    ModelKind::Qwen2,
    ModelKind::Qwen3,
    ModelKind::SmolLm3,
];

/// How a tensor of a file becomes the one of Hugging Face.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// It is that.
    AsStored,
    /// Its rows are the other's columns.
    Transposed,
    /// In each head, the rows that rotary positions turn together lie side by side; there, half a head apart.
    Interleaved {
        /// Number of heads.
        heads: usize,
    },
}

/// In every architecture but GPT-2: the name in a block, and that of Hugging Face.
const IN_BLOCK: [(&str, &str); 12] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The same of GPT-2.
const IN_BLOCK_OF_GPT2: [(&str, &str); 6] = [
    ("attn_norm", "ln_1"),
    ("attn_qkv", "attn.c_attn"),
    ("attn_output", "attn.c_proj"),
    ("ffn_norm", "ln_2"),
    ("ffn_up", "mlp.c_fc"),
    ("ffn_down", "mlp.c_proj"),
];

/// Factors of rotary frequencies, which the configuration says; no weights.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";
pub(super) const LONG_FACTORS: &str = "rope_factors_long.weight";
pub(super) const SHORT_FACTORS: &str = "rope_factors_short.weight";
/// The head, and the embedding that takes its place where it is absent.
pub(super) const HEAD: &str = "output.weight";
pub(super) const TOKENS: &str = "token_embd.weight";

impl ModelKind {
    /// That of a file.
    ///
    /// # Errors
    /// If it names another one; the error lists what there is.
    pub(super) fn of(header: &Header) -> Result<Self, GgufError> {
        let key = "general.architecture";
        let name = header.text(key)?;
        let found = ALL.into_iter().find(|kind| Some(kind.name()) == name);
        found.ok_or_else(|| {
            let known = ALL.map(|kind| format!("`{}`", kind.name())).join(", ");
            header.wrong(key, &format!("one of {known}: this program reads no other"))
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Llama => "llama",
            Self::Phi3 => "phi3",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::SmolLm3 => "smollm3",
        }
    }

    /// Hugging Face's name of a tensor, and how it is turned; one without a name there keeps its own. Nothing for what is no
    /// weight.
    pub(super) fn tensor(self, name: &str, heads: Heads) -> Option<(String, Layout)> {
        if [ROPE_FACTORS, LONG_FACTORS, SHORT_FACTORS].contains(&name) && self != Self::Gpt2 {
            return None;
        }
        let Some((module, leaf)) = name.rsplit_once('.') else {
            return Some((name.to_owned(), Layout::AsStored));
        };
        let theirs = self.module(module).unwrap_or_else(|| module.to_owned());
        let layout = match (self, module.rsplit_once('.').map_or(module, |(_, last)| last), leaf) {
            (Self::Llama | Self::SmolLm3, "attn_q", _) => Layout::Interleaved { heads: heads.queries },
            (Self::Llama | Self::SmolLm3, "attn_k", _) => Layout::Interleaved { heads: heads.keys },
            (Self::Gpt2, "attn_qkv" | "attn_output" | "ffn_up" | "ffn_down", "weight") => Layout::Transposed,
            _ => Layout::AsStored,
        };
        Some((format!("{theirs}.{leaf}"), layout))
    }

    fn module(self, name: &str) -> Option<String> {
        let is_gpt2 = self == Self::Gpt2;
        let Some((number, inside)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
            let [tokens, norm] = match is_gpt2 {
                true => ["transformer.wte", "transformer.ln_f"],
                false => ["model.embed_tokens", "model.norm"],
            };
            return match name {
                "token_embd" => Some(tokens.to_owned()),
                "position_embd" if is_gpt2 => Some("transformer.wpe".to_owned()),
                "output_norm" => Some(norm.to_owned()),
                "output" => Some("lm_head".to_owned()),
                _ => None,
            };
        };
        let (table, blocks) = match is_gpt2 {
            true => (&IN_BLOCK_OF_GPT2[..], "transformer.h"),
            false => (&IN_BLOCK[..], "model.layers"),
        };
        let (_, theirs) = table.iter().find(|(ours, _)| *ours == inside)?;
        // Gate and up are one tensor there.
        let theirs = if self == Self::Phi3 && inside == "ffn_up" { "mlp.gate_up_proj" } else { theirs };
        Some(format!("{blocks}.{number}.{theirs}"))
    }
}

/// Numbers of heads in a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) queries: usize,
    pub(super) keys: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(kind: ModelKind, name: &str) -> Option<(String, Layout)> {
        kind.tensor(name, Heads { queries: 9, keys: 3 })
    }

    #[test]
    fn only_queries_and_keys_of_llama_and_smollm3_are_interleaved() {
        let (name, layout) = named(ModelKind::Llama, "blk.7.attn_k.weight").expect("a weight");
        assert_eq!(name, "model.layers.7.self_attn.k_proj.weight");
        assert_eq!(layout, Layout::Interleaved { heads: 3 });
        for (kind, name, expected) in [
            (ModelKind::Llama, "blk.0.attn_q.bias", Layout::Interleaved { heads: 9 }),
            (ModelKind::SmolLm3, "blk.0.attn_q.weight", Layout::Interleaved { heads: 9 }),
            (ModelKind::Llama, "blk.0.attn_v.weight", Layout::AsStored),
            (ModelKind::Qwen2, "blk.0.attn_q.weight", Layout::AsStored),
            (ModelKind::Phi3, "blk.0.attn_qkv.weight", Layout::AsStored),
            (ModelKind::Gpt2, "blk.0.attn_qkv.weight", Layout::Transposed),
            (ModelKind::Gpt2, "blk.0.attn_qkv.bias", Layout::AsStored),
            (ModelKind::Gpt2, "token_embd.weight", Layout::AsStored),
        ] {
            assert_eq!(named(kind, name).expect("a weight").1, expected, "{kind:?} {name}");
        }
    }

    #[test]
    fn a_tensor_without_a_name_there_keeps_its_own() {
        let name = |kind, name| named(kind, name).map(|(name, _)| name);
        assert_eq!(
            name(ModelKind::Llama, "blk.0.ffn_gate_exps.weight").as_deref(),
            Some("blk.0.ffn_gate_exps.weight")
        );
        assert_eq!(
            name(ModelKind::Phi3, "blk.1.ffn_up.weight").as_deref(),
            Some("model.layers.1.mlp.gate_up_proj.weight")
        );
        assert_eq!(name(ModelKind::Llama, ROPE_FACTORS), None);
        assert_eq!(name(ModelKind::Llama, "odd").as_deref(), Some("odd"));
    }
}
