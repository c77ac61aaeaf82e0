//! Tests that cross crates.

mod fixtures;
mod golden_models;
