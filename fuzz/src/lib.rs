//! Every parser of bytes from outside, as functions that take any bytes.
//!
//! Each of them holds if it returns: it panics where a parser breaks a promise. The targets in `fuzz_targets` hand them
//! what libFuzzer makes up, the test `parsers` of the workspace the corpus and changes of it.

pub mod adapter;
pub mod bundle;
pub mod chat;
pub mod checkpoint;
pub mod config;
pub mod gguf;
pub mod hub;
pub mod image;
pub mod input;
pub mod raw_images;
pub mod recipe;
pub mod rows;
pub mod run;
pub mod tokenizer;

/// A parser by the name of its target, which is also that of its folder in `corpus`.
pub type Parser = (&'static str, fn(&[u8]));

/// All of them.
pub const PARSERS: [Parser; 30] = [
    ("adapter_native", adapter::native),
    ("adapter_peft", adapter::peft),
    ("bundle", bundle::read),
    ("chat_template", chat::template),
    ("checkpoint", checkpoint::single_file),
    ("checkpoint_sharded", checkpoint::sharded),
    ("config_generation", config::generation),
    ("config_language", config::language),
    ("config_preprocessor", config::preprocessor),
    ("config_vit", config::vit),
    ("gguf", gguf::model),
    ("hub_answers", hub::answers),
    ("hub_card", hub::card),
    ("image", image::decode),
    ("images_cifar", raw_images::cifar),
    ("images_idx", raw_images::idx),
    ("prompt_template", rows::prompt_template),
    ("recipe", recipe::read),
    ("rows_cache", rows::cache),
    ("rows_csv", rows::csv),
    ("rows_json", rows::json),
    ("rows_json_lines", rows::json_lines),
    ("rows_packed", rows::packed),
    ("rows_parquet", rows::parquet),
    ("rows_text", rows::text),
    ("rows_tsv", rows::tsv),
    ("run", run::interrupted),
    ("tokenizer_json", tokenizer::json),
    ("tokenizer_sentence_piece", tokenizer::sentence_piece),
    ("tokenizer_vocabulary", tokenizer::vocabulary),
];
