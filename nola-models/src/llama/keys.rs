//! The key map of LLaMA and its like: our parameter paths, and the names of Hugging Face with and without `model.`.

use std::borrow::Cow;

use nola_core::folder::peft::ForeignModule;

use super::family::{Norms, Projections};
use super::{Llama, LlamaConfig};
use crate::checkpoint::{NamedTensor, Shares, Source, collect};
use crate::names::{Kind, Name, Names};

/// Frequencies that old releases stored with the weights; they follow from the configuration.
pub(super) const IGNORED: &[&str] =
    &["model.layers.*.self_attn.rotary_emb.inv_freq", "layers.*.self_attn.rotary_emb.inv_freq"];

const fn plain(ours: &'static str, theirs: &'static str) -> Name {
    Name { ours, theirs, kind: Kind::Plain }
}

const fn linear(ours: &'static str, theirs: &'static str) -> Name {
    Name { ours, theirs, kind: Kind::Transposed }
}

/// In every family.
const IN_BLOCK: [Name; 5] = [
    plain("norm_attention", "input_layernorm"),
    plain("attention.query_norm", "self_attn.q_norm"),
    plain("attention.key_norm", "self_attn.k_norm"),
    linear("attention.output", "self_attn.o_proj"),
    linear("mlp.down", "mlp.down_proj"),
];

const NORMS_BEFORE: &[Name] = &[plain("norm_mlp", "post_attention_layernorm")];

const NORMS_BEFORE_AND_BEHIND: &[Name] = &[
    plain("norm_attention_output", "post_attention_layernorm"),
    plain("norm_mlp", "pre_feedforward_layernorm"),
    plain("norm_mlp_output", "post_feedforward_layernorm"),
];

const OUTSIDE: [Name; 2] = [plain("tokens", "embed_tokens"), plain("norm", "norm")];

const APART: [Name; 5] = [
    linear("attention.query", "self_attn.q_proj"),
    linear("attention.key", "self_attn.k_proj"),
    linear("attention.value", "self_attn.v_proj"),
    linear("mlp.gate", "mlp.gate_proj"),
    linear("mlp.up", "mlp.up_proj"),
];

/// Rows of `qkv_proj`, a share a head, and halves of `gate_up_proj`.
fn fused(n_heads: usize, n_kv_heads: usize) -> [Name; 5] {
    let of = n_heads + 2 * n_kv_heads;
    let heads = |ours, from, to| Name {
        ours,
        theirs: "self_attn.qkv_proj",
        kind: Kind::Rows(Shares { from, to, of }),
    };
    let half =
        |ours, index| Name { ours, theirs: "mlp.gate_up_proj", kind: Kind::Rows(Shares::nth(index, 2)) };
    [
        heads("attention.query", 0, n_heads),
        heads("attention.key", n_heads, n_heads + n_kv_heads),
        heads("attention.value", n_heads + n_kv_heads, of),
        half("mlp.gate", 0),
        half("mlp.up", 1),
    ]
}

fn names(config: &LlamaConfig) -> Names {
    let projections = match config.family.projections {
        Projections::Apart => APART,
        Projections::Fused => fused(config.n_heads, config.n_kv_heads),
    };
    let norms = match config.family.norms {
        Norms::Before => NORMS_BEFORE,
        Norms::BeforeAndBehind => NORMS_BEFORE_AND_BEHIND,
    };
    Names {
        prefix: "model.",
        blocks: "layers",
        in_block: Cow::Owned(IN_BLOCK.into_iter().chain(projections).chain(norms.iter().cloned()).collect()),
        outside: &OUTSIDE,
    }
}

/// Where a checkpoint keeps the parameter at `path`.
pub(super) fn source(config: &LlamaConfig, path: &str) -> Source {
    let names = names(config);
    if config.tied_head { names.tied_parameter(path) } else { names.parameter(path) }
}

impl Llama {
    /// Where transformers and PEFT keep a module, such as `blocks.0.attention.query`.
    ///
    /// # Panics
    /// If it has no such module.
    pub fn peft_module(&self, site: &str) -> ForeignModule {
        names(self.config()).foreign_module(site)
    }

    /// Every weight under the names of its family in transformers; adapters are merged in.
    pub fn to_tensors(&self) -> Vec<NamedTensor> {
        let names = names(self.config());
        collect(self.clone(), &|path| names.parameter(path))
    }
}
