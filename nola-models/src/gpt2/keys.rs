//! The key map of GPT-2: our parameter paths, and the names of Hugging Face with and without `transformer.`.

use std::borrow::Cow;

use nola_core::folder::peft::ForeignModule;

use super::{Gpt2, Gpt2Config};
use crate::checkpoint::{NamedTensor, Shares, Source, collect};
use crate::names::{Kind, Name, Names};

/// Causal masks that old releases stored with the weights.
pub(super) const IGNORED: &[&str] = &[
    "h.*.attn.bias",
    "h.*.attn.masked_bias",
    "transformer.h.*.attn.bias",
    "transformer.h.*.attn.masked_bias",
];

const fn plain(ours: &'static str, theirs: &'static str) -> Name {
    Name { ours, theirs, kind: Kind::Plain }
}

/// A third of `c_attn`, whose columns are queries, keys and values.
const fn third(ours: &'static str, index: usize) -> Name {
    Name { ours, theirs: "attn.c_attn", kind: Kind::Columns(Shares::nth(index, 3)) }
}

/// Its linear layers are `Conv1D`: stored as `[d_in, d_out]`, as ours are.
static NAMES: Names = Names {
    prefix: "transformer.",
    blocks: "h",
    in_block: Cow::Borrowed(&[
        plain("norm_attention", "ln_1"),
        third("attention.query", 0),
        third("attention.key", 1),
        third("attention.value", 2),
        plain("attention.output", "attn.c_proj"),
        plain("norm_mlp", "ln_2"),
        plain("mlp.up", "mlp.c_fc"),
        plain("mlp.down", "mlp.c_proj"),
    ]),
    outside: &[plain("tokens", "wte"), plain("positions", "wpe"), plain("norm", "ln_f")],
};

/// Where a checkpoint keeps the parameter at `path`.
pub(super) fn source(config: &Gpt2Config, path: &str) -> Source {
    if config.tied_head { NAMES.tied_parameter(path) } else { NAMES.parameter(path) }
}

/// Where transformers and PEFT keep a module, such as `blocks.0.attention.query`.
///
/// # Panics
/// If GPT-2 has no such module.
pub fn peft_module(site: &str) -> ForeignModule {
    NAMES.foreign_module(site)
}

impl Gpt2 {
    /// Every weight under the names of `GPT2LMHeadModel`; adapters are merged in.
    pub fn to_tensors(&self) -> Vec<NamedTensor> {
        collect(self.clone(), &|path| NAMES.parameter(path))
    }
}
