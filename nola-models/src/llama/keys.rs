//! The key map of LLaMA: our parameter paths, and the names of Hugging Face with and without `model.`.

use nola_core::folder::peft::ForeignModule;

use super::{Llama, LlamaConfig};
use crate::checkpoint::{NamedTensor, Source, collect};
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

const NAMES: Names = Names {
    prefix: "model.",
    blocks: "layers",
    in_block: &[
        plain("norm_attention", "input_layernorm"),
        linear("attention.query", "self_attn.q_proj"),
        linear("attention.key", "self_attn.k_proj"),
        linear("attention.value", "self_attn.v_proj"),
        linear("attention.output", "self_attn.o_proj"),
        plain("norm_mlp", "post_attention_layernorm"),
        linear("mlp.gate", "mlp.gate_proj"),
        linear("mlp.up", "mlp.up_proj"),
        linear("mlp.down", "mlp.down_proj"),
    ],
    outside: &[plain("tokens", "embed_tokens"), plain("norm", "norm")],
};

/// Where a checkpoint keeps the parameter at `path`.
pub(super) fn source(config: &LlamaConfig, path: &str) -> Source {
    if config.tied_head { NAMES.tied_parameter(path) } else { NAMES.parameter(path) }
}

/// Where transformers and PEFT keep a module, such as `blocks.0.attention.query`.
///
/// # Panics
/// If LLaMA has no such module.
pub fn peft_module(site: &str) -> ForeignModule {
    NAMES.foreign_module(site)
}

impl Llama {
    /// Every weight under the names of `LlamaForCausalLM`; adapters are merged in.
    pub fn to_tensors(&self) -> Vec<NamedTensor> {
        collect(self.clone(), &|path| NAMES.parameter(path))
    }
}
