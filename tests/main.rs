//! Tests that cross crates.

mod bad_input;
mod bad_text;
mod cases;
mod cases_adapters;
mod cases_chat;
mod cases_images;
mod cases_models;
mod cases_rows;
mod curves;
mod devices;
mod fixtures;
mod generated_text;
mod golden_assets;
mod golden_causal;
mod golden_models;
mod golden_nola;
mod golden_peft;
mod golden_philox;
mod golden_train;
mod half;
mod laws;
mod laws_causal;
mod laws_kernels;
#[cfg(target_os = "linux")]
mod memory;
mod program;
mod program_bench;
mod program_generate;
mod program_hub;
mod program_text;
mod sizes;
mod subject;
mod text_task;
mod text_workshop;
mod tiny;
mod training;
