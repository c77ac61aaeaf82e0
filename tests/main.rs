//! Tests that cross crates.

mod curves;
mod devices;
mod fixtures;
mod golden_models;
mod golden_nola;
mod golden_peft;
mod golden_philox;
mod laws;
