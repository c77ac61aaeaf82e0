//! Tests that cross crates.

mod bad_input;
mod curves;
mod devices;
mod fixtures;
mod golden_models;
mod golden_nola;
mod golden_peft;
mod golden_philox;
mod laws;
mod program;
mod sizes;
mod tiny;
mod training;
