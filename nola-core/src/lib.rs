#![doc = include_str!("../README.md")]
//!
//! ## The story in order
//!
//! [`basis`] regenerates frozen random matrices from a seed; [`adapter`] turns settings into what is attached to a weight;
//! [`targets`] chooses the weights; [`Adapted`] is a model with its adapters, trained through one call per optimizer step;
//! [`folder`] writes and reads the result. [`bundle`] holds many adapters of one base in shared bases, which [`joint`] finds, and
//! [`with_row_adapters`] gives each row of a batch its own.

mod adapted;
pub mod adapter;
mod adapter_params;
mod base_weight;
pub mod basis;
pub mod bundle;
mod by_pattern;
#[cfg_attr(not(feature = "cube"), path = "cube/absent.rs")]
mod cube;
mod decomposition;
mod dropout;
mod embedding;
mod error;
pub mod features;
#[cfg(feature = "cpu")]
pub mod filled;
mod floats;
pub mod folder;
pub mod foreign_json;
mod hollow;
pub mod instructions;
pub mod joint;
mod linear;
mod linear_combinations;
mod low_rank;
mod low_rank_weights;
#[cfg(feature = "cpu")]
pub mod matrix;
mod packed_product;
mod packed_weights;
mod params;
mod pattern;
pub mod philox;
mod plain_words;
mod product;
mod quantized;
mod row_adapters;
#[cfg(test)]
#[path = "../../tests/shared.rs"]
mod shared;
mod site;
pub mod targets;
mod update;
pub mod weight;

pub use adapted::{
    Adapted, Progress, RankMove, Reading, SharedParts, SiteFactors, Survivors, TrainableParameters,
    TrainedState,
};
pub use adapter::AdapterConfig;
pub use base_weight::{LinearLayer, dequantized};
pub use by_pattern::ByPattern;
pub use embedding::adapted_embedding;
pub use error::Error;
pub use folder::BaseIdentity;
pub use hollow::Hollow;
pub use linear::{Linear, Packing, adapted, quantized};
pub use low_rank_weights::{LowRankWeight, LowRankWeights, low_rank_weights, with_low_rank_weights};
pub use packed_weights::packed_words;
pub use params::{FoundParam, biases, float_params, read_params, unadaptable_weights, write_params};
pub use pattern::PatternError;
pub use plain_words::plain_words;
#[cfg(feature = "cpu")]
pub use product::bf16_instructions;
pub use product::{compute_dtype, in_compute_dtype, on_compute_thread, product};
pub use row_adapters::{RowAdapters, Segment, SharedFactors, Updates, with_row_adapters};
pub use targets::{Site, SiteKind, Targets, Unmatched};
pub use update::Update;
