//! The program `nola-train`: fine-tunes models with adapters of a few kilobytes.
//!
//! The way of a run: a [`recipe`] is checked, a [`device`] opened, a [`task`] made of a base ([`session`]) and of images
//! ([`data`]) or [`text`]; [`fit`] trains a method through the loop in [`train`]; [`run`] leaves a run folder with the
//! adapter, its scores and a [`report`]. [`mod@bench`] measures how fast all that is. Several processes share a run as its
//! [`ranks`].
//!
//! Modules import each other in one direction: [`commands`], then [`run`] and [`mod@bench`], then [`fit`] and [`task`], then
//! [`session`], [`train`] and [`evaluate`], then [`ranks`], [`data`], [`text`] and [`settings`]; [`recipe`] stands beside these last.
//! From [`session`] down nothing reads a recipe or prints: a library user trains and answers with that alone.

mod adapter_argument;
pub mod adapter_data;
mod amounts;
pub mod assets;
mod attach;
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
mod folder_lock;
pub mod history;
mod interval;
pub mod memory;
pub mod metrics;
pub mod model_with_loss;
mod needs;
pub mod notices;
mod option_values;
mod overfitting;
pub mod portion;
mod printable;
mod problems;
pub mod program;
pub mod progress;
pub mod prompt;
pub mod random;
pub mod ranks;
pub mod recipe;
pub mod recipe_files;
pub mod report;
pub mod run;
pub mod serve;
pub mod session;
pub mod settings;
#[cfg(test)]
#[path = "../../tests/shared.rs"]
mod shared;
mod sizes;
pub mod stop;
pub mod task;
pub mod terminal;
pub mod text;
pub mod train;

pub use error::Error;
