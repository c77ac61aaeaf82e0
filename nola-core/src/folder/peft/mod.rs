//! Folders of LoRA and VeRA as Hugging Face PEFT writes and reads them.
//!
//! PEFT stores `lora_A` as `[rank, d_in]` and `lora_B` as `[d_out, rank]`, under the module paths of transformers, which
//! has had two generations of names: whoever calls says where transformers keeps each module of a model ([`Modules`]).
//!
//! Some of its modules are several of ours side by side, such as GPT-2's `c_attn`: query, key and value. There is one
//! LoRA for such a module in a folder. Read, each part gets a copy of A and its own outputs of B. Written, the parts
//! become one LoRA again: parts with the same A share it, different ones are stacked, and B is zero where a part does
//! not use an A.

mod config;
mod dense;
mod fused;
mod kinds;
mod lora_config;
mod matching;
mod matrix;
mod peft_adapter;
mod read;
#[cfg(test)]
mod reading_tests;
mod settings;
mod shares;
mod start;
#[cfg(test)]
mod tests;
mod updates;
mod vera;
mod write;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use peft_adapter::{PeftAdapter, TiedHead};
pub(in crate::folder) use read::read_data;
pub use read::{is_peft, read};
pub use shares::Shares;
pub use write::{begin, write};

use super::BaseIdentity;

/// Shape and numbers of a tensor, as PyTorch has it.
type Stored = (Vec<usize>, Vec<f32>);

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";
/// Values of `peft_type`.
const LORA: &str = "LORA";
const VERA: &str = "VERA";
/// Those that are read here.
pub(in crate::folder) const TYPES: [&str; 2] = [LORA, VERA];

/// Where transformers keeps a module of ours, such as `blocks.0.attention.query`.
pub type Modules<'a> = &'a dyn Fn(&str) -> ForeignModule;

/// A module of transformers that is one of ours, or holds one of ours as a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignModule {
    /// Path in transformers 5, and path in transformers 4 and before.
    pub names: [String; 2],
    /// What of it is ours.
    pub part: Part,
    /// The same in transformers 4 and before, which fused what transformers 5 has apart.
    pub part_before: Part,
    /// How it stores its weight, if it is a linear layer; other modules store theirs as we do.
    pub layout: Layout,
}

impl ForeignModule {
    /// A module that is one of ours as a whole, stored as PyTorch's `Linear` if it is a linear layer.
    pub fn whole(names: [String; 2]) -> Self {
        Self { names, part: Part::Whole, part_before: Part::Whole, layout: Layout::Linear }
    }

    /// The same module where all names are those of one generation.
    fn of(self, generation: Generation) -> Self {
        let [new, old] = self.names;
        let (name, part) = match generation {
            Generation::Transformers5 => (new, self.part),
            Generation::Transformers4 => (old, self.part_before),
        };
        Self { names: [name.clone(), name], part, part_before: part, layout: self.layout }
    }

    /// Its name, where one generation has been chosen.
    fn name(&self) -> &str {
        &self.names[0]
    }
}

/// What of a module of transformers one module of ours is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// Some of its outputs, which all have the same inputs.
    Outputs(Shares),
}

impl Part {
    /// Which shares of the module it is; a whole module is one share.
    fn shares(self) -> Shares {
        match self {
            Self::Whole => Shares::nth(0, 1),
            Self::Outputs(shares) => shares,
        }
    }

    /// Outputs of the module, of which this part has `d_out`.
    fn whole(self, d_out: usize) -> usize {
        self.shares().whole(d_out)
    }
}

/// How a linear layer of transformers stores its weight. LoRA's own factors are stored alike for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[d_out, d_in]`, the transpose of ours.
    Linear,
    /// `[d_in, d_out]` as ours: transformers' `Conv1D`, which PEFT calls `fan_in_fan_out`.
    Conv1d,
}

/// Which of the two names to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Generation {
    /// Names of transformers 5.
    #[default]
    #[serde(rename = "transformers-5")]
    Transformers5,
    /// Names of transformers 4 and before.
    #[serde(rename = "transformers-4")]
    Transformers4,
}

/// What the base does, which PEFT wants to know in order to wrap it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// PEFT has no name for it.
    ImageClassification,
    /// `CAUSAL_LM`.
    CausalLanguageModel,
}

/// What this project adds, in the metadata of the weights file, where PEFT does not look.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct OurMetadata {
    base: BaseIdentity,
    labels: Vec<String>,
    /// What of the configuration decides the weights; empty in older folders.
    #[serde(default)]
    settings: BTreeMap<String, Value>,
    /// How the samples were written.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    data: Value,
}

/// Key of [`OurMetadata`].
const METADATA: &str = "nola";
