//! Tests that cross crates.

mod bad_adapters;
mod bad_input;
mod bad_text;
mod cases;
mod cases_adapters;
mod cases_chat;
mod cases_images;
mod cases_models;
mod cases_rows;
mod cases_runs;
mod curves;
mod devices;
mod faults;
mod fixtures;
mod generated_text;
mod gguf_conversion;
mod gguf_file;
mod golden_assets;
mod golden_causal;
mod golden_folders;
mod golden_gguf;
mod golden_methods;
mod golden_models;
mod golden_nola;
mod golden_peft;
mod golden_philox;
mod golden_train;
mod half;
mod laws;
mod laws_causal;
mod laws_embeddings;
mod laws_kernels;
mod laws_vit;
#[cfg(target_os = "linux")]
mod memory;
mod modules;
mod parsers;
mod program;
mod program_adapter_data;
mod program_assets;
mod program_bench;
mod program_compare;
mod program_compress;
mod program_cut_off;
mod program_data;
#[cfg(target_os = "linux")]
mod program_disk;
mod program_doctor;
mod program_generate;
mod program_gguf;
mod program_hub;
#[cfg(target_os = "linux")]
mod program_kills;
mod program_logs;
#[cfg(target_os = "linux")]
mod program_mpi;
#[cfg(target_os = "linux")]
mod program_mpi_networks;
mod program_quantized;
mod program_ranks;
mod program_recipes;
mod program_report;
mod program_resume;
mod program_same_bits;
#[cfg(unix)]
mod program_serve;
#[cfg(unix)]
mod program_serve_images;
mod program_small_model;
mod program_sweep;
mod program_template;
mod program_text;
mod program_vision;
mod program_words;
mod quantized;
mod ranks;
mod ranks_ends;
mod ranks_runs;
mod resume;
mod running;
#[cfg(unix)]
mod server;
mod serving;
mod shared;
mod sizes;
#[cfg(target_os = "linux")]
mod strace;
mod test_model;
mod text_task;
mod text_workshop;
mod tiny;
mod training;
