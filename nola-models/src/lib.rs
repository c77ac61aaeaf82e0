#![doc = include_str!("../README.md")]
//!
//! Each model reads top to bottom in its own module; [`checkpoint`] knows none of them by name, and [`architectures`] is
//! the one list of language models, and [`vit`] has that of vision transformers.

mod activation;
pub mod architectures;
mod attention;
mod caught;
pub mod causal;
pub mod chat;
pub mod checkpoint;
mod decoder;
mod error;
mod fields;
mod fresh;
mod fused;
pub mod generate;
pub mod gguf;
#[cfg(test)]
#[path = "../../tests/gguf_file.rs"]
mod gguf_file;
pub mod gpt2;
mod head;
mod hidden_states;
pub mod hub;
pub mod image;
mod json;
pub mod llama;
mod names;
pub mod norm;
mod precision;
pub mod rope;
mod sentence_piece;
#[cfg(test)]
#[path = "../../tests/shared.rs"]
mod shared;
pub mod tokenizer;
pub mod vit;
mod weight_dtype;

pub use activation::Activation;
pub use architectures::Architecture;
pub use attention::{AttentionMask, GROWTH_TOKENS, KeyValueCache};
pub use caught::caught;
pub use causal::{CausalLm, ModelInfo};
pub use checkpoint::Checkpoint;
pub use error::Error;
pub use fused::cross_entropy;
pub use gpt2::{Gpt2, Gpt2Config};
pub use hidden_states::{HiddenStates, Stage};
pub use image::Preprocessor;
pub use llama::{Llama, LlamaConfig};
pub use precision::{FewBits, Precision};
pub use vit::{Vit, VitConfig};
pub use weight_dtype::WeightDtype;
