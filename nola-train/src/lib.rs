//! The program `nola-train`: fine-tunes models with adapters of a few kilobytes.
//!
//! The way of a run: a [`recipe`] is checked, a [`device`] opened, a [`task`] made of a [`base`] and of images
//! ([`data`]) or [`text`]; [`fit`] trains a method through the loop in [`train`]; [`run`] leaves a run folder with the
//! adapter, its scores and a [`report`]. [`mod@bench`] measures how fast all that is.

mod adapter_argument;
mod amounts;
pub mod assets;
pub mod base;
pub mod baseline;
pub mod bench;
pub mod chosen;
pub mod commands;
pub mod completion;
pub mod data;
pub mod data_counts;
pub mod data_files;
pub mod data_hash;
pub mod device;
pub mod diagnostics;
pub mod divergence;
pub mod doctor;
mod error;
pub mod evaluate;
mod exact;
pub mod fit;
mod interval;
pub mod memory;
pub mod metrics;
pub mod model_with_loss;
pub mod optimizer;
mod option_values;
mod overfitting;
pub mod portion;
mod printable;
mod problems;
pub mod program;
pub mod progress;
pub mod prompt;
pub mod recipe;
pub mod report;
pub mod run;
pub mod schedule;
#[cfg(test)]
#[path = "../../tests/shared.rs"]
mod shared;
pub mod stop;
pub mod task;
pub mod terminal;
pub mod text;
pub mod train;

pub use error::Error;
